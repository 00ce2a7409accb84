"""``bi-inductor``: targets, exit codes, and one sentence for bad input."""

import json
import re
import subprocess
import sys

import pytest
import torch
import transformers as tf
from torch import nn
from typer.testing import CliRunner

from bi_inductor.cli import app
from bi_inductor.errors import InspectionError
from bi_inductor.inspection.targets import load_target
from examples import quickstart


def sound():
    return nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8)).eval(), (torch.zeros(3, 16),)


def variant():
    return lambda x: x.softmax(0), (torch.zeros(3, 16),), {}


def no_tensor():
    return (lambda n: n + 1), (3,), {}


def keyworded():
    return (lambda x, scale: x * scale), (), {"x": torch.zeros(3, 16), "scale": 2.0}


def wrong_shape():
    return nn.Linear(4, 5), (torch.zeros(3, 6),)


def no_tuple():
    return nn.Linear(4, 5)


def failing():
    raise ValueError("no such checkpoint")


HERE = "tests.inspection.test_cli"


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.mark.parametrize(
    ("name", "code"), [("sound", 0), ("variant", 1), ("keyworded", 0), ("wrong_shape", 2)]
)
def test_exit_codes(name, code):
    done = run("explain", f"{HERE}:{name}")
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output


def test_json_is_all_of_stdout():
    done = run("explain", f"{HERE}:sound", "--json", "--device", "cuda")
    assert json.loads(done.stdout)["device"] == "cuda"


def test_page_and_dot_are_written(tmp_path):
    done = run(
        *("explain", f"{HERE}:sound", "--html", tmp_path / "a.html", "--dot", tmp_path / "a.dot")
    )
    assert done.exit_code == 0
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "a.dot").read_text().startswith("digraph")


def test_batch_sizes_compare_the_plans():
    done = run("explain", f"{HERE}:sound", "--batch-sizes", "1,2,64")
    assert "plans are equal at batch sizes 1, 2, 64" in done.stdout


COMMANDS = ("explain", "diff", "certify", "bench")
MISMATCH = "same reduction dim|cannot be multiplied"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((f"{HERE}:wrong_shape",), MISMATCH),
        ((f"{HERE}:nothing",), "has no 'nothing'"),
        ((f"{HERE}:no_tuple",), r"must return \(model, args\)"),
        ((f"{HERE}:failing",), "ValueError: no such checkpoint"),
        (("no.such.module:x",), "cannot import 'no.such.module'"),
        (("no_such_folder",), "there is no folder 'no_such_folder'"),
        (("no_such_file.gguf",), "there is no file 'no_such_file.gguf'"),
        (("tests",), "has no config.json"),
        ((f"{HERE}:sound", "--batch-sizes", "1,x"), "numbers with commas"),
        ((f"{HERE}:sound", "--batch-sizes", "0,2"), "must be positive"),
        ((f"{HERE}:sound", "--dtype", "int8"), "--dtype must be"),
        ((f"{HERE}:sound", "--device", "abacus"), "cpu, cuda, mps, neuron|no device 'abacus'"),
    ],
)
def test_bad_input_is_one_sentence(command, args, sentence):
    _one_sentence(run(command, *args), sentence)


@pytest.mark.parametrize("command", ["explain", "diff", "certify"])
def test_a_batch_of_one_has_nothing_to_be_compared_with(command):
    _one_sentence(run(command, f"{HERE}:sound", "--batch-sizes", "1"), "give two or more")


@pytest.mark.parametrize("command", ["diff", "certify"])
def test_a_target_without_a_batch_is_one_sentence(command):
    _one_sentence(run(command, f"{HERE}:no_tensor"), "no input has a batch dimension")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is here")
@pytest.mark.parametrize("command", ["diff", "certify", "bench"])
def test_a_device_that_is_not_here_is_one_sentence(command):
    _one_sentence(run(command, f"{HERE}:sound", "--device", "cuda"), "no device 'cuda' here")


def _one_sentence(done, sentence):
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.strip().splitlines()
    assert re.search(sentence, line)
    assert "Traceback" not in done.output


def test_a_missing_target_is_usage():
    assert run("explain").exit_code == 2
    assert run("no-such-command").exit_code == 2


def test_debug_shows_the_traceback():
    assert isinstance(run("explain", f"{HERE}:failing", "--debug").exception, InspectionError)


def test_diff_finds_nothing_in_ours_and_says_so():
    done = run(
        "diff", f"{HERE}:sound", "--backend", "batch_invariant", "--batch-sizes", "1,3", "--json"
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)


def test_diff_under_stock_eager_exits_with_one_when_bits_change():
    done = run("diff", f"{HERE}:variant", "--backend", "eager", "--batch-sizes", "1,3")
    assert done.exit_code == 1, done.output


def test_a_damaged_certificate_is_named_before_anything_is_compiled(tmp_path):
    file = tmp_path / "certificate.json"
    file.write_text("{}")
    done = run("certify", f"{HERE}:sound", "--check", file)
    assert done.exit_code == 2
    assert "is no certificate" in done.stderr
    assert "cannot read" in run("certify", f"{HERE}:sound", "--check", tmp_path / "none").stderr


def test_bench_times_both_backends_at_every_size():
    options = ("--rounds", "3", "--batch-sizes", "2,5", "--dtype", "bfloat16", "--json")
    done = run("bench", f"{HERE}:sound", *options)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["device"], report["dtype"], report["rounds"]) == ("cpu", "bfloat16", 3)
    assert [t["batch"] for t in report["timings"]] == [2, 5]
    for t in report["timings"]:
        assert all(t[k] > 0 for k in ("stock_ms", "ours_ms", "stock_first_s", "ours_first_s"))
        assert t["speed"] == t["stock_ms"] / t["ours_ms"]


def test_bench_prints_a_table_of_100_columns():
    done = run("bench", f"{HERE}:sound", "--rounds", "3")
    assert done.exit_code == 0, done.output
    assert "as given" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_bench_of_a_target_without_tensors_is_a_sentence():
    done = run("bench", f"{HERE}:no_tensor")
    assert done.exit_code == 2, done.output
    assert "nothing to time" in done.stderr
    assert "Traceback" not in done.output


def test_bench_of_a_refused_model_exits_with_one_and_names_the_op():
    done = run("bench", f"{HERE}:variant", "--rounds", "3")
    assert done.exit_code == 1, done.output
    assert "softmax" in done.stderr
    assert "Traceback" not in done.output


def test_a_hugging_face_folder_needs_no_weights(tmp_path):
    config = tf.GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    config.architectures = ["GPT2LMHeadModel"]
    config.save_pretrained(tmp_path)
    target = load_target(str(tmp_path), weights=False)
    assert type(target.model).__name__ == "GPT2LMHeadModel"
    assert next(target.model.parameters()).device.type == "meta"
    done = run("explain", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == "GPT2LMHeadModel"


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "bi_inductor", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("explain", "diff", "certify", "bench"):
        assert command in done.stdout


def test_a_gguf_file_is_a_causal_model_without_its_weights():
    found = load_target(str(quickstart.gguf_file()), dtype=None, weights=False)
    assert isinstance(found.model, tf.LlamaForCausalLM)
    assert next(found.model.parameters()).is_meta
    assert found.kwargs["input_ids"].shape[0] == 2


def test_diff_of_an_invariant_model_is_lines_without_a_table():
    done = CliRunner().invoke(
        app, ["diff", f"{__name__}:sound", "--backend", "batch_invariant", "--batch-sizes", "1,3"]
    )
    assert done.exit_code == 0
    assert "the same bits at batch sizes 1, 3" in done.output
    assert "┃" not in done.output
    assert "values compared" not in done.output
