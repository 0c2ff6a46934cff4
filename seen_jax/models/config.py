"""Architecture of a model as three small frozen dataclasses; families fill them from config.json."""

from __future__ import annotations

import dataclasses

from seen_jax.models.sites import DECODER_MLP_ACT, DECODER_RESID, ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Whisper-style audio encoder. chunk_frames: mel frames that are convolved and attended together."""

    n_mels: int
    width: int
    layers: int
    heads: int
    ffn: int
    output_width: int
    chunk_frames: int
    max_positions: int = 1500
    eps: float = 1e-5

    @property
    def chunk_positions(self) -> int:
        return (self.chunk_frames - 1) // 2 + 1


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Llama/Qwen2-style decoder."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    rope_theta: float
    eps: float
    qkv_bias: bool
    tied: bool = False


@dataclasses.dataclass(frozen=True)
class LalmConfig:
    """One model: family name, encoder, decoder, and the token ids that framing and generation need."""

    family: str
    encoder: EncoderConfig
    decoder: DecoderConfig
    audio_token: int
    stop_tokens: tuple[int, ...]
    pad_token: int
    max_audio_seconds: float

    def site_shape(self, site: str) -> tuple[int, int]:
        """(layers, width) of a site."""
        return {
            ENCODER_MLP_ACT: (self.encoder.layers, self.encoder.ffn),
            ENCODER_RESID: (self.encoder.layers, self.encoder.width),
            PROJECTOR: (1, self.encoder.output_width),
            DECODER_MLP_ACT: (self.decoder.layers, self.decoder.ffn),
            DECODER_RESID: (self.decoder.layers, self.decoder.width),
        }[site]
