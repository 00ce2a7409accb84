"""Compiled models: every row alone and in a batch, decode = chunk = prefill, with and without CUDA graphs."""

import functools

import torch
from torch import Tensor

from benchmarks.decoder import OPTIONS, Shape, make_cache, make_decoder
from bi_inductor.backend import batch_invariant
from tests.lowerings.cuda.on_device.check import CHOSEN, chosen, verdict
from tests.rows import bits_equal, rows_that_change

DTYPES = (torch.bfloat16, torch.float32)
MODELS = ("llama", "mixtral", "bert", "resnet")


def models() -> None:
    """Small models of transformers, those of ``MODELS`` or the ones named."""
    from tests.zoo import ZOO

    for name in [part for part in CHOSEN if part in ZOO] or MODELS:
        for dtype in DTYPES:
            _rows(name, dtype)


def decoders() -> None:
    """The decoder of ``benchmarks/decoder.py``."""
    for dtype in DTYPES:
        if chosen(str(dtype)[6:]):
            _decoder(dtype)


def _rows(name: str, dtype: torch.dtype) -> None:
    from tests.zoo import ZOO
    from tests.zoo.case import build

    case = build(ZOO[name]).to("cuda", dtype)
    inputs = tuple(
        x.cuda().to(dtype) if x.is_floating_point() else x.cuda() for x in case.inputs(40)
    )
    batches = (1, 2, 3, 17, 33)
    for backend in ("batch_invariant", "inductor"):
        torch.compiler.reset()
        chosen = batch_invariant if backend == "batch_invariant" else backend
        fn = torch.compile(case, backend=chosen)

        def run(*x: Tensor, fn: object = fn) -> object:
            with torch.no_grad():
                return fn(*x)  # type: ignore[operator]

        changed = rows_that_change(run, inputs, batches)
        if backend == "inductor":
            print(f"       stock {name} {dtype}: {len(changed)} rows change", flush=True)
        else:
            verdict(f"{name} {str(dtype)[6:]}", not changed, "; ".join(changed[:2]))


def _decoder(dtype: torch.dtype) -> None:
    shape = Shape()
    length, total, batch = 512, 300, 17
    model = make_decoder(shape, dtype, "cuda")
    ids = torch.randint(0, shape.vocab, (64, total), device="cuda")
    ours = functools.partial(batch_invariant, options=OPTIONS)
    graphs = functools.partial(batch_invariant, options=OPTIONS, mode="reduce-overhead")

    def runner(backend: object) -> object:
        torch.compiler.reset()
        compiled = torch.compile(model, backend=backend, dynamic=False)

        def step(cache: list[Tensor], rows: Tensor, start: int, end: int, last: int = 1) -> Tensor:
            with torch.no_grad():
                positions = torch.arange(start, end, device="cuda")
                return compiled(rows[:, start:end].contiguous(), positions, cache, last).clone()

        return step

    def empty(size: int) -> list[Tensor]:
        return make_cache(shape, size, length, dtype, "cuda")

    name = f"decoder {str(dtype)[6:]}"
    step = runner(ours)
    whole = step(empty(batch), ids[:batch], 0, total, total)  # type: ignore[operator]
    alone = [step(empty(1), ids[i : i + 1], 0, total, total) for i in (0, 16)]  # type: ignore[operator]
    verdict(
        f"{name} prefill rows",
        all(bits_equal(a[0], whole[i]) for a, i in zip(alone, (0, 16), strict=True)),
    )
    cache = empty(batch)
    parts = [step(cache, ids[:batch], i, j, j - i) for i, j in ((0, 120), (120, 299), (299, 300))]  # type: ignore[operator]
    verdict(f"{name} chunk and decode = prefill", bits_equal(torch.cat(parts, 1), whole))
    longer = make_cache(shape, 2, 1024, dtype, "cuda")
    verdict(f"{name} longer cache", bits_equal(step(longer, ids[:2], 0, total, total), whole[:2]))  # type: ignore[operator]
    reference = {}
    for label, backend in (("graphs", graphs), ("stock", "stock")):
        step = (
            runner(graphs)
            if backend != "stock"
            else runner(functools.partial(_stock, mode="reduce-overhead"))
        )
        tokens: dict[int, Tensor] = {}
        for size in (1, 2, 17, 64):
            cache = empty(size)
            step(cache, ids[:size], 0, 296)  # type: ignore[operator]
            made = [step(cache, ids[:size], p, p + 1) for p in range(296, 300)]  # type: ignore[operator]
            tokens[size] = torch.cat(made, 1)
        same = [bits_equal(tokens[size][0], tokens[1][0]) for size in tokens]
        if label == "graphs":
            verdict(f"{name} reduce-overhead decode at batch 1, 2, 17, 64", all(same), str(same))
            verdict(f"{name} reduce-overhead = prefill", bits_equal(tokens[17], whole[:, 296:]))
            changed = [i for i in range(17) if not bits_equal(tokens[64][i], tokens[17][i])]
            verdict(f"{name} all rows at 17 and 64", not changed, str(changed))
        else:
            largest = max((tokens[s][0] - tokens[1][0]).abs().max().item() for s in tokens)
            verdict(f"{name} control: stock changes", not all(same), f"{same} by {largest:.3g}")
        reference[label] = tokens


def _stock(gm: object, inputs: object, *, mode: str) -> object:
    """Stock Inductor as a callable, so that both run through the same wrapper."""
    from torch._inductor import compile as compile_graph
    from torch._inductor import list_mode_options

    return compile_graph(gm, inputs, options=list_mode_options(mode))  # type: ignore[arg-type]
