"""vLLM with our backend for linear layers, norms, activations and the language-model head.

Not run inside vLLM. Written against its public source at commit 002284db (``vllm/config/compilation.py``: modes 1
and 2 hand the whole graph to the backend named by a qualified name; entry points of the group
``vllm.general_plugins`` are called in every process). What is tested, in tests/generation/test_vllm_plugin.py, is
``compile_graph`` on a graph with an attention op of the ``vllm`` namespace.

    LLM(model, compilation_config=COMPILATION)

    [project.entry-points."vllm.general_plugins"]
    batch_invariant = "examples.vllm_plugin:register"

Attention stays vLLM's: its op reads the pages through a context that no graph shows. It is recorded in the certificate
as an op without a proof; ``VLLM_BATCH_INVARIANT=1``, which ``register`` sets, makes vLLM choose an attention
that promises the same property. The whole is as invariant as that attention.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from torch.fx import GraphModule

from bi_inductor.backend import batch_invariant

#: mode 2 traces once and gives the graph to the backend; without custom ops norms are plain torch in that graph
COMPILATION = {
    "mode": 2,
    "backend": "examples.vllm_plugin.compile_graph",
    "custom_ops": ["none"],
    "cudagraph_mode": "NONE",
}


def compile_graph(gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """Compile vLLM's whole graph. An op without a proof is a warning and a line of the certificate: read both."""
    return batch_invariant(gm, example_inputs, options={"on_variant": "warn"})


def register() -> None:
    """Called by vLLM in each of its processes, before the model is loaded."""
    os.environ["VLLM_BATCH_INVARIANT"] = "1"
