"""Attention as plain functions: over prompts and encoder windows, at once or in blocks, and of one new position over a
cache."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

LONG = 2048  # positions of a row; the scores of a longer one are never held at once
SCORES = 2**28  # of all rows and heads that are held at once: 1 GiB in float32
BLOCK = 512  # positions of a block of queries, and of one of keys
BLOCK_SCORES = 2**26  # of all rows and heads, for one block of queries and one of keys


class Bounds(NamedTuple):
    """First and last key that each query may see, where no key is padding [*b, s]; None: no bound. Both grow with the
    queries."""

    first: Any
    last: Any

    def mask(self, keys: Int[Array, " t"], valid: Bool[Array, "b t"]) -> Bool[Array, " b #s t"]:
        """Whether each query sees the keys at these positions."""
        mask = valid[:, None]
        if self.first is not None:
            mask = mask & (keys >= self.first[..., None])
        return mask if self.last is None else mask & (keys <= self.last[..., None])

    def meets(self, keys: Int[Array, " t"]) -> Bool[Array, ""]:
        """Whether any of the queries may see any of these keys. Both are in order, and the same in all rows."""
        meets = jnp.bool_(True)
        if self.first is not None:
            meets = meets & (keys[-1] >= self.first[0])
        return meets if self.last is None else meets & (keys[0] <= self.last[-1])


@struct.dataclass
class Visibility:
    """Which keys the queries of a row see, as a rule on positions instead of an array of all pairs.

    valid: [B, T] keys that are no padding.
    block: a query sees the keys of its own block of so many positions, and all before it: 1 is causal. None: all keys.
    window: a query sees only so many of the last positions, its own included. None: no limit.
    query: [B] position of the only query of each row. None: there is a query at every position.

    >>> Visibility(jnp.ones((1, 3), bool), block=1).mask().astype(int).tolist()
    [[[1, 0, 0], [1, 1, 0], [1, 1, 1]]]
    """

    valid: Any
    block: int | None = struct.field(pytree_node=False, default=None)
    window: Any = None
    query: Any = None

    def mask(self) -> Bool[Array, " b #s t"]:
        """Whether each query sees each key."""
        order = jnp.arange(self.valid.shape[1])
        return self.bounds(order if self.query is None else self.query[:, None]).mask(order, self.valid)

    def bounds(self, queries: Int[Array, "*b s"]) -> Bounds:
        """What queries at these positions may see."""
        first = None if self.window is None else queries - self.window + 1
        return Bounds(first, None if self.block is None else queries - queries % self.block + self.block - 1)


def attention(
    q: Float[Array, "b s h d"],
    k: Float[Array, "b t g d"],
    v: Float[Array, "b t g d"],
    visible: Visibility,
    scale: float | None = None,
) -> Float[Array, "b s h d"]:
    """Masked attention with grouped key/value heads, softmax in float32. scale None: d^-0.5. Many scores are computed
    in blocks; shapes alone decide that, and the results differ by rounding."""
    (b, s, h, _), t = q.shape, k.shape[1]
    if s * t <= LONG**2 and b * h * s * t <= SCORES:
        return masked_attention(q, k, v, visible.mask(), scale)
    return blocked_attention(q, k, v, visible, scale, BLOCK)


def masked_attention(
    q: Float[Array, "b s h d"],
    k: Float[Array, "b t g d"],
    v: Float[Array, "b t g d"],
    mask: Bool[Array, " b #s t"],
    scale: float | None = None,
) -> Float[Array, "b s h d"]:
    """Masked attention with grouped key/value heads, softmax in float32. mask: True = visible. scale None: d^-0.5."""
    b, s, h, d = q.shape
    g = k.shape[2]
    f32 = jnp.float32
    logits = jnp.einsum("bsgrd,btgd->bgrst", q.reshape(b, s, g, h // g, d), k, preferred_element_type=f32)
    logits = jnp.where(mask[:, None, None], logits * (d**-0.5 if scale is None else scale), jnp.finfo(f32).min)
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    total = weights.sum(-1, keepdims=True)  # divides the output, which is smaller than the weights
    out = jnp.einsum("bgrst,btgd->bgrsd", weights.astype(v.dtype), v, preferred_element_type=f32) / total
    return out.astype(q.dtype).transpose(0, 3, 1, 2, 4).reshape(b, s, h, d)


class Softmax(NamedTuple):
    """Attention to some of the keys, by the largest score so far."""

    top: Float[Array, "b g r s 1"]  # that score
    total: Float[Array, "b g r s 1"]  # sum of exp(score - top)
    out: Float[Array, "b g r s d"]  # the same sum over the values


def blocked_attention(
    q: Float[Array, "b s h d"],
    k: Float[Array, "b s g d"],
    v: Float[Array, "b s g d"],
    visible: Visibility,
    scale: float | None,
    size: int,
) -> Float[Array, "b s h d"]:
    """`attention` with a query at every position, in memory linear in S; so is its gradient. For each block of queries
    an online softmax goes over the blocks of keys (Rabe and Staats 2021) that some of them may see. size: of a block.
    """
    b, s, h, d = q.shape
    g, rows = k.shape[2], size
    while rows > 1 and b * h * rows * size > BLOCK_SCORES:
        rows //= 2
    f32 = jnp.float32
    scale = d**-0.5 if scale is None else scale

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def attend(positions: Array, q: Array) -> Array:
        """The output for one block of queries."""
        bounds = visible.bounds(positions)
        q = q.reshape(b, rows, g, h // g, d)

        def add(state: Softmax, keys: Array, k: Array, v: Array, valid: Array) -> Softmax:
            logits = jnp.einsum("bsgrd,btgd->bgrst", q, k, preferred_element_type=f32) * scale
            logits = jnp.where(bounds.mask(keys, valid)[:, None, None], logits, jnp.finfo(f32).min)
            top = jax.lax.stop_gradient(jnp.maximum(state.top, logits.max(-1, keepdims=True)))
            weights, kept = jnp.exp(logits - top), jnp.exp(state.top - top)
            out = jnp.einsum("bgrst,btgd->bgrsd", weights.astype(v.dtype), v, preferred_element_type=f32)
            return Softmax(top, kept * state.total + weights.sum(-1, keepdims=True), kept * state.out + out)

        def step(state: Softmax, block: tuple[Array, ...]) -> tuple[Softmax, None]:
            return jax.lax.cond(bounds.meets(block[0]), add, lambda state, *_: state, state, *block), None

        shape = b, g, h // g, rows
        start = Softmax(jnp.full((*shape, 1), jnp.finfo(f32).min), jnp.zeros((*shape, 1)), jnp.zeros((*shape, d)))
        state, _ = jax.lax.scan(step, start, key_blocks)
        return (state.out / state.total).astype(q.dtype).transpose(0, 3, 1, 2, 4).reshape(b, rows, h, d)

    key_blocks = _numbered(size, k, v, visible.valid)
    out = jax.lax.map(lambda block: attend(*block), _numbered(rows, q))
    return jnp.moveaxis(out, 0, 1).reshape(b, -1, h, d)[:, :s]


def _numbered(size: int, *arrays: Array) -> tuple[Array, ...]:
    """Positions [n, size] of consecutive blocks, and these blocks of arrays [b, s, ...], the last one filled up with
    zeros [n, b, size, ...]."""

    def blocks(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), *[(0, 0)] * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(len(x), -1, size, *x.shape[2:]), 1, 0)

    count = -(-arrays[0].shape[1] // size)
    return jnp.arange(count * size).reshape(count, size), *map(blocks, arrays)


def cached_attention(
    q: Float[Array, "b 1 h d"],
    new: tuple[Float[Array, "b 1 g d"], Float[Array, "b 1 g d"]],
    cache: tuple[Float[Array, "b g d t"], Float[Array, "b g t d"]],
    mask: Bool[Array, "b t"],
    scale: float | None = None,
) -> Float[Array, "b 1 h d"]:
    """Attention of one new position over a read-only cache and itself. new, cache: (keys, values). Two products instead
    of one over a concatenation, with the axes in the order that they need, so that the cache is not rearranged inside
    the decode loop."""
    (k, v), (k_cache, v_cache) = new, cache
    b, _, h, d = q.shape
    g = k.shape[2]
    scale = d**-0.5 if scale is None else scale
    grouped = q.reshape(b, g, h // g, d)
    f32 = jnp.float32
    past = jnp.einsum("bgrd,bgdt->bgrt", grouped, k_cache, preferred_element_type=f32)
    past = jnp.where(mask[:, None, None, :], past * scale, -jnp.inf)
    current = jnp.einsum("bgrd,bgd->bgr", grouped, k[:, 0], preferred_element_type=f32)[..., None] * scale
    top = jnp.maximum(past.max(-1, keepdims=True), current)
    past, current = jnp.exp(past - top), jnp.exp(current - top)
    total = past.sum(-1, keepdims=True) + current
    out = jnp.einsum("bgrt,bgtd->bgrd", (past / total).astype(v.dtype), v_cache)
    out = out + (current / total).astype(v.dtype) * v[:, 0, :, None, :]
    return out.reshape(b, 1, h, d)
