"""Decoder language models: dense, mixture of experts, state space and linear attention."""

from tests.zoo.case import VOCAB, Architecture

_IDS = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SHAPE = {
    **_IDS,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GQA = {**_SHAPE, "num_key_value_heads": 2}
_MOE = {**_GQA, "moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2}


def _decoder(name, stem, family="dense", inputs="tokens", **settings):
    config = "Gemma3TextConfig" if stem == "Gemma3" else f"{stem}Config"
    return Architecture(
        name=name,
        family=family,
        model=f"{stem}ForCausalLM",
        config=config,
        inputs=inputs,
        settings=settings,
    )


DENSE = (
    Architecture(
        name="gpt2", family="dense", model="GPT2LMHeadModel", config="GPT2Config", inputs="tokens",
        settings={**_IDS, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4},
    ),
    _decoder("gpt_neox", "GPTNeoX", **_SHAPE),
    _decoder(
        "opt", "OPT", **_IDS, hidden_size=64, ffn_dim=112, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=64,
    ),
    _decoder("llama", "Llama", **_GQA),
    _decoder("mistral", "Mistral", **_GQA, sliding_window=4),
    _decoder("qwen2", "Qwen2", **_GQA),
    _decoder("qwen3", "Qwen3", **_GQA, head_dim=32),
    _decoder("gemma2", "Gemma2", **_GQA, head_dim=32, sliding_window=4, query_pre_attn_scalar=32),
    _decoder("gemma3", "Gemma3", **_GQA, head_dim=32, sliding_window=4, query_pre_attn_scalar=32),
    _decoder("phi3", "Phi3", **_GQA),
    _decoder("falcon", "Falcon", **_SHAPE, multi_query=True, parallel_attn=True),
    _decoder("falcon_alibi", "Falcon", **_SHAPE, alibi=True, multi_query=False),
    _decoder("bloom", "Bloom", **_IDS, hidden_size=64, n_layer=2, n_head=4),
    _decoder("stablelm", "StableLm", **_GQA),
    _decoder("olmo2", "Olmo2", **_GQA),
    _decoder("granite", "Granite", **_GQA),
    _decoder("smollm3", "SmolLM3", **_GQA),
    _decoder("cohere", "Cohere", **_GQA),
    _decoder("glm4", "Glm4", **_GQA, head_dim=16),
    _decoder("starcoder2", "Starcoder2", **_GQA),
)  # fmt: skip

EXPERTS = (
    _decoder("mixtral", "Mixtral", "experts", **_GQA, num_local_experts=4, num_experts_per_tok=2),
    _decoder("qwen3_moe", "Qwen3Moe", "experts", **_MOE, head_dim=16),
    _decoder("qwen2_moe", "Qwen2Moe", "experts", **_MOE, shared_expert_intermediate_size=48),
    _decoder("olmoe", "Olmoe", "experts", **_GQA, num_experts=4, num_experts_per_tok=2),
    _decoder(
        "gpt_oss", "GptOss", "experts", **_GQA, head_dim=16, num_local_experts=4, num_experts_per_tok=2,
        sliding_window=4,
    ),
    _decoder(
        "deepseek_v3", "DeepseekV3", "experts", **_SHAPE, num_key_value_heads=4, moe_intermediate_size=48,
        n_routed_experts=4, num_experts_per_tok=2, n_group=2, topk_group=1, n_shared_experts=1,
        q_lora_rank=24, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16,
        first_k_dense_replace=1,
    ),
    _decoder("phimoe", "Phimoe", "experts", **_GQA, num_local_experts=4, num_experts_per_tok=2),
    _decoder("granitemoe", "GraniteMoe", "experts", **_GQA, num_local_experts=4, num_experts_per_tok=2),
)  # fmt: skip

RECURRENT = (
    _decoder("mamba", "Mamba", "recurrent", **_IDS, hidden_size=64, num_hidden_layers=2, state_size=8),
    _decoder(
        "mamba2", "Mamba2", "recurrent", **_IDS, hidden_size=64, num_hidden_layers=2, state_size=8,
        num_heads=8, head_dim=16, n_groups=2, chunk_size=4,
    ),
    _decoder(
        "falcon_mamba", "FalconMamba", "recurrent", **_IDS, hidden_size=64, num_hidden_layers=2, state_size=8,
    ),
    _decoder(
        "rwkv", "Rwkv", "recurrent", **_IDS, hidden_size=64, num_hidden_layers=2, attention_hidden_size=64,
        intermediate_size=112, context_length=64,
    ),
    _decoder(
        "qwen3_next", "Qwen3Next", "recurrent", **_MOE, head_dim=16, linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
        shared_expert_intermediate_size=48, layer_types=["linear_attention", "full_attention"],
    ),
    _decoder(
        "bamba", "Bamba", "recurrent", **_GQA, mamba_n_heads=8, mamba_d_head=16, mamba_d_state=8,
        mamba_n_groups=2, mamba_chunk_size=4, attn_layer_indices=[1],
    ),
    _decoder(
        "jamba", "Jamba", "recurrent", **_GQA, num_experts=4, num_experts_per_tok=2, mamba_d_state=8,
        attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
        use_mamba_kernels=False,
    ),
    _decoder("lfm2", "Lfm2", "recurrent", **_GQA, layer_types=["conv", "full_attention"]),
    _decoder(
        "recurrent_gemma", "RecurrentGemma", "recurrent", **{**_GQA, "num_hidden_layers": 3}, lru_width=64,
        attention_window_size=8,
    ),
)  # fmt: skip
