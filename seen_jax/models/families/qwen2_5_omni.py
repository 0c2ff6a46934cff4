"""Qwen2.5-Omni thinker, audio + text: config.json, weight table, prompt.

Loads the published checkpoints (keys under `thinker.`) and those that current `transformers` writes. Vision, talker
and token2wav weights are skipped; `audio_bos_eos_token` is in every checkpoint and never used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seen_jax.errors import CheckpointError
from seen_jax.models.config import EncoderConfig, LalmConfig
from seen_jax.models.families._parts import body_rules, llama, tower_rules, whisper
from seen_jax.models.framing import Framing
from seen_jax.models.weights import Rule, linear

NAME = "qwen2_5_omni"
MODEL_TYPES = ("qwen2_5_omni", "qwen2_5_omni_thinker")
VERIFIED = "parity with transformers on random tiny configs and on the trained seen-tiny"

PUBLISHED: dict[str, Any] = {}  # what the 7B model's config.json states beyond the defaults of transformers

FRAMING = Framing(seconds=300.0)  # the feature extractor's chunk_length

RENAMES = (
    (r"^(thinker\.)?model\.audio_tower\.", "audio_tower."),
    (r"^(thinker\.)?model\.visual\.", "visual."),
    (r"^(thinker\.)?model\.language_model\.", "model."),
    (r"^thinker\.", ""),
)
UNUSED = (r"^visual\.", r"^talker\.", r"^token2wav\.", r"^audio_tower\.audio_bos_eos_token\.")

AUDIO = "<|AUDIO|>"

# ChatML as the published template renders audio and text; used where a folder brings no template of its own.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def rules(config: LalmConfig) -> list[Rule]:
    """The weight table, in canonical (published, without `thinker.`) names."""
    return [
        *tower_rules("audio_tower", "ln_post"),
        *linear("audio_tower.proj", "encoder.proj"),
        *body_rules("model", "lm_head", config.decoder),
    ]


def config(raw: Mapping[str, Any], eos: tuple[int, ...], pad: int | None) -> LalmConfig:
    """config.json (whole model or thinker) -> LalmConfig. Unsupported attribute values are refused by name."""
    raw = raw.get("thinker_config", raw)
    audio = raw["audio_config"]
    if "audio_token_index" not in raw and "audio_token_id" not in raw:
        raise CheckpointError("config.json: neither audio_token_index nor audio_token_id is set.")
    return LalmConfig(
        family=NAME,
        encoder=EncoderConfig(
            **whisper(audio), output_width=audio["output_dim"], pad_frames=2 * audio["n_window"], chunked=True
        ),
        decoder=llama(raw["text_config"], qkv_bias=True, tied=bool(raw.get("tie_word_embeddings", False))),
        audio_token=raw.get("audio_token_index", raw.get("audio_token_id")),
        stop_tokens=eos,
        pad_token=eos[0] if pad is None else pad,
    )
