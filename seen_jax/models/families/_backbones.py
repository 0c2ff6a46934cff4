"""Language models that Ultravox is built on, by the `model_type` of their section of config.json."""

import dataclasses
from collections.abc import Callable
from typing import Any

from seen_jax.models.config import DecoderConfig, RopeScaling, Windows
from seen_jax.models.families import _parts
from seen_jax.models.family import Keys, Raw, completed, expect, unsupported


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A language model."""

    keys: Keys  # of its section
    end_of_turn: str  # the token
    chat_template: str  # of folders without one
    decoder: Callable[[Raw], DecoderConfig]  # from a completed config.json


def llama(raw: Raw) -> DecoderConfig:
    """Llama 3's."""
    return _parts.llama(raw, False, tied=bool(raw["text_config"]["tie_word_embeddings"]))


def qwen3(raw: Raw) -> DecoderConfig:
    """Qwen3's: queries and keys are normed."""
    return dataclasses.replace(llama(raw), qk_norm=True)


FULL, SLIDING = "full_attention", "sliding_attention"
# Layers of each kind have a rotary embedding of their own, of one of these types.
GEMMA3_ROPE = {
    FULL: Keys("rope_theta factor", "type", {"rope_type": ("default", "linear")}),
    SLIDING: Keys("rope_theta", "type", {"rope_type": ("default",)}),
}
GEMMA3 = Keys(
    "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size "
    "rms_norm_eps rope_theta rope_local_base_freq rope_scaling rope_parameters tie_word_embeddings "
    "query_pre_attn_scalar sliding_window sliding_window_pattern layer_types",
    "attention_dropout max_position_embeddings _sliding_window_pattern cache_implementation hidden_act",
    {"hidden_activation": ("gelu_pytorch_tanh",), "attention_bias": (False,), "final_logit_softcapping": (None,),
     "attn_logit_softcapping": (None,), "use_bidirectional_attention": (False, None)},
)  # fmt: skip
# A folder of Gemma 3 with its vision, around the section of its language model.
GEMMA3_WHOLE = Keys(
    "text_config tie_word_embeddings",
    "vision_config mm_tokens_per_image boi_token_index boi_token_id eoi_token_index eoi_token_id image_token_index "
    "image_token_id",
)


def positive(section: Raw, key: str, name: str) -> float:
    """A number above 0; CheckpointError for any other value, by name."""
    value = section[key]
    if isinstance(value, (int, float)) and value > 0:
        return value
    raise unsupported(name, key, value, "expected a number above 0")


def gemma3(raw: Raw) -> DecoderConfig:
    """Gemma 3's. Audio tokens come in behind the scale of the embeddings."""
    text, name = raw["text_config"], "text_config"
    kinds, window, ropes = text["layer_types"], text["sliding_window"], text["rope_parameters"]
    for kind, keys in GEMMA3_ROPE.items():
        keys.check(ropes[kind], f"{name}.rope_parameters.{kind}")
    linear = ropes[FULL]["rope_type"] == "linear"
    factor = positive(ropes[FULL], "factor", f"{name}.rope_parameters.{FULL}") if linear else 1.0
    if set(kinds) - {FULL, SLIDING}:
        raise unsupported(name, "layer_types", kinds, f"expected {FULL!r} or {SLIDING!r} for every layer")
    if SLIDING in kinds and not (window and window > 0):
        raise unsupported(name, "sliding_window", window, f"expected 1 or more, because layer_types has {SLIDING!r}")
    rope = {"rope_type": "default", "rope_theta": ropes[FULL]["rope_theta"]}
    plain = {**text, "layer_types": None, "sliding_window": None, "rope_parameters": rope}
    windows = Windows(tuple(kind == SLIDING for kind in kinds), window, float(ropes[SLIDING]["rope_theta"]))
    return dataclasses.replace(
        llama({**raw, name: plain}),
        rope_scaling=RopeScaling(factor) if linear else None, text_scale=text["hidden_size"] ** 0.5,
        attention_scale=positive(text, "query_pre_attn_scalar", name) ** -0.5, activation="gelu_tanh", qk_norm=True,
        norm_plus_one=True, post_norms=True, windows=windows if SLIDING in kinds else None,
    )  # fmt: skip


def inside(whole: Raw) -> dict[str, Any]:
    """The section of the language model in that of a whole Gemma 3, which states the tokens that end a text, and
    whether the output map is tied."""
    GEMMA3_WHOLE.check(whole, "text_config")
    text = dict(whole.get("text_config") or {})
    expect(text, "text_config.text_config", {"model_type": "gemma3_text"})
    eos = whole.get("eos_token_id")
    tied = whole.get("tie_word_embeddings", True)
    stated = {"tie_word_embeddings": tied, "eos_token_id": text.get("eos_token_id") if eos is None else eos}
    return {**text, "model_type": "gemma3_text", **stated}


# Llama 3.1's, without tools.
LLAMA_TEMPLATE = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% set messages = messages[1:] %}"
    "{% endif %}<|eot_id|>"
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Gemma 3's: what the system says begins the first turn.
GEMMA3_TEMPLATE = (
    "{{ bos_token }}{% set start = '' %}{% if messages[0]['role'] == 'system' %}"
    "{% set start = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for message in messages %}<start_of_turn>{{ message['role'] | replace('assistant', 'model') }}\n"
    "{{ start if loop.first else '' }}{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

BACKBONES = {
    "llama": Backbone(_parts.LLAMA, "<|eot_id|>", LLAMA_TEMPLATE, llama),
    "qwen3": Backbone(_parts.LLAMA, "<|im_end|>", _parts.chatml("", start=""), qwen3),
    "gemma3_text": Backbone(GEMMA3, "<end_of_turn>", GEMMA3_TEMPLATE, gemma3),
}


def backbone_of(raw: Raw) -> Backbone:
    """That of a completed config.json."""
    return BACKBONES[raw["text_config"]["model_type"]]


def completed_text(text: Raw) -> dict[str, Any]:
    """A language model's section with the defaults of its class in transformers. The end-of-text token is only what the
    section states, not the default of the class. Raises CheckpointError for another language model, by name."""
    if text.get("model_type") == "gemma3":
        text = inside(text)
    kind = text.get("model_type", "llama")
    if kind not in BACKBONES:
        raise unsupported("text_config", "model_type", kind, f"expected {' or '.join(map(repr, BACKBONES))}")
    return completed(kind, text) | {"eos_token_id": text.get("eos_token_id")}
