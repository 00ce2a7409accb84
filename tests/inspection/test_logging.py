"""What a developer sees of a compilation: log lines and trace artifacts."""

import os
import subprocess
import sys

COMPILE = """
import torch
from torch import nn

class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(16, 16)

    def forward(self, x):
        h = x.unflatten(-1, (2, 8)).transpose(1, 2)
        return self.out(nn.functional.scaled_dot_product_attention(h, h, h).transpose(1, 2).flatten(2))

with torch.no_grad():
    torch.compile(Attend(), backend="batch_invariant")(torch.randn(3, 5, 16))
"""


def test_logs_and_artifacts_show_plan_graph_and_passes(tmp_path):
    env = {
        **os.environ,
        "TORCH_LOGS": "+bi_inductor",
        "TORCH_TRACE": str(tmp_path / "trace"),
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "open_attention: -1 scaled_dot_product_attention, +1 attention" in done.stderr
    assert "rewrite: -1 aten.addmm.default" in done.stderr
    assert "+1 bi_inductor.mm.default" in done.stderr
    assert "Attention(is_causal=False, mask=False)  split_size=512" in done.stderr
    assert "torch.ops.bi_inductor.mm.default" in done.stderr
    (trace,) = (tmp_path / "trace").iterdir()
    artifacts = trace.read_text()
    for name in ("open_attention_diff", "plan", "rewrite_diff", "rewritten_graph"):
        assert f'"name": "bi_inductor_{name}"' in artifacts
