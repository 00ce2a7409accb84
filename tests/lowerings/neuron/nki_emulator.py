"""A CPU emulator of exactly the NKI subset that ``lowerings/neuron/kernels`` uses; it runs their source unchanged.

Modelled: HBM, SBUF and PSUM as arrays filled with NaN; 128 partitions, the limits of the tensor engine, PSUM
banks, bytes of SBUF in use; float32 arithmetic with one rounding on write; which engine may touch what. The
order of additions inside one instruction is not documented, so it is a setting, and a test asks for a property
under every order. Nothing here says what bits the hardware gives.
"""

import contextlib
import dataclasses
import enum
import functools
import hashlib
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

ORDERS = ("sequential", "pairwise", "blas", "adversarial")
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes; bfloat16 values are kept as float32
PARTITIONS, MAX_MOVING, BANK_BYTES, BANKS = 128, 512, 2048, 8
SBUF_BYTES = {"gen2": 192 * 1024, "trn2": 224 * 1024, "trn3": 256 * 1024}  # per partition
F32 = np.float32


class NkiError(AssertionError):
    """A call that the hardware or its compiler would refuse."""


def need(condition: bool, text: str) -> None:
    if not condition:
        raise NkiError(text)


@dataclasses.dataclass
class Machine:
    """The settings, what is in use, and the log of instructions (name, shapes) when one is wanted."""

    order: str = "sequential"
    exp_zero_is_off: bool = False
    generation: str = "gen2"
    sbuf_bytes: int = 0
    psum_banks: int = 0
    sbuf_peak: int = 0
    log: list[tuple[Any, ...]] | None = None


MACHINE = Machine()


@contextlib.contextmanager
def machine(**settings: Any) -> Iterator[Machine]:
    """Run with other settings: ``order``, ``exp_zero_is_off``, ``generation``, ``log``."""
    before = {name: getattr(MACHINE, name) for name in settings}
    need(settings.get("order", "blas") in ORDERS, f"order must be one of {ORDERS}")
    for name, value in settings.items():
        setattr(MACHINE, name, value)
    MACHINE.sbuf_peak = MACHINE.sbuf_bytes
    try:
        yield MACHINE
    finally:
        for name, value in before.items():
            setattr(MACHINE, name, value)


def to_dtype(values: Any, dtype: str) -> np.ndarray:
    """Round to nearest even into ``dtype``."""
    values = np.asarray(values, F32)
    if dtype == "float16":
        return values.astype(np.float16)
    if dtype == "float32":
        return values
    raw = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((raw + (0x7FFF + ((raw >> 16) & 1))) & 0xFFFF0000).astype(np.uint32).view(F32)
    return np.where(np.isnan(values), values, rounded)


class Allocation:
    """On-chip memory held until the last view of a tile is dropped."""

    def __init__(self, buffer: str, bytes_: int) -> None:
        self.sbuf = bytes_ if buffer == "sbuf" else 0
        self.banks = 1 if buffer == "psum" else 0
        MACHINE.sbuf_bytes += self.sbuf
        MACHINE.psum_banks += self.banks
        MACHINE.sbuf_peak = max(MACHINE.sbuf_peak, MACHINE.sbuf_bytes)
        fits = not self.banks or bytes_ <= BANK_BYTES
        need(fits, f"a PSUM tile of {bytes_} bytes per partition exceeds a bank of {BANK_BYTES}")
        limit = SBUF_BYTES[MACHINE.generation]
        need(
            MACHINE.sbuf_bytes <= limit,
            f"SBUF: {MACHINE.sbuf_bytes} bytes per partition in use, {MACHINE.generation} has {limit}",
        )
        need(MACHINE.psum_banks <= BANKS, f"PSUM: {MACHINE.psum_banks} banks in use, there are 8")

    def __del__(self) -> None:
        MACHINE.sbuf_bytes -= self.sbuf
        MACHINE.psum_banks -= self.banks


class Tensor:
    """A view: values, dtype name, memory region, and the allocation that it keeps alive."""

    def __init__(self, data: np.ndarray, dtype: str, buffer: str, home: Any = None) -> None:
        self.data, self.dtype, self.buffer, self._home = data, dtype, buffer, home

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def on_chip(self) -> bool:
        return self.buffer != "hbm"

    def _view(self, data: np.ndarray) -> "Tensor":
        return Tensor(data, self.dtype, self.buffer, self._home)

    def __getitem__(self, key: Any) -> "Tensor":
        key = key if isinstance(key, tuple) else (key,)
        for k, extent in zip(key, self.shape, strict=True):
            if isinstance(k, int):
                need(not self.on_chip, "an integer index drops the partition dim; use a slice")
                need(0 <= k < extent, f"index {k} is outside 0..{extent - 1}")
                continue
            start, stop = k.start or 0, extent if k.stop is None else k.stop
            need(k.step is None, "slices with a step are outside the subset")
            need(0 <= start < stop <= extent, f"slice {start}:{stop} does not fit extent {extent}")
        return self._view(self.data[key])

    def broadcast(self, dim: int, size: int) -> "Tensor":
        need(self.shape[dim] == 1, f"broadcast of dim {dim} needs extent 1, got {self.shape[dim]}")
        need(not self.on_chip, "the partition dim of an on-chip tile cannot be broadcast")
        return self._view(np.broadcast_to(self.data, (size, *self.shape[1:])))


def ndarray(shape: Any, *, dtype: str, buffer: str) -> Tensor:
    need(dtype in DTYPES, f"dtype {dtype} is outside the subset {sorted(DTYPES)}")
    shape = tuple(shape)
    home = None
    if buffer != "hbm":
        need(len(shape) == 2 and 0 < shape[0] <= PARTITIONS, f"{shape} is no [<=128, F] tile")
        home = Allocation(buffer, shape[1] * DTYPES[dtype])
    store = np.float16 if dtype == "float16" else F32
    return Tensor(np.full(shape, np.nan, store), dtype, buffer, home)


def _values(x: Any) -> Any:
    return x.data.astype(F32) if isinstance(x, Tensor) else F32(x)


def _write(dst: Tensor, values: Any) -> None:
    need(dst.shape == np.shape(values), f"dst is {dst.shape}, the result {np.shape(values)}")
    dst.data[...] = to_dtype(values, dst.dtype)


def _engine_operands(name: str, *operands: Any) -> None:
    tiles = [t for t in operands if isinstance(t, Tensor)]
    for tile in tiles:
        need(tile.on_chip, f"{name}: engines do not read or write HBM; use dma_copy")
    if MACHINE.log is not None:
        MACHINE.log.append((name, *(t.shape for t in tiles)))


def _add_up(terms: np.ndarray, shape: tuple[Any, ...]) -> np.ndarray:
    """Float32 sum over axis 0 of ``terms [n, ...]`` in the order of the machine."""
    if MACHINE.order == "pairwise":
        while len(terms) > 1:
            odd = terms[-1:] if len(terms) % 2 else terms[:0]
            terms = np.concatenate([terms[0:-1:2] + terms[1::2], odd])
        return terms[0]
    if MACHINE.order == "blas":
        return _blas(np.ones((len(terms), 1), F32), terms.reshape(len(terms), -1))
    return np.add.accumulate(terms[_sequence(len(terms), shape)], axis=0)[-1]


def _blas(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (torch.from_numpy(a).t() @ torch.from_numpy(b)).numpy()


def _sequence(n: int, shape: tuple[Any, ...]) -> np.ndarray:
    """In the adversarial order a permutation that follows the whole shape of the instruction."""
    if MACHINE.order != "adversarial":
        return np.arange(n)
    seed = int.from_bytes(hashlib.sha256(repr(shape).encode()).digest()[:4], "little")
    return np.random.default_rng(seed).permutation(n)


def _row_sums(values: np.ndarray, name: str) -> np.ndarray:
    turned = np.ascontiguousarray(values.T)
    return np.asarray(_add_up(turned, (name, *values.shape))).reshape(-1, 1)


# ---- nki.isa


class engine(enum.Enum):
    tensor, vector, scalar, gpsimd = range(4)


class reduce_cmd(enum.Enum):
    reset_reduce = 0


def dma_copy(*, dst: Tensor, src: Tensor) -> None:
    need("psum" not in (dst.buffer, src.buffer), "dma_copy: DMA cannot touch PSUM")
    need(dst.dtype == src.dtype, f"dma_copy: casts {src.dtype} to {dst.dtype}; outside the subset")
    need(dst.shape == src.shape, f"dma_copy: dst is {dst.shape}, src {src.shape}")
    dst.data[...] = src.data


def memset(*, dst: Tensor, value: float) -> None:
    _engine_operands("memset", dst)
    _write(dst, np.full(dst.shape, value, F32))


def _vector(name: str, given: engine) -> None:
    need(given is engine.vector, f"{name}: name the engine, engine=nisa.engine.vector; got {given}")


def tensor_copy(*, dst: Tensor, src: Tensor, engine: engine) -> None:
    _vector("tensor_copy", engine)
    _engine_operands("tensor_copy", dst, src)
    _write(dst, _values(src))


def nc_matmul(*, dst: Tensor, stationary: Tensor, moving: Tensor, accumulate: bool) -> None:
    """``dst[M, N] (+)= stationary[K, M].T @ moving[K, N]``; PSUM takes one float32 add per instruction."""
    _engine_operands("nc_matmul", dst, stationary, moving)
    (depth, rows), (depth_b, columns) = stationary.shape, moving.shape
    need(isinstance(accumulate, bool), f"nc_matmul: accumulate must be a bool, got {accumulate}")
    need(dst.buffer == "psum" and dst.dtype == "float32", "nc_matmul: dst is float32 in PSUM")
    need(stationary.buffer == moving.buffer == "sbuf", "nc_matmul: operands live in SBUF")
    need(depth == depth_b, f"nc_matmul: K is {depth} and {depth_b}")
    need(rows <= PARTITIONS, f"nc_matmul: stationary has {rows} columns, at most 128")
    need(columns <= MAX_MOVING, f"nc_matmul: moving has {columns} columns, at most 512")
    both = (stationary.dtype == "float32") == (moving.dtype == "float32")
    need(both, f"nc_matmul: float32 pairs with float32; got {stationary.dtype}, {moving.dtype}")
    part = _product(_values(stationary), _values(moving))
    _write(dst, dst.data + part if accumulate else part)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    shape = ("nc_matmul", *a.shape, b.shape[1])
    if MACHINE.order == "blas":
        return _blas(a, b)
    if MACHINE.order == "pairwise":
        return _add_up(a[:, :, None] * b[:, None, :], shape)
    acc, term = None, np.empty((a.shape[1], b.shape[1]), F32)
    for k in _sequence(len(a), shape):
        np.multiply(a[k][:, None], b[k][None, :], out=term)
        acc = term.copy() if acc is None else np.add(acc, term, out=acc)
    return acc


def nc_transpose(*, dst: Tensor, data: Tensor, engine: engine) -> None:
    need(
        engine is sys.modules[__name__].engine.tensor,
        "nc_transpose: name engine=nisa.engine.tensor",
    )
    _engine_operands("nc_transpose", dst, data)
    need(data.buffer == "sbuf" and dst.buffer == "psum", "nc_transpose: reads SBUF, writes PSUM")
    need(dst.dtype == data.dtype, f"nc_transpose: dtypes differ, {dst.dtype} and {data.dtype}")
    need(max(data.shape) <= PARTITIONS, f"nc_transpose: {data.shape} exceeds 128 x 128")
    _write(dst, _values(data).T)


_BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "greater": lambda a, b: (a > b).astype(F32),
}


def tensor_tensor(*, dst: Tensor, data1: Tensor, data2: Tensor, op: str, engine: engine) -> None:
    _vector("tensor_tensor", engine)
    _engine_operands("tensor_tensor", dst, data1, data2)
    need(data1.shape == data2.shape, f"tensor_tensor: {data1.shape} and {data2.shape} differ")
    need(not data1.buffer == data2.buffer == "psum", "tensor_tensor: one PSUM operand at most")
    _write(dst, _BINARY[op](_values(data1), _values(data2)))


def tensor_scalar(
    *,
    dst: Tensor,
    data: Tensor,
    op0: str,
    operand0: Any,
    op1: str | None = None,
    operand1: Any = None,
    engine: engine,
) -> None:
    _vector("tensor_scalar", engine)
    _engine_operands("tensor_scalar", dst, data, operand0, operand1)
    values = _BINARY[op0](_values(data), _column("tensor_scalar", operand0, data))
    if op1 is not None:
        values = _BINARY[op1](values, _column("tensor_scalar", operand1, data))
    _write(dst, values)


def _column(name: str, operand: Any, data: Tensor) -> Any:
    if isinstance(operand, Tensor):
        fits = operand.shape == (data.shape[0], 1) and operand.dtype == "float32"
        need(fits, f"{name}: a tile operand is float32 [{data.shape[0]}, 1], got {operand.shape}")
    return _values(operand)


def tensor_reduce(*, dst: Tensor, op: str, data: Tensor, axis: int, keepdims: bool) -> None:
    _engine_operands("tensor_reduce", dst, data)
    need(axis == 1 and keepdims is True, "tensor_reduce: axis=1 and keepdims=True in this subset")
    x = _values(data)
    _write(dst, x.max(1, keepdims=True) if op == "maximum" else _row_sums(x, "tensor_reduce"))


def _exp(x: np.ndarray) -> np.ndarray:
    # one call on one contiguous array: numpy's vector and scalar exp may differ in the last bit
    e = np.exp(np.ascontiguousarray(x))
    return np.where(x == 0, F32(1 + 2**-23), e) if MACHINE.exp_zero_is_off else e


_UNARY: dict[str, Callable[..., Any]] = {
    "exp": _exp,
    "log": np.log,
    "square": np.square,
    "rsqrt": lambda x: F32(1) / np.sqrt(x),
}


def activation(
    *,
    dst: Tensor,
    op: str,
    data: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
    reduce_op: str | None = None,
    reduce_res: Tensor | None = None,
    reduce_cmd: reduce_cmd | None = None,
) -> None:
    """``dst = op(data * scale + bias)``, and the sum over columns of the float32 values in the same instruction."""
    _engine_operands("activation", dst, data, bias, reduce_res)
    need(op in _UNARY, f"activation: {op} is outside the subset {sorted(_UNARY)}")
    shift = F32(0) if bias is None else _column("activation", bias, data)
    values = _UNARY[op](_values(data) * F32(scale) + shift)
    _write(dst, values)
    if reduce_res is not None:
        reset = reduce_cmd is sys.modules[__name__].reduce_cmd.reset_reduce
        need(reduce_op == "add" and reset, "activation: reduce_op=nl.add with reset_reduce")
        _write(reduce_res, _row_sums(values, "activation"))


def reciprocal(*, dst: Tensor, data: Tensor) -> None:
    _engine_operands("reciprocal", dst, data)
    _write(dst, F32(1) / _values(data))


def affine_select(
    *,
    dst: Tensor,
    pattern: list[list[int]],
    channel_multiplier: int,
    on_true_tile: Tensor,
    on_false_value: float,
    cmp_op: str,
    offset: int,
) -> None:
    _engine_operands("affine_select", dst, on_true_tile)
    need(dst.buffer == on_true_tile.buffer == "sbuf", "affine_select: SBUF only (GpSimd)")
    ((step, count),) = pattern
    parts = on_true_tile.shape[0]
    at = offset + channel_multiplier * np.arange(parts)[:, None] + step * np.arange(count)[None, :]
    keep = at > 0 if cmp_op == "greater" else at >= 0
    need(cmp_op in ("greater", "greater_equal"), f"affine_select: {cmp_op} is outside the subset")
    _write(dst, np.where(keep, _values(on_true_tile), F32(on_false_value)))


# ---- nki and the loader


def jit(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of torch tensors that runs the kernel here; other arguments pass through."""

    @functools.wraps(kernel)
    def run(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            out = kernel(*map(_from_torch, args))
        return tuple(map(_to_torch, out)) if isinstance(out, tuple) else _to_torch(out)

    return run


def _from_torch(x: Any) -> Any:
    if not isinstance(x, torch.Tensor):
        return x
    name = str(x.dtype).removeprefix("torch.")
    need(name in DTYPES, f"tensors of {x.dtype} are outside the subset {sorted(DTYPES)}")
    x = x.detach().contiguous()
    return Tensor((x.float() if name == "bfloat16" else x).numpy().copy(), name, "hbm")


def _to_torch(t: Tensor) -> torch.Tensor:
    need(t.buffer == "hbm", f"a kernel returns HBM tensors, got one in {t.buffer}")
    return torch.from_numpy(t.data).to(getattr(torch, t.dtype))


_ISA: dict[str, Any] = {
    f.__name__: f
    for f in (
        dma_copy,
        memset,
        nc_matmul,
        nc_transpose,
        tensor_copy,
        tensor_tensor,
        tensor_scalar,
        tensor_reduce,
        activation,
        reciprocal,
        affine_select,
        reduce_cmd,
        engine,
    )
}
_WORDS = ("float32", *_UNARY, *_BINARY, "greater_equal")


def _modules() -> dict[str, types.ModuleType]:
    nki, isa, nl = (types.ModuleType(name) for name in ("nki", "nki.isa", "nki.language"))
    isa.__dict__.update(_ISA)
    nl.__dict__.update({word: word for word in _WORDS})
    nl.__dict__.update(ndarray=ndarray, sbuf="sbuf", psum="psum", shared_hbm="hbm")
    nki.__dict__.update(jit=jit, isa=isa, language=nl)
    return {"nki": nki, "nki.isa": isa, "nki.language": nl}


@contextlib.contextmanager
def emulated_nki(prefix: str = "lowerings.neuron.kernels") -> Iterator[None]:
    """Bind ``nki`` to this emulator; on exit put ``sys.modules`` back, kernel modules included."""
    mine = _modules()
    kept = {n: m for n, m in sys.modules.items() if n in mine or n.startswith(prefix)}
    for name in kept:
        del sys.modules[name]
    sys.modules.update(mine)
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n in mine or n.startswith(prefix)]:
            del sys.modules[name]
        sys.modules.update(kept)


def load_kernels(*names: str, package: str = "lowerings.neuron.kernels") -> types.SimpleNamespace:
    """Import kernel modules against the emulator; return their functions in one namespace."""
    found: dict[str, Any] = {}
    with emulated_nki():
        for name in names:
            module = importlib.import_module(f"{package}.{name}" if package else name)
            public = {n: f for n, f in vars(module).items() if hasattr(f, "__wrapped__")}
            found.update(public)
            if not package:
                sys.modules.pop(name)
    return types.SimpleNamespace(**found)
