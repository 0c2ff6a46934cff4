"""Architecture of a model as three small frozen dataclasses; families fill them from config.json."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from seen_jax.models.sites import DECODER_MLP_ACT, DECODER_RESID, ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR


def conv_length(frames: Any) -> Any:
    """Positions after the stride-2 convolution: (F - 1) // 2 + 1, and 0 for 0 frames."""
    return (frames + 1) // 2


def token_count(frames: Any) -> Any:
    """Audio tokens where pairs of positions are pooled, 25 a second: an odd last position is dropped."""
    return conv_length(frames) // 2


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Whisper-style audio encoder and projector.

    pad_frames: a row is padded to a multiple of so many mel frames.
    chunked: every `pad_frames` frames are convolved, numbered and attended alone (Qwen2.5-Omni), not the whole row.
    positions: a sinusoid table that is computed, one that is stored, or rotary embedding of the first `rotary` of a
    head's dimensions.
    block: attention reaches back without end, forward to the end of the own block of so many positions (MiniCPM-o).
    post: what follows the layers, in order: "pool" pairs of positions, "norm", "fill" up to a whole stack with zeros,
    "stack" so many positions into one, "conv" halves them (kernel 3, GELU), "linear" or "mlp" (of width `hidden`) into
    the language model's width; or "gated" (Ultravox): RMSNorm, a linear map to `hidden`, the SiLU of its second half
    times its first, a linear map, with an RMSNorm before that map or behind it (`gated_norm`).
    padding_tokens: the language model also gets the tokens of the padding (Voxtral).
    """

    n_mels: int
    width: int
    layers: int
    heads: int
    ffn: int
    output_width: int
    pad_frames: int
    chunked: bool = False
    max_positions: int = 1500
    eps: float = 1e-5
    k_bias: bool = False
    positions: Literal["sinusoid", "table", "rotary"] = "sinusoid"
    rotary: int = 0
    rope_theta: float = 10_000.0
    block: int | None = None
    post: tuple[str, ...] = ("pool", "norm", "linear")
    stack: int = 1
    hidden: int = 0
    activation: Literal["gelu", "relu"] = "gelu"
    post_bias: bool = True
    gated_norm: Literal["mid", "post"] = "mid"
    padding_tokens: bool = False

    def position_count(self, frames: Any) -> Any:
        """Positions of the transformer layers that so many mel frames of a row make."""
        return conv_length(frames)

    def token_count(self, frames: Any) -> Any:
        """Audio tokens of a row of so many mel frames; what does not fill a pair or a stack is dropped,
        unless it is filled up."""
        n = self.position_count(frames * 0 + self.pad_frames if self.padding_tokens else frames)
        for step in self.post:
            filled = -(-n // self.stack) * self.stack
            n = {"pool": n // 2, "fill": filled, "stack": n // self.stack, "conv": (n + 1) // 2}.get(step, n)
        return n


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3's: rotary frequencies that turn fewer than `low` times in `original` positions are divided by `factor`,
    those that turn more than `high` times stay, and those between are mixed."""

    factor: float
    low: float
    high: float
    original: int


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
    rope_scaling: RopeScaling | None = None


@dataclasses.dataclass(frozen=True)
class LalmConfig:
    """One model: family name, encoder, decoder, and the token ids that framing and generation need. audio_token: -1
    where audio has no id of its own and the family's prompt says where it lies."""

    family: str
    encoder: EncoderConfig
    decoder: DecoderConfig
    audio_token: int
    stop_tokens: tuple[int, ...]
    pad_token: int

    def site_shape(self, site: str) -> tuple[int, int]:
        """(layers, width) of a site."""
        return {
            ENCODER_MLP_ACT: (self.encoder.layers, self.encoder.ffn),
            ENCODER_RESID: (self.encoder.layers, self.encoder.width),
            PROJECTOR: (1, self.encoder.output_width),
            DECODER_MLP_ACT: (self.decoder.layers, self.decoder.ffn),
            DECODER_RESID: (self.decoder.layers, self.decoder.width),
        }[site]
