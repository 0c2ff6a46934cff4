"""Ultravox (up to 0.6) on a Llama, Qwen3 or Gemma 3. Clips are read in chunks of 30 s. Its published folders hold the
audio tower and the projector, and name the language model's folder (`text_model_id`). No token stands for audio: the
prompt says where it lies."""

from typing import Any, ClassVar

from seen_jax.models.config import DecoderConfig, EncoderConfig
from seen_jax.models.families import _parts
from seen_jax.models.families._backbones import BACKBONES, backbone_of, completed_text
from seen_jax.models.family import Chat, Counts, Keys, Raw, check_places, completed, expect
from seen_jax.models.folders import Part
from seen_jax.models.framing import Framing
from seen_jax.models.weights import Rule, norm

LORA = Keys(ignores="lora_alpha target_modules unfreeze_layers", only={"r": (0,)})
LORAS = ("text_model_lora_config", "audio_model_lora_config")


class Ultravox(_parts.WhisperFamily):
    name = "ultravox"
    model_types = ("ultravox",)
    hub = ("fixie-ai/ultravox-v0_5-llama-3_1-8b",)
    licence = "MIT, and that of its language model"
    verified = _parts.COMPOSED.format("Llama, Qwen3 or Gemma 3")
    published: ClassVar = {
        "audio_config": _parts.whisper_sizes(128, 1280, 32, 20),
        "text_config": {
            "vocab_size": 128256, **_parts.llama_sizes(4096, 14336, 32, 32, 8), "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
        "projector_ln_mid": True,
    }  # fmt: skip
    framing = Framing(seconds=1200.0, unit=160, segment=3000, filled="zeros", reflected=True, least=320)
    parts = (
        Part("text_model_id", "text_config", "language_model."),
        Part("audio_model_id", "audio_config", "audio_tower."),
    )
    renames = (
        (r"^audio_tower\.(model\.)?encoder\.", "audio_tower."),  # a whole Whisper, as its own folder has it
        (r"^language_model\.language_model\.", "language_model."),  # a Gemma 3 with its vision: older and newer names
        (r"^language_model\.model\.language_model\.", "language_model.model."),
    )
    unused = (
        r"^language_model\.(model\.)?(vision_tower|multi_modal_projector)\.",
        r"^audio_tower\.(model\.)?decoder\.",
        r"^audio_tower\.proj_out\.",
        r"\.rotary_emb\.inv_freq$",
    )
    sections: ClassVar = {
        "": _parts.TOP | Keys(
            f"hidden_size stack_factor projector_ln_mid audio_latency_block_size {' '.join(LORAS)}",
            "text_model_id audio_model_id norm_init",
            {"projector_act": ("swiglu",), "num_projector_layers": (0,), "llm_only_training": (False,)},
        ),
        "audio_config": _parts.WHOLE_WHISPER | Keys(only={"max_source_positions": (1500,)}),
        "text_config": _parts.LLAMA,
        **dict.fromkeys(LORAS, LORA),
    }  # fmt: skip
    stops = tuple(backbone.end_of_turn for backbone in BACKBONES.values())
    audio = "<|audio|>"
    chat_template = BACKBONES["llama"].chat_template

    def flat(self, chat: Chat) -> list[Any]:
        """The templates take texts: the parts of a turn become lines."""
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

    def fallback(self, tokenizer: Any) -> str:
        """That of the language model whose end of a turn is the tokenizer's end of a text, or else is a token of it."""
        templates = {backbone.end_of_turn: backbone.chat_template for backbone in BACKBONES.values()}
        tokens = (tokenizer.eos_token, *tokenizer.get_added_vocab())
        return next((templates[token] for token in tokens if token in templates), self.chat_template)

    def complete(self, raw: Raw) -> dict[str, Any]:
        text, audio = completed_text(raw.get("text_config") or {}), dict(raw.get("audio_config") or {})
        expect(audio, "audio_config", {"model_type": "whisper"})
        return {**raw, "text_config": text, "audio_config": completed("whisper", audio)}

    def check(self, raw: Raw) -> None:
        super().check({**raw, "text_config": None})
        backbone_of(raw).keys.check(raw["text_config"], "text_config")

    def ends(self, raw: Raw) -> tuple[str, ...]:
        return (backbone_of(raw).end_of_turn,)

    def audio_token(self, raw: Raw) -> int:
        return -1

    def decoder(self, raw: Raw) -> DecoderConfig:
        return backbone_of(raw).decoder(raw)

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> EncoderConfig:
        return _parts.whisper(
            raw["audio_config"], decoder.width, pad_frames=200, positions="table",
            block=raw.get("audio_latency_block_size") or None, post=("norm", "fill", "stack", "gated"),
            stack=raw.get("stack_factor", 8), hidden=raw.get("hidden_size", 4096), post_bias=False,
            gated_norm="mid" if raw.get("projector_ln_mid", False) else "post",
        )  # fmt: skip

    def projector_rules(self, encoder: EncoderConfig) -> list[Rule]:
        projector = "multi_modal_projector"
        return [
            *norm(f"{projector}.ln_pre", "encoder.norm_pre", bias=False),
            *norm(f"{projector}.ln_{encoder.gated_norm}", "encoder.norm_gated", bias=False),
            *_parts.mlp_rules(projector, encoder.post_bias),
        ]


FAMILY = Ultravox()
