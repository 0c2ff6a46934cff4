"""Audio Flamingo 3: config.json, weight table, prompt. Clips are read in windows of 30 s, up to 10 minutes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seen_jax.models.config import EncoderConfig, LalmConfig
from seen_jax.models.families._parts import (
    LANGUAGE_MODEL_RENAMES,
    body_rules,
    llama,
    mlp_rules,
    refuse,
    tower_rules,
    whisper,
)
from seen_jax.models.framing import WINDOW, Framing
from seen_jax.models.weights import Rule

NAME = "audio_flamingo_3"
MODEL_TYPES = ("audioflamingo3",)
VERIFIED = "parity with transformers on random tiny configs"

PUBLISHED: dict[str, Any] = {
    "text_config": {
        "model_type": "qwen2",
        "vocab_size": 151672,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_theta": 1000000.0,
    }
}

FRAMING = Framing(seconds=600.0, cut=True, piece=WINDOW, unit=WINDOW, filled="silence")

RENAMES = LANGUAGE_MODEL_RENAMES
UNUSED: tuple[str, ...] = ()

AUDIO = "<sound>"

# As published: in a turn the audio comes first, then all its text, whatever their order.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] if part['type'] == 'audio' %}<sound>{% endfor %}"
    "{% for part in message['content'] if 'text' in part %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def rules(config: LalmConfig) -> list[Rule]:
    """The weight table, in published names."""
    assert isinstance(config.encoder, EncoderConfig)
    return [
        *tower_rules("audio_tower", "layer_norm", table=True),
        *mlp_rules("multi_modal_projector", config.encoder.post_bias),
        *body_rules("language_model.model", "language_model.lm_head", config.decoder),
    ]


def config(raw: Mapping[str, Any], eos: tuple[int, ...], pad: int | None) -> LalmConfig:
    """config.json -> LalmConfig. Unsupported attribute values are refused by name."""
    refuse(raw, "config", {"projector_hidden_act": "gelu"})
    decoder = llama(raw["text_config"], qkv_bias=True, tied=bool(raw.get("tie_word_embeddings", False)))
    fields = whisper(raw["audio_config"])
    return LalmConfig(
        family=NAME,
        encoder=EncoderConfig(
            **fields,
            output_width=decoder.width,
            pad_frames=2 * fields["max_positions"],
            positions="table",
            post=("pool", "norm", "mlp"),
            hidden=decoder.width,
            post_bias=raw["projector_bias"],
        ),
        decoder=decoder,
        audio_token=raw["audio_token_id"],
        stop_tokens=eos,
        pad_token=eos[0] if pad is None else pad,
    )
