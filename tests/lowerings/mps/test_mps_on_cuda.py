"""What a machine without an NVIDIA GPU can check of ``on_cuda.py``: the CUDA text, and the sentence that refuses."""

import re
import subprocess
import sys
from pathlib import Path

import msl_cuda
import pytest
from libraries import texts
from msl_cpu import KERNEL, THREADGROUP, strip_comments

SCRIPT = Path(msl_cuda.__file__).with_name("on_cuda.py")


@pytest.mark.parametrize(("name", "text"), texts())
def test_the_text_becomes_cuda_and_its_statements_stay(name, text):
    cuda, metal = msl_cuda.translate(text), strip_comments(text)
    assert cuda.count('extern "C" __global__ void') == len(KERNEL.findall(metal)) > 0
    assert cuda.count("__shared__") == len(THREADGROUP.findall(metal))
    assert not re.search(r"\[\[|\bkernel\b", cuda)
    for statement in re.findall(r"^ +\w+ = .*;$", metal, re.M):
        assert statement in cuda


def test_without_a_gpu_it_fails_and_says_why():
    run = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == "on_cuda.py needs an NVIDIA GPU and a PyTorch built for CUDA\n"
