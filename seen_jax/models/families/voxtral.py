"""Voxtral. Clips are filled up to whole windows of 30 s, and the language model reads the silence too. The tokenizer
(tekken.json) needs mistral-common: `pip install "seen-jax[voxtral]"`."""

from typing import Any, ClassVar

from seen_jax.errors import ConfigError
from seen_jax.models.config import DecoderConfig, EncoderConfig
from seen_jax.models.families import _parts
from seen_jax.models.family import Chat, Counts, Keys, Raw
from seen_jax.models.framing import WINDOW, Framing
from seen_jax.models.weights import Rule


class Voxtral(_parts.WhisperFamily):
    name = "voxtral"
    model_types = ("voxtral",)
    hub = ("mistralai/Voxtral-Mini-3B-2507", "mistralai/Voxtral-Small-24B-2507")
    licence = "Apache-2.0"
    published: ClassVar = {"audio_token_id": 24}
    framing = Framing(seconds=2400.0, unit=WINDOW, segment=3000, filled="silence", keys="seen")
    sections: ClassVar = {
        "": _parts.TOP | _parts.PROJECTOR_GELU | Keys(ignores="hidden_size"),
        "audio_config": _parts.WHISPER | _parts.model_type("voxtral_encoder")
        | Keys(ignores="head_dim num_key_value_heads"),
        "text_config": _parts.LLAMA | _parts.model_type("llama", "mistral"),
    }  # fmt: skip
    audio = "[AUDIO]"

    def prompt(self, tokenizer: Any, chat: Chat, counts: Counts, audio_token: int) -> tuple[list[int], list[int]]:
        """Mistral's instruct format, version 7. A turn {"role": "transcribe", "content": "en"} asks for a transcript
        in that language. Control tokens are ids, never text, so nothing that a user writes is taken for one."""
        control = lambda name: int(tokenizer.convert_tokens_to_ids(name))
        text = lambda words: tokenizer.encode(words, add_special_tokens=False)
        ids, clips = [control("<s>")], _parts.clips_of(chat, counts, self.audio)
        places: list[int] = []
        for message in chat:
            role, content = message["role"], message["content"]
            if role == "transcribe":
                ids += [*text(f"lang:{content}"), control("[TRANSCRIBE]")]
                continue
            if role not in ("user", "assistant"):
                raise ConfigError(f"Voxtral takes no '{role}' turn beside audio: put it into the user's.")
            ids += [control("[INST]")] * (role == "user")
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                if part["type"] != "audio":
                    ids += text(part["text"])
                    continue
                tokens = sum(next(clips))
                places += range(len(ids) + 1, len(ids) + 1 + tokens)
                ids += [control("[BEGIN_AUDIO]"), *[control(self.audio)] * tokens]
            ids.append(control("[/INST]" if role == "user" else "</s>"))
        return ids, places

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> EncoderConfig:
        audio, width = raw["audio_config"], decoder.width
        return _parts.whisper(
            audio, width, positions="table", post=("norm", "stack", "mlp"), hidden=width, post_bias=False,
            stack=audio["intermediate_size"] // audio["hidden_size"], padding_tokens=True,
        )  # fmt: skip

    def projector_rules(self, encoder: EncoderConfig) -> list[Rule]:
        return _parts.mlp_rules("multi_modal_projector", encoder.post_bias)


FAMILY = Voxtral()
