"""Arithmetic of the layers as plain functions (facts: Whisper encoder block, Qwen2/Llama decoder block)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def layer_norm(
    x: Float[Array, "*b d"], scale: Float[Array, " d"], bias: Float[Array, " d"], eps: float
) -> Float[Array, "*b d"]:
    """LayerNorm in float32, cast back to x's dtype."""
    y = x.astype(jnp.float32)
    mean = y.mean(-1, keepdims=True)
    var = jnp.square(y - mean).mean(-1, keepdims=True)
    return ((y - mean) * jax.lax.rsqrt(var + eps) * scale + bias).astype(x.dtype)


def rms_norm(
    x: Float[Array, "*b d"], scale: Float[Array, " d"], eps: float, plus_one: bool = False
) -> Float[Array, "*b d"]:
    """RMSNorm in float32; cast back to x's dtype before the weight, as the Qwen2 and Llama originals do. plus_one:
    Gemma's, which multiplies by 1 + weight before that."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    if plus_one:
        return (y * (1 + scale.astype(jnp.float32))).astype(x.dtype)
    return y.astype(x.dtype) * scale.astype(x.dtype)


def gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Exact GELU in float32, cast back to x's dtype. By erf, as in PyTorch: erfc, as in jax.nn.gelu, takes 2.4 times as
    long on a CPU."""
    y = x.astype(jnp.float32)
    return (0.5 * y * (1 + jax.lax.erf(y * 0.5**0.5))).astype(x.dtype)


def gelu_tanh(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The approximation of GELU by tanh in float32, cast back to x's dtype."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


@functools.lru_cache
def sinusoids(length: int, width: int) -> Float[np.ndarray, "length width"]:
    """Whisper's position table: sines and cosines concatenated, not interleaved; exponent divided by width/2 - 1."""
    half = width // 2
    inverse = np.exp(-np.log(10000.0) / (half - 1) * np.arange(half, dtype=np.float32)).astype(np.float32)
    angle = np.arange(length, dtype=np.float32)[:, None] * inverse[None]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies are divided by `factor`. Where `original` is stated (Llama 3), only those that turn fewer than
    `low` times in so many positions; those that turn more than `high` times stay, and those between are mixed."""

    factor: float
    low: float = 0.0
    high: float = 0.0
    original: int = 0


def inverse_frequencies(width: int, theta: float, scaling: RopeScaling | None = None) -> Float[np.ndarray, " half"]:
    """Rotary frequencies of a head of `width` dimensions, float32."""
    inverse = 1.0 / (theta ** (np.arange(0, width, 2, dtype=np.float32) / width))
    if scaling is None:
        return inverse
    if not scaling.original:
        return inverse / np.float32(scaling.factor)
    turns = scaling.original / (2 * np.pi / inverse)
    kept = ((turns - scaling.low) / (scaling.high - scaling.low)).clip(0, 1)
    return (1 - kept) * inverse / scaling.factor + kept * inverse


def rope(
    x: Float[Array, "b s h d"],
    positions: Int[Array, "#b s"],
    theta: float,
    rotary: int | None = None,
    scaling: RopeScaling | None = None,
) -> Float[Array, "b s h d"]:
    """Rotary position embedding, half-split; angles in float32, cosines and sines cast to x's dtype. rotary: how many
    leading dimensions of a head are turned; None: all."""
    return rotate(x, positions, inverse_frequencies(x.shape[-1] if rotary is None else rotary, theta, scaling))


def rotate(x: Float[Array, "b s h d"], positions: Int[Array, "#b s"], inverse: Any) -> Float[Array, "b s h d"]:
    """`rope` by its frequencies [half]."""
    d = 2 * inverse.shape[-1]
    angle = positions[..., None].astype(jnp.float32) * inverse
    cos, sin = (f(angle).astype(x.dtype)[:, :, None, :] for f in (jnp.cos, jnp.sin))
    a, b, rest = jnp.split(x, [d // 2, d], axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


class Groups(NamedTuple):
    """Rows sorted by their expert, in blocks of one expert each."""

    rows: Int[Array, "blocks size"]  # the row at each place of a block, 0 at unused places
    experts: Int[Array, " blocks"]
    places: Int[Array, " rows"]  # where each row is among the flattened blocks


def group(chosen: Int[Array, " rows"], experts: int, largest: int = 128) -> Groups:
    """Groups of rows that chose one of `experts` each. A block holds about a fair share of the rows, at most `largest`;
    the work then grows with the rows, hardly with the number of experts."""
    n = len(chosen)
    size = max(1, min(largest, n // experts))
    used = min(experts, n)
    blocks = (n - used) // size + used  # always enough: each used expert leaves less than one block empty
    count = jnp.zeros(experts, jnp.int32).at[chosen].add(1)
    filled = -(-count // size) * size
    end = jnp.cumsum(filled)
    order = jnp.argsort(chosen, stable=True)
    expert = chosen[order]
    places = (end - filled)[expert] + jnp.arange(n) - (jnp.cumsum(count) - count)[expert]
    rows = jnp.zeros(blocks * size, jnp.int32).at[places].set(order.astype(jnp.int32))
    block_experts = jnp.searchsorted(end, jnp.arange(blocks) * size, side="right").clip(0, experts - 1)
    places = jnp.zeros(n, jnp.int32).at[order].set(places.astype(jnp.int32))
    return Groups(rows.reshape(blocks, size), block_experts, places)


def grouped_dense(
    x: Float[Array, "rows d"], kernel: Any, groups: Groups, product: Callable[[Array, Any], Array] = jnp.matmul
) -> Float[Array, "rows f"]:
    """The product of every row and its expert's kernel, block by block. kernel: an array [experts, d, f], or several
    that `product` takes together."""
    take = lambda expert: jax.tree.map(lambda k: k[expert], kernel)
    y = jax.lax.map(lambda block: product(x[block[0]], take(block[1])), (groups.rows, groups.experts))
    return y.reshape(-1, y.shape[-1])[groups.places]
