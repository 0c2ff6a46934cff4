"""Right singular vectors of small matrices. Axes: L layers, n clips, D width, k = min(n, D) directions.

The noise side of a basis is made of directions with small singular values, and float32 loses them (a Gram matrix at
1e-3 of the largest one, LAPACK in float32 at 1e-5). GPU solvers may also return NaN without an error. A calibration is
small, so its SVD runs in float64 on the CPU backend, inside a local x64 context that nothing else sees.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from seen_jax.errors import BasisError, ConfigError

EPS = float(np.finfo(np.float32).eps)  # times max(n, D) and s_max: numerical zero, as in numpy.linalg.matrix_rank


class Directions(NamedTuple):
    """The right singular vectors of one matrix per layer, a pytree. All are float32. v: orthonormal rows, each with its
    largest entry positive. s: singular values, descending. floor: singular values up to here are numerical zeros of
    float32 data."""

    v: Float[Array, "layers k width"]
    s: Float[Array, "layers k"]
    floor: Float[Array, " layers"]


@jax.jit
def _svd(m: Array, floor: ScalarLike) -> tuple[Array, Array, Array]:
    _, s, v = jnp.linalg.svd(m, full_matrices=False)
    peak = jnp.take_along_axis(v, jnp.abs(v).argmax(axis=-1, keepdims=True), axis=-1)
    v = v * jnp.where(peak < 0, -1.0, 1.0)
    largest = jnp.finfo(jnp.float32).max
    parts = (v, s, floor * s[:, 0])
    return tuple(jnp.clip(x, -largest, largest).astype(jnp.float32) for x in parts)  # type: ignore[return-value]


def right_singular(
    m: Float[Array, "layers n width"] | Float[np.ndarray, "layers n width"], center: bool = False, n: int | None = None
) -> Directions:
    """The right singular vectors of pooled activations m, all layers at once; on the default device.
    center: subtract the mean over the clips first (in float64, so that no rounding becomes a direction). n: how many
    clips m stands for, where its rows are a factor of theirs (`Moments`); it sets the floor. Raises BasisError: m holds
    NaN or infinite values, or LAPACK did not converge. ConfigError: JAX was told to hide its CPU backend."""
    matrix = np.asarray(m).astype(np.float64)
    if bad := np.flatnonzero(~np.isfinite(matrix).all(axis=(1, 2))).tolist():
        raise BasisError(f"pooled activations hold NaN or infinite values in layers {bad}: calibrate again")
    if center:
        matrix = matrix - matrix.mean(axis=1, keepdims=True)
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        problem = "the SVD of a calibration runs on the CPU backend, which JAX_PLATFORMS hides"
        raise ConfigError(f"{problem}: add ',cpu' to it") from error
    floor = max(n or matrix.shape[1], matrix.shape[2]) * EPS
    with jax.enable_x64(True):
        parts = [np.asarray(x) for x in _svd(jax.device_put(matrix, cpu), floor)]
    if not all(np.isfinite(x).all() for x in parts):
        raise BasisError("the singular value decomposition of the pooled activations did not converge")
    return Directions(*jax.device_put(parts))  # through the host: not bound to the CPU device


def directions_of_moments(moments: Float[np.ndarray, "layers width width"], n: int) -> Directions:
    """`right_singular` of matrices m [n, D] of which only the second moments m^T m [L, D, D] (float64) are known.
    Singular values below 1e-8 of the largest are lost, which is far below `floor`. Raises BasisError on NaN."""
    if not np.isfinite(moments).all():
        raise BasisError("second moments of activations hold NaN or infinite values: calibrate again")
    values, vectors = np.linalg.eigh(np.asarray(moments, np.float64))
    k = min(n, moments.shape[-1])
    s = np.sqrt(np.maximum(values[:, ::-1][:, :k], 0))
    v = np.swapaxes(vectors, -1, -2)[:, ::-1][:, :k]
    peak = np.take_along_axis(v, np.abs(v).argmax(-1, keepdims=True), -1)
    floor = max(n, moments.shape[-1]) * EPS * s[:, 0]
    return Directions(*(jnp.asarray(x, jnp.float32) for x in (v * np.where(peak < 0, -1, 1), s, floor)))
