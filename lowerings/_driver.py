"""torch's own way to a GPU's driver: private names that a launch needs, apart from Inductor's, which take a second to import.

None on a torch that was built without CUDA; a new release breaks here.
"""

from collections.abc import Callable
from typing import Any

import torch

_static = getattr(torch._C, "_StaticCudaLauncher", None)

#: ``(function, grid x, y, z, warps, shared, types, arguments, stream)``: launches a loaded kernel
launch_kernel: Callable[..., None] | None = getattr(_static, "_launch_kernel", None)
#: index of the current device
current_device: Callable[[], int] | None = getattr(torch._C, "_cuda_getDevice", None)
#: handle of the current stream of a device
current_stream: Callable[[int], int] | None = getattr(torch._C, "_cuda_getCurrentRawStream", None)
#: ``(sizes, strides, dtype)`` on the current device: half the host time of ``Tensor.new_empty``
empty_strided: Callable[..., Any] | None = getattr(
    torch._C._dynamo.guards, "_empty_strided_cuda", None
)

#: Triton's name of a parameter's type -> the letter by which torch's launcher converts it
LETTERS = dict(
    pair.split()
    for pair in (
        [
            "i1 i",
            "i8 b",
            "i16 h",
            "i32 i",
            "i64 l",
            "u1 I",
            "u8 B",
            "u16 H",
            "u32 I",
            "u64 K",
            "fp32 f",
            "f32 f",
            "fp64 d",
        ]
    )
)
