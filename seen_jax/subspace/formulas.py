"""The paper's formulas on plain arrays: pure, and safe under jit, vmap and grad.

Source: arXiv 2601.07331 (SEE and SEEN); the affine edit is this project's. Axes: T frames, D width, R rank.
Everything is computed in float32 with the highest matmul precision, whatever the dtype of the activations.
This module imports nothing from the package: the models use it without knowing what a noise basis is.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike, Shaped

EPSILON = 1e-12  # the paper's guard against frames without any energy


def _matmul(x: Array, y: Array) -> Array:
    return jnp.matmul(x.astype(jnp.float32), y.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def masked_mean(
    a: Float[Array, "*#batch frames width"], mask: Shaped[Array, "*#batch frames"]
) -> Float[Array, "*#batch width"]:
    """Mean over the valid frames (mask true or non-zero), float32; 0 where no frame is valid.

    The pooling of the calibration. What padding frames hold, NaN included, has no influence.
    """
    valid = mask.astype(bool)[..., None]
    total = jnp.where(valid, a.astype(jnp.float32), 0).sum(axis=-2)
    return total / jnp.maximum(valid.sum(axis=-2, dtype=jnp.float32), 1)


def noise_energy(
    a: Float[Array, "*batch width"], q: Float[Array, "width rank"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Energy along the basis and in all, (||a Q||^2, ||a||^2), in squared activation units, float32."""
    a = a.astype(jnp.float32)
    return jnp.square(_matmul(a, q)).sum(axis=-1), jnp.square(a).sum(axis=-1)


def see_frames(a: Float[Array, "*batch frames width"], q: Float[Array, "width rank"]) -> Float[Array, "*batch frames"]:
    """SEE of every frame at one layer: ||a Q||^2 / (||a||^2 + 1e-12), in [0, 1].

    Q has orthonormal columns, zero columns aside; the bound at 1 only takes off float32 rounding.
    """
    projected, total = noise_energy(a, q)
    return jnp.minimum(projected / (total + EPSILON), 1)


def see(
    a: Float[Array, "*#batch frames width"],
    q: Float[Array, "width rank"],
    mask: Shaped[Array, "*#batch frames"],
) -> Float[Array, "*#batch"]:
    """SEE of a clip at one layer: the mean of `see_frames` over the valid frames; 0 where there is none.

    Differentiable in a and q. `NoiseBasis.mean_see` takes the mean over the kept layers.
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


def low_rank_change(
    a: Float[Array, "*batch width"],
    u: Float[Array, "... width rank"],
    v: Float[Array, "out rank"],
    scale: ScalarLike | Float[Array, "*batch 1"],
    bias: Float[Array, " out"] | Float[Array, "*#batch out"],
) -> Float[Array, "*batch out"]:
    """What the general affine edit adds to activations, bias - scale (a U) V^T, in float32."""
    return bias.astype(jnp.float32) - scale * _matmul(_matmul(a, u), v.T)


def low_rank_edit(
    a: Float[Array, "*batch width"],
    u: Float[Array, "... width rank"],
    v: Float[Array, "width rank"],
    scale: ScalarLike | Float[Array, "*batch 1"],
    bias: Float[Array, " width"] | Float[Array, "*#batch width"],
) -> Float[Array, "*batch width"]:
    """The general affine edit a - scale (a U) V^T + bias, in float32, cast back to the dtype of a.

    SEEN is U = V = Q, bias = 0; a steering vector is scale = 0; a restoration map is U != V, and with leading axes
    U differs from item to item. Where the change is 0, the activations come back bit for bit.
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
    """SEEN at one layer: a - strength (a Q) Q^T, in float32, cast back to the dtype of a.

    Strength 1 takes the noise subspace out; strength 0 or a basis of zeros is the identity, bit for bit.
    """
    return low_rank_edit(a, q, q, strength, jnp.zeros(a.shape[-1], jnp.float32))
