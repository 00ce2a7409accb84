"""Encoders, encoder-decoders, vision and sound."""

from tests.zoo.case import SIDE, VOCAB, Architecture

_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_TEXT = {**_SHAPE, "vocab_size": VOCAB, "max_position_embeddings": 64, "pad_token_id": 0}
_IMAGE = {**_SHAPE, "image_size": SIDE, "patch_size": 8}
_BART = {
    "vocab_size": VOCAB,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 112,
    "decoder_ffn_dim": 112,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def _model(name, family, inputs, stem, settings, *, head="Model", config=None, outside=()):
    return Architecture(
        name=name,
        family=family,
        model=f"{stem}{head}",
        config=config or f"{stem}Config",
        inputs=inputs,
        settings=settings,
        outside=outside,
    )


REFORMER = {
    "vocab_size": VOCAB, "hidden_size": 64, "feed_forward_size": 112, "num_attention_heads": 4, "attention_head_size": 16,
    "axial_pos_shape": [4, 4], "axial_pos_embds_dim": [32, 32], "max_position_embeddings": 16, "num_buckets": 4,
    "local_attn_chunk_length": 4, "lsh_attn_chunk_length": 4, "pad_token_id": 0, "eos_token_id": 2, "is_decoder": False,
    "attn_layers": ["local", "local"],
}  # fmt: skip

ENCODERS = (
    _model("bert", "encoder", "padded", "Bert", _TEXT),
    _model("roberta", "encoder", "padded", "Roberta", _TEXT),
    _model("electra", "encoder", "padded", "Electra", {**_TEXT, "embedding_size": 32}),
    _model(
        "distilbert", "encoder", "padded", "DistilBert",
        {"vocab_size": VOCAB, "dim": 64, "hidden_dim": 112, "n_layers": 2, "n_heads": 4, "pad_token_id": 0},
    ),
    _model("albert", "encoder", "padded", "Albert", {**_TEXT, "embedding_size": 32}),
    _model(
        "deberta_v2", "encoder", "padded", "DebertaV2",
        {**_TEXT, "relative_attention": True, "position_buckets": 16, "max_relative_positions": -1,
         "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "position_biased_input": False,
         "share_att_key": True},
    ),
    _model(
        "modernbert", "encoder", "padded", "ModernBert",
        {**_TEXT, "local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    _model("mpnet", "encoder", "padded", "MPNet", _TEXT),
    # it loops over heads, samples and blocks in Python, and makes its blocks with numpy
    _model(
        "big_bird", "encoder", "padded_16", "BigBird",
        {**_TEXT, "attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 1},
        outside=("BigBirdBlockSparseAttention",),
    ),
    # it cuts its table at the largest position of the batch
    _model("reformer", "encoder", "padded_16", "Reformer", REFORMER, outside=("AxialPositionEmbeddings",)),
)  # fmt: skip

SWITCH = {
    "vocab_size": VOCAB, "d_model": 64, "d_kv": 16, "d_ff": 112, "num_layers": 2, "num_heads": 4, "num_decoder_layers": 2,
    "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_experts": 4, "expert_capacity": 4,
    "pad_token_id": 0, "decoder_start_token_id": 1,
}  # fmt: skip

SEQ2SEQ = (
    _model(
        "t5", "seq2seq", "both_sides", "T5",
        {"vocab_size": VOCAB, "d_model": 64, "d_kv": 16, "d_ff": 112, "num_layers": 2, "num_heads": 4},
        head="ForConditionalGeneration",
    ),
    # it loops over the experts that any token of the batch goes to
    _model(
        "switch_transformers", "seq2seq", "both_sides", "SwitchTransformers", SWITCH,
        head="ForConditionalGeneration", outside=("SwitchTransformersSparseMLP",),
    ),
    _model("bart", "seq2seq", "both_sides", "Bart", _BART, head="ForConditionalGeneration"),
    _model("marian", "seq2seq", "both_sides", "Marian", _BART, head="MTModel"),
    _model(
        "whisper", "seq2seq", "features", "Whisper",
        {**_BART, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 32},
        head="ForConditionalGeneration",
    ),
)  # fmt: skip

VISION = (
    _model("vit", "vision", "pixels", "ViT", _IMAGE),
    _model("deit", "vision", "pixels", "DeiT", _IMAGE),
    _model("beit", "vision", "pixels", "Beit", {**_IMAGE, "use_relative_position_bias": True}),
    _model("dinov2", "vision", "pixels", "Dinov2", _IMAGE),
    _model("siglip", "vision", "pixels", "SiglipVision", _IMAGE),
    _model(
        "clip", "vision", "text_and_pixels", "CLIP",
        {"text_config": {**_TEXT, "eos_token_id": 2}, "vision_config": _IMAGE, "projection_dim": 32},
    ),
    _model(
        "swin", "vision", "pixels", "Swin",
        {"image_size": SIDE, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    _model(
        "swinv2", "vision", "pixels", "Swinv2",
        {"image_size": SIDE, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    _model("convnext", "vision", "pixels", "ConvNext", {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}),
    _model(
        "convnextv2", "vision", "pixels", "ConvNextV2",
        {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
    ),
    _model(
        "resnet", "vision", "pixels", "ResNet",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
    ),
    _model("mobilenet_v2", "vision", "pixels", "MobileNetV2", {"depth_multiplier": 0.25, "image_size": SIDE}),
    _model(
        "segformer", "vision", "pixels", "Segformer",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 2, 4]},
    ),
)  # fmt: skip

SOUND = (
    _model(
        "wav2vec2", "sound", "sound", "Wav2Vec2",
        {**_SHAPE, "vocab_size": VOCAB, "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2),
         "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    ),
    _model(
        "hubert", "sound", "sound", "Hubert",
        {**_SHAPE, "vocab_size": VOCAB, "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2),
         "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
         "feat_extract_norm": "layer"},
    ),
)  # fmt: skip
