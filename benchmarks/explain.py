"""Time of ``bi_inductor.explain`` on a 30-layer decoder beyond what torch needs to trace it; no weights, no kernels.

python -m benchmarks.explain [--layers N] [--grad]
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import bi_inductor
from benchmarks.timing import markdown
from bi_inductor import _torch
from bi_inductor.inspection.capture import capture
from bi_inductor.plan import make_plan


def decoder(layers):
    """The shape of SmolLM2-135M on the meta device."""
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config).eval()


def tracing(model, ids):
    """Seconds of Dynamo and AOTAutograd, and the nodes of the graph that they hand to the plan."""
    found = {}

    def visit(captured, write):
        arrived = time.perf_counter()
        make_plan(
            captured.gm,
            device="cpu",
            batch=captured.batch,
            backward=_torch.is_backward,
            on_variant="warn",
        )
        # the same plan was made once before this call
        found["seconds"] = arrived - begin - (time.perf_counter() - arrived)
        found["nodes"] = len(captured.gm.graph.nodes)

    begin = time.perf_counter()
    capture(model, (ids,), {"use_cache": False}, visit)
    return found["seconds"], found["nodes"]


def explained(model, ids):
    """Seconds of the report, with its table on the terminal and its page in a file."""
    begin = time.perf_counter()
    report = bi_inductor.explain(model, ids, use_cache=False)
    report.table()
    with tempfile.TemporaryDirectory() as folder:
        report.html(Path(folder) / "page.html")
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument(
        "--grad", action="store_true", help="also with gradients: forward and backward"
    )
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    ids = torch.zeros(2, 16, dtype=torch.long, device="meta")
    rows = []
    for grad in (False, True) if args.grad else (False,):
        model = decoder(args.layers)
        with torch.set_grad_enabled(grad):
            # the first capture of a process also imports Inductor
            capture(decoder(1), (ids,), {"use_cache": False}, lambda *_: None)
            traced, nodes = tracing(model, ids)
            total = explained(model, ids)
        graph = "forward and backward" if grad else "inference"
        rows.append((graph, nodes, f"{traced:.1f}", f"{total:.1f}", f"{total - traced:.1f}"))
    print(
        markdown(
            (
                f"{args.layers} layers",
                "nodes",
                "tracing s",
                "explain, table and page s",
                "beyond s",
            ),
            rows,
        )
    )


if __name__ == "__main__":
    main()
