"""Launcher of attention on a Hopper's specialised warps: a schedule of the plan for tiles of 128 rows."""

from functools import cache

import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from lowerings.cuda import schedules
from lowerings.cuda.attention_hopper_kernels import attend_hopper
from lowerings.cuda.launching import launch as launch_kernel
from lowerings.cuda.plans import KEY_BLOCK, KEY_SPLIT

#: blocks of keys and of values in flight; rows of a program
STAGES = 4
_ROWS = 128
_HALVES = (torch.bfloat16, torch.float16)
#: keys and values worked on at a time; a Hopper has 50 MB of L2
_L2_BYTES = 40 << 20


@cache
def is_hopper(device: torch.device) -> bool:
    """Return whether the device has the tensor core and the copy engine of a Hopper."""
    return torch.cuda.get_device_capability(device) == (9, 0)


def takes(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> bool:
    """Return whether this kernel computes the call: on a Hopper, what ``fits``."""
    return q.is_cuda and is_hopper(q.device) and fits(q, k, v, out)


def fits(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> bool:
    """Return whether the kernel was built for the dtype and head dims, and the copy engine reads the operands."""
    # narrower tiles were never run on a GPU; wider ones have no registers for two sums
    if q.dtype not in _HALVES or not all(32 < x.shape[-1] <= 128 for x in (q, v)):
        return False
    # a tile's results take the room of its queries
    if slots(q, k) > _ROWS // 2 or _wide(q) != _wide(v):
        return False
    return all(copied(x) for x in (q, k, v, out))


def slots(q: Tensor, k: Tensor) -> int:
    """Rows that a query has in a tile: its heads of one kv head, up to a power of two."""
    return int(triton.next_power_of_2(q.shape[1] // k.shape[1]))


def copied(x: Tensor) -> bool:
    """Return whether the copy engine reads ``x [.., .., .., D]``: rows of whole 16 bytes, none twice."""
    outer = zip(x.stride()[:-1], x.shape[:-1], strict=True)
    whole = all(size == 1 or (stride % 8 == 0 and stride > 0) for stride, size in outer)
    return x.stride(-1) == 1 and whole and x.data_ptr() % 16 == 0


def _wide(x: Tensor) -> int:
    return max(16, int(triton.next_power_of_2(x.shape[-1])))


def _descriptor(x: Tensor, block: tuple[int, ...]) -> TensorDescriptor:
    shape = [*block, _wide(x)]
    dtype = gl.bfloat16 if x.dtype == torch.bfloat16 else gl.float16
    # the stride of a dim of one is any number, and the copy engine wants a multiple of 16 bytes
    strides = [stride if size > 1 else 8 for stride, size in zip(x.stride(), x.shape, strict=True)]
    strides[-1] = 1
    layout = gl.NVMMASharedLayout.get_default_for(shape, dtype)
    return TensorDescriptor(x, list(x.shape), strides, shape, layout)


def launch(
    q: Tensor, k: Tensor, v: Tensor, start: Tensor, end: Tensor, solid: Tensor, out: Tensor, lse: Tensor, note: Tensor,
    tiles: int, scale2: float, start_strides: tuple[int, ...], *, is_causal: bool, masked: bool,
) -> None:  # fmt: skip
    """Fill ``out`` and ``lse`` for every tile of 128 rows that is noted DONE or HURT in ``note [B * Hk, tiles]``."""
    batch, heads, queries, dim = q.shape
    kv_heads, keys, value_dim = k.shape[1], k.shape[2], v.shape[3]
    rows, pairs = slots(q, k), batch * kv_heads
    grouped = out.transpose(1, 2).unflatten(2, (kv_heads, heads // kv_heads))
    sections = triton.cdiv(pairs * keys * (dim + value_dim) * q.element_size(), _L2_BYTES)
    section = triton.cdiv(pairs, sections)
    launch_kernel(
        attend_hopper,
        (min(tiles * pairs, schedules.multiprocessors(q.device)),),
        (
            _descriptor(q.transpose(1, 2), (1, _ROWS // 2 // rows, rows)),
            *(_descriptor(k, (1, 1, KEY_BLOCK)), _descriptor(v, (1, 1, KEY_BLOCK))),
            _descriptor(grouped, (1, _ROWS // 2 // rows, 1, rows)),
            *(start, end, solid, lse, note),
        ),
        (
            *(tiles, pairs, section, heads, kv_heads, queries, keys, scale2),
            *start_strides,
        ),
        GROUP=heads // kv_heads,
        SLOTS=rows,
        IS_CAUSAL=is_causal,
        MASK=masked,
        BM=_ROWS,
        KEYS=KEY_BLOCK,
        SPLIT=KEY_SPLIT,
        STAGES=STAGES,
        BD=_wide(q),
        BDV=_wide(v),
        num_warps=4,
        enable_fp_fusion=False,
    )
