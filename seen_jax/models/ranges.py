"""The ranges of sizes and numbers in config.json, checked before anything is computed from them, and how they fit."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from seen_jax.errors import CheckpointError
from seen_jax.models.config import ConformerConfig, LalmConfig

WHOLE = {  # largest value of a whole number by its keys; the least is 1
    1024: "num_hidden_layers encoder_layers num_layers n_audio_layer conv_kernel_size conv_expansion_factor "
    "feedforward_mult stack_factor",
    1 << 12: "num_attention_heads num_key_value_heads encoder_attention_heads n_audio_head num_heads "
    "num_attention_groups num_experts num_experts_per_tok",
    1 << 16: "max_source_positions n_audio_ctx max_pos_emb context_size window_size downsample_rate n_window "
    "n_window_infer audio_latency_block_size",
    1 << 17: "hidden_size d_model hidden_dim n_audio_state llm_dim output_dim dim_head head_dim encoder_hidden_size "
    "downsample_hidden_size input_dim n_mels num_mel_bins",
    1 << 20: "intermediate_size encoder_ffn_dim moe_intermediate_size",
    1 << 24: "vocab_size",
    1 << 31: "max_position_embeddings original_max_position_embeddings sliding_window",
}
MOST = {key: most for most, keys in WHOLE.items() for key in keys.split()}
POSITIVE, FACTOR = (0.0, 1e30), (-1e6, 1e6)
NUMBERS = {  # (above this, up to this) of other numbers
    **{"rope_theta": POSITIVE, "factor": POSITIVE, "high_freq_factor": POSITIVE, "low_freq_factor": POSITIVE},
    **{"embedding_multiplier": FACTOR, "residual_multiplier": FACTOR, "attention_multiplier": FACTOR},
    **{"rms_norm_eps": (0.0, 1.0), "layer_norm_eps": (0.0, 1.0), "partial_rotary_factor": (0.0, 1.0)},
}
TRUTHS = ("tie_word_embeddings", "attention_bias", "norm_topk_prob", "projector_bias", "projector_ln_mid",
          "has_lora_adapter")  # fmt: skip
TOKENS = ("audio_token_id", "audio_token_index")
EXPERTS, TABLE = 1 << 17, 1 << 28  # the most experts in all layers, and numbers in a table of positions


def out_of_range(section: str, key: str, value: Any, expected: str) -> CheckpointError:
    """The error that names a value. section: "" for the top level."""
    name, shown = f"{section}.{key}" if section else key, repr(value)
    return CheckpointError(f"config.json: {name} = {shown[:60]} is out of range; expected {expected}.")


def check_largest(raw: Mapping[str, Any], section: str = "") -> None:
    """Raise CheckpointError for a size that no model has, in any section, before a class makes lists of that length."""
    for key, value in raw.items():
        if isinstance(value, Mapping):
            check_largest(value, f"{section}.{key}" if section else key)
        elif isinstance(value, (int, float)) and value > MOST.get(key, value):
            raise out_of_range(section, key, value, f"a whole number up to {MOST[key]}")


def check_range(section: str, key: str, value: Any) -> None:
    """Raise CheckpointError for a value that its key cannot have; None leaves it to its default."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    whole = number and isinstance(value, int)
    if value is None:
        return
    if key in MOST and not (whole and 1 <= value <= MOST[key]):
        raise out_of_range(section, key, value, f"a whole number from 1 to {MOST[key]}")
    if key in NUMBERS:
        least, most = NUMBERS[key]
        if not (number and least < value <= most):
            raise out_of_range(section, key, value, f"a number above {least:g}, up to {most:g}")
    if key in TRUTHS and not isinstance(value, bool):
        raise out_of_range(section, key, value, "true or false")
    if key in TOKENS and not (whole and 0 <= value < 1 << 24):
        raise out_of_range(section, key, value, "a token id")


def check_fit(config: LalmConfig) -> None:
    """Raise CheckpointError unless the sizes of a model are there and fit each other."""
    encoder, decoder = config.encoder, config.decoder
    for part, values in (("audio encoder", encoder), ("language model", decoder)):
        for field in dataclasses.fields(values):
            value = getattr(values, field.name)
            least = 1 if field.type is int and field.default != 0 else -math.inf
            number = isinstance(value, (int, float)) and least <= value < math.inf
            if field.type in (int, float) and not number:
                raise CheckpointError(f"config.json: the {part} would have {field.name} = {value!r}; sizes do not fit.")
    divided = [("heads of the language model", decoder.heads, decoder.kv_heads)]
    divided += [("head_dim of the language model", decoder.head_dim, 2)]
    if isinstance(encoder, ConformerConfig):
        divided += [("hidden_size of the projector", encoder.query_width, encoder.query_heads)]
    else:
        divided += [("width of the audio encoder", encoder.width, encoder.heads)]
        divided += [("width of the audio encoder", encoder.width, 2)] * (encoder.positions == "sinusoid")
        divided += [("hidden_size of the projector", encoder.hidden, 2)] * ("gated" in encoder.post)
        divided += [("rotary dimensions of a head of the audio encoder", encoder.rotary, 2)]
        if encoder.max_positions * encoder.width > TABLE:
            table = f"{encoder.max_positions} positions of width {encoder.width}"
            raise CheckpointError(f"config.json: an audio encoder of {table} is out of range.")
    for what, value, by in divided:
        if value % by:
            raise CheckpointError(f"config.json: the {what} = {value} cannot be divided by {by}.")
    if encoder.output_width != decoder.width:
        widths = f"audio tokens of width {encoder.output_width} and a language model of width {decoder.width}"
        raise CheckpointError(f"config.json: {widths} do not fit; they must be the same.")
    if decoder.top_k > decoder.experts or decoder.layers * decoder.experts > EXPERTS:
        experts = f"{decoder.top_k} of {decoder.experts} experts in each of {decoder.layers} layers"
        raise CheckpointError(f"config.json: {experts} is out of range.")
