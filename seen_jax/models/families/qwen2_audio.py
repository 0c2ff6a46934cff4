"""Qwen2-Audio (base and Instruct): config.json, weight table, prompt. It hears the first 30 s of a clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seen_jax.models.config import EncoderConfig, LalmConfig
from seen_jax.models.families._parts import LANGUAGE_MODEL_RENAMES, body_rules, llama, tower_rules, whisper
from seen_jax.models.framing import WINDOW, Framing
from seen_jax.models.weights import Rule, linear

NAME = "qwen2_audio"
MODEL_TYPES = ("qwen2_audio",)
VERIFIED = "parity with transformers on random tiny configs"

PUBLISHED: dict[str, Any] = {
    "text_config": {
        "model_type": "qwen2",
        "vocab_size": 156032,
        "intermediate_size": 11008,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }
}

FRAMING = Framing(seconds=30.0, cut=True, unit=WINDOW, filled="silence")

RENAMES = LANGUAGE_MODEL_RENAMES
UNUSED: tuple[str, ...] = ()

AUDIO = "<|AUDIO|>"

# As published: clips are numbered over the whole chat, each on a line of its own.
CHAT_TEMPLATE = (
    "{% set audio = namespace(count=0) %}"
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}{% set audio.count = audio.count + 1 %}"
    "Audio {{ audio.count }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def rules(config: LalmConfig) -> list[Rule]:
    """The weight table, in published names."""
    return [
        *tower_rules("audio_tower", "layer_norm", table=True),
        *linear("multi_modal_projector.linear", "encoder.proj"),
        *body_rules("language_model.model", "language_model.lm_head", config.decoder),
    ]


def config(raw: Mapping[str, Any], eos: tuple[int, ...], pad: int | None) -> LalmConfig:
    """config.json -> LalmConfig. Unsupported attribute values are refused by name."""
    decoder = llama(raw["text_config"], qkv_bias=True, tied=bool(raw.get("tie_word_embeddings", False)))
    fields = whisper(raw["audio_config"])
    return LalmConfig(
        family=NAME,
        encoder=EncoderConfig(
            **fields, output_width=decoder.width, pad_frames=2 * fields["max_positions"], positions="table"
        ),
        decoder=decoder,
        audio_token=raw["audio_token_index"],
        stop_tokens=eos,
        pad_token=eos[0] if pad is None else pad,
    )
