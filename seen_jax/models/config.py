"""Architecture of a model as small frozen dataclasses; families fill them from config.json."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

from seen_jax.models.sites import DECODER_MLP_ACT, DECODER_RESID, ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR

MOST_FINE = 3  # whole chunks of a row whose last chunk is padded finely: past them it is not worth a compiled shape


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
    conv_frames: only so many frames are convolved and numbered alone (Qwen3-Omni); 0: as many as are attended.
    channels: of three convolutions over time and mels, which halve both (Qwen3-Omni); 0: Whisper's two over time.
    positions: a sinusoid table that is computed, one that is stored, or rotary embedding of the first `rotary` of a
    head's dimensions.
    block: attention reaches back without end, forward to the end of the own block of so many positions (MiniCPM-o).
    post: what follows the layers, in order: "pool" pairs of positions, "norm", "fill" up to a whole stack with zeros,
    "stack" so many positions into one, "conv" halves them (kernel 3, GELU), "linear" or "mlp" (of width `hidden`) into
    the language model's width; or "gated" (Ultravox): RMSNorm, a linear map to `hidden`, the SiLU of its second half
    times its first, a linear map, with an RMSNorm before that map or behind it (`gated_norm`).
    padding_tokens: the language model also gets the tokens of the padding (Voxtral).
    mlps: of a layer, each of which is a layer of the site encoder.mlp_act.
    """

    n_mels: int
    width: int
    layers: int
    heads: int
    ffn: int
    output_width: int
    pad_frames: int
    chunked: bool = False
    conv_frames: int = 0
    channels: int = 0
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
    mlps: ClassVar[int] = 1

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the stem's convolutions."""
        return (2, 2, 2) if self.channels else (1, 2)

    def chunk(self, total: int) -> int:
        """Frames of a row of `total` padded ones that are convolved and numbered alone."""
        return self.conv_frames or (self.pad_frames if self.chunked else total)

    def padded(self, frames: int, parts: int = 5) -> int:
        """Mel frames to which a row of so many is padded: whole chunks, and of a last one that is attended alone only
        as many of some parts as it needs, unless there are many chunks already."""
        whole, tail = divmod(frames, self.pad_frames)
        if not self.chunked or self.conv_frames or whole > MOST_FINE:
            return (whole + (tail > 0)) * self.pad_frames
        step = max(4, self.pad_frames // (4 * parts) * 4)  # four frames make an audio token
        return whole * self.pad_frames + min(-(-tail // step) * step, self.pad_frames)

    def spans(self, total: int) -> list[tuple[int, int]]:
        """(how many, mel frames of each) of the chunks that are convolved and numbered alone, in a padded row."""
        return _spans(total, self.chunk(total))

    def windows(self, total: int) -> list[tuple[int, int]]:
        """The same of the parts of a row that are attended alone."""
        return _spans(total, self.pad_frames if self.chunked else total)

    def position_count(self, frames: Any) -> Any:
        """Positions of the transformer layers that so many mel frames of a row make."""
        if not self.conv_frames:
            return self._stem_length(frames)
        chunks, tail = frames // self.conv_frames, frames % self.conv_frames
        return chunks * self._stem_length(self.conv_frames) + self._stem_length(tail)

    def _stem_length(self, frames: Any) -> Any:
        for stride in self.strides:
            frames = conv_length(frames) if stride == 2 else frames
        return frames

    def token_count(self, frames: Any) -> Any:
        """Audio tokens of a row of so many mel frames; what does not fill a pair or a stack is dropped,
        unless it is filled up."""
        n = self.position_count(frames * 0 + self.pad_frames if self.padding_tokens else frames)
        for step in self.post:
            filled = -(-n // self.stack) * self.stack
            n = {"pool": n // 2, "fill": filled, "stack": n // self.stack, "conv": (n + 1) // 2}.get(step, n)
        return n


def _spans(total: int, size: int) -> list[tuple[int, int]]:
    """Whole parts of a size, and what is left."""
    whole, rest = divmod(total, size)
    return [(count, frames) for count, frames in ((whole, size), (1, rest)) if count and frames]


@dataclasses.dataclass(frozen=True)
class ConformerConfig:
    """Conformer encoder and Q-Former projector (Granite Speech). A frame is a pair of mel frames, 20 ms.

    n_mels: features of a frame. pad_frames: attention stays inside blocks of so many frames, to which rows are padded.
    distance: the largest one in the table of relative positions. conv, kernel: width and length of the depthwise
    convolution. labels: of the character head whose softmax is fed back after half of the layers.
    window, queries: the Q-Former turns so many frames, zero-padded at the end, into so many audio tokens.
    mlps: before and after attention and convolution, in this order.
    """

    n_mels: int
    width: int
    layers: int
    heads: int
    head_dim: int
    ffn: int
    output_width: int
    pad_frames: int
    distance: int
    conv: int
    kernel: int
    labels: int
    window: int
    queries: int
    query_width: int
    query_layers: int
    query_heads: int
    query_ffn: int
    query_eps: float
    eps: float = 1e-5
    mlps: ClassVar[int] = 2

    def chunk(self, total: int) -> int:
        """Frames of a row of `total` padded ones that are numbered alone: all."""
        return total

    def padded(self, frames: int, parts: int = 1) -> int:
        """Frames to which a row of so many is padded: whole blocks, whatever the parts."""
        return -(-frames // self.pad_frames) * self.pad_frames

    def spans(self, total: int) -> list[tuple[int, int]]:
        """(how many, frames of each) of the parts of a padded row that are numbered alone: one."""
        return [(1, total)]

    def position_count(self, frames: Any) -> Any:
        """Positions of the conformer blocks that so many frames of a row make."""
        return frames

    def token_count(self, frames: Any) -> Any:
        """Audio tokens of a row of so many frames: those of whole windows, the last one filled up."""
        return -(-frames // self.window) * self.queries


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
    """Llama/Qwen2-style decoder.

    embedding_scale, residual_scale: multiply the embeddings (audio tokens too) and what each half of a layer adds.
    attention_scale: of the scores; None: head_dim^-0.5.
    qk_norm: RMSNorm over each head's queries and keys, before rotary embedding. experts: MLPs of width `ffn` per layer,
    of which a router picks `top_k` per token; 0: one MLP for all. renormalise: the weights of those picked sum to 1.
    """

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
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    attention_scale: float | None = None
    qk_norm: bool = False
    experts: int = 0
    top_k: int = 0
    renormalise: bool = True

    @property
    def mlp_width(self) -> int:
        """Activations of all MLPs of a layer."""
        return max(self.experts, 1) * self.ffn


@dataclasses.dataclass(frozen=True)
class LalmConfig:
    """One model: family name, encoder, decoder, and the token ids that framing and generation need.

    audio_token: -1 where audio has no id of its own and the family's prompt says where it lies. lora: the folder holds
    a LoRA, which belongs to the model and is merged into the weights.
    """

    family: str
    encoder: EncoderConfig | ConformerConfig
    decoder: DecoderConfig
    audio_token: int
    stop_tokens: tuple[int, ...]
    pad_token: int
    lora: bool = False

    def site_shape(self, site: str) -> tuple[int, int]:
        """(layers, width) of a site."""
        return {
            ENCODER_MLP_ACT: (self.encoder.layers * self.encoder.mlps, self.encoder.ffn),
            ENCODER_RESID: (self.encoder.layers, self.encoder.width),
            PROJECTOR: (1, self.encoder.output_width),
            DECODER_MLP_ACT: (self.decoder.layers, self.decoder.mlp_width),
            DECODER_RESID: (self.decoder.layers, self.decoder.width),
        }[site]
