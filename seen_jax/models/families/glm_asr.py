"""GLM-ASR: config.json, weight table, prompt. Clips are read in windows of 30 s, up to 10.5 minutes.

Its encoder has rotary embedding on half of each head instead of positions, and attends to the silence that fills a
window.
"""

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
    whisper,
)
from seen_jax.models.framing import WINDOW, Framing
from seen_jax.models.weights import Rule, conv1d, linear, norm

NAME = "glm_asr"
MODEL_TYPES = ("glmasr",)
VERIFIED = "parity with transformers on random tiny configs"

PUBLISHED: dict[str, Any] = {}

FRAMING = Framing(seconds=630.0, cut=True, piece=WINDOW, unit=WINDOW, filled="silence", keys="seen")
STACK = 4

RENAMES = LANGUAGE_MODEL_RENAMES
UNUSED: tuple[str, ...] = ()

AUDIO = "<|pad|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|begin_of_audio|><|pad|><|end_of_audio|><|user|>\n"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def rules(config: LalmConfig) -> list[Rule]:
    """The weight table, in published names."""
    layer = "audio_tower.layers.{i}"
    return [
        *conv1d("audio_tower.conv1", "encoder.conv1"),
        *conv1d("audio_tower.conv2", "encoder.conv2"),
        *norm("audio_tower.norm", "encoder.norm_post"),
        *norm(f"{layer}.input_layernorm", "encoder.layers.norm1"),
        *linear(f"{layer}.self_attn.q_proj", "encoder.layers.q"),
        *linear(f"{layer}.self_attn.k_proj", "encoder.layers.k", bias=False),
        *linear(f"{layer}.self_attn.v_proj", "encoder.layers.v"),
        *linear(f"{layer}.self_attn.o_proj", "encoder.layers.out"),
        *norm(f"{layer}.post_attention_layernorm", "encoder.layers.norm2"),
        *linear(f"{layer}.mlp.fc1", "encoder.layers.fc1"),
        *linear(f"{layer}.mlp.fc2", "encoder.layers.fc2"),
        *mlp_rules("multi_modal_projector", bias=True),
        *body_rules("language_model.model", "language_model.lm_head", config.decoder),
    ]


def config(raw: Mapping[str, Any], eos: tuple[int, ...], pad: int | None) -> LalmConfig:
    """config.json -> LalmConfig. Unsupported attribute values are refused by name."""
    refuse(raw, "config", {"projector_hidden_act": "gelu"})
    audio = raw["audio_config"]
    fields = whisper(audio)
    refuse(audio, "audio_config", {"num_key_value_heads": fields["heads"]})
    if audio["intermediate_size"] != STACK * fields["width"]:
        refuse(audio, "audio_config", {"intermediate_size": STACK * fields["width"]})
    rope = audio["rope_parameters"]
    refuse(rope, "audio_config.rope_parameters", {"rope_type": "default"})
    decoder = llama(raw["text_config"], qkv_bias=False, tied=bool(raw.get("tie_word_embeddings", True)))
    return LalmConfig(
        family=NAME,
        encoder=EncoderConfig(
            **fields,
            output_width=decoder.width,
            pad_frames=2 * fields["max_positions"],
            positions="rotary",
            rotary=int(fields["width"] // fields["heads"] * rope.get("partial_rotary_factor", 1.0)),
            rope_theta=float(rope["rope_theta"]),
            post=("norm", "stack", "mlp"),
            stack=STACK,
            hidden=2 * decoder.width,
        ),
        decoder=decoder,
        audio_token=raw["audio_token_id"],
        stop_tokens=eos,
        pad_token=eos[0] if pad is None else pad,
    )
