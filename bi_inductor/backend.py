"""``torch.compile(model, backend="batch_invariant")``: an FX graph in, a callable out.

The entry point names ``batch_invariant`` below. This file is loaded when ``torch.compile`` is called; the
compiler itself is in ``pipeline.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.fx import GraphModule

from bi_inductor import _torch

# before the first graph: a frame that stands at the limit already would never reach this backend
_torch.keep_compiling()
_torch.describe_fused_layers()


def batch_invariant(
    gm: GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compile one Dynamo graph so that each sample's bits do not depend on its batch.

    Args:
        gm: the graph that Dynamo captured.
        example_inputs: fake or real inputs in the order of its placeholders.
        mode: ``"default"`` or ``"reduce-overhead"`` (CUDA graphs).
        options: see ``bi_inductor.options.Options``.

    Raises:
        VariantOpError: an op mixes samples, or cannot be proved not to.
        OptionError: an unknown option or one that would break invariance.
        UnsupportedDeviceError: the inputs live on a device without lowerings.
    """
    from bi_inductor.pipeline import compile_graph

    _torch.reset_with_dynamo(batch_invariant)
    return compile_graph(gm, example_inputs, mode=mode, options=options)


def _reset() -> None:
    from bi_inductor import certificates

    certificates.clear()


batch_invariant.reset = _reset  # type: ignore[attr-defined]
