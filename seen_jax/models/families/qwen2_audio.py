"""Qwen2-Audio (base and Instruct). It hears the first 30 s of a clip."""

from typing import ClassVar

from seen_jax.models.config import DecoderConfig, EncoderConfig
from seen_jax.models.families import _parts
from seen_jax.models.family import Raw
from seen_jax.models.framing import WINDOW, Framing
from seen_jax.models.weights import Rule, linear

# As published: clips are numbered over the whole chat, each on a line of its own.
CLIP = "{% set clips.count = clips.count + 1 %}Audio {{ clips.count }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n"


class Qwen2Audio(_parts.WhisperFamily):
    name = "qwen2_audio"
    model_types = ("qwen2_audio",)
    hub = ("Qwen/Qwen2-Audio-7B-Instruct", "Qwen/Qwen2-Audio-7B")
    licence = "Apache-2.0"
    published: ClassVar = {
        "text_config": {"model_type": "qwen2", "vocab_size": 156032, "intermediate_size": 11008, "rms_norm_eps": 1e-5,
                        "rope_theta": 10000.0},
    }  # fmt: skip
    framing = Framing(seconds=30.0, cut=True, unit=WINDOW, filled="silence")
    qkv_bias = True
    sections: ClassVar = {
        "": _parts.TOP,
        "audio_config": _parts.WHISPER | _parts.model_type("qwen2_audio_encoder"),
        "text_config": _parts.LLAMA | _parts.model_type("qwen2"),
    }
    audio = "<|AUDIO|>"
    chat_template = _parts.chatml(_parts.in_order(CLIP), start="{% set clips = namespace(count=0) %}" + _parts.SYSTEM)

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> EncoderConfig:
        return _parts.whisper(raw["audio_config"], decoder.width, positions="table")

    def projector_rules(self, encoder: EncoderConfig) -> list[Rule]:
        return linear("multi_modal_projector.linear", "encoder.proj")


FAMILY = Qwen2Audio()
