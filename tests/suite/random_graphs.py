"""Random graphs of the op set: a chain of steps on a batch of matrices, each step an op with one number.

Dimension 0 is the batch all along; sizes stay small enough that a bundle of graphs compiles in seconds.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

_WIDEST = 96
#: device type -> what is multiplied by
_WEIGHTS = {"cpu": torch.randn(_WIDEST, _WIDEST, generator=torch.Generator().manual_seed(7))}

Step = Callable[[Tensor, int], Tensor]


def _dim(x: Tensor, a: int) -> int:
    return 1 + a % (x.dim() - 1)


def _matmul(x: Tensor, a: int) -> Tensor:
    return x @ _WEIGHTS[x.device.type][: x.shape[-1], : 1 + 9 * a].to(x.dtype)


def _linear(x: Tensor, a: int) -> Tensor:
    rows, weight = 1 + 9 * a, _WEIGHTS[x.device.type].to(x.dtype)
    return F.linear(x, weight[:rows, : x.shape[-1]], weight[0, :rows])


def _gram(x: Tensor, _: int) -> Tensor:
    y = x if x.dim() == 3 else x.unsqueeze(1)
    return y @ y.transpose(-1, -2)


def _attention(x: Tensor, a: int) -> Tensor:
    y = (x if x.dim() == 3 else x.unsqueeze(1)).unsqueeze(1)
    return F.scaled_dot_product_attention(y, y, y, is_causal=a % 2 == 0).squeeze(1)


def _cat(x: Tensor, a: int) -> Tensor:
    at = _dim(x, a)
    return x if x.shape[at] * 2 > _WIDEST else torch.cat([x, x * 0.5], at)


def _channels(x: Tensor, a: int) -> Tensor:
    y = x if x.dim() == 3 else x.unsqueeze(1)
    weight = _WEIGHTS[x.device.type].to(x.dtype)[: y.shape[1], : 3 * (1 + a)]
    return F.conv1d(y, weight.reshape(-1, y.shape[1], 3), padding=1)


def _pooled(x: Tensor, a: int) -> Tensor:
    y = x if x.dim() == 3 else x.unsqueeze(1)
    pool = F.avg_pool1d if a % 2 else F.max_pool1d
    return pool(y, 2) if y.shape[-1] > 1 else y


def _groups(x: Tensor, a: int) -> Tensor:
    y = x if x.dim() == 3 else x.unsqueeze(1)
    groups = 1 + (a % 2 if y.shape[1] % 2 == 0 else 0)
    # torch refuses one number in a group if the batch is one sample
    return F.group_norm(y, groups) if y[0].numel() > groups else x


def _scattered(x: Tensor, a: int) -> Tensor:
    at = _dim(x, a)
    index = (torch.arange(x.shape[at], device=x.device) // 2).view(
        [-1 if d == at else 1 for d in range(x.dim())]
    )
    return torch.zeros_like(x).scatter_add(at, index.expand_as(x), x)


STEPS: dict[str, Step] = {
    "sum": lambda x, a: x.sum(_dim(x, a), keepdim=True),
    "sum_all": lambda x, a: x.sum(tuple(range(1, x.dim())), keepdim=True),
    "mean": lambda x, a: x.mean(_dim(x, a), keepdim=True),
    "var": lambda x, a: x.var(_dim(x, a), correction=0, keepdim=True),
    "amax": lambda x, a: x - x.amax(_dim(x, a), keepdim=True),
    "norm": lambda x, a: torch.linalg.vector_norm(x, 2, _dim(x, a), keepdim=True),
    "softmax": lambda x, a: x.softmax(_dim(x, a)),
    "log_softmax": lambda x, a: x.log_softmax(_dim(x, a)),
    "logsumexp": lambda x, a: x.logsumexp(_dim(x, a), keepdim=True),
    "cumsum": lambda x, a: x.cumsum(_dim(x, a)),
    "layer_norm": lambda x, a: F.layer_norm(x, x.shape[-1:]),
    "rms_norm": lambda x, a: F.rms_norm(x, x.shape[-1:]),
    "matmul": _matmul,
    "linear": _linear,
    "gram": _gram,
    "attention": _attention,
    "sort": lambda x, a: x.sort(stable=True, dim=_dim(x, a))[0],
    "topk": lambda x, a: x.topk(min(3, x.shape[_dim(x, a)]), _dim(x, a))[0],
    "argmax": lambda x, a: x + x.argmax(_dim(x, a), keepdim=True),
    "conv": _channels,
    "pool": _pooled,
    "group_norm": _groups,
    "scatter_add": _scattered,
    "gather": lambda x, a: x.gather(_dim(x, a), x.argsort(stable=True, dim=_dim(x, a))),
    "prod": lambda x, a: torch.tanh(x).prod(_dim(x, a), keepdim=True),
    "cumprod": lambda x, a: torch.tanh(x).cumprod(_dim(x, a)),
    "any": lambda x, a: x * (x > 1).any(_dim(x, a), keepdim=True),
    "masked": lambda x, a: x.masked_fill(x < -1, a),
    "broadcast": lambda x, a: (
        x * x.mean(_dim(x, a), keepdim=True) + x.amin(_dim(x, a + 1), keepdim=True)
    ),
    "repeat": lambda x, a: x.repeat_interleave(2, _dim(x, a)) if x[0].numel() <= _WIDEST else x,
    "gelu": lambda x, a: F.gelu(x),
    "silu": lambda x, a: F.silu(x),
    "sin": lambda x, a: torch.sin(x * (a + 1)),
    "exp": lambda x, a: torch.exp(-x.abs()),
    "rsqrt": lambda x, a: x * torch.rsqrt(x * x + 1),
    "where": lambda x, a: torch.where(x > 0, x, x * -0.25),
    "half": lambda x, a: x.to(torch.bfloat16).to(x.dtype),
    "flip": lambda x, a: x.flip(_dim(x, a)),
    "roll": lambda x, a: x.roll(a, _dim(x, a)),
    "transpose": lambda x, a: x.transpose(-1, -2) if x.dim() == 3 else x,
    "slice": lambda x, a: x[..., a % 2 :: 2] if x.shape[-1] > 1 else x,
    "flatten": lambda x, a: x.flatten(1) if x[0].numel() <= _WIDEST else x,
    "unsqueeze": lambda x, a: x.unsqueeze(1) if x.dim() == 2 else x,
    "cat": _cat,
    "pad": lambda x, a: F.pad(x, (a, 0)) if x.shape[-1] + a <= _WIDEST else x,
}

Graph = tuple[tuple[int, int], str, str, tuple[tuple[str, int], ...]]

#: a shape, a dtype, a layout, and the steps
graphs: st.SearchStrategy[Graph] = st.tuples(
    st.tuples(st.integers(1, 19), st.integers(1, 70)),
    st.sampled_from(["float32", "bfloat16", "float16"]),
    st.sampled_from(["contiguous", "transposed", "offset", "tail"]),
    st.lists(
        st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 7)), min_size=1, max_size=5
    ).map(tuple),
)


def samples_of(graph: Graph, n: int, seed: int, device: str = "cpu") -> Tensor:
    """``n`` samples with exponents spread, so that the order of a sum shows."""
    kind = torch.device(device).type
    _WEIGHTS.setdefault(kind, _WEIGHTS["cpu"].to(device))
    (rows, columns), dtype, _, _ = graph
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-3, 4, (n, rows, columns), generator=generator)
    x = torch.randn(n, rows, columns, generator=generator) * 2.0**exponents
    return x.to(device, getattr(torch, dtype))


def laid_out(graph: Graph, x: Tensor) -> Tensor:
    """The same numbers at other strides."""
    if graph[2] == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if graph[2] == "offset":
        wide = x.new_zeros(*x.shape[:-1], x.shape[-1] + 3)
        wide[..., 3:] = x
        return wide[..., 3:]
    if graph[2] == "tail":
        # in one piece for one sample, and not for two
        return torch.cat([x.new_zeros(len(x), 2, x.shape[-1]), x], 1)[:, 2:]
    return x


def smaller(graph: Graph) -> Iterator[Graph]:
    """Graphs a step simpler: without one of the steps, of half the size, contiguous, in float32."""
    (rows, columns), dtype, layout, steps = graph
    for at in range(len(steps) if len(steps) > 1 else 0):
        yield (rows, columns), dtype, layout, steps[:at] + steps[at + 1 :]
    if columns > 1:
        yield (rows, columns // 2), dtype, layout, steps
    if rows > 1:
        yield (rows // 2, columns), dtype, layout, steps
    if layout != "contiguous":
        yield (rows, columns), dtype, "contiguous", steps
    if dtype != "float32":
        yield (rows, columns), "float32", layout, steps


def run(graph: Graph, x: Tensor) -> Tensor:
    for name, a in graph[3]:
        x = STEPS[name](x, a)
    return x
