"""The audio encoder: convolutional stem, one scan over transformer blocks, pooling and projection to audio tokens."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from seen_jax.models import layers
from seen_jax.models.config import EncoderConfig
from seen_jax.models.edits import Edits, Records, add_layer_axis, layer_edits, single_layer, visit
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR, Taps


@struct.dataclass
class Encoded:
    """Audio tokens [A, P, output_width], how many of them are real [A], the pooled and normalised encoder states
    [A, P, width] before the projection, and the records of the encoder's sites."""

    tokens: Any
    lengths: Any
    states: Any
    records: Records


def conv_length(frames: Any) -> Any:
    """Positions after the stride-2 convolution: (F - 1) // 2 + 1, and 0 for 0 frames."""
    return (frames + 1) // 2


def token_count(frames: Any) -> Any:
    """Audio tokens of a clip of `frames` mel frames: pairs of positions, an odd last one dropped."""
    return conv_length(frames) // 2


class LayerNorm(nn.Module):
    eps: float

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layers.layer_norm(x, scale, bias, self.eps)


class EncoderLayer(nn.Module):
    """Pre-LN block: x + Attn(LN1(x)); x + fc2(GELU(fc1(LN2(x)))). k has no bias."""

    config: EncoderConfig
    taps: Taps
    dtype: Any

    @nn.compact
    def __call__(self, x, edits, valid):
        c = self.config
        audios, length, width = x.shape
        window = c.chunk_positions
        dense = lambda name, n, bias=True: nn.Dense(n, use_bias=bias, dtype=self.dtype, name=name)  # noqa: E731

        h = LayerNorm(c.eps, name="norm1")(x)
        heads = (audios * (length // window), window, c.heads, width // c.heads)
        q, k, v = (dense(n, width, n != "k")(h).reshape(heads) for n in ("q", "k", "v"))
        visible = valid.reshape(-1, 1, window)
        h = layers.attention(q, k, v, visible).reshape(x.shape)
        x = x + dense("out", width)(h)

        h = dense("fc1", c.ffn)(LayerNorm(c.eps, name="norm2")(x))
        h, mlp = visit(ENCODER_MLP_ACT, layers.gelu(h), edits, self.taps, valid)
        x = x + dense("fc2", width)(h)
        x, resid = visit(ENCODER_RESID, x, edits, self.taps, valid)
        return x, mlp | resid


class Encoder(nn.Module):
    """Qwen2.5-Omni's audio tower: chunks of `chunk_frames` mel frames never see each other.

    Features are right-padded to a whole number of chunks. Positions restart in every chunk; padding frames are zeroed
    before and after the first convolution, so a padded tail equals an unpadded one, whatever the padding holds.
    """

    config: EncoderConfig
    taps: Taps = Taps()
    dtype: Any = jnp.float32
    unroll: int = 1

    @nn.compact
    def __call__(
        self, features: Float[Array, "audios frames mels"], frames: Int[Array, " audios"], edits: Edits
    ) -> Encoded:
        c = self.config
        audios, total, mels = features.shape
        chunks = total // c.chunk_frames
        if chunks * c.chunk_frames != total:
            raise ValueError(f"{total} mel frames are not a whole number of chunks of {c.chunk_frames}")
        conv = lambda name, stride: nn.Conv(c.width, (3,), stride, padding=((1, 1),), dtype=self.dtype, name=name)  # noqa: E731
        real = (jnp.arange(total) < frames[:, None]).reshape(audios * chunks, c.chunk_frames, 1)
        x = jnp.where(real, features.reshape(audios * chunks, c.chunk_frames, mels), 0).astype(self.dtype)
        x = jnp.where(real, layers.gelu(conv("conv1", 1)(x)), 0)
        x = layers.gelu(conv("conv2", 2)(x))
        x = x + jnp.asarray(layers.sinusoids(c.max_positions, c.width)[: c.chunk_positions], self.dtype)
        x = x.reshape(audios, chunks * c.chunk_positions, c.width)
        valid = self._valid_positions(frames, chunks)

        stack = nn.scan(
            EncoderLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=c.layers,
            unroll=self.unroll,
        )(c, self.taps, self.dtype, name="layers")
        x, records = stack(x, layer_edits(edits, (ENCODER_MLP_ACT, ENCODER_RESID)), valid)

        lengths = token_count(frames)
        states = x[:, : x.shape[1] // 2 * 2].reshape(audios, -1, 2, c.width).mean(2)
        states = LayerNorm(c.eps, name="norm_post")(states)
        tokens = nn.Dense(c.output_width, dtype=self.dtype, name="proj")(states)
        here = jnp.arange(tokens.shape[1]) < lengths[:, None]
        tokens, projected = visit(PROJECTOR, tokens, single_layer(edits, PROJECTOR), self.taps, here)
        return Encoded(tokens, lengths, states, records | add_layer_axis(projected))

    def _valid_positions(self, frames: Array, chunks: int) -> Bool[Array, "audios positions"]:
        c = self.config
        start = jnp.arange(chunks) * c.chunk_frames
        real = conv_length(jnp.clip(frames[:, None] - start, 0, c.chunk_frames))
        valid = jnp.arange(c.chunk_positions) < real[..., None]
        return valid.reshape(frames.shape[0], -1)
