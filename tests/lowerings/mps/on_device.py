"""What an owner of a Mac runs: ``make test DEVICE=mps``. Prints one JSON report; exit status 1 if anything differs.

Nothing here was run on an Apple GPU by the authors: the recorded bits come from the C++ shim on Linux.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "examples")]

import golden  # noqa: E402
import torch  # noqa: E402
from libraries import texts  # noqa: E402
from torch import nn  # noqa: E402

import lowerings.mps  # noqa: E402
from lowerings.mps import attention, library, matmul, plans, reduction, softmax  # noqa: E402

CANARIES = """#include <metal_stdlib>
using namespace metal;
#pragma METAL fp math_mode(safe)
#pragma METAL fp contract(off)
kernel void canary(device const float* x [[buffer(0)]], device float* o [[buffer(1)]],
                   uint t [[thread_position_in_grid]]) {
  if (t == 0) o[0] = x[0] * x[0] + x[1];
  if (t == 1) o[1] = fma(x[0], x[0], x[1]);
  if (t == 2) o[2] = x[2] * 0.5f;
  if (t == 3) o[3] = 1.0f / precise::sqrt(x[3]);
  if (t == 4) o[4] = float(bfloat(x[4]));
  if (t == 5) o[5] = float(bfloat(x[5]));
  if (t == 6) o[6] = float(half(x[6]));
}
"""


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bits."""
    x, y = (t.cpu().reshape(-1).contiguous().view(torch.uint8) for t in (a, b))
    return torch.equal(x, y)


def compiled() -> dict[str, object]:
    """Compile every text; threads and threadgroup memory of every kernel."""
    report = {}
    for name, text in texts():
        lib = library.compile_text(text)
        for kernel in (k for k in dir(lib) if k.startswith("bi_")):
            made = getattr(lib, kernel)
            memory = made.static_thread_group_memory_length
            report[f"{name}.{kernel}"] = [made.max_threads_per_threadgroup, memory]
            if memory > library.THREADGROUP_MEMORY:
                raise RuntimeError(f"{name}.{kernel} takes {memory} bytes of threadgroup memory")
    return report


def canaries(device: str) -> dict[str, object]:
    """Values whose two outcomes differ; ``subnormals_flushed`` may be either."""
    x = torch.tensor(
        [1 + 2.0**-12, -1.0, 2.0**-126, 2.0, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11]
    )
    out = torch.zeros(7, device=device)
    library.compile_text(CANARIES).canary(x.to(device), out, threads=[7], group_size=[7])
    got = out.cpu()
    return {
        "contraction_is_off": got[0].item() == 2.0**-11,
        "fma_is_fused": got[1].item() == 2.0**-11 + 2.0**-24,
        "subnormals_flushed": got[2].item() == 0.0,
        "sqrt_and_divide_are_rounded": same(got[3], torch.tensor(1.0) / torch.tensor(2.0).sqrt()),
        "bfloat_ties_to_even": got[4:6].tolist() == [1.0, 1 + 2.0**-6],
        "half_ties_to_even": got[6].item() == 1.0,
    }


def golden_differences(device: str) -> list[str]:
    """Cases whose bits are not the recorded ones."""
    recorded = json.loads(golden.FILE.read_text())["digests"]
    return [case for case, found in golden.digests(device).items() if found != recorded[case]]


def sweeps(device: str) -> list[str]:
    """Batch sizes at which a row changes, both tiers; and repeats that differ."""
    bad = []
    generator = torch.Generator().manual_seed(0)
    for dtype in golden.DTYPES.values():
        a, b = (
            torch.randn(s, generator=generator).to(dtype).to(device)
            for s in ((130, 300), (300, 70))
        )
        q, k = (
            torch.randn(s, generator=generator).to(dtype).to(device)
            for s in ((130, 4, 1, 64), (130, 2, 300, 64))
        )
        jobs: dict[str, Callable[[int], torch.Tensor]] = {
            "mm": lambda n, a=a, b=b: matmul.mm(a[:n], b, split_size=plans.MATMUL_SPLIT),
            "mm simdgroup": lambda n, a=a, b=b: matmul.mm(
                a[:n], b, split_size=plans.SIMDGROUP_SPLIT
            ),
            "sum": lambda n, a=a: reduction.reduction(a[:n], "sum", [1], lanes=plans.ROW_LANES),
            "softmax": lambda n, a=a: softmax.softmax(a[:n], 1, False, lanes=plans.ROW_LANES),
            "attention": lambda n, q=q, k=k: attention.attention(
                q[:n], k[:n], k[:n], split_size=plans.ATTENTION_SPLIT
            )[0],
        }
        for name, job in jobs.items():
            full = job(130)
            bad += [
                f"{name} {dtype} batch {n}" for n in range(1, 131) if not same(job(n), full[:n])
            ]
            bad += [f"{name} {dtype} repeat {i}" for i in range(100) if not same(job(130), full)]
    return bad


def compiled_model(device: str) -> dict[str, object]:
    """A small model through the backend, batch 1 against 9; stock Inductor on the same data as the control."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0, norm_first=True)
    net = nn.Sequential(nn.Linear(32, 64), layer, nn.Linear(64, 10)).to(device).eval()
    x = torch.randn(9, 33, 32).to(device)
    result: dict[str, object] = {}
    for backend in ("batch_invariant", "inductor"):
        torch.compiler.reset()
        run = torch.compile(net, backend=backend)
        with torch.no_grad():
            full = run(x)
            result[backend] = all(same(run(x[i : i + 1]), full[i : i + 1]) for i in range(9))
    return result


def milliseconds(job: Callable[[], object], sync: Callable[[], None]) -> float:
    """Median of 20 after 3."""
    taken = []
    for _ in range(23):
        sync()
        start = time.perf_counter()
        job()
        sync()
        taken.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(taken[3:]), 4)


def real_model(device: str, sync: Callable[[], None]) -> dict[str, dict[str, object]]:
    """SmolLM2-135M: the logits of one prompt alone and inside batches, and the time of a batch, for every way."""
    import quickstart

    ids = (torch.arange(8 * 24) * 7919 % 40000).reshape(8, 24).to(device)
    report: dict[str, dict[str, object]] = {}
    ways: dict[str, dict[str, object]] = {
        "ours": {"backend": "batch_invariant"},
        "simdgroup": {"backend": "batch_invariant", "options": {"mps_tier": "simdgroup"}},
        "cpu_float64": {"backend": "batch_invariant", "options": {"mps_fallback": "cpu_float64"}},
        "stock": {"backend": "inductor"},
    }
    for way, options in ways.items():
        torch.compiler.reset()
        model = quickstart.load(torch.float32).to(device)
        run = torch.compile(model.forward, dynamic=True, **options)

        def logits(rows: int, run: Callable[..., object] = run) -> torch.Tensor:
            with torch.no_grad():
                return run(input_ids=ids[:rows], use_cache=False).logits  # type: ignore[attr-defined]

        full = logits(8)
        report[way] = {
            "rows_keep_their_bits": all(same(logits(n), full[:n]) for n in (1, 2, 3, 7)),
            "milliseconds": milliseconds(lambda logits=logits: logits(8), sync),
        }
    return report


def timings(device: str, sync: Callable[[], None]) -> dict[str, dict[str, float]]:
    """Ours, stock MPS, and float64 on the CPU and back, which is what the Apple Silicon edition does."""
    report = {}
    for rows in (1, 4, 64, 512):
        for dtype in (torch.float32, torch.float16):
            a, w = (
                torch.randn(rows, 2048).to(dtype).to(device),
                torch.randn(2048, 2048).to(dtype).to(device),
            )
            b = w.t()
            report[f"linear {rows}x2048x2048 {dtype}"] = {
                "ours": milliseconds(
                    lambda a=a, b=b: matmul.mm(a, b, split_size=plans.MATMUL_SPLIT), sync
                ),
                "simdgroup": milliseconds(
                    lambda a=a, b=b: matmul.mm(a, b, split_size=plans.SIMDGROUP_SPLIT), sync
                ),
                "stock": milliseconds(lambda a=a, b=b: a @ b, sync),
                "cpu_float64": milliseconds(
                    lambda a=a, b=b: (a.cpu().double() @ b.cpu().double()).to(a.dtype).to(device),
                    sync,
                ),
            }
    for rows, length in ((64, 1024), (4096, 4096)):
        x = torch.randn(rows, length).to(device)
        report[f"softmax {rows}x{length}"] = {
            "ours": milliseconds(
                lambda x=x: softmax.softmax(x, 1, False, lanes=plans.ROW_LANES), sync
            ),
            "stock": milliseconds(lambda x=x: x.softmax(1), sync),
            "cpu_float64": milliseconds(
                lambda x=x: x.cpu().double().softmax(1).float().to(device), sync
            ),
        }
    for queries in (1, 512):
        q, k = torch.randn(1, 16, queries, 64).to(device), torch.randn(1, 16, 2048, 64).to(device)
        report[f"attention Lq={queries} Lk=2048"] = {
            "ours": milliseconds(
                lambda q=q, k=k: attention.attention(q, k, k, split_size=plans.ATTENTION_SPLIT),
                sync,
            ),
            "stock": milliseconds(
                lambda q=q, k=k: nn.functional.scaled_dot_product_attention(q, k, k), sync
            ),
            "cpu_float64": milliseconds(lambda q=q, k=k: _on_the_cpu(q, k).to(device), sync),
        }
    return report


def _on_the_cpu(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    q, k = q.cpu().double(), k.cpu().double()
    return nn.functional.scaled_dot_product_attention(q, k, k).float()


def main() -> int:
    """Run everything; a part that raises is reported and the others still run."""
    if not torch.backends.mps.is_available():
        print(
            "DEVICE=mps needs a Mac with an Apple GPU and a PyTorch built for it", file=sys.stderr
        )
        return 1
    lowerings.mps.load()
    parts: dict[str, Callable[[], object]] = {
        "kernels": compiled,
        "canaries": lambda: canaries("mps"),
        "golden_differences": lambda: golden_differences("mps"),
        "rows_that_change": lambda: sweeps("mps"),
        "model_rows_keep_their_bits": lambda: compiled_model("mps"),
        "real_model": lambda: real_model("mps", torch.mps.synchronize),
        "milliseconds": lambda: timings("mps", torch.mps.synchronize),
    }
    report: dict[str, object] = {
        "machine": [platform.machine(), platform.mac_ver()[0], torch.__version__],
        "plan_version": plans.PLAN_VERSION,
    }
    failed = []
    for name, part in parts.items():
        try:
            report[name] = part()
        except Exception as error:
            report[name], _ = f"{type(error).__name__}: {error}", failed.append(name)
    failed += [name for name in ("golden_differences", "rows_that_change") if report[name]]
    checks = report["canaries"]
    if isinstance(checks, dict):
        failed += [n for n, good in checks.items() if not good and n != "subnormals_flushed"]
    kept = report["model_rows_keep_their_bits"]
    if isinstance(kept, dict) and not kept["batch_invariant"]:
        failed.append("model")
    ways = report["real_model"]
    if isinstance(ways, dict):
        promised = ("ours", "simdgroup", "cpu_float64")
        failed += [f"real_model {w}" for w in promised if not ways[w]["rows_keep_their_bits"]]
    report["failed"] = sorted(set(failed))
    print(json.dumps(report, indent=1))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
