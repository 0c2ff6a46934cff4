"""Ultravox on a Llama (up to 0.6): config.json, weight table, prompt. Clips are read in chunks of 30 s.

Its published folders hold the audio tower and the projector, and name the language model's folder (`text_model_id`).
No token stands for audio: the prompt says where it lies. The folder's own classes are remote code, which never runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seen_jax.errors import ConfigError
from seen_jax.models.config import EncoderConfig, LalmConfig
from seen_jax.models.families._parts import body_rules, llama, refuse, tower_rules, whisper
from seen_jax.models.folders import Part
from seen_jax.models.framing import Framing
from seen_jax.models.weights import Rule, linear, norm

NAME = "ultravox"
MODEL_TYPES = ("ultravox",)
VERIFIED = "parity with a reference composed of transformers' Whisper layers and Llama, on random tiny configs"
PUBLISHED: dict[str, Any] = {
    "audio_config": {
        "d_model": 1280,
        "encoder_layers": 32,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "num_mel_bins": 128,
    },
    "text_config": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "projector_ln_mid": True,
    "tokens": {"<|eot_id|>": 128009},
}

FRAMING = Framing(seconds=1200.0, unit=160, segment=3000, filled="zeros", reflected=True, least=320)
PARTS = (
    Part("text_model_id", "text_config", "language_model."),
    Part("audio_model_id", "audio_config", "audio_tower."),
)

RENAMES = ((r"^audio_tower\.(model\.)?encoder\.", "audio_tower."),)  # a whole Whisper, as its own folder has it
UNUSED = (r"^audio_tower\.(model\.)?decoder\.", r"^audio_tower\.proj_out\.", r"\.rotary_emb\.inv_freq$")

AUDIO = "<|audio|>"
TOKENS = ("<|eot_id|>",)

# Llama 3.1's, without tools.
CHAT_TEMPLATE = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% set messages = messages[1:] %}"
    "{% endif %}<|eot_id|>"
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def prompt(
    tokenizer: Any, chat: Sequence[Mapping[str, Any]], counts: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """(token ids, positions of the audio tokens). Llama's templates take texts, so the parts of a turn become lines;
    the text between clips is tokenized apart, and end-of-text ids hold the places of audio tokens."""
    turns = [{"role": message["role"], "content": _lines(message["content"])} for message in chat]
    text = tokenizer.apply_chat_template(
        turns, chat_template=tokenizer.chat_template or CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    pieces = tokenizer(text.split(AUDIO), add_special_tokens=False)["input_ids"]
    if len(pieces) - 1 != len(counts):
        raise ConfigError(f"the prompt has {len(pieces) - 1} audio places ({AUDIO}) for {len(counts)} clips.")
    ids: list[int] = list(pieces[0])
    places: list[int] = []
    for rows, piece in zip(counts, pieces[1:], strict=True):
        places += range(len(ids), len(ids) + sum(rows))
        ids += [tokenizer.eos_token_id] * sum(rows) + piece
    return ids, places


def _lines(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(AUDIO if part["type"] == "audio" else part["text"] for part in content)


def complete(raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the defaults of the parts' own classes, but no end-of-text token that it does not state."""
    from transformers import LlamaConfig, WhisperConfig

    text, audio = dict(raw.get("text_config") or {}), dict(raw.get("audio_config") or {})
    refuse(text, "text_config", {"model_type": "llama"})
    refuse(audio, "audio_config", {"model_type": "whisper"})
    full = LlamaConfig.from_dict(text).to_dict() | {"eos_token_id": text.get("eos_token_id")}
    return {**raw, "text_config": full, "audio_config": WhisperConfig.from_dict(audio).to_dict()}


def rules(config: LalmConfig) -> list[Rule]:
    """The weight table, in published names."""
    assert isinstance(config.encoder, EncoderConfig)
    projector = "multi_modal_projector"
    return [
        *tower_rules("audio_tower", "layer_norm", table=True),
        *norm(f"{projector}.ln_pre", "encoder.norm_pre", bias=False),
        *linear(f"{projector}.linear_1", "encoder.proj1", bias=False),
        *norm(f"{projector}.ln_{config.encoder.gated_norm}", "encoder.norm_gated", bias=False),
        *linear(f"{projector}.linear_2", "encoder.proj2", bias=False),
        *body_rules("language_model.model", "language_model.lm_head", config.decoder),
    ]


def config(raw: Mapping[str, Any], eos: tuple[int, ...], pad: int | None) -> LalmConfig:
    """config.json -> LalmConfig. Unsupported attribute values are refused by name."""
    refuse(raw, "config", {"projector_act": "swiglu", "num_projector_layers": 0, "llm_only_training": False})
    for name in ("text_model_lora_config", "audio_model_lora_config"):
        refuse(raw.get(name) or {}, name, {"r": 0})
    refuse(raw["audio_config"], "audio_config", {"max_source_positions": 1500})
    text = raw["text_config"]
    decoder = llama(text, qkv_bias=False, tied=bool(text["tie_word_embeddings"]))
    turn = raw["tokens"]["<|eot_id|>"]
    return LalmConfig(
        family=NAME,
        encoder=EncoderConfig(
            **whisper(raw["audio_config"]),
            output_width=decoder.width,
            pad_frames=200,
            positions="table",
            block=raw.get("audio_latency_block_size") or None,
            post=("norm", "fill", "stack", "gated"),
            stack=raw.get("stack_factor", 8),
            hidden=raw.get("hidden_size", 4096),
            post_bias=False,
            gated_norm="mid" if raw.get("projector_ln_mid", False) else "post",
        ),
        decoder=decoder,
        audio_token=-1,
        stop_tokens=eos if turn is None or turn in eos else (*eos, turn),
        pad_token=eos[0] if pad is None else pad,
    )
