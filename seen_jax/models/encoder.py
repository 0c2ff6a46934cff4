"""The audio encoder: convolutional stem, one scan over transformer blocks, projection to audio tokens."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from seen_jax.models import layers
from seen_jax.models.config import ConformerConfig, EncoderConfig, conv_length
from seen_jax.models.decoder import RMSNorm
from seen_jax.models.edits import Edits, Records, add_layer_axis, layer_edits, single_layer, visit
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR, Taps

GATED_EPS = 1e-6  # of Ultravox's projector; no configuration states it


@struct.dataclass
class Audio:
    """Rows of the encoder: clips, or the segments that a family cuts them into.

    features: log-mel [A, F, M]. frames: mel frames per row that are real [A]: they make the audio tokens, and they
    alone count in taps and SEE. seen: frames that the convolutions see [A]; `frames`, or more where a family's model
    also reads padding. keys: positions that may be attended to [A]; None: those of `frames`.
    """

    features: Any
    frames: Any
    seen: Any = None
    keys: Any = None


@struct.dataclass
class Encoded:
    """Audio tokens [A, P, output_width], how many of them are real [A], the encoder states [A, P, width] before the
    projection, and the records of the encoder's sites."""

    tokens: Any
    lengths: Any
    states: Any
    records: Records


def within(config: EncoderConfig | ConformerConfig, frames: Any, total: int) -> Any:
    """Which of a row's positions [A, T] come from its first `frames` [A] mel frames, of `total` padded ones."""
    chunk = config.chunk(total)
    real = config.position_count(_by_chunk(frames, total, chunk))
    return (np.arange(config.position_count(chunk)) < real[..., None]).reshape(len(frames), -1)


def _by_chunk(frames: Any, total: int, chunk: int) -> Any:
    """How many of each chunk's frames [A, chunks] belong to a row's first `frames` [A], of `total` padded ones."""
    return (frames[:, None] - np.arange(total // chunk) * chunk).clip(0, chunk)


class LayerNorm(nn.Module):
    eps: float

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layers.layer_norm(x, scale, bias, self.eps)


class EncoderLayer(nn.Module):
    """Pre-LN block: x + Attn(LN1(x)); x + fc2(GELU(fc1(LN2(x))))."""

    config: EncoderConfig
    taps: Taps
    dtype: Any

    @nn.compact
    def __call__(self, x, edits, visible, valid):
        c = self.config
        window = visible.shape[-1]
        dense = lambda name, n, bias=True: nn.Dense(n, use_bias=bias, dtype=self.dtype, name=name)  # noqa: E731

        h = LayerNorm(c.eps, name="norm1")(x)
        heads = (visible.shape[0], window, c.heads, c.width // c.heads)
        q, k, v = (dense(n, c.width, n != "k" or c.k_bias)(h).reshape(heads) for n in ("q", "k", "v"))
        if c.positions == "rotary":
            order = jnp.arange(window)[None]
            q, k = (layers.rope(y, order, c.rope_theta, c.rotary) for y in (q, k))
        h = layers.attention(q, k, v, visible).reshape(x.shape)
        x = x + dense("out", c.width)(h)

        h = dense("fc1", c.ffn)(LayerNorm(c.eps, name="norm2")(x))
        h, mlp = visit(ENCODER_MLP_ACT, layers.gelu(h), edits, self.taps, valid)
        x = x + dense("fc2", c.width)(h)
        x, resid = visit(ENCODER_RESID, x, edits, self.taps, valid)
        return x, mlp | resid


class Encoder(nn.Module):
    """Whisper's encoder as the families use it. Frames that the convolutions do not see are zeroed before each of them,
    so a padded tail equals an unpadded one, whatever the padding holds.
    """

    config: EncoderConfig
    taps: Taps = Taps()
    dtype: Any = jnp.float32
    unroll: int = 1

    @nn.compact
    def __call__(self, audio: Audio, edits: Edits) -> Encoded:
        c = self.config
        total = audio.features.shape[1]
        if total % c.pad_frames:
            raise ValueError(f"{total} mel frames are not a multiple of {c.pad_frames}")
        x = self._stem(audio)
        valid = within(c, audio.frames, total)
        keys = valid if audio.keys is None else jnp.arange(valid.shape[1]) < audio.keys[:, None]
        visible = keys.reshape(-1, 1, c.position_count(c.pad_frames)) if c.chunked else keys[:, None]
        if c.block is not None:
            own = np.arange(valid.shape[1]) // c.block
            visible = visible & (own[:, None] >= own)

        stack = nn.scan(
            EncoderLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=c.layers,
            unroll=self.unroll,
        )(c, self.taps, self.dtype, name="layers")
        x, records = stack(x, layer_edits(edits, (ENCODER_MLP_ACT, ENCODER_RESID)), visible, valid)

        states, tokens = self._project(x, c.position_count(audio.frames if audio.seen is None else audio.seen))
        lengths = c.token_count(audio.frames)
        here = jnp.arange(tokens.shape[1]) < lengths[:, None]
        tokens, projected = visit(PROJECTOR, tokens, single_layer(edits, PROJECTOR), self.taps, here)
        return Encoded(tokens, lengths, states, records | add_layer_axis(projected))

    def _stem(self, audio: Audio) -> Float[Array, "rows positions width"]:
        """The convolutions and the positions, over chunks or whole rows."""
        c = self.config
        rows, total, mels = audio.features.shape
        chunk = c.chunk(total)
        seen = _by_chunk(audio.frames if audio.seen is None else audio.seen, total, chunk).reshape(-1)
        x = audio.features.reshape(-1, chunk, mels).astype(self.dtype)
        x = x[..., None] if c.channels else x
        axes = x.ndim - 2
        for i, stride in enumerate(c.strides, 1):
            real = jnp.arange(x.shape[1]) < seen[:, None]
            x = jnp.where(real.reshape(*real.shape, *[1] * axes), x, 0)
            size, padding = (3,) * axes, ((1, 1),) * axes
            conv = nn.Conv(c.channels or c.width, size, stride, padding=padding, dtype=self.dtype, name=f"conv{i}")
            x = layers.gelu(conv(x))
            seen = conv_length(seen) if stride == 2 else seen
        if c.channels:
            x = x.swapaxes(2, 3).reshape(*x.shape[:2], -1)  # the original flattens channels before mels
            x = nn.Dense(c.width, use_bias=False, dtype=self.dtype, name="conv_out")(x)
        if c.positions == "sinusoid":
            x = x + jnp.asarray(layers.sinusoids(c.max_positions, c.width)[: x.shape[1]], self.dtype)
        elif c.positions == "table":
            table = self.param("positions", nn.initializers.normal(0.02), (c.max_positions, c.width))
            x = x + table[: x.shape[1]].astype(self.dtype)
        return x.reshape(rows, -1, c.width)

    def _project(
        self, x: Float[Array, "rows positions width"], seen: Int[Array, " rows"]
    ) -> tuple[Array, Float[Array, "rows tokens output"]]:
        """(states before the projection, audio tokens). seen: positions of each row that the convolutions made."""
        c = self.config
        dense = lambda name, n: nn.Dense(n, use_bias=c.post_bias, dtype=self.dtype, name=name)  # noqa: E731
        made = lambda x: jnp.where((jnp.arange(x.shape[1]) < seen[:, None])[..., None], x, 0)  # noqa: E731
        states = x
        for step in c.post:
            size = {"pool": 2, "stack": c.stack}.get(step, 1)
            groups = x[:, : x.shape[1] // size * size].reshape(len(x), -1, size, x.shape[-1])
            if step == "pool":
                x, seen = groups.mean(2), seen // 2
            elif step == "fill":
                x = jnp.pad(made(x), ((0, 0), (0, -x.shape[1] % c.stack), (0, 0)))
            elif step == "stack":
                x = groups.reshape(len(x), groups.shape[1], -1)
            elif step == "norm":
                x = LayerNorm(c.eps, name="norm_post")(x)
            elif step == "conv":
                conv = nn.Conv(c.width, (3,), 2, padding=((1, 1),), dtype=self.dtype, name="proj_conv")
                x = layers.gelu(conv(made(x)))  # nothing lies behind a clip
            elif step == "gated":
                states = x
                first, second = jnp.split(dense("proj1", c.hidden)(RMSNorm(GATED_EPS, name="norm_pre")(x)), 2, axis=-1)
                x = jax.nn.silu(second) * first
                again, last = RMSNorm(GATED_EPS, name="norm_gated"), dense("proj2", c.output_width)
                x = last(again(x)) if c.gated_norm == "mid" else again(last(x))
            else:
                states = x
                if step == "mlp":
                    x = {"gelu": layers.gelu, "relu": jax.nn.relu}[c.activation](dense("proj1", c.hidden)(x))
                x = dense("proj2" if step == "mlp" else "proj", c.output_width)(x)
        return states, x
