"""Rules of the Metal text that no run can show."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from libraries import texts
from msl_cpu import SHIM, strip_comments

from lowerings.mps import library

FILES = sorted(library.KERNELS.glob("*.metal"))
BANNED = re.compile(
    r"\b(simd_(sum|product|max|min|prefix\w*)|atomic\w*|fast::\w+|(?<!bi_)(exp|exp2|log|log2|tanh|rsqrt|pow)(?=\()"
    r"|metal::(max|min)|fmax|fmin|matmul2d|threads_per_threadgroup|template|mad)\b"
)
CONTRACTION = re.compile(r"[\w\])]\s*\*\s*[\w(][\w\].\[()]*\s*[+-]\s|[+-]\s*[\w\].\[]+\s\*\s")
WAITS = re.compile(r"(threadgroup_barrier|simdgroup_barrier|simd_shuffle\w*)\(")


def lines(path):
    return enumerate(strip_comments(path.read_text()).splitlines(), 1)


def is_integer(line):
    """Index arithmetic: nothing in it is a float."""
    float_words = r"\b(float4?|fma|acc|total|bi_exp|dot|sum\w*|BI_A|BI_T\()\b"
    line = re.sub(r"float\(\w+\[[^;]*?\]\)|float\*", "", line)
    return line.startswith("inline long") or re.search(float_words, line) is None


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_ascii_no_banned_call_one_wait_a_line(path):
    path.read_text("ascii")
    for number, line in lines(path):
        assert not BANNED.search(line), f"{path.name}:{number}: {line.strip()}"
        assert len(WAITS.findall(line)) <= 1, f"{path.name}:{number}: {line.strip()}"
        assert not re.search(r"\[[&=]\]", line), f"lambda in {path.name}:{number}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_no_statement_offers_a_contraction(path):
    for number, line in lines(path):
        if not is_integer(line):
            bare = re.sub(r"\[[^\[\]]*(\[[^\[\]]*\][^\[\]]*)*\]", "[]", line)
            assert not CONTRACTION.search(bare), f"{path.name}:{number}: {line.strip()}"


def test_the_lint_sees_a_contraction():
    for bad in ("float r = a * b + c;", "acc = acc + x[i] * y;", "r = total - a * b;"):
        assert not is_integer("float " + bad)
        assert CONTRACTION.search(bad), bad
    for bad in ("x = simd_sum(y);", "x = exp(y);", "atomic_fetch_add(p);"):
        assert BANNED.search(bad), bad
    assert not BANNED.search("x = bi_exp(y);")


def test_both_pragmas_come_first():
    for name, text in texts():
        for pragma in ("#pragma METAL fp math_mode(safe)", "#pragma METAL fp contract(off)"):
            assert 0 < text.index(pragma) < text.index("inline float"), name


def test_every_kernel_states_its_group():
    for path in FILES:
        text = strip_comments(path.read_text())
        kernels = re.findall(r"\bkernel void", text)
        assert len(
            re.findall(r"max_total_threads_per_threadgroup\([\w *]+\)\]\]\s+kernel", text)
        ) == len(kernels)


def clang():
    found = next(
        (
            c
            for n in ("", "-19", "-18", "-17", "-16", "-15", "-14")
            if (c := shutil.which(f"clang++{n}"))
        ),
        None,
    )
    assert found, (
        "the address-space check needs clang: apt-get install clang (g++ has no address spaces in C++)"
    )
    return found


def address_space_errors(text, tmp_path: Path):
    text = re.sub(r"^#include <metal.*$", "", strip_comments(text), flags=re.M)
    text = re.sub(
        r"^(\s+)threadgroup (\w+ \w+(\[[^;]*\])*;)", r"\1static threadgroup \2", text, flags=re.M
    )
    text = text.replace(
        "using namespace metal;", '#include "address_spaces.h"\nusing namespace metal;'
    )
    source = tmp_path / "check.cpp"
    source.write_text(text)
    command = [
        clang(),
        "-std=c++17",
        "-fsyntax-only",
        "-Wno-everything",
        "-ferror-limit=0",
        f"-I{SHIM}",
        str(source),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line for line in run.stderr.splitlines() if "error:" in line]


@pytest.mark.needs_clang
def test_pointers_keep_their_address_space(tmp_path):
    for name, text in texts():
        assert address_space_errors(text, tmp_path) == [], name


@pytest.mark.needs_clang
@pytest.mark.parametrize(
    "text",
    [
        "inline float g(threadgroup float* s) { return s[0]; }\nkernel void f(device float* x) { x[0] = g(x); }",
        "kernel void f(constant float* x) { x[0] = 1.0f; }",
        "kernel void f(device float* x) {\n  threadgroup float s[4];\n  device float* p = s; x[0] = p[0]; }",
        "inline float g(float* s) { return s[0]; }\nkernel void f(device float* x) { x[0] = g(x); }",
    ],
    ids=["device as threadgroup", "write through constant", "threadgroup as device", "no space"],
)
def test_the_address_space_check_sees_mistakes(text, tmp_path):
    assert address_space_errors("using namespace metal;\n" + text, tmp_path)
