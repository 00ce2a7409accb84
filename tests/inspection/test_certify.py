"""Certificates: what passes, what fails, what does not apply; what a changed file, version or plan is called."""

import json

import jsonschema
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

import bi_inductor
from bi_inductor.errors import InspectionError
from bi_inductor.inspection import certify_report, certify_tokens
from bi_inductor.inspection.certify_axes import Bench
from bi_inductor.inspection.certify_hash import signed_hash
from bi_inductor.inspection.certify_report import JSON_SCHEMA, load
from bi_inductor.inspection.diff_samples import Samples
from tests.generation.decoders import decoder

pytestmark = pytest.mark.usefixtures("one_library")

ENCODER = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48}


class Block(nn.Module):
    """Causal attention over [batch, length, 64] and a feed-forward layer."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.up, self.down, self.norm = nn.Linear(64, 160), nn.Linear(160, 64), nn.LayerNorm(64)

    def forward(self, x):
        q, k, v = (
            t.unflatten(-1, (4, 16)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Scaled(nn.Module):
    """A scale over the whole tensor: every sample follows its neighbours."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, x):
        y = self.linear(x)
        return y / y.abs().amax()


def statuses(certificate, axis):
    return {c.name: c.status for c in certificate.checks if c.axis == axis}


@pytest.fixture(scope="module")
def block():
    torch.manual_seed(0)
    model = Block().eval()
    x = torch.randn(9, 6, 64)
    return model, x, bi_inductor.certify(model, x, batch_sizes=(1, 2, 9))


def test_an_attention_block_is_certified(block):
    _, _, certificate = block
    assert certificate.ok, certificate.text()
    assert set(statuses(certificate, 1).values()) == {"passed"}
    assert set(statuses(certificate, 2).values()) == {"passed"}
    assert statuses(certificate, 3) == {"prefixes of a sequence": "passed"}
    assert set(statuses(certificate, 4).values()) == {"not applicable"}
    assert certificate.axes[4] == "not applicable"
    fifth = statuses(certificate, 5)
    assert set(fifth.values()) == {"passed"}
    ways = {"another process", "static shapes", "dynamic shapes", "recompiled", "eager mode"}
    assert ways <= set(fifth)
    assert "changes" in certificate.control
    assert "no bit" not in certificate.control
    assert "Attention" in certificate.static["graphs"][0]["plan"]


@torch.no_grad()
def test_a_decoder_is_measured_through_its_cache_and_behind_padding():
    model = decoder()
    torch.manual_seed(1)
    ids = torch.randint(3, 128, (2, 24))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    bench = bench_of(model, given)
    assert [(c.axis, c.name, c.status, c.compared) for c in certify_tokens.sequences(bench)] == [
        (3, "prefill, chunks, one token at a time", "passed", 2),
        (4, "padding left and right", "passed", 5),
        (4, "capacity of a static cache", "passed", 1),
    ]
    # the control: stock eager torch in the place of the compiled model
    bench.compiled = model
    _, stock, _ = certify_tokens.sequences(bench)
    assert stock.status == "failed"
    assert "ulp" in stock.detail


@torch.no_grad()
def test_an_encoder_that_takes_a_cache_does_not_fail_for_what_is_no_promise():
    config = BertConfig(**ENCODER, num_hidden_layers=1, num_attention_heads=2)
    model = BertModel(config).eval()
    ids = torch.arange(3, 27).reshape(2, 12)
    bench = bench_of(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    chunks, padding, capacity = certify_tokens.sequences(bench)
    assert (chunks.status, chunks.name) == ("not applicable", "prefixes of a sequence")
    assert "not causal" in chunks.detail
    assert padding.status == "passed"
    assert capacity.status == "not applicable"


def bench_of(model, given):
    samples = Samples.of(model, (), given)
    return Bench(model=model, samples=samples, options={}, tell=lambda _: None)


def test_a_certificate_is_json_by_its_schema_and_survives_a_file(block, tmp_path):
    _, _, certificate = block
    path = tmp_path / "block.json"
    certificate.save(path)
    content = load(path)
    jsonschema.validate(content, JSON_SCHEMA)
    assert content == certificate.json()
    assert certificate.compare(content) == ()
    assert certificate.table().row_count == len(certificate.checks)


def test_this_machine_has_the_plans_of_its_own_certificate(block):
    model, x, certificate = block
    found = bi_inductor.check_certificate(certificate, model, x)
    assert found.ok, found.differences


def test_a_tampered_file_is_refused(block, tmp_path):
    path = tmp_path / "block.json"
    block[2].save(path)
    content = json.loads(path.read_text())
    content["axes"][0]["checks"][0]["compared"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(InspectionError, match="was changed after it was signed"):
        load(path)


def test_changed_versions_plans_and_devices_are_named(block):
    certificate = block[2]
    earlier = certificate.json()
    earlier["environment"]["torch"] = "2.12.0"
    earlier["environment"]["device_model"] = "another CPU"
    plan = earlier["static"]["graphs"][0]["plan"]
    earlier["static"]["graphs"][0]["plan"] = plan.replace("split_size=1024", "split_size=512", 1)
    assert earlier["static"]["graphs"][0]["plan"] != plan
    earlier["axes"][3]["status"] = "passed"
    found = certificate.compare(earlier)
    assert f"environment torch was 2.12.0, is {torch.__version__}" in found
    assert any(line.startswith("environment device_model was another CPU") for line in found)
    assert any(
        "the plan of graph 0 changed in 1 steps" in s and "split_size=512" in s for s in found
    )
    assert "padding and cache capacity was passed, is not applicable" in found
    assert len(found) == 4


def test_another_model_is_named_when_checked(block):
    _, x, certificate = block
    torch.manual_seed(0)
    other = nn.Sequential(nn.LayerNorm(64)).eval()
    found = bi_inductor.check_certificate(certificate, other, x)
    assert not found.ok
    assert any(line.startswith("subject structure was") for line in found.differences)


def test_a_coupled_model_is_not_certified():
    torch.manual_seed(0)
    model, x = Scaled().eval(), torch.randn(3, 32)
    warned = bi_inductor.certify(model, x, batch_sizes=(1, 3), options={"on_variant": "warn"})
    assert not warned.ok
    assert not warned.static["invariant"]
    assert "amax" in warned.static["graphs"][0]["variants"][0]
    assert warned.axes[1] == "failed"
    assert "ulp" in next(c.detail for c in warned.checks if c.axis == 1)
    refused = bi_inductor.certify(model, x, batch_sizes=(1, 3))
    assert not refused.ok
    assert "test_certify.py" in refused.static["refused"]
    assert set(refused.axes.values()) == {"not measured"}
    jsonschema.validate(refused.json(), JSON_SCHEMA)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read .*: No such file"),
        ("{", "is not JSON"),
        ("[]", "is no certificate: schema .* expected, found list"),
        ('{"schema": "other/1"}', "found other/1"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "certificate.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InspectionError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_the_hash_covers_every_field():
    content = {"schema": certify_report.SCHEMA, "a": {"b": [1, 2]}, "hash": "x"}
    assert signed_hash(content) == signed_hash({**content, "hash": "y"})
    assert signed_hash(content) != signed_hash({**content, "a": {"b": [2, 1]}})
