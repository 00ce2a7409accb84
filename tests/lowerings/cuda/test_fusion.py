"""The norm that models spell out becomes one op of the CUDA graph, where nobody else reads its parts."""

import functools
import re
from collections.abc import Callable

import pytest
import torch
from code_generation import generate, library_calls
from torch import Tensor, nn

_WIDTH = 48


class _Norm(nn.Module):
    """As Llama, Mistral, Qwen and their kin spell it."""

    def __init__(self, *, power: int = 2, leak: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(_WIDTH))
        self.power, self.leak = power, leak

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        root = torch.rsqrt(wide.pow(self.power).mean(-1, keepdim=True) + 1e-6)
        out = self.weight * (wide * root).to(x.dtype)
        return out + root.to(x.dtype) if self.leak else out


class _Block(nn.Module):
    def __init__(self, norm: Callable[[], nn.Module] = _Norm) -> None:
        super().__init__()
        self.first, self.second = norm(), norm()
        self.inner = nn.Linear(_WIDTH, _WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        middle = x + self.inner(self.first(x))
        return middle + self.inner(self.second(middle))


def _fused(module: nn.Module, dtype: torch.dtype) -> tuple[int, str]:
    with torch.no_grad():
        code = generate(module.eval(), (torch.randn(3, 5, _WIDTH).to(dtype),))
    return library_calls(code).count("bi_inductor.add_rms_norm.default"), code


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_both_norms_of_a_block_and_the_residual_add_between_them(dtype: torch.dtype) -> None:
    count, code = _fused(_Block().to(dtype), dtype)
    assert count == 2
    assert library_calls(code).count("bi_inductor.reduction.default") == 0
    calls = [line for line in code.split("\n") if "add_rms_norm(" in line]
    first, second = (call.split("add_rms_norm(")[1].split(", ") for call in calls)
    assert first[1] == "None"
    assert second[1] != "None"


@pytest.mark.parametrize("settings", [{"power": 4}, {"leak": True}], ids=["power", "leak"])
def test_what_is_no_norm_or_is_read_by_others_stays_open(settings: dict[str, bool]) -> None:
    count, code = _fused(_Block(functools.partial(_Norm, **settings)).bfloat16(), torch.bfloat16)
    assert count == 0
    assert library_calls(code).count("bi_inductor.reduction.default") == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchs_own_norm_is_rounded_once(dtype: torch.dtype) -> None:
    block = nn.Sequential(*(_Block(functools.partial(nn.RMSNorm, _WIDTH)) for _ in range(2)))
    count, code = _fused(block.to(dtype), dtype)
    assert count == 4
    calls = re.findall(r"add_rms_norm\((.*)\)", code)
    assert all("rounded=False" in call for call in calls)
    # the first norm of all has nothing before it
    assert [call.split(", ")[1] == "None" for call in calls] == [True, False, False, False]


def test_a_weight_in_another_dtype_stays_outside() -> None:
    count, code = _fused(_Norm(), torch.bfloat16)
    assert count == 1
    call = next(line for line in code.split("\n") if "add_rms_norm(" in line)
    assert call.split("add_rms_norm(")[1].split(", ")[1:3] == ["None", "None"]


def test_the_cpu_is_left_alone() -> None:
    from bi_inductor import ops
    from lowerings import table

    assert table.fuser_of("cpu") is None
    assert not ops.FUSED.keys() & ops.SCHEMAS.keys()
