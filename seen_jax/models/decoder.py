"""The language model: embeddings, one scan over decoder blocks, and a head; a prompt pass and a one-token pass."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Shaped

from seen_jax.models import layers
from seen_jax.models.config import DecoderConfig
from seen_jax.models.edits import Edits, Records, layer_edits, visit
from seen_jax.models.sharding import constrain, rows_of
from seen_jax.models.sites import DECODER_MLP_ACT, DECODER_RESID, Taps


@struct.dataclass
class KeysValues:
    """Keys (after rotary) and values of some positions: [L, B, S, kv_heads, head_dim] each."""

    k: Any
    v: Any


class RMSNorm(nn.Module):
    eps: float

    @nn.compact
    def __call__(self, x):
        return layers.rms_norm(x, self.param("scale", nn.initializers.ones, (x.shape[-1],)), self.eps)


class Experts(nn.Module):
    """Sum over a token's chosen experts of weight * down(silu(gate(x)) * up(x)).

    At `decoder.mlp_act` a token has the activations of all experts side by side, zero for those that it did not choose;
    an edit there reaches the answer through the chosen ones.
    """

    config: DecoderConfig
    taps: Taps
    dtype: Any
    mesh: Any = None

    @nn.compact
    def __call__(self, x, edits, valid, audio):
        c = self.config
        b, s, width = x.shape
        tokens = x.reshape(-1, width)
        router = nn.Dense(c.experts, use_bias=False, dtype=self.dtype, name="router")(tokens)
        weights, chosen = jax.lax.top_k(jax.nn.softmax(router.astype(jnp.float32)), c.top_k)
        if c.renormalise:
            weights = weights / weights.sum(-1, keepdims=True)
        count = rows_of(self.mesh)
        shards = count if b % count == 0 else 1  # each part of the batch is sorted alone, where it lies
        split = lambda y: constrain(y.reshape(shards, len(y) // shards, *y.shape[1:]), self.mesh, "batch")  # noqa: E731
        sort = functools.partial(layers.group, experts=c.experts)
        groups = sort(chosen.reshape(-1)) if shards == 1 else jax.vmap(sort)(split(chosen.reshape(-1)))

        def dense(name, x, n):
            init = nn.initializers.lecun_normal(batch_axis=0)
            kernel = self.param(name, init, (c.experts, x.shape[-1], n)).astype(self.dtype)
            if shards == 1:
                return layers.grouped_dense(x, kernel, groups)
            return jax.vmap(layers.grouped_dense, (0, None, 0))(split(x), kernel, groups).reshape(len(x), n)

        copies = constrain(jnp.repeat(tokens, c.top_k, axis=0), self.mesh, "batch")
        gate = jax.nn.silu(dense("gate", copies, c.ffn))
        mlp: Records = {}
        if DECODER_MLP_ACT in edits or DECODER_MLP_ACT in self.taps.sites:
            where = jnp.arange(b * s)[:, None], chosen
            every = jnp.zeros((b * s, c.experts, c.ffn), gate.dtype).at[where].set(gate.reshape(b * s, -1, c.ffn))
            every, mlp = visit(DECODER_MLP_ACT, every.reshape(b, s, -1), edits, self.taps, valid, audio)
            gate = every.reshape(b * s, c.experts, c.ffn)[where].reshape(-1, c.ffn)
        h = constrain(gate * dense("up", copies, c.ffn), self.mesh, "batch")
        out = dense("down", h, width).reshape(b * s, c.top_k, width)
        return (out * weights.astype(out.dtype)[..., None]).sum(1).reshape(x.shape), mlp


class DecoderLayer(nn.Module):
    """x + o(Attn(RMS(x))); x + down(silu(gate(RMS(x))) * up(RMS(x))), or such MLPs for experts; what is added may be
    scaled.

    last [B]: one position of each row, of which alone the output [B, 1, width] is wanted; keys and values are those of
    all positions.
    """

    config: DecoderConfig
    taps: Taps
    dtype: Any
    mesh: Any = None

    @nn.compact
    def __call__(self, x, edits, cache, positions, visible, valid, audio, last=None):
        c = self.config
        dense = lambda name, n, bias=False: nn.Dense(n, use_bias=bias, dtype=self.dtype, name=name)  # noqa: E731
        h = RMSNorm(c.eps, name="norm1")(x)
        k = dense("k", c.kv_heads * c.head_dim, c.qkv_bias)(h).reshape(*h.shape[:2], c.kv_heads, c.head_dim)
        v = dense("v", c.kv_heads * c.head_dim, c.qkv_bias)(h).reshape(*h.shape[:2], c.kv_heads, c.head_dim)
        k, v = (constrain(y, self.mesh, "batch", None, "kv_heads") for y in (k, v))
        rotate = lambda y, at: layers.rope(y, at, c.rope_theta, scaling=c.rope_scaling)  # noqa: E731
        k = rotate(RMSNorm(c.eps, name="k_norm")(k) if c.qk_norm else k, positions)
        if last is not None:
            x, h, visible, positions, valid, audio = (
                position(y, last) for y in (x, h, visible, positions, valid, audio)
            )
        b, s, width = x.shape
        q = dense("q", c.heads * c.head_dim, c.qkv_bias)(h).reshape(b, s, c.heads, c.head_dim)
        q = constrain(q, self.mesh, "batch", None, "heads")
        q = rotate(RMSNorm(c.eps, name="q_norm")(q) if c.qk_norm else q, positions)
        if cache is None:
            h = layers.attention(q, k, v, visible, c.attention_scale)
        else:
            h = layers.cached_attention(q, k, v, cache.k, cache.v, visible, c.attention_scale)
        x = constrain(x + c.residual_scale * dense("o", width)(h.reshape(b, s, -1)), self.mesh, "batch")

        h = RMSNorm(c.eps, name="norm2")(x)
        if c.experts:
            h, mlp = Experts(c, self.taps, self.dtype, self.mesh, name="experts")(h, edits, valid, audio)
        else:
            gate = constrain(jax.nn.silu(dense("gate", c.ffn)(h)), self.mesh, "batch", None, "ffn")
            gate, mlp = visit(DECODER_MLP_ACT, gate, edits, self.taps, valid, audio)
            h = dense("down", width)(gate * dense("up", c.ffn)(h))
        x = constrain(x + c.residual_scale * h, self.mesh, "batch")
        x, resid = visit(DECODER_RESID, x, edits, self.taps, valid, audio)
        return x, (KeysValues(k, v), mlp | resid)


def position(x: Shaped[Array, "batch text *rest"], at: Int[Array, " batch"]) -> Shaped[Array, "batch 1 *rest"]:
    """Of every row the position `at`."""
    return jnp.take_along_axis(x, at.reshape(-1, *[1] * (x.ndim - 1)), axis=1)


def run_layers(layer: nn.Module, params: Any, own: range, unroll: int, x: Any, edits: Any, *args: Any) -> Any:
    """(x, outputs) of some layers of a stack; params and edits are those of all of them, and are not copied."""

    def one(x: Any, i: Any) -> Any:
        mine, edit = jax.tree.map(lambda y: jax.lax.dynamic_index_in_dim(y, i, keepdims=False), (params, edits))
        return layer.apply({"params": mine}, x, edit, *args)

    if len(own) == 1:
        x, found = one(x, own.start)
        return x, jax.tree.map(lambda y: y[None], found)
    return jax.lax.scan(one, x, jnp.arange(own.start, own.stop), unroll=unroll)


class Decoder(nn.Module):
    config: DecoderConfig
    taps: Taps = Taps()
    dtype: Any = jnp.float32
    unroll: int = 1
    mesh: Any = None

    def setup(self):
        c = self.config
        self.embed = nn.Embed(c.vocab, c.width, dtype=self.dtype, embedding_init=nn.initializers.normal(1.0))
        self.layers = nn.scan(
            DecoderLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
            length=c.layers,
            unroll=self.unroll,
        )(c, self.taps, self.dtype, self.mesh)
        self.norm = RMSNorm(c.eps)
        if not c.tied:
            self.lm_head = nn.Dense(c.vocab, use_bias=False, dtype=self.dtype)

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

        last: of which position of each row alone the output is wanted [B, 1, width]; unless an edit or a tap wants
        them all, the last layer then computes no more than that and the keys and values.
        """
        b, s, _ = x.shape
        positions = jnp.broadcast_to(jnp.arange(s), (b, s))
        visible = jnp.tril(jnp.ones((s, s), bool))[None] & valid[:, None, :]
        args = None, positions, visible, valid, audio
        if last is None or {*edits, *self.taps.sites} & {DECODER_MLP_ACT, DECODER_RESID}:
            x, cache, records = self._run(x, *args, edits)
            return x if last is None else position(x, last), cache, records
        layer = DecoderLayer(self.config, self.taps, self.dtype, self.mesh, parent=None)
        params, top = self.layers.variables["params"], self.config.layers - 1
        x, (below, _) = run_layers(layer, params, range(top), self.unroll, x * self.config.embedding_scale, {}, *args)
        x, (own, _) = run_layers(layer, params, range(top, top + 1), 1, x, {}, *args, last)
        return x, jax.tree.map(lambda *y: jnp.concatenate(y), below, own), {}

    def step(
        self,
        x: Float[Array, "batch 1 width"],
        cache: KeysValues,
        visible: Bool[Array, "batch cached"],
        positions: Int[Array, "batch 1"],
        edits: Edits,
    ) -> tuple[Float[Array, "batch 1 width"], KeysValues, Records]:
        """One new token per row over a read-only cache; returns the new position's keys and values."""
        here = jnp.ones(x.shape[:2], bool)
        return self._run(x, cache, positions, visible, here, ~here, edits)

    def _run(self, x, cache, positions, visible, valid, audio, edits):
        edits = layer_edits(edits, (DECODER_MLP_ACT, DECODER_RESID), self.mesh)
        x, (kv, records) = self.layers(x * self.config.embedding_scale, edits, cache, positions, visible, valid, audio)
        return x, kv, records
