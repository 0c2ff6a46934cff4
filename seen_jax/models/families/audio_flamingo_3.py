"""Audio Flamingo 3. Clips are read in windows of 30 s, up to 10 minutes."""

from typing import ClassVar

from seen_jax.models.config import DecoderConfig, EncoderConfig
from seen_jax.models.families import _parts
from seen_jax.models.family import Keys, Raw
from seen_jax.models.framing import WINDOW, Framing
from seen_jax.models.weights import Rule

# As published: in a turn the audio comes first, then all its text, whatever their order.
AUDIO_FIRST = (
    "{% for part in message['content'] if part['type'] == 'audio' %}<sound>{% endfor %}"
    "{% for part in message['content'] if 'text' in part %}{{ part['text'] }}{% endfor %}"
)


class AudioFlamingo3(_parts.WhisperFamily):
    name = "audio_flamingo_3"
    model_types = ("audioflamingo3",)
    hub = ("nvidia/audio-flamingo-3-hf",)
    licence = "NVIDIA OneWay Noncommercial"
    published: ClassVar = {"text_config": {"model_type": "qwen2", "vocab_size": 151672, **_parts.QWEN2_7B}}
    framing = Framing(seconds=600.0, cut=True, piece=WINDOW, unit=WINDOW, filled="silence")
    qkv_bias = True
    sections: ClassVar = {
        "": _parts.TOP | _parts.PROJECTOR_GELU | Keys("projector_bias"),
        "audio_config": _parts.WHISPER | _parts.model_type("audioflamingo3_encoder"),
        "text_config": _parts.LLAMA | _parts.model_type("qwen2"),
    }
    audio = "<sound>"
    chat_template = _parts.chatml(AUDIO_FIRST)

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> EncoderConfig:
        width, bias, steps = decoder.width, raw["projector_bias"], ("pool", "norm", "mlp")
        return _parts.whisper(raw["audio_config"], width, positions="table", post=steps, hidden=width, post_bias=bias)

    def projector_rules(self, encoder: EncoderConfig) -> list[Rule]:
        return _parts.mlp_rules("multi_modal_projector", encoder.post_bias)


FAMILY = AudioFlamingo3()
