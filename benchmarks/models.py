"""Whole models against stock torch.compile: SmolLM2-135M (prefill, decode) and MiniLM, batch 1, 8, 32.

    python -m benchmarks.models [--threads N] [--dtype float32 bfloat16] [--batches 1 8 32]

Each model's repeated block is compiled, as in examples/quickstart.py. Also: seconds to compile, peak memory.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.timing import geometric_mean, interleaved, markdown
from examples import embeddings, quickstart

BATCHES = (1, 8, 32)
PROMPT = 64


def smollm2(
    backend: str, dtype: torch.dtype, batch: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """(prefill, decode step) of ``batch`` prompts of 64 tokens."""
    from transformers import DynamicCache

    model = _models(backend, dtype)
    ids = torch.randint(0, 49152, (batch, PROMPT), generator=torch.Generator().manual_seed(0))

    def cache() -> DynamicCache:
        made = DynamicCache(config=model.config)
        for layer in made.layers:
            layer.lazy_initialization(*quickstart._no_keys(model, batch))
        return made

    def step(tokens: torch.Tensor, past: DynamicCache) -> torch.Tensor:
        with torch.inference_mode():
            return model(input_ids=tokens, past_key_values=past, logits_to_keep=1).logits

    filled = cache()
    step(ids, filled)
    keys = [(layer.keys, layer.values) for layer in filled.layers]

    def decode() -> torch.Tensor:
        for layer, (k, v) in zip(filled.layers, keys, strict=True):
            layer.keys, layer.values = k, v
        return step(ids[:, :1], filled)

    return lambda: step(ids, cache()), decode


_LOADED: dict[tuple[str, torch.dtype], torch.nn.Module] = {}


def _models(backend: str, dtype: torch.dtype) -> torch.nn.Module:
    if (backend, dtype) not in _LOADED:
        model = quickstart.load(dtype)
        quickstart.compile_blocks(model, backend)
        _LOADED[backend, dtype] = model
    return _LOADED[backend, dtype]


def minilm(backend: str, batch: int) -> Callable[[], object]:
    """Embedding of ``batch`` sentences of 32 tokens."""
    from transformers import AutoModel

    key = (backend, torch.float32)
    if ("minilm" + backend, torch.float32) not in _LOADED:
        model = embeddings.Embedder(AutoModel.from_pretrained(embeddings.model_folder()).eval())
        _LOADED["minilm" + backend, torch.float32] = torch.compile(
            model, backend=backend, dynamic=True
        )
    model = _LOADED["minilm" + backend, key[1]]
    ids = torch.randint(1000, 30000, (batch, 32), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return model(ids, mask)

    return run


def speed_table(dtypes: Sequence[torch.dtype], batches: Sequence[int]) -> str:
    rows, ratios = [], []
    for dtype in dtypes:
        for batch in batches:
            ours, stock = (
                smollm2("batch_invariant", dtype, batch),
                smollm2("inductor", dtype, batch),
            )
            for index, phase in enumerate(("prefill", "decode")):
                _row(rows, ratios, f"SmolLM2 {phase}", dtype, batch, stock[index], ours[index])
    for batch in batches:
        ours_run, stock_run = minilm("batch_invariant", batch), minilm("inductor", batch)
        _row(rows, ratios, "MiniLM", torch.float32, batch, stock_run, ours_run)
    rows.append(["geometric mean", "", "", "", "", f"{geometric_mean(ratios):.2f}"])
    return markdown(("work", "dtype", "batch", "stock ms", "ours ms", "speed / stock"), rows)


def _row(rows, ratios, work, dtype, batch, stock, ours) -> None:
    t = interleaved({"stock": stock, "ours": ours}, rounds=15, seconds=6)
    ratios.append(t["stock"] / t["ours"])
    name = str(dtype).removeprefix("torch.")
    cells = (f"{t['stock'] * 1e3:.1f}", f"{t['ours'] * 1e3:.1f}", f"{ratios[-1]:.2f}")
    rows.append([work, name, batch, *cells])
    print(rows[-1], file=sys.stderr)


def cost_of_compiling(backend: str) -> tuple[float, float]:
    """Seconds to compile SmolLM2's block from cold caches, and the process's peak memory in MB."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder}
        if backend == "batch_invariant":
            from lowerings.cpu import build

            # built once per machine, not once per model
            os.makedirs(os.path.join(folder, "bi_inductor"))
            os.link(build.build(), os.path.join(folder, "bi_inductor", build.build().name))
        command = [sys.executable, "-m", "benchmarks.models", "--compile-only", backend]
        out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    seconds, peak = out.split()[-2:]
    return float(seconds), float(peak)


def compile_only(backend: str) -> None:
    start = time.perf_counter()
    prefill, decode = smollm2(backend, torch.float32, 8)
    begin = time.perf_counter()
    prefill()
    decode()
    prefill()
    decode()
    warm = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(begin - start - warm / 2, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--compile-only", metavar="BACKEND")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.compile_only:
        compile_only(args.compile_only)
        return
    print(speed_table([getattr(torch, name) for name in args.dtype], args.batches))
    rows = []
    costs = {b: cost_of_compiling(b) for b in ("inductor", "batch_invariant")}
    for index, what in enumerate(("compile time of the block, s", "peak memory, MB")):
        stock, ours = costs["inductor"][index], costs["batch_invariant"][index]
        rows.append([what, f"{stock:.1f}", f"{ours:.1f}", f"{ours / stock:.2f}"])
    print("\n" + markdown(("cost", "stock", "ours", "ours / stock"), rows))


if __name__ == "__main__":
    main()
