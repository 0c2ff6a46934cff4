"""Ultravox on a Llama (up to 0.6). Clips are read in chunks of 30 s. Its published folders hold the audio tower and the
projector, and name the language model's folder (`text_model_id`). No token stands for audio: the prompt says where it
lies."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.families import _parts
from seen_jax.models.family import Chat, Counts, Keys, Raw, check_places, completed, expect
from seen_jax.models.folders import Part
from seen_jax.models.framing import Framing
from seen_jax.models.weights import Rule, norm

END_OF_TURN = "<|eot_id|>"
LORA = Keys(ignores="lora_alpha target_modules unfreeze_layers", only={"r": (0,)})
LORAS = ("text_model_lora_config", "audio_model_lora_config")


class Ultravox(_parts.WhisperFamily):
    name = "ultravox"
    model_types = ("ultravox",)
    verified = _parts.COMPOSED.format("Llama")
    published: ClassVar = {
        "audio_config": _parts.whisper_sizes(128, 1280, 32, 20),
        "text_config": {
            "vocab_size": 128256,
            **_parts.llama_sizes(4096, 14336, 32, 32, 8),
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
    }
    framing = Framing(seconds=1200.0, unit=160, segment=3000, filled="zeros", reflected=True, least=320)
    parts = (
        Part("text_model_id", "text_config", "language_model."),
        Part("audio_model_id", "audio_config", "audio_tower."),
    )
    renames = ((r"^audio_tower\.(model\.)?encoder\.", "audio_tower."),)  # a whole Whisper, as its own folder has it
    unused = (r"^audio_tower\.(model\.)?decoder\.", r"^audio_tower\.proj_out\.", r"\.rotary_emb\.inv_freq$")
    sections: ClassVar = {
        "": _parts.TOP
        | Keys(
            f"hidden_size stack_factor projector_ln_mid audio_latency_block_size {' '.join(LORAS)}",
            "text_model_id audio_model_id norm_init",
            {"projector_act": ("swiglu",), "num_projector_layers": (0,), "llm_only_training": (False,)},
        ),
        "audio_config": _parts.WHOLE_WHISPER | Keys(only={"max_source_positions": (1500,)}),
        "text_config": _parts.LLAMA,
        **dict.fromkeys(LORAS, LORA),
    }
    tokens = (END_OF_TURN,)
    audio = "<|audio|>"
    # Llama 3.1's, without tools.
    chat_template = (
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% set messages = messages[1:] %}"
        "{% endif %}<|eot_id|>"
        "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
        "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    )

    def flat(self, chat: Chat) -> list[Any]:
        """Llama's templates take texts: the parts of a turn become lines."""
        return _parts.joined(chat, self.audio, "\n")

    def prompt(self, tokenizer: Any, chat: Chat, counts: Counts, audio_token: int) -> tuple[list[int], list[int]]:
        """The text between clips is tokenized apart, and end-of-text ids hold the places of audio tokens."""
        text = self.render(tokenizer, chat)
        pieces = tokenizer(text.split(self.audio), add_special_tokens=False)["input_ids"]
        check_places(len(pieces) - 1, counts, self.audio)
        ids: list[int] = list(pieces[0])
        places: list[int] = []
        for rows, piece in zip(counts, pieces[1:], strict=True):
            places += range(len(ids), len(ids) + sum(rows))
            ids += [tokenizer.eos_token_id] * sum(rows) + piece
        return ids, places

    def complete(self, raw: Raw) -> dict[str, Any]:
        """The end-of-text token is only what the config states, not the default of Llama's class."""
        text, audio = dict(raw.get("text_config") or {}), dict(raw.get("audio_config") or {})
        expect(text, "text_config", {"model_type": "llama"})
        expect(audio, "audio_config", {"model_type": "whisper"})
        full = completed("llama", text) | {"eos_token_id": text.get("eos_token_id")}
        return {**raw, "text_config": full, "audio_config": completed("whisper", audio)}

    def audio_token(self, raw: Raw) -> int:
        return -1

    def config(self, raw: Raw, eos: tuple[int, ...], pad: int | None) -> LalmConfig:
        turn = raw["tokens"][END_OF_TURN]
        stops = eos if turn is None or turn in eos else (*eos, turn)
        return dataclasses.replace(super().config(raw, eos, pad), stop_tokens=stops)

    def decoder(self, raw: Raw) -> DecoderConfig:
        return _parts.llama(raw, self.qkv_bias, tied=bool(raw["text_config"]["tie_word_embeddings"]))

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> EncoderConfig:
        return _parts.whisper(
            raw["audio_config"],
            decoder.width,
            pad_frames=200,
            positions="table",
            block=raw.get("audio_latency_block_size") or None,
            post=("norm", "fill", "stack", "gated"),
            stack=raw.get("stack_factor", 8),
            hidden=raw.get("hidden_size", 4096),
            post_bias=False,
            gated_norm="mid" if raw.get("projector_ln_mid", False) else "post",
        )

    def projector_rules(self, encoder: EncoderConfig) -> list[Rule]:
        projector = "multi_modal_projector"
        return [
            *norm(f"{projector}.ln_pre", "encoder.norm_pre", bias=False),
            *norm(f"{projector}.ln_{encoder.gated_norm}", "encoder.norm_gated", bias=False),
            *_parts.mlp_rules(projector, encoder.post_bias),
        ]


FAMILY = Ultravox()
