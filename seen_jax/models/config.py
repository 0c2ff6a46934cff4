"""Architecture of a model as small frozen dataclasses; families fill them from config.json."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from seen_jax.models.constraints import OFF, Constraints, Sampling
from seen_jax.models.layers import RopeScaling
from seen_jax.models.projector import STEPS
from seen_jax.models.sites import DECODER_MLP_ACT, DECODER_RESID, ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR

FINE_CHUNKS = 3  # a longer row is padded to whole chunks: the padding saved would not pay for another compiled shape


def conv_length(frames: Any, stride: int = 2) -> Any:
    """Positions after a convolution of kernel 3 and padding 1: (F - 1) // stride + 1, and 0 for 0 frames."""
    return (frames + stride - 1) // stride


class Span(NamedTuple):
    """`parts` consecutive parts of a row, `size` frames (or positions) each, from `start` on."""

    start: int
    parts: int
    size: int

    def cut(self, x: Any) -> Any:
        """The parts [A * parts, size, ...] of rows [A, F, ...]."""
        return x[:, self.start : self.start + self.parts * self.size].reshape(-1, self.size, *x.shape[2:])

    def real(self, frames: Any) -> Any:
        """How many frames of each part [A, parts] are among the first `frames` [A] of a row."""
        return (frames[:, None] - (self.start + np.arange(self.parts) * self.size)).clip(0, self.size)


def consecutive(spans: Iterable[tuple[int, int]]) -> tuple[Span, ...]:
    """Spans from (parts, size) pairs, one after the other; empty ones are left out."""
    result, start = [], 0
    for parts, size in spans:
        if parts and size:
            result.append(Span(start, parts, size))
        start += parts * size
    return tuple(result)


def equal_parts(total: int, size: int) -> tuple[Span, ...]:
    """Whole parts of a size, and the rest."""
    return consecutive([(total // size, size), (1, total % size)])


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Whisper-style audio encoder and projector."""

    n_mels: int
    width: int
    layers: int
    heads: int
    ffn: int
    output_width: int
    pad_frames: int  # rows are padded to a multiple of this many mel frames
    chunked: bool = False  # chunks of `pad_frames` are convolved, numbered and attended separately (Qwen2.5-Omni)
    conv_frames: int = 0  # smaller chunks, convolved and numbered separately (Qwen3-Omni); 0: those of attention
    channels: int = 0  # of three convolutions that halve time and mels (Qwen3-Omni); 0: Whisper's two over time
    max_positions: int = 1500
    eps: float = 1e-5
    k_bias: bool = False
    positions: Literal["sinusoid", "table", "rotary"] = "sinusoid"  # computed, stored, or rotary embedding
    rotary: int = 0  # the first dimensions of a head that rotary embedding turns
    rope_theta: float = 10_000.0
    block: int | None = None  # a position attends to all before it and to its own block of this many (MiniCPM-o)
    # The steps of the projector (`projector.STEPS`), in order: "pool" averages pairs of positions; "norm"; "fill" adds
    # zeros up to a multiple of `stack`; "stack" joins `stack` positions into one; "conv" halves them (kernel 3, GELU);
    # "linear", "mlp" (of width `hidden`) or "gated" (Ultravox: RMSNorm, a linear map to `hidden`, the SiLU of its
    # second half times its first, a linear map, and an RMSNorm on either side of it: `gated_norm`) change the width.
    post: tuple[str, ...] = ("pool", "norm", "linear")
    stack: int = 1
    hidden: int = 0
    activation: Literal["gelu", "relu"] = "gelu"
    post_bias: bool = True
    gated_norm: Literal["mid", "post"] = "mid"
    padding_tokens: bool = False  # the language model also gets the tokens of a row's padding (Voxtral)
    mlps: ClassVar[int] = 1  # per layer; each is a layer of the site encoder.mlp_act

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the stem's convolutions over time."""
        return (2, 2, 2) if self.channels else (1, 2)

    def chunk(self, total: int) -> int:
        """Frames that are convolved and numbered separately, in a padded row of `total` frames."""
        return self.conv_frames or (self.pad_frames if self.chunked else total)

    def padded(self, frames: int, parts: int = 5) -> int:
        """Frames of a row after padding: whole chunks. If chunks are attended separately and there are few of them, the
        last one is only filled to a multiple of 1/`parts` of a chunk."""
        whole, rest = divmod(frames, self.pad_frames)
        if not self.chunked or self.conv_frames or whole > FINE_CHUNKS:
            return (whole + (rest > 0)) * self.pad_frames
        step = max(4, self.pad_frames // (4 * parts) * 4)  # four frames make an audio token
        return whole * self.pad_frames + min(-(-rest // step) * step, self.pad_frames)

    def spans(self, total: int) -> tuple[Span, ...]:
        """The chunks, in frames, that are convolved and numbered separately in a padded row of `total` frames."""
        return equal_parts(total, self.chunk(total))

    def windows(self, total: int) -> tuple[Span, ...]:
        """The windows, in positions, that are attended separately in a padded row of `total` frames."""
        spans = equal_parts(total, self.pad_frames if self.chunked else total)
        return consecutive((span.parts, self.position_count(span.size)) for span in spans)

    def position_count(self, frames: Any) -> Any:
        """Positions that the convolutions make of the first `frames` mel frames of a row."""
        if not self.conv_frames:
            return self._stem_length(frames)
        chunks, rest = frames // self.conv_frames, frames % self.conv_frames
        return chunks * self._stem_length(self.conv_frames) + self._stem_length(rest)

    def _stem_length(self, frames: Any) -> Any:
        return functools.reduce(conv_length, self.strides, frames)

    def token_count(self, frames: Any) -> Any:
        """Audio tokens of a row of `frames` mel frames."""
        counted = -(-frames // self.pad_frames) * self.pad_frames if self.padding_tokens else frames
        n = self.position_count(counted)
        for step in self.post:
            n = STEPS[step].length(self, n)
        return n


@dataclasses.dataclass(frozen=True)
class ConformerConfig:
    """Conformer encoder and Q-Former projector (Granite Speech). A frame is a pair of mel frames, 20 ms."""

    n_mels: int  # features of a frame
    width: int
    layers: int
    heads: int
    head_dim: int
    ffn: int
    output_width: int
    pad_frames: int  # attention stays inside blocks of this many frames; rows are padded to them
    distance: int  # the largest one in the table of relative positions
    conv: int  # width of the depthwise convolution
    kernel: int  # length of the depthwise convolution
    labels: int  # of the character head, whose softmax is fed back after half of the layers
    window: int  # frames that the Q-Former turns into `queries` tokens; the last window is filled with zeros
    queries: int
    query_width: int
    query_layers: int
    query_heads: int
    query_ffn: int
    query_eps: float
    eps: float = 1e-5
    mlps: ClassVar[int] = 2  # per layer, one before attention and convolution and one after

    def chunk(self, total: int) -> int:
        return total

    def padded(self, frames: int, parts: int = 1) -> int:
        """Frames of a row after padding: whole blocks, whatever the parts."""
        return -(-frames // self.pad_frames) * self.pad_frames

    def spans(self, total: int) -> tuple[Span, ...]:
        return (Span(0, 1, total),)

    def position_count(self, frames: Any) -> Any:
        """Positions of the conformer blocks: one per frame."""
        return frames

    def token_count(self, frames: Any) -> Any:
        """Audio tokens of a row of `frames`; the last window is filled up."""
        return -(-frames // self.window) * self.queries


@dataclasses.dataclass(frozen=True)
class Windows:
    """Decoder layers that see only the last positions, with a rotary embedding of their own (Gemma 3)."""

    layers: tuple[bool, ...]  # for every layer of the decoder whether it is one of them
    size: int  # how many positions they see, themselves included
    rope_theta: float


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
    embedding_scale: float = 1.0  # multiplies the embeddings, audio tokens too
    residual_scale: float = 1.0  # multiplies what each half of a layer adds
    attention_scale: float | None = None  # of the scores; None: head_dim^-0.5
    qk_norm: bool = False  # RMSNorm over each head's queries and keys, before rotary embedding
    experts: int = 0  # MLPs of width `ffn` per layer, of which a router picks `top_k` per token; 0: one MLP for all
    top_k: int = 0
    renormalise: bool = True  # the weights of the picked experts sum to 1
    text_scale: float = 1.0  # multiplies the embeddings of text alone
    norm_plus_one: bool = False  # norms multiply by 1 + weight, in float32
    post_norms: bool = False  # what each half of a layer adds is normed too
    activation: Literal["silu", "gelu_tanh"] = "silu"  # of the MLP's gate
    windows: Windows | None = None  # of the layers that do not see all positions before them


@dataclasses.dataclass(frozen=True)
class LalmConfig:
    """One model: family name, encoder, decoder, and the token ids that prompts and generation need."""

    family: str
    encoder: EncoderConfig | ConformerConfig
    decoder: DecoderConfig
    audio_token: int  # -1 if audio has no token id and the family's prompt says where it lies
    stop_tokens: tuple[int, ...]
    pad_token: int
    lora: bool = False  # the folder holds a LoRA, which is merged into the weights
    constraints: Constraints = OFF  # of the folder's generation_config.json
    sampling: Sampling | None = None  # how the folder wants its answers drawn; None: greedily

    def site_shape(self, site: str) -> tuple[int, int]:
        """(layers, width) of a site; at `decoder.mlp_act` the activations of all experts lie side by side."""
        return {
            ENCODER_MLP_ACT: (self.encoder.layers * self.encoder.mlps, self.encoder.ffn),
            ENCODER_RESID: (self.encoder.layers, self.encoder.width),
            PROJECTOR: (1, self.encoder.output_width),
            DECODER_MLP_ACT: (self.decoder.layers, max(self.decoder.experts, 1) * self.decoder.ffn),
            DECODER_RESID: (self.decoder.layers, self.decoder.width),
        }[site]
