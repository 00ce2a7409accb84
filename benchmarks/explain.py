"""CPU time of ``bi_inductor.explain`` on a 30-layer decoder beyond what torch needs to trace it; no weights, no kernels.

python -m benchmarks.explain [--layers N] [--grad]
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.timing import markdown
from bi_inductor.inspection import capture as capture_file
from bi_inductor.inspection import explain


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


class Stopwatch:
    """CPU seconds spent inside wrapped functions; calls of one inside another count once."""

    def __init__(self):
        self.seconds = 0.0
        self._depth = 0

    def wrap(self, function):
        def timed(*args, **kwargs):
            begin, self._depth = time.process_time(), self._depth + 1
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.process_time() - begin

        return timed


def measured(model, ids):
    """CPU seconds of tracing and of all the rest, and nodes, of one report with its table and page.

    Both are taken from the same call: of two captures, the first also pays for torch's own caches.
    """
    inside, captured = Stopwatch(), Stopwatch()
    plain = explain.capture

    def capture(model, args, kwargs, visit, **rest):
        return plain(model, args, kwargs, inside.wrap(visit), **rest)

    begin = time.process_time()
    with (
        mock.patch.object(explain, "capture", captured.wrap(capture)),
        mock.patch.object(capture_file, "make_plan", inside.wrap(capture_file.make_plan)),
    ):
        report = explain.explain(model, ids, use_cache=False)
    report.table()
    with tempfile.TemporaryDirectory() as folder:
        report.html(Path(folder) / "page.html")
    total = time.process_time() - begin
    tracing = captured.seconds - inside.seconds
    return tracing, total - tracing, sum(len(graph.nodes) for graph in report.graphs)


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
            measured(decoder(1), ids)
            traced, beyond, nodes = measured(model, ids)
        graph = "forward and backward" if grad else "inference"
        rows.append((graph, nodes, f"{traced:.1f}", f"{beyond:.1f}"))
    print(
        markdown(
            (
                f"{args.layers} layers",
                "nodes",
                "tracing s",
                "verdicts, plans, table and page s",
            ),
            rows,
        )
    )


if __name__ == "__main__":
    main()
