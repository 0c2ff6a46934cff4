"""The paper's formulas on plain arrays: pure, and safe under jit, vmap and grad.

Source: arXiv 2601.07331 (SEE and SEEN); the affine edit is this project's. Axes: T frames, D width, R rank. Everything
is computed in float32 with the highest matmul precision; the activations may be of any float dtype.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike, Shaped

EPSILON = 1e-12  # the paper's guard against frames without any energy


def _matmul(x: Array, y: Array) -> Array:
    return jnp.matmul(x.astype(jnp.float32), y.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def masked_mean(
    a: Float[Array, "*#batch frames width"], mask: Shaped[Array, "*#batch frames"]
) -> Float[Array, "*#batch width"]:
    """Mean over the valid frames, how a calibration pools a clip: [..., D] float32; 0 where no frame is valid.

    a, mask: activations [..., T, D], and [..., T] of any dtype, true or non-zero at valid frames. What the others hold,
        NaN included, has no influence.
    >>> subspace.masked_mean(jnp.array([[1.0], [3.0], [jnp.nan]]), jnp.array([1, 1, 0])).tolist()
    [2.0]
    """
    valid = mask.astype(bool)[..., None]
    total = jnp.where(valid, a.astype(jnp.float32), 0).sum(axis=-2)
    return total / jnp.maximum(valid.sum(axis=-2, dtype=jnp.float32), 1)


def noise_energy(
    a: Float[Array, "*batch width"], q: Float[Array, "width rank"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Energy along a basis and in all, (||a Q||^2, ||a||^2), each [...] float32, in squared activation units.

    a, q: activations [..., D]; [D, R] orthonormal or zero columns.
    >>> [x.tolist() for x in subspace.noise_energy(jnp.array([[3.0, 4.0]]), jnp.eye(2)[:, :1])]
    [[9.0], [25.0]]
    """
    return jnp.square(_matmul(a, q)).sum(axis=-1), jnp.square(a.astype(jnp.float32)).sum(axis=-1)


def energy_share(part: Float[Array, "..."], total: Float[Array, "..."]) -> Float[Array, "..."]:
    """SEE of a frame from its energies: part / (total + 1e-12), at most 1 (rounding may put part above total)."""
    return part / (jnp.maximum(total, part) + EPSILON)


def see_frames(a: Float[Array, "*batch frames width"], q: Float[Array, "width rank"]) -> Float[Array, "*batch frames"]:
    """SEE of every frame at one layer: ||a Q||^2 / (||a||^2 + 1e-12), [..., T] float32 in [0, 1].

    a, q: activations [..., T, D]; [D, R] orthonormal or zero columns.
    >>> subspace.see_frames(jnp.array([[1.0, -1.0], [0.0, 0.0]]), jnp.eye(2)[:, :1]).tolist()
    [0.5, 0.0]
    """
    return energy_share(*noise_energy(a, q))


def see(
    a: Float[Array, "*#batch frames width"], q: Float[Array, "width rank"], mask: Shaped[Array, "*#batch frames"]
) -> Float[Array, "*#batch"]:
    """SEE of a clip at one layer: the mean of `see_frames` over the valid frames, [...] float32; 0 where there is none.

    Differentiable in a and q. `NoiseBasis.mean_see` takes the mean over the kept layers.
    a, q, mask: activations [..., T, D]; [D, R] orthonormal or zero columns; [..., T], non-zero at valid frames.
    >>> float(subspace.see(jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.eye(2)[:, :1], jnp.array([1, 1])))
    0.5
    """
    valid = mask.astype(bool)
    frames = see_frames(jnp.where(valid[..., None], a, 0), q)  # masked first: NaN in padding would poison gradients
    return frames.sum(axis=-1) / jnp.maximum(valid.sum(axis=-1, dtype=jnp.float32), 1)


@jax.custom_jvp
def _add(a: Array, change: Array) -> Array:
    # A change of 0 gives back the very bits of `a`. Plain addition would not: -0.0 + 0.0 is 0.0, and
    # subnormal numbers may be flushed. The rule below keeps the derivative that a `where` would cut off.
    return jnp.where(change == 0, a, (a.astype(jnp.float32) + change).astype(a.dtype))


@_add.defjvp
def _add_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, change), (da, dchange) = primals, tangents
    return _add(a, change), (da.astype(jnp.float32) + dchange).astype(a.dtype)


def low_rank_change(a: Array, u: Array, v: Array, scale: Any, bias: Array) -> Array:
    """What the general affine edit adds to activations, bias - scale (a U) V^T, in float32."""
    return bias.astype(jnp.float32) - scale * _matmul(_matmul(a, u), v.T)


def low_rank_edit(
    a: Float[Array, "*batch width"],
    u: Float[Array, "... width rank"],
    v: Float[Array, "width rank"],
    scale: ScalarLike | Float[Array, "*batch 1"],
    bias: Float[Array, " width"] | Float[Array, "*#batch width"],
) -> Float[Array, "*batch width"]:
    """The general affine edit a - scale (a U) V^T + bias.

    SEEN is U = V = Q, bias = 0; a steering vector is scale = 0; a restoration map is U != V. It is computed in float32
    and cast back to the dtype of a; where the change is 0, the activations come back bit for bit.
    a, u, v: activations [..., D]; directions [D, R] that are read (leading axes: others for each item) and written.
    scale, bias: a number, or [..., 1]; [D], or [..., D].
    >>> u, v = jnp.eye(2)[:, :1], jnp.eye(2)[:, 1:]
    >>> subspace.low_rank_edit(jnp.array([3.0, 4.0]), u, v, -1.0, jnp.array([0.0, 10.0])).tolist()
    [3.0, 17.0]
    """
    return _add(a, low_rank_change(a, u, v, scale, bias))


def mixed_low_rank_edit(
    a: Float[Array, "*batch width"],
    u: Float[Array, "maps width rank"],
    v: Float[Array, "width rank"],
    scale: ScalarLike | Float[Array, "*batch 1"],
    bias: Float[Array, "maps width"],
    weights: Float[Array, "*#batch maps"],
) -> Float[Array, "*batch width"]:
    """Another mixture of K affine edits at every position: a - scale (sum_k w_k a U_k) V^T + sum_k w_k b_k.

    It is `low_rank_edit` with U = sum_k w_k U_k and the bias sum_k w_k b_k, up to rounding; computed as that is.
    a, v, scale: as there. u, bias, weights: [K, D, R], [K, D], and [..., K], of which axes may be 1.
    """
    maps, width, rank = u.shape
    reads = _matmul(a, jnp.moveaxis(u, 0, 1).reshape(width, maps * rank)).reshape(*a.shape[:-1], maps, rank)
    read = jnp.sum(weights[..., None] * reads, axis=-2)
    return _add(a, _matmul(weights, bias) - scale * _matmul(read, v.T))


def mapped_low_rank_edit(
    mapped: Float[Array, "*batch out"],
    a: Float[Array, "*batch width"],
    u: Float[Array, "... width rank"],
    v: Float[Array, "width rank"],
    scale: ScalarLike | Float[Array, "*batch 1"],
    bias: Float[Array, " width"] | Float[Array, "*#batch width"],
    kernel: Float[Array, "width out"],
) -> Float[Array, "*batch out"]:
    """The edited activations times a kernel, from `mapped`, those of `a` itself: a W - scale (a U) (W^T V)^T + bias W.
    The edit then costs no pass over activations of the full width beyond a U."""
    return _add(mapped, low_rank_change(a, u, _matmul(kernel.T, v), scale, _matmul(bias, kernel)))


def patched(
    a: Float[Array, "*batch width"],
    target: Float[Array, "*batch width"],
    q: Float[Array, "width rank"],
    whole: ScalarLike,
    inside: ScalarLike,
) -> Float[Array, "*batch width"]:
    """Other activations in the place of a: a + (target - a) (whole + inside Q Q^T), in float32 and cast back to the
    dtype of a. whole 1 and inside 0 give `target` to the bit, (0, 1) its part inside Q, (1, -1) that outside."""
    own, other = a.astype(jnp.float32), target.astype(jnp.float32)
    part = inside * _matmul(_matmul(other - own, q), q.T)
    return jnp.asarray((1 - whole) * own + whole * other + part, a.dtype)


def seen(
    a: Float[Array, "*batch width"], q: Float[Array, "width rank"], strength: ScalarLike = 1.0
) -> Float[Array, "*batch width"]:
    """SEEN at one layer: a - strength (a Q) Q^T, computed in float32 and cast back to the dtype of a.

    a, q: activations [..., D]; [D, R] orthonormal or zero columns; zeros alone are the identity, bit for bit.
    strength: lambda; 1 takes the noise subspace out, 0 is the identity, bit for bit.
    >>> subspace.seen(jnp.array([3.0, 4.0]), jnp.eye(2)[:, :1]).tolist()
    [0.0, 4.0]
    """
    return low_rank_edit(a, q, q, strength, jnp.zeros(a.shape[-1], jnp.float32))
