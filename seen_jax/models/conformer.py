"""Granite Speech's audio encoder: one scan over conformer blocks, and a Q-Former that makes the audio tokens."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from seen_jax.models import layers
from seen_jax.models.config import ConformerConfig
from seen_jax.models.edits import Edits, layer_edits, single_layer, visit, visit_dense
from seen_jax.models.encoder import LAYER_SITES, Audio, Encoded, encoded, within
from seen_jax.models.modules import Layer, LayerNorm, Stack, scan
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_RESID

Heads = Float[Array, "n t h d"]


def relative_attention(
    q: Heads, k: Heads, v: Heads, table: Float[Array, "distances d"], visible: Bool[Array, "n t"]
) -> Heads:
    """Attention with Shaw's relative positions: q . table[i - j + distance] is added to q . k, both times d^-0.5."""
    order = np.arange(q.shape[1])
    relative = table.astype(q.dtype)[order[:, None] - order + len(table) // 2]
    bias = jnp.einsum("nihd,ijd->nhij", q, relative) * q.shape[-1] ** -0.5
    return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=visible[:, None, None])


class FrozenBatchNorm(nn.Module):
    """BatchNorm with the statistics of the training data, in float32."""

    eps: float

    @nn.compact
    def __call__(self, x):
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        kinds = {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}
        p = {name: self.param(name, kind, (x.shape[-1],)) for name, kind in kinds.items()}
        y = (x.astype(jnp.float32) - p["mean"]) * jax.lax.rsqrt(p["var"] + self.eps)
        return (y * p["scale"] + p["bias"]).astype(x.dtype)


class Affine(nn.Module):
    """Kernel and bias of a linear map that is applied inside a scan, the same in every layer."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), self.shape)
        return kernel, self.param("bias", nn.initializers.zeros, self.shape[1:])


class ConformerLayer(Layer):
    """x + FF1(x) / 2; x + Attn(x); x + Conv(x); x + FF2(x) / 2; LN(x). After half of the layers, the softmax of the
    character head is fed back. xs: its edits, and whether it is that layer. head: (kernel, bias) there and back."""

    @nn.compact
    def __call__(self, x, xs, head, valid):
        edits, half = xs
        x, first = self._feed_forward("ff1", x, single_layer(edits, ENCODER_MLP_ACT, 0), valid)
        x = x + self._attention(x, valid)
        x = x + self._convolution(x, valid)
        x, second = self._feed_forward("ff2", x, single_layer(edits, ENCODER_MLP_ACT, 1), valid)
        x = self.split(LayerNorm(self.config.eps, name="norm_post")(x))
        x, resid = visit(ENCODER_RESID, x, edits, self.taps, valid)

        def fed_back(x: Array) -> Array:
            (down, a), (up, b) = jax.tree.map(lambda p: p.astype(x.dtype), head)
            return x + jax.nn.softmax((x @ down + a).astype(jnp.float32)).astype(x.dtype) @ up + b

        x = jax.lax.cond(half, fed_back, lambda x: x, x)
        return x, jax.tree.map(lambda *both: jnp.stack(both), first, second) | resid

    def _feed_forward(self, name, x, edits, valid):
        h = LayerNorm(self.config.eps, name=f"{name}_norm")(x)
        h = self.split(jax.nn.silu(self.dense(f"{name}_up", self.config.ffn)(h)), None, "ffn")
        down = self.dense(f"{name}_down", self.config.width)
        h, mlp = visit_dense(ENCODER_MLP_ACT, h, edits, self.taps, valid, down)
        return x + 0.5 * h, mlp

    def _attention(self, x, valid):
        """Inside blocks of `pad_frames`."""
        c = self.config
        h = LayerNorm(c.eps, name="norm_attn")(x)
        inner = c.heads * c.head_dim
        k, v = jnp.split(self.dense("kv", 2 * inner, bias=False)(h), 2, axis=-1)
        q = self.dense("q", inner, bias=False)(h)
        heads = (-1, c.pad_frames, c.heads, c.head_dim)
        q, k, v = (self.split(y.reshape(heads).astype(self.stream), None, "heads") for y in (q, k, v))
        table = self.param("distances", nn.initializers.normal(1.0), (2 * c.distance + 1, c.head_dim))
        h = relative_attention(q, k, v, table, valid.reshape(-1, c.pad_frames))
        return self.dense("out", c.width)(h.reshape(*x.shape[:2], inner))

    def _convolution(self, x, valid):
        c = self.config
        h = nn.glu(self.dense("conv_up", 2 * c.conv)(LayerNorm(c.eps, name="norm_conv")(x)))
        h = self.split(jnp.where(valid[..., None], h, 0), None, "ffn")
        kernel = self.param("depthwise", nn.initializers.lecun_normal(), (c.kernel, 1, c.conv)).astype(h.dtype)
        before = c.kernel // 2
        h = jnp.pad(h, ((0, 0), (before, c.kernel - 1 - before), (0, 0)))
        h = functools.reduce(jnp.add, (h[:, i : i + x.shape[1]] * kernel[i, 0] for i in range(c.kernel)))
        h = jax.nn.silu(FrozenBatchNorm(c.eps, name="norm_batch")(h))
        return self.dense("conv_down", c.width)(h)


class QFormerLayer(Layer):
    """Post-LN block: the queries of a window attend to each other, then to its frames, then pass an MLP."""

    @nn.compact
    def __call__(self, x, frames):
        c = self.config
        norm = lambda name: LayerNorm(c.query_eps, name=name)
        heads = lambda y: y.reshape(*y.shape[:2], c.query_heads, -1).astype(self.stream)
        for name, source in (("self", x), ("cross", frames)):
            inputs = {"q": x, "k": source, "v": source}
            q, k, v = (heads(self.dense(f"{name}_{n}", c.query_width)(y)) for n, y in inputs.items())
            h = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
            x = norm(f"{name}_norm")(x + self.dense(f"{name}_out", c.query_width)(h))
        h = layers.gelu(self.dense("fc1", c.query_ffn)(x))
        return norm("norm")(x + self.dense("fc2", c.query_width)(h)), None


class Conformer(Stack):
    """Same call as `Encoder`; all layers always run (`first` has no effect). Padding is hidden from attention and zero
    to convolutions and Q-Former, so a padded row equals an unpadded one, whatever the padding holds. Layers 2i and 2i +
    1 of encoder.mlp_act are the two MLPs of block i."""

    config: ConformerConfig

    @nn.compact
    def __call__(self, audio: Audio, edits: Edits, first: int = 0) -> Encoded:
        c = self.config
        audio = jax.tree.map(jnp.asarray, audio)
        total = audio.features.shape[1]
        if total % c.pad_frames:
            raise ValueError(f"{total} frames are not a multiple of {c.pad_frames}")
        valid = within(c, audio.frames, total)
        x = jnp.where(valid[..., None], audio.features, 0).astype(self.stream)
        x = self.dense("input", c.width)(x)

        head = Affine((c.width, c.labels), name="out")(), Affine((c.labels, c.width), name="out_mid")()
        applied = layer_edits(edits, LAYER_SITES, self.mesh)
        if ENCODER_MLP_ACT in applied:
            pairs = jax.tree.map(lambda a: a.reshape(c.layers, 2, *a.shape[1:]), applied[ENCODER_MLP_ACT])
            applied[ENCODER_MLP_ACT] = pairs
        half = jnp.arange(1, c.layers + 1) == c.layers // 2
        stack = scan(ConformerLayer, c.layers, (0, nn.broadcast, nn.broadcast), self.unroll)
        x, records = stack(*self.options, name="layers")(x, (applied, half), head, valid)
        if ENCODER_MLP_ACT in records:
            flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), records[ENCODER_MLP_ACT])
            records = records | {ENCODER_MLP_ACT: flat}
        tokens = self._project(jnp.where(valid[..., None], x, 0))
        return encoded(self, audio, x, tokens, records, edits)

    def _project(self, x: Float[Array, "rows frames width"]) -> Float[Array, "rows tokens output"]:
        """The Q-Former: `queries` tokens for every window of frames."""
        c = self.config
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % c.window), (0, 0)))
        windows = x.reshape(-1, c.window, c.width)
        query = self.param("query", nn.initializers.normal(1.0), (1, c.queries, c.query_width)).astype(self.stream)
        y = LayerNorm(c.query_eps, name="norm_query")(query)
        y = jnp.broadcast_to(y, (len(windows), *y.shape[1:]))
        y, _ = scan(QFormerLayer, c.query_layers, nn.broadcast)(*self.options, name="qformer")(y, windows)
        return self.dense("proj", c.output_width)(y).reshape(len(x), -1, c.output_width)
