"""The audio encoder: convolutional stem, one scan over transformer blocks, projection to audio tokens."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from seen_jax.models import layers
from seen_jax.models.config import ConformerConfig, EncoderConfig, conv_length
from seen_jax.models.decoder import RMSNorm, run_layers
from seen_jax.models.edits import Edits, Records, add_layer_axis, layer_edits, single_layer, visit, visit_dense
from seen_jax.models.sharding import constrain
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
    parts = []
    for start, (count, size) in starts(config.spans(total)):
        real = config.position_count(_by_chunk(frames, start, count, size))
        parts.append((np.arange(config.position_count(size)) < real[..., None]).reshape(len(frames), -1))
    join = np.concatenate if isinstance(frames, np.ndarray) else jnp.concatenate
    return join(parts, 1) if len(parts) > 1 else parts[0]


def starts(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, tuple[int, int]]]:
    """(first frame, span) of consecutive spans of equal parts."""
    start = 0
    for count, size in spans:
        yield start, (count, size)
        start += count * size


def _by_chunk(frames: Any, start: int, count: int, size: int) -> Any:
    """How many frames [A, count] of each of some chunks from `start` on belong to a row's first `frames` [A]."""
    return (frames[:, None] - (start + np.arange(count) * size)).clip(0, size)


def first_edited(config: EncoderConfig | ConformerConfig, edits: Edits) -> int:
    """The first encoder layer that some edit may change, for `encode_above`; the number of layers if there is none.

    edits: concrete ones, also stacked ([K, L] strengths). 0 for an encoder that is not split.
    """
    found = 0 if isinstance(config, ConformerConfig) else config.layers
    for site, edit in edits.items():
        if found and site in (ENCODER_MLP_ACT, ENCODER_RESID) and edit.scale is not None:
            changed = np.asarray(edit.scale) != 0
            if edit.bias is not None:
                changed = changed | (np.asarray(edit.bias) != 0).reshape(*changed.shape, -1).any(-1)
            used = np.flatnonzero(changed.reshape(-1, config.layers).any(0))
            found = min(found, int(used[0])) if len(used) else found
    return found


def encode_above(lalm: Any, variables: Any, audio: Audio, edits: Edits, first: int) -> Encoded:
    """`Lalm.encode` under edits that change nothing below layer `first`: what is below only measures.

    Under `jax.vmap` over the edits, the layers below then run once for all of them.
    """
    config = lalm.config.encoder
    if not first or isinstance(config, ConformerConfig):
        return lalm.apply(variables, audio, edits, method="encode")

    sites = (ENCODER_MLP_ACT, ENCODER_RESID)
    measure = lambda edit: dataclasses.replace(edit, scale=None, bias=None)  # noqa: E731
    below = {site: measure(edit) for site, edit in edits.items() if site in sites and edit.v is None}
    encoder = Encoder(config, lalm.taps, lalm.dtype, lalm.unroll, lalm.mesh)
    params = {"params": variables["params"]["encoder"]}
    x, parts = None, []
    # Of the first edited layer the edit is all that differs, so it is no part of the stack above.
    for own, part in ((below, range(first)), (edits, range(first, config.layers)[:1])):
        x, found = encoder.apply(params, audio, own, x, part, False)
        parts.append(found)
    encoded: Any = encoder.apply(params, audio, edits, x, range(first, config.layers)[1:])
    parts.append(encoded.records)
    join = lambda site: jax.tree.map(lambda *y: jnp.concatenate(y), *(part[site] for part in parts))  # noqa: E731
    return encoded.replace(records=encoded.records | {site: join(site) for site in parts[0]})


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
    mesh: Any = None

    @nn.compact
    def __call__(self, x, edits, visible, valid):
        c = self.config
        dense = lambda name, n, bias=True: nn.Dense(n, use_bias=bias, dtype=self.dtype, name=name)  # noqa: E731

        h = LayerNorm(c.eps, name="norm1")(x)
        heads = (*x.shape[:2], c.heads, c.width // c.heads)
        q, k, v = (dense(n, c.width, n != "k" or c.k_bias)(h).reshape(heads) for n in ("q", "k", "v"))
        q, k, v = (constrain(y, self.mesh, "batch", None, "heads") for y in (q, k, v))
        h = self._attend(q, k, v, visible).reshape(x.shape)
        x = constrain(x + dense("out", c.width)(h), self.mesh, "batch")

        h = constrain(dense("fc1", c.ffn)(LayerNorm(c.eps, name="norm2")(x)), self.mesh, "batch", None, "ffn")
        h, mlp = visit_dense(ENCODER_MLP_ACT, layers.gelu(h), edits, self.taps, valid, dense("fc2", c.width))
        x = constrain(x + h, self.mesh, "batch")
        x, resid = visit(ENCODER_RESID, x, edits, self.taps, valid)
        return x, mlp | resid

    def _attend(self, q: Array, k: Array, v: Array, visible: Sequence[Array]) -> Array:
        """Attention inside windows. visible: of each run of equal windows, who sees whom [A * windows, #s, s]."""
        c, (rows, _, *head), parts, start = self.config, q.shape, [], 0
        for mask in visible:
            window = mask.shape[-1]
            end = start + len(mask) // rows * window
            own_q, own_k, own_v = (y[:, start:end].reshape(len(mask), window, *head) for y in (q, k, v))
            if c.positions == "rotary":
                order = jnp.arange(window)[None]
                own_q, own_k = (layers.rope(y, order, c.rope_theta, c.rotary) for y in (own_q, own_k))
            parts.append(layers.attention(own_q, own_k, own_v, mask).reshape(rows, end - start, *head))
            start = end
        return jnp.concatenate(parts, 1) if len(parts) > 1 else parts[0]


class Encoder(nn.Module):
    """Whisper's encoder as the families use it. Frames that the convolutions do not see are zeroed before each of them,
    so a padded tail equals an unpadded one, whatever the padding holds.
    """

    config: EncoderConfig
    taps: Taps = Taps()
    dtype: Any = jnp.float32
    unroll: int = 1
    mesh: Any = None

    @nn.compact
    def __call__(
        self, audio: Audio, edits: Edits, x: Any = None, part: range | None = None, project: bool = True
    ) -> Any:
        """Encoded. part: the layers to run, of all; from x on, if that is the residual stream behind those below.
        project=False: (x, records) behind them instead."""
        c = self.config
        audio = jax.tree.map(jnp.asarray, audio)
        total = audio.features.shape[1]
        if total % c.pad_frames and not c.chunked:
            raise ValueError(f"{total} mel frames are not a multiple of {c.pad_frames}")
        x = constrain(self._stem(audio) if x is None else x, self.mesh, "batch")
        valid = within(c, audio.frames, total)
        keys = valid if audio.keys is None else jnp.arange(valid.shape[1]) < audio.keys[:, None]
        visible = []
        for start, (count, size) in starts([(n, c.position_count(size)) for n, size in c.windows(total)]):
            seen = keys[:, start : start + count * size].reshape(-1, 1, size)
            own = np.arange(size) // (c.block or size)
            visible.append(seen & (own[:, None] >= own) if c.block else seen)

        args = layer_edits(edits, (ENCODER_MLP_ACT, ENCODER_RESID), self.mesh), visible, valid
        options = c, self.taps, self.dtype, self.mesh
        if part is None:
            stack = nn.scan(
                EncoderLayer,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(0, nn.broadcast, nn.broadcast),
                length=c.layers,
                unroll=self.unroll,
            )
            x, records = stack(*options, name="layers")(x, *args)
        else:
            params = self.variables["params"]["layers"]
            x, records = run_layers(EncoderLayer(*options, parent=None), params, part, self.unroll, x, *args)
        if not project:
            return x, records
        states, tokens = self._project(x, c.position_count(audio.frames if audio.seen is None else audio.seen))
        lengths = c.token_count(audio.frames)
        here = jnp.arange(tokens.shape[1]) < lengths[:, None]
        tokens, projected = visit(PROJECTOR, tokens, single_layer(edits, PROJECTOR), self.taps, here)
        return Encoded(tokens, lengths, states, records | add_layer_axis(projected))

    def _stem(self, audio: Audio) -> Float[Array, "rows positions width"]:
        """The convolutions and the positions, over chunks or whole rows."""
        c = self.config
        rows, total, mels = audio.features.shape
        make = functools.partial(nn.Conv, c.channels or c.width, dtype=self.dtype)
        axes = 2 if c.channels else 1
        size, padding = (3,) * axes, ((1, 1),) * axes
        convs = [make(size, stride, padding=padding, name=f"conv{i}") for i, stride in enumerate(c.strides, 1)]
        flat = nn.Dense(c.width, use_bias=False, dtype=self.dtype, name="conv_out") if c.channels else None
        table = None
        if c.positions == "sinusoid":
            table = jnp.asarray(layers.sinusoids(c.max_positions, c.width), self.dtype)
        elif c.positions == "table":
            table = self.param("positions", nn.initializers.normal(0.02), (c.max_positions, c.width))
            table = table.astype(self.dtype)
        parts = []
        for start, (count, chunk) in starts(c.spans(total)):
            seen = _by_chunk(audio.frames if audio.seen is None else audio.seen, start, count, chunk).reshape(-1)
            x = audio.features[:, start : start + count * chunk].reshape(-1, chunk, mels).astype(self.dtype)
            x = x[..., None] if c.channels else x
            for conv, stride in zip(convs, c.strides, strict=True):
                real = jnp.arange(x.shape[1]) < seen[:, None]
                x = layers.gelu(conv(jnp.where(real.reshape(*real.shape, *[1] * axes), x, 0)))
                seen = conv_length(seen) if stride == 2 else seen
            if flat is not None:
                x = flat(x.swapaxes(2, 3).reshape(*x.shape[:2], -1))  # the original flattens channels before mels
            x = x if table is None else x + table[: x.shape[1]]
            parts.append(x.reshape(rows, -1, c.width))
        return jnp.concatenate(parts, 1) if len(parts) > 1 else parts[0]

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
