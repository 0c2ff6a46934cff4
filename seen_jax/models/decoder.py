"""The language model: embeddings, one scan over decoder blocks, and a head; a prompt pass and a one-token pass."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Shaped

from seen_jax.models import layers
from seen_jax.models.attention import Visibility, attention, cached_attention
from seen_jax.models.config import DecoderConfig
from seen_jax.models.edits import Edits, Records, lasting, layer_edits, visit
from seen_jax.models.linear import Dense, Embed, matrix
from seen_jax.models.modules import Layer, RMSNorm, Stack, run_layers, scan
from seen_jax.models.precision import product
from seen_jax.models.quantized import Bits
from seen_jax.models.sharding import rows_of
from seen_jax.models.sites import DECODER_MLP_ACT, DECODER_RESID

ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": layers.gelu_tanh}  # of an MLP's gate


@struct.dataclass
class KeysValues:
    """Keys (after rotary) and values of some positions: [L, B, S, kv_heads, head_dim] each."""

    k: Any
    v: Any


class Positions(NamedTuple):
    """What the layers know of the S positions that they compute."""

    numbers: Any  # [B, S] for rotary embedding
    visible: Any  # the `Visibility` of a prompt, or [B, cached] with a cache: which positions are attended to
    valid: Any  # [B, S] no padding
    audio: Any  # [B, S] audio tokens
    back: Any = None  # [B, cached] how many positions lie between; None without a cache, or where no layer has a window

    def at(self, last: Int[Array, " batch"]) -> "Positions":
        """Those of a prompt, of which only the position `last` of each row is computed."""
        numbers, valid, audio = (position(x, last) for x in (self.numbers, self.valid, self.audio))
        return Positions(numbers, self.visible.replace(query=last), valid, audio)


class Reach(NamedTuple):
    """What sets a layer apart, where layers differ."""

    window: Any  # how many positions it sees
    frequencies: Any  # [head_dim / 2] of its rotary embedding


def reaches(c: DecoderConfig) -> Reach | None:
    """Those of all layers, on a leading axis; None where layers do not differ."""
    if c.windows is None:
        return None
    near = np.asarray(c.windows.layers)
    everywhere = layers.inverse_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
    frequencies = np.where(near[:, None], layers.inverse_frequencies(c.head_dim, c.windows.rope_theta), everywhere)
    window = np.where(near, c.windows.size, np.iinfo(np.int32).max)
    return Reach(jnp.asarray(window, jnp.int32), jnp.asarray(frequencies))


class Experts(Layer):
    """Sum over a token's chosen experts of weight * down(silu(gate(x)) * up(x)). At `decoder.mlp_act` a token has the
    activations of all experts side by side, zero for those that it did not choose; an edit there reaches the answer
    through the chosen ones."""

    @nn.compact
    def __call__(self, x, edits, valid, audio):
        c = self.config
        b, s, width = x.shape
        tokens = x.reshape(-1, width)
        router = Dense(c.experts, False, self.stream, name="router")(tokens)  # chooses: never in few bits
        weights, chosen = jax.lax.top_k(jax.nn.softmax(router.astype(jnp.float32)), c.top_k)
        if c.renormalise:
            weights = weights / weights.sum(-1, keepdims=True)
        count = rows_of(self.mesh)
        shards = count if b % count == 0 else 1  # each device sorts its own rows
        sharded = lambda y: self.split(y.reshape(shards, len(y) // shards, *y.shape[1:]))
        sort = functools.partial(layers.group, experts=c.experts)
        groups = sort(chosen.reshape(-1)) if shards == 1 else jax.vmap(sort)(sharded(chosen.reshape(-1)))

        def dense(name, x, n):
            init = nn.initializers.lecun_normal(batch_axis=0)
            kernel, scale = matrix(self, name, (c.experts, x.shape[-1], n), self.bits, init)
            kernel = kernel.astype(self.dtype) if scale is None else kernel
            of_block = lambda x, stored: product(x, stored[0], stored[1], self.dtype).astype(self.stream)
            grouped = functools.partial(layers.grouped_dense, product=of_block)
            if shards == 1:
                return grouped(x, (kernel, scale), groups)
            return jax.vmap(grouped, (0, None, 0))(sharded(x), (kernel, scale), groups).reshape(len(x), n)

        copies = self.split(jnp.repeat(tokens, c.top_k, axis=0))
        gate = jax.nn.silu(dense("gate", copies, c.ffn))
        mlp: Records = {}
        if DECODER_MLP_ACT in edits or DECODER_MLP_ACT in self.taps.sites:
            where = jnp.arange(b * s)[:, None], chosen
            wide = jnp.zeros((b * s, c.experts, c.ffn), gate.dtype).at[where].set(gate.reshape(b * s, -1, c.ffn))
            wide, mlp = visit(DECODER_MLP_ACT, wide.reshape(b, s, -1), edits, self.taps, valid, audio)
            gate = wide.reshape(b * s, c.experts, c.ffn)[where].reshape(-1, c.ffn)
        h = self.split(gate * dense("up", copies, c.ffn))
        out = dense("down", h, width).reshape(b * s, c.top_k, width)
        return (out * weights.astype(out.dtype)[..., None]).sum(1).reshape(x.shape), mlp


class DecoderLayer(Layer):
    """x + o(Attn(RMS(x))); x + down(silu(gate(RMS(x))) * up(RMS(x))), or experts of such MLPs; what is added may be
    scaled, or normed. edits_reach: of this layer. last [B]: the only position of each row whose output [B, 1, width] is
    computed; keys, values are of all."""

    @nn.compact
    def __call__(self, x, edits_reach, cache, positions, last=None):
        c, (edits, reach) = self.config, edits_reach
        h = self._norm("norm1", x)
        one = cache is not None
        k, v = (self._heads(name, h, c.kv_heads, "kv_heads", one) for name in ("k", "v"))
        k = self._rotated("k_norm", k, positions.numbers, reach)
        if last is not None:
            x, h, positions = position(x, last), position(h, last), positions.at(last)
        numbers, visible, valid, audio, back = positions
        q = self._rotated("q_norm", self._heads("q", h, c.heads, "heads", one), numbers, reach)
        if cache is None:
            visible = visible if reach is None else visible.replace(window=reach.window)
            h = attention(q, k, v, visible, c.attention_scale)
        else:
            visible = visible if reach is None else visible & (back < reach.window)
            h = cached_attention(q, (k, v), (cache.k, cache.v), visible, c.attention_scale)
        h = self.dense("o", c.width, bias=False)(h.reshape(*x.shape[:2], -1))
        h = self._norm("norm1_out", h) if c.post_norms else h
        x = self.split(x + c.residual_scale * h)

        h = self._norm("norm2", x)
        if c.experts:
            h, mlp = Experts(*self.options, name="experts")(h, edits, valid, audio)
        else:
            gate = self.split(ACTIVATIONS[c.activation](self.dense("gate", c.ffn, bias=False)(h)), None, "ffn")
            gate, mlp = visit(DECODER_MLP_ACT, gate, edits, self.taps, valid, audio)
            h = self.dense("down", c.width, bias=False)(gate * self.dense("up", c.ffn, bias=False)(h))
        h = self._norm("norm2_out", h) if c.post_norms else h
        x = self.split(x + c.residual_scale * h)
        x, resid = visit(DECODER_RESID, x, edits, self.taps, valid, audio)
        return x, (KeysValues(k, v), mlp | resid)

    def _heads(self, name, h, heads, axis, one):
        """Queries, keys or values [B, S, heads, head_dim]. one: whether this is the pass of one token."""
        c = self.config
        y = self.dense(name, heads * c.head_dim, c.qkv_bias)(h)
        y = jax.lax.optimization_barrier(y) if one else y  # else a TPU keeps a transposed copy of the kernels to decode
        return self.split(y.astype(self.dtype).reshape(*h.shape[:2], heads, c.head_dim), None, axis)

    def _norm(self, name, x):
        return RMSNorm(self.config.eps, self.config.norm_plus_one, name=name)(x)

    def _rotated(self, norm, y, numbers, reach):
        c = self.config
        y = self._norm(norm, y) if c.qk_norm else y
        if reach is not None:
            return layers.rotate(y, numbers, reach.frequencies)
        return layers.rope(y, numbers, c.rope_theta, scaling=c.rope_scaling)


def position(x: Shaped[Array, "batch text *rest"], at: Int[Array, " batch"]) -> Shaped[Array, "batch 1 *rest"]:
    """The position `at` of every row."""
    return jnp.take_along_axis(x, at.reshape(-1, *[1] * (x.ndim - 1)), axis=1)


class Decoder(Stack):
    """The language model from embeddings to logits: `prompt`, then one `step` per generated token. vocabulary: how the
    embeddings and the output map are stored."""

    config: DecoderConfig
    vocabulary: Bits | None = None

    def setup(self):
        c = self.config
        self.embed = Embed(c.vocab, c.width, self.dtype, self.vocabulary)
        self.layers = scan(DecoderLayer, c.layers, (0, 0, nn.broadcast), self.unroll)(*self.options)
        self.norm = RMSNorm(c.eps, c.norm_plus_one)
        if not c.tied:
            self.lm_head = Dense(c.vocab, False, self.dtype, self.vocabulary)

    def embedded(self, tokens: Int[Array, "*b"]) -> Float[Array, "*b width"]:
        """Embeddings of text; its scale is rounded to their dtype."""
        x, scale = self.embed(tokens), self.config.text_scale
        return x if scale == 1 else x * jnp.asarray(scale, x.dtype)

    def logits(self, x: Float[Array, "*b width"]) -> Float[Array, "*b vocab"]:
        """Final norm and head."""
        x = self.norm(x)
        return self.embed.attend(x) if self.config.tied else self.lm_head(x)

    def prompt(
        self,
        x: Float[Array, "batch text width"],
        valid: Bool[Array, "batch text"],
        audio: Bool[Array, "batch text"],
        edits: Edits,
        last: Int[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, "batch _ width"], KeysValues, Records]:
        """Causal pass over right-padded embeddings; positions are 0.. over the real tokens, audio tokens included.
        last: the only position of each row whose output is wanted [B, 1, width]. Unless an edit or a tap needs all
        positions, the last layer then computes only that output, and all keys and values."""
        b, s, _ = x.shape
        numbers = jnp.broadcast_to(jnp.arange(s), (b, s))
        positions = Positions(numbers, Visibility(valid, block=1), valid, audio)
        if last is None or {*edits, *self.taps.sites} & {DECODER_MLP_ACT, DECODER_RESID}:
            x, cache, records = self._run(x, None, positions, edits)
            return x if last is None else position(x, last), cache, records
        layer = DecoderLayer(*self.options, parent=None)
        params, top = self.layers.variables["params"], self.config.layers - 1
        x = x * self.config.embedding_scale
        edits_reach: Any = ({}, reaches(self.config))
        x, (lower, _) = run_layers(layer, params, range(top), self.unroll, x, edits_reach, None, positions)
        x, (upper, _) = run_layers(layer, params, range(top, top + 1), 1, x, edits_reach, None, positions, last)
        return x, jax.tree.map(lambda *y: jnp.concatenate(y), lower, upper), {}

    def step(
        self,
        x: Float[Array, "batch 1 width"],
        cache: KeysValues,
        visible: Bool[Array, "batch cached"],
        numbers: Int[Array, "batch 1"],
        edits: Edits,
    ) -> tuple[Float[Array, "batch 1 width"], KeysValues, Records]:
        """One new token per row over a read-only cache of all positions before it, in their order; returns the new
        position's keys and values."""
        valid = jnp.ones(x.shape[:2], bool)
        back = numbers + 1 - jnp.cumsum(visible, axis=1) if self.config.windows else None
        return self._run(x, cache, Positions(numbers, visible, valid, ~valid, back), lasting(edits))

    def _run(self, x, cache, positions, edits):
        edits = layer_edits(edits, (DECODER_MLP_ACT, DECODER_RESID), self.mesh)
        edits_reach = (edits, reaches(self.config))
        x, (kv, records) = self.layers(x * self.config.embedding_scale, edits_reach, cache, positions)
        return x, kv, records
