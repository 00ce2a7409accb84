"""Models whose samples depend on each other by what they compute: no order of adding up can part them."""

from dataclasses import replace

from torch import nn

from tests.zoo.case import INPUTS, VOCAB, Architecture, Inputs, tokens
from tests.zoo.decoders import DENSE
from tests.zoo.others import ENCODERS, SEQ2SEQ, VISION


def _named(name: str, rows: tuple[Architecture, ...]) -> Architecture:
    return next(row for row in rows if row.name == name)


def _by_similarity(model: nn.Module, x: Inputs) -> object:
    """CLIP's own scores compare each text with each image of the batch."""
    return model(input_ids=x[0], pixel_values=x[1]).logits_per_text


INPUTS["text_against_pixels"] = (INPUTS["text_and_pixels"][0], _by_similarity)

INPUTS["spoken"] = (tokens, lambda model, x: model(input_ids=x[0]).waveform)

COUPLED = (
    replace(
        _named("resnet", VISION), name="resnet_in_training", training=True,
        refused="var_mean.* reduces over the batch",
    ),
    replace(
        _named("gpt2", DENSE), name="gpt2_in_training", training=True,
        refused="draws random numbers by position in the batch",
    ),
    replace(
        _named("clip", VISION), name="clip_similarity", inputs="text_against_pixels",
        refused="pairs every sample with every other",
    ),
    Architecture(
        # a token's expert may be full of tokens of other samples
        name="nllb_moe", family="experts", model="NllbMoeModel", config="NllbMoeConfig", inputs="both_sides",
        settings={
            "vocab_size": VOCAB, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 112,
            "decoder_ffn_dim": 112, "num_experts": 4, "expert_capacity": 4, "encoder_sparse_step": 2,
            "decoder_sparse_step": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        refused="cumsum.* adds up along the batch",
    ),
    Architecture(
        # one sample with global attention sends the whole batch through other code
        name="longformer", family="encoder", model="LongformerModel", config="LongformerConfig",
        inputs="padded",
        settings={
            "vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 112, "attention_window": 4, "max_position_embeddings": 64,
        },
        refused="any.* reduces over the batch",
    ),
    replace(
        # its hashes are random rotations, drawn anew for every call
        _named("reformer", ENCODERS), name="reformer_lsh",
        settings={**_named("reformer", ENCODERS).settings, "attn_layers": ["lsh"]},
        refused="aten.randn.* draws random numbers",
    ),
    replace(
        # its Python loops over the experts that any token of the batch goes to; in the zoo it does so in eager mode
        _named("switch_transformers", SEQ2SEQ), name="switch_transformers_whole", outside=(),
        refused="sum.* reduces over the batch.*keep the module that asks out of the graph",
    ),
    Architecture(
        # speech made of noise, and as long as the longest sample
        name="vits", family="sound", model="VitsModel", config="VitsConfig", inputs="spoken", captured=True,
        settings={
            "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64,
            "flow_size": 32, "spectrogram_bins": 33, "upsample_initial_channel": 32, "upsample_rates": [4, 4],
            "upsample_kernel_sizes": [8, 8], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]],
            "prior_encoder_num_flows": 2, "posterior_encoder_num_wavenet_layers": 2,
            "duration_predictor_filter_channels": 32, "depth_separable_num_layers": 2,
        },
        refused="aten.randn.* draws random numbers",
    ),
)  # fmt: skip
