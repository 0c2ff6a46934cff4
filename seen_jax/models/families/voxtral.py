"""Voxtral: config.json, weight table, prompt.

Clips are filled up to whole windows of 30 s, and the language model reads the silence too. The tokenizer (tekken.json)
needs mistral-common: `pip install "seen-jax[voxtral]"`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seen_jax.errors import ConfigError
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

NAME = "voxtral"
MODEL_TYPES = ("voxtral",)
VERIFIED = "parity with transformers on random tiny configs"
PUBLISHED: dict[str, Any] = {"audio_token_id": 24}

FRAMING = Framing(seconds=2400.0, unit=WINDOW, segment=3000, filled="silence", keys="seen")

RENAMES = LANGUAGE_MODEL_RENAMES
UNUSED: tuple[str, ...] = ()

AUDIO = "[AUDIO]"


def prompt(
    tokenizer: Any, chat: Sequence[Mapping[str, Any]], counts: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """(token ids, positions of the audio tokens): Mistral's instruct format, version 7, of user and assistant turns.
    A last turn {"role": "transcribe", "content": "en"} asks for a transcript in that language.

    Control tokens are ids, never text, so nothing that a user writes is taken for one.
    """
    control = lambda name: int(tokenizer.convert_tokens_to_ids(name))  # noqa: E731
    text = lambda words: tokenizer.encode(words, add_special_tokens=False)  # noqa: E731
    ids, clips = [control("<s>")], iter(counts)
    places: list[int] = []
    for message in chat:
        role, content = message["role"], message["content"]
        if role == "transcribe":
            ids += [*text(f"lang:{content}"), control("[TRANSCRIBE]")]
            continue
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if role not in ("user", "assistant"):
            raise ConfigError(f"Voxtral takes no '{role}' turn beside audio: put it into the user's.")
        body: list[int] = []
        for part in parts:
            if part["type"] != "audio":
                body += text(part["text"])
                continue
            if (rows := next(clips, None)) is None:
                raise ConfigError(f"the prompt has more audio places than the {len(counts)} clips.")
            start = len(ids) + (role == "user") + len(body) + 1
            places += range(start, start + sum(rows))
            body += [control("[BEGIN_AUDIO]"), *[control(AUDIO)] * sum(rows)]
        ids += [control("[INST]"), *body, control("[/INST]")] if role == "user" else [*body, control("</s>")]
    if next(clips, None) is not None:
        raise ConfigError(f"the prompt has fewer audio places than the {len(counts)} clips.")
    return ids, places


def rules(config: LalmConfig) -> list[Rule]:
    """The weight table, in published names."""
    return [
        *tower_rules("audio_tower", "layer_norm", table=True),
        *mlp_rules("multi_modal_projector", bias=False),
        *body_rules("language_model.model", "language_model.lm_head", config.decoder),
    ]


def config(raw: Mapping[str, Any], eos: tuple[int, ...], pad: int | None) -> LalmConfig:
    """config.json -> LalmConfig. Unsupported attribute values are refused by name."""
    refuse(raw, "config", {"projector_hidden_act": "gelu"})
    decoder = llama(raw["text_config"], qkv_bias=False, tied=bool(raw.get("tie_word_embeddings", False)))
    fields = whisper(raw["audio_config"])
    return LalmConfig(
        family=NAME,
        encoder=EncoderConfig(
            **fields,
            output_width=decoder.width,
            pad_frames=2 * fields["max_positions"],
            positions="table",
            post=("norm", "stack", "mlp"),
            stack=fields["ffn"] // fields["width"],
            hidden=decoder.width,
            post_bias=False,
            padding_tokens=True,
        ),
        decoder=decoder,
        audio_token=raw["audio_token_id"],
        stop_tokens=eos,
        pad_token=eos[0] if pad is None else pad,
    )
