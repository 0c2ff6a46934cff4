"""The paper's formulas on plain arrays: pure, and safe under jit, vmap and grad.

Source: arXiv 2601.07331 (SEE and SEEN); the affine edit is this project's. Axes: T frames, D width, R rank.
Everything is computed in float32 with the highest matmul precision, whatever the dtype of the activations.
This module imports nothing from the package: the models use it without knowing what a noise basis is.
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
    """Mean over the valid frames: how a calibration pools a clip.

    Args:
        a: [..., T, D] activations of any float dtype. What padding frames hold, NaN included, has no influence.
        mask: [..., T] of any dtype, true or non-zero at valid frames.

    Returns:
        [..., D] float32; 0 where no frame is valid.

    >>> subspace.masked_mean(jnp.array([[1.0], [3.0], [jnp.nan]]), jnp.array([1, 1, 0])).tolist()
    [2.0]
    """
    valid = mask.astype(bool)[..., None]
    total = jnp.where(valid, a.astype(jnp.float32), 0).sum(axis=-2)
    return total / jnp.maximum(valid.sum(axis=-2, dtype=jnp.float32), 1)


def direction_energy(
    a: Float[Array, "*batch width"], q: Float[Array, "width rank"]
) -> tuple[Float[Array, "*batch rank"], Float[Array, "*batch"]]:
    """Energy along each column of q and in all, ((a q_r)^2, ||a||^2), in squared activation units, float32."""
    a = a.astype(jnp.float32)
    return jnp.square(_matmul(a, q)), jnp.square(a).sum(axis=-1)


def noise_energy(
    a: Float[Array, "*batch width"], q: Float[Array, "width rank"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Energy along a basis and in all, per frame.

    Args:
        a: [..., D] activations of any float dtype.
        q: [D, R] orthonormal or zero columns.

    Returns:
        (||a Q||^2, ||a||^2), each [...] float32, in squared activation units.

    >>> [x.tolist() for x in subspace.noise_energy(jnp.array([[3.0, 4.0]]), jnp.eye(2)[:, :1])]
    [[9.0], [25.0]]
    """
    energy, total = direction_energy(a, q)
    return energy.sum(axis=-1), total


def energy_share(part: Float[Array, "..."], total: Float[Array, "..."]) -> Float[Array, "..."]:
    """SEE of a frame from its energies: part / (total + 1e-12), at most 1 (rounding may put part above total)."""
    return part / (jnp.maximum(total, part) + EPSILON)


def see_frames(a: Float[Array, "*batch frames width"], q: Float[Array, "width rank"]) -> Float[Array, "*batch frames"]:
    """SEE of every frame at one layer: ||a Q||^2 / (||a||^2 + 1e-12).

    Args:
        a: [..., T, D] activations of any float dtype.
        q: [D, R] orthonormal or zero columns.

    Returns:
        [..., T] float32, in [0, 1].

    >>> subspace.see_frames(jnp.array([[1.0, -1.0], [0.0, 0.0]]), jnp.eye(2)[:, :1]).tolist()
    [0.5, 0.0]
    """
    return energy_share(*noise_energy(a, q))


def see(
    a: Float[Array, "*#batch frames width"],
    q: Float[Array, "width rank"],
    mask: Shaped[Array, "*#batch frames"],
) -> Float[Array, "*#batch"]:
    """SEE of a clip at one layer: the mean of `see_frames` over the valid frames.

    Differentiable in a and q. `NoiseBasis.mean_see` takes the mean over the kept layers.

    Args:
        a: [..., T, D] activations of any float dtype.
        q: [D, R] orthonormal or zero columns.
        mask: [..., T], true or non-zero at valid frames.

    Returns:
        [...] float32, in [0, 1]; 0 where no frame is valid.

    >>> float(subspace.see(jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.eye(2)[:, :1], jnp.array([1, 1])))
    0.5
    """
    valid = mask.astype(bool)
    a = jnp.where(valid[..., None], a, 0)  # before the ratio: NaN in padding would poison gradients
    frames = see_frames(a, q)
    return frames.sum(axis=-1) / jnp.maximum(valid.sum(axis=-1, dtype=jnp.float32), 1)


@jax.custom_jvp
def _add(a: Array, change: Array) -> Array:
    # A change of 0 gives back the very bits of `a`. Plain addition would not: -0.0 + 0.0 is 0.0, and
    # subnormal numbers may be flushed. The rule below keeps the derivative that a `where` would cut off.
    return jnp.where(change == 0, a, (a.astype(jnp.float32) + change).astype(a.dtype))


@_add.defjvp
def _add_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    a, change = primals
    da, dchange = tangents
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

    SEEN is U = V = Q, bias = 0; a steering vector is scale = 0; a restoration map is U != V. Where the change is 0,
    the activations come back bit for bit.

    Args:
        a: [..., D] activations.
        u: [D, R] directions that are read; with leading axes, others for each item.
        v: [D, R] directions that are written.
        scale: a number, or [..., 1].
        bias: [D], or [..., D].

    Returns:
        [..., D], computed in float32 and cast back to the dtype of a.

    >>> u, v = jnp.eye(2)[:, :1], jnp.eye(2)[:, 1:]
    >>> subspace.low_rank_edit(jnp.array([3.0, 4.0]), u, v, -1.0, jnp.array([0.0, 10.0])).tolist()
    [3.0, 17.0]
    """
    return _add(a, low_rank_change(a, u, v, scale, bias))


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

    The edit then costs no pass over activations of the full width beyond a U.
    """
    return _add(mapped, low_rank_change(a, u, _matmul(kernel.T, v), scale, _matmul(bias, kernel)))


def seen(
    a: Float[Array, "*batch width"], q: Float[Array, "width rank"], strength: ScalarLike = 1.0
) -> Float[Array, "*batch width"]:
    """SEEN at one layer: a - strength (a Q) Q^T.

    Args:
        a: [..., D] activations.
        q: [D, R] orthonormal or zero columns; zeros alone are the identity, bit for bit.
        strength: lambda; 1 takes the noise subspace out, 0 is the identity, bit for bit.

    Returns:
        [..., D], computed in float32 and cast back to the dtype of a.

    >>> subspace.seen(jnp.array([3.0, 4.0]), jnp.eye(2)[:, :1]).tolist()
    [0.0, 4.0]
    """
    return low_rank_edit(a, q, q, strength, jnp.zeros(a.shape[-1], jnp.float32))
