"""Qwen2.5-Omni thinker, audio + text. Loads the published checkpoints (keys under `thinker.`) and those that current
`transformers` writes, without vision, talker, token2wav and `audio_bos_eos_token`, which is never used."""

from typing import ClassVar

from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.families import _parts
from seen_jax.models.family import Keys, Raw, expect
from seen_jax.models.framing import Framing
from seen_jax.models.weights import Rule, linear


class Qwen25Omni(_parts.Thinker):
    name = "qwen2_5_omni"
    model_types = ("qwen2_5_omni", "qwen2_5_omni_thinker")
    hub = ("Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-3B")
    licence = "Apache-2.0 (3B: Qwen Research)"
    verified = f"{_parts.PARITY} and on the trained seen-tiny"
    framing = Framing(seconds=300.0)  # the feature extractor's chunk_length
    unused = (r"^visual\.", r"^talker\.", r"^token2wav\.", r"^audio_tower\.audio_bos_eos_token\.")
    qkv_bias = True
    sections: ClassVar = {
        "": _parts.Thinker.top,
        "audio_config": _parts.WHISPER | Keys("n_window output_dim") | _parts.model_type("qwen2_5_omni_audio_encoder"),
        "text_config": _parts.LLAMA | _parts.model_type("qwen2_5_omni_text"),
    }
    audio = "<|AUDIO|>"
    chat_template = _parts.chatml(_parts.in_order("<|audio_bos|><|AUDIO|><|audio_eos|>"))

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> EncoderConfig:
        audio = raw["audio_config"]
        expect(audio, "audio_config", {"output_dim": decoder.width})
        return _parts.whisper(audio, decoder.width, pad_frames=2 * audio["n_window"], chunked=True)

    def rules(self, config: LalmConfig) -> list[Rule]:
        projector = linear("audio_tower.proj", "encoder.proj")
        return [*_parts.tower_rules("audio_tower", "ln_post"), *projector, *_parts.body_rules(config.decoder, "")]


FAMILY = Qwen25Omni()
