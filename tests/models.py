"""Small random models by name, from transformers' own classes: what a batch is made of and how to call them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers as tf
from torch import Tensor, nn

VOCAB = 128


@dataclass(frozen=True)
class Case:
    """A model and how to make ``n`` samples for it."""

    model: nn.Module
    inputs: Callable[[int], tuple[Tensor, ...]]
    call: Callable[[nn.Module, tuple[Tensor, ...]], object]


def tokens(n: int, length: int = 7) -> tuple[Tensor, ...]:
    return (torch.randint(3, VOCAB, (n, length)),)


def padded_tokens(n: int, length: int = 9) -> tuple[Tensor, ...]:
    (ids,) = tokens(n, length)
    mask = torch.ones_like(ids)
    for row in range(n):
        mask[row, : row % 4] = 0
    return ids, mask


def pixels(n: int) -> tuple[Tensor, ...]:
    return (torch.randn(n, 3, 32, 32),)


def by_ids(model: nn.Module, x: tuple[Tensor, ...]) -> object:
    return model(input_ids=x[0], use_cache=False)[0]


def by_ids_and_mask(model: nn.Module, x: tuple[Tensor, ...]) -> object:
    return model(input_ids=x[0], attention_mask=x[1])[0]


def by_pixels(model: nn.Module, x: tuple[Tensor, ...]) -> object:
    return model(x[0])[0] if isinstance(model, tf.PreTrainedModel) else model(x[0])


_DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _llama() -> Case:
    return Case(tf.LlamaForCausalLM(tf.LlamaConfig(**_DECODER)), tokens, by_ids)


def _qwen3() -> Case:
    return Case(tf.Qwen3ForCausalLM(tf.Qwen3Config(**_DECODER, head_dim=32)), tokens, by_ids)


def _gemma3() -> Case:
    config = tf.Gemma3TextConfig(
        **_DECODER, head_dim=32, sliding_window=4, query_pre_attn_scalar=32
    )
    return Case(tf.Gemma3ForCausalLM(config), tokens, by_ids)


def _gpt2() -> Case:
    config = tf.GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=64, n_layer=2, n_head=4)
    return Case(tf.GPT2LMHeadModel(config), tokens, by_ids)


def _mixtral() -> Case:
    config = tf.MixtralConfig(**_DECODER, num_local_experts=4, num_experts_per_tok=2)
    return Case(tf.MixtralForCausalLM(config), tokens, by_ids)


def _qwen3_moe() -> Case:
    config = tf.Qwen3MoeConfig(
        **_DECODER, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48
    )
    return Case(tf.Qwen3MoeForCausalLM(config), tokens, by_ids)


def _bert() -> Case:
    config = tf.BertConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=112,
        max_position_embeddings=64,
    )
    return Case(tf.BertModel(config), padded_tokens, by_ids_and_mask)


def _t5() -> Case:
    config = tf.T5Config(vocab_size=VOCAB, d_model=64, d_kv=16, d_ff=112, num_layers=2, num_heads=4)
    model = tf.T5ForConditionalGeneration(config)
    return Case(
        model,
        lambda n: (*tokens(n, 7), *tokens(n, 5)),
        lambda m, x: m(input_ids=x[0], decoder_input_ids=x[1], use_cache=False).logits,
    )


def _vit() -> Case:
    config = tf.ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=112,
        image_size=32,
        patch_size=8,
    )
    return Case(tf.ViTModel(config), pixels, by_pixels)


def _resnet() -> Case:
    config = tf.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic"
    )
    return Case(tf.ResNetModel(config), pixels, by_pixels)


def _convnext() -> Case:
    config = tf.ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, patch_size=4)
    return Case(tf.ConvNextModel(config), pixels, by_pixels)


def _mamba() -> Case:
    config = tf.MambaConfig(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, state_size=8)
    return Case(tf.MambaForCausalLM(config), tokens, by_ids)


MODELS: dict[str, Callable[[], Case]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
    "mixtral": _mixtral,
    "qwen3_moe": _qwen3_moe,
    "bert": _bert,
    "t5": _t5,
    "vit": _vit,
    "resnet": _resnet,
    "convnext": _convnext,
    "mamba": _mamba,
}


def make(name: str, dtype: torch.dtype = torch.float32) -> Case:
    """The named model in eval mode, with weights that do not depend on what was made before."""
    torch.manual_seed(0)
    case = MODELS[name]()
    case.model.eval().to(dtype)
    return case
