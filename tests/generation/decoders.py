"""Tiny random decoders that disagree with themselves under stock torch, and prompts of unequal length."""

import functools

import torch
import transformers as tf

from bi_inductor import batch_invariant_mode
from tests.zoo import ZOO
from tests.zoo.case import VOCAB


def decoder(kind: str = "llama", window: int | None = None, layers: int = 1):
    config = {**ZOO["llama"].settings, "max_position_embeddings": 2048, "num_hidden_layers": layers}
    torch.manual_seed(0)
    if kind == "llama":
        model = tf.LlamaForCausalLM(tf.LlamaConfig(**config))
    else:
        model = tf.MistralForCausalLM(tf.MistralConfig(**config, sliding_window=window))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    # no token ends a row: every row has the same number of logits
    model.generation_config.eos_token_id = None
    return model.eval()


def compiled(model, backend="batch_invariant"):
    model.forward = torch.compile(model.forward, backend=backend, dynamic=True)
    return model


def in_mode(model):
    """Nothing is compiled: the same templates one by one."""
    eager = model.forward

    @functools.wraps(eager)
    def forward(*args, **kwargs):
        with batch_invariant_mode():
            return eager(*args, **kwargs)

    model.forward = forward
    return model


def prompts(*lengths: int):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCAB, (1, n), generator=generator) for n in lengths]


def padded(rows, side: str = "left"):
    width = max(row.shape[1] for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        span = slice(width - row.shape[1], width) if side == "left" else slice(0, row.shape[1])
        ids[i, span], mask[i, span] = row[0], 1
    return ids, mask
