"""The audio encoder: convolutional stem, one scan over transformer blocks, projection to audio tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from seen_jax.models import layers
from seen_jax.models.attention import Visibility, attention
from seen_jax.models.config import ConformerConfig, EncoderConfig, Span, conv_length
from seen_jax.models.edits import Edits, Records, lasting, layer_edits, single_layer, visit, visit_dense
from seen_jax.models.modules import Layer, LayerNorm, Stack, run_layers, scan
from seen_jax.models.projector import project
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR

LAYER_SITES = (ENCODER_MLP_ACT, ENCODER_RESID)


@struct.dataclass
class Audio:
    """Rows of the encoder: clips, or the segments that a family cuts them into."""

    features: Any  # log-mel [A, F, M]
    frames: Any  # [A] real mel frames per row: they make the audio tokens, and they alone count in taps and SEE
    visible_frames: Any = None  # [A] that the convolutions see, if a family also reads padding; None: `frames`
    visible_positions: Any = None  # [A] positions that attention sees; None: those of `frames`

    def convolved(self) -> Any:
        """[A] frames that the convolutions see."""
        return self.frames if self.visible_frames is None else self.visible_frames


@struct.dataclass
class Encoded:
    """What the encoder gives."""

    tokens: Any  # audio tokens [A, P, output_width]
    lengths: Any  # [A] how many of them are real
    states: Any  # [A, P, width] before the projection
    records: Records  # of the encoder's sites


def within(config: EncoderConfig | ConformerConfig, frames: Any, total: int) -> Any:
    """[A, T] True for the positions that come from the first `frames` [A] mel frames of rows padded to `total`."""
    parts = []
    for span in config.spans(total):
        real = config.position_count(span.real(frames))
        parts.append((np.arange(config.position_count(span.size)) < real[..., None]).reshape(len(frames), -1))
    join = np.concatenate if isinstance(frames, np.ndarray) else jnp.concatenate
    return join(parts, 1) if len(parts) > 1 else parts[0]


def first_edited(config: EncoderConfig | ConformerConfig, edits: Edits) -> int:
    """The first encoder layer that some edit may change, for `Lalm.encode`; the number of layers if there is none.
    edits: concrete arrays, which may be stacked ([K, L] strengths); no patches. 0 for a conformer, which always runs as
    a whole."""
    if isinstance(config, ConformerConfig):
        return 0
    first = config.layers
    for site in LAYER_SITES:
        edit = lasting(edits).get(site)
        if edit is not None and edit.scale is not None:
            changes = np.asarray(edit.scale) != 0
            if edit.bias is not None:
                changes = changes | (np.asarray(edit.bias) != 0).reshape(*changes.shape, -1).any(-1)
            changed = np.flatnonzero(changes.reshape(-1, config.layers).any(0))
            first = min([first, *changed.tolist()])
    return first


class EncoderLayer(Layer):
    """Pre-LN block: x + Attn(LN1(x)); x + fc2(GELU(fc1(LN2(x)))). windows: the positions that attend to each other."""

    windows: tuple[Span, ...] = ()

    @nn.compact
    def __call__(self, x, edits, visible, valid):
        c = self.config
        h = LayerNorm(c.eps, name="norm1")(x)
        heads = (*x.shape[:2], c.heads, c.width // c.heads)
        q, k, v = (self.dense(n, c.width, n != "k" or c.k_bias)(h).reshape(heads) for n in ("q", "k", "v"))
        q, k, v = (self.split(y.astype(self.dtype), None, "heads") for y in (q, k, v))
        h = self._attend(q, k, v, visible).reshape(x.shape)
        x = self.split(x + self.dense("out", c.width)(h))

        h = self.split(self.dense("fc1", c.ffn)(LayerNorm(c.eps, name="norm2")(x)), None, "ffn")
        h, mlp = visit_dense(ENCODER_MLP_ACT, layers.gelu(h), edits, self.taps, valid, self.dense("fc2", c.width))
        x = self.split(x + h)
        x, resid = visit(ENCODER_RESID, x, edits, self.taps, valid)
        return x, mlp | resid

    def _attend(self, q: Array, k: Array, v: Array, visible: Sequence[Visibility]) -> Array:
        """Attention inside windows. visible: for each span of windows, who sees whom in its [A * windows] rows."""
        c, parts = self.config, []
        for span, rule in zip(self.windows, visible, strict=True):
            window_q, window_k, window_v = (span.cut(y) for y in (q, k, v))
            if c.positions == "rotary":
                order = jnp.arange(span.size)[None]
                window_q, window_k = (layers.rope(y, order, c.rope_theta, c.rotary) for y in (window_q, window_k))
            out = attention(window_q, window_k, window_v, rule)
            parts.append(out.reshape(len(q), -1, *q.shape[2:]))
        return jnp.concatenate(parts, 1) if len(parts) > 1 else parts[0]


class Encoder(Stack):
    """Whisper's encoder as the families use it. Frames that the convolutions must not see are zeroed before each of
    them, so a padded tail equals an unpadded one, whatever the padding holds."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, audio: Audio, edits: Edits, first: int = 0) -> Encoded:
        """first: edits change nothing below this layer and only measure there. Under `jax.vmap` over the edits, the
        layers below it run once for all of them."""
        c = self.config
        audio = jax.tree.map(jnp.asarray, audio)
        total = audio.features.shape[1]
        if total % c.pad_frames and not c.chunked:
            raise ValueError(f"{total} mel frames are not a multiple of {c.pad_frames}")
        x = self.split(self._stem(audio))
        valid = within(c, audio.frames, total)
        x, records = self._layers(x, audio, valid, edits, first)
        states, tokens = project(self, x, c.position_count(audio.convolved()))
        return encoded(self, audio, states, tokens, records, edits)

    def _stem(self, audio: Audio) -> Float[Array, "rows positions width"]:
        """The convolutions and the position table, over chunks or whole rows."""
        c = self.config
        rows, total, _ = audio.features.shape
        axes = 2 if c.channels else 1
        padding = ((1, 1),) * axes
        convs = [
            nn.Conv(c.channels or c.width, (3,) * axes, stride, padding=padding, dtype=self.stream, name=f"conv{i}")
            for i, stride in enumerate(c.strides, 1)
        ]
        flat = self.dense("conv_out", c.width, bias=False) if c.channels else None
        table = None
        if c.positions == "sinusoid":
            table = jnp.asarray(layers.sinusoids(c.max_positions, c.width), self.stream)
        elif c.positions == "table":
            table = self.param("positions", nn.initializers.normal(0.02), (c.max_positions, c.width))
            table = table.astype(self.stream)
        parts = []
        for span in c.spans(total):
            visible = span.real(audio.convolved()).reshape(-1)
            x = span.cut(audio.features).astype(self.stream)
            x = x[..., None] if c.channels else x
            for conv, stride in zip(convs, c.strides, strict=True):
                real = jnp.arange(x.shape[1]) < visible[:, None]
                x = layers.gelu(conv(jnp.where(real.reshape(*real.shape, *[1] * axes), x, 0)))
                visible = conv_length(visible, stride)
            if flat is not None:
                x = flat(x.swapaxes(2, 3).reshape(*x.shape[:2], -1))  # the original flattens channels before mels
            x = x if table is None else x + table[: x.shape[1]]
            parts.append(x.reshape(rows, -1, c.width))
        return jnp.concatenate(parts, 1) if len(parts) > 1 else parts[0]

    def _visible(self, audio: Audio, valid: Bool[Array, "rows positions"]) -> list[Visibility]:
        """For each span of windows, which positions each position of a window sees."""
        if audio.visible_positions is not None:
            valid = jnp.arange(valid.shape[1]) < audio.visible_positions[:, None]
        spans = self.config.windows(audio.features.shape[1])
        return [Visibility(span.cut(valid), self.config.block) for span in spans]

    def _layers(self, x, audio, valid, edits, first) -> tuple[Array, Records]:
        """The residual stream after the layers, and the records of their sites."""
        c = self.config
        options = *self.options, c.windows(audio.features.shape[1])
        visible = self._visible(audio, valid)
        changing = layer_edits(edits, LAYER_SITES, self.mesh)
        if not first and (self.dtype != jnp.bfloat16 or self.is_initializing()):
            stack = scan(EncoderLayer, c.layers, (0, nn.broadcast, nn.broadcast), self.unroll)
            return stack(*options, name="layers")(x, changing, visible, valid)
        layer, params = EncoderLayer(*options, parent=None), self.variables["params"]["layers"]
        if not first:  # `one_layer` takes less memory than the scan
            return run_layers(layer, params, range(c.layers), self.unroll, x, changing, visible, valid)
        measure = lambda edit: dataclasses.replace(edit, scale=None, bias=None)
        measuring = {site: measure(edit) for site, edit in lasting(changing).items() if edit.v is None}
        above = range(first, c.layers)
        records = []
        # In the first edited layer only the edit differs between variants, so it stays out of the scan above it.
        for indices, applied in ((range(first), measuring), (above[:1], changing), (above[1:], changing)):
            if indices:
                x, record = run_layers(layer, params, indices, self.unroll, x, applied, visible, valid)
                records.append(record)
        return x, jax.tree.map(lambda *y: jnp.concatenate(y), *records)


def encoded(
    stack: Stack, audio: Audio, states: Array, tokens: Float[Array, "rows tokens width"], records: Records, edits: Edits
) -> Encoded:
    """What an encoder returns, after the site `projector`. records: of the layers."""
    lengths = stack.config.token_count(audio.frames)
    real = jnp.arange(tokens.shape[1]) < lengths[:, None]
    tokens, projected = visit(PROJECTOR, tokens, single_layer(edits, PROJECTOR), stack.taps, real)
    return Encoded(tokens, lengths, states, records | jax.tree.map(lambda x: x[None], projected))
