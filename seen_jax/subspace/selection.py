"""Which noise directions make the basis.

Source: arXiv 2601.07331, noise-only directions ("threshold"); "complement" is this project's alternative.
Axes: L layers, n clips, D width, k directions, R rank, padded with zero columns. Alpha and delta may be traced.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, ScalarLike, Shaped

from seen_jax.errors import ConfigError
from seen_jax.subspace.localize import NamedLayers
from seen_jax.subspace.svd import Directions

Energy = Literal["sigma2", "sigma"]
Method = Literal["threshold", "complement"]
NoiseSource = Literal["pure", "difference"]
_CHOICES = {"method": Method, "energy": Energy, "noise_source": NoiseSource}
_SLACK = 1e-6  # an energy that reaches alpha up to float32 rounding has reached it


@dataclass(frozen=True)
class Selection:
    """How a basis is selected from a calibration. Raises ConfigError on values that make no sense.

    Attributes:
        semantic_alpha: share of the clean energy that the dominant semantic directions hold.
        noise_alpha: the same cut on the noise side; None: all directions above numerical zero.
        delta: a direction is noise-only if its largest |cos| with dominant semantic ones is below this.
        method: "threshold" rejects the others; "complement" projects the semantic subspace out of all.
        energy: of a direction, its singular value squared or as it is.
        center: subtract the mean over the clips before the SVD.
        noise_source: "pure" noise clips, or "difference" of noisy and clean activations of the same clips.
        remainder: "complement" keeps directions of which at least this length remains, 0.001 to 1.
        absolute: compare |cos| (a singular vector's sign is arbitrary) or, as one printed equation, cos.
        layers: "auto" (localisation), "all", a third of the stack, or layer indices.

    >>> seen_jax.Selection(method="complement", layers=(2, 3)).delta
    0.1
    """

    semantic_alpha: float = 0.95
    noise_alpha: float | None = None
    delta: float = 0.1
    method: Method = "threshold"
    energy: Energy = "sigma2"
    center: bool = False
    noise_source: NoiseSource = "pure"
    remainder: float = 0.3
    absolute: bool = True
    layers: NamedLayers | tuple[int, ...] = "auto"

    def __post_init__(self) -> None:
        for name in ("semantic_alpha", "noise_alpha", "delta"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"{name} must be above 0 and at most 1, not {value!r}")
        if not 1e-3 <= self.remainder < 1:
            raise ConfigError(f"remainder must be from 0.001 to below 1, not {self.remainder!r}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(f"{name} must be one of {get_args(choices)}, not {getattr(self, name)!r}")
        if isinstance(self.layers, str):
            if self.layers not in get_args(NamedLayers):
                raise ConfigError(f"layers must be one of {get_args(NamedLayers)} or indices, not {self.layers!r}")
        elif not self.layers or min(self.layers) < 0 or len(set(self.layers)) != len(self.layers):
            raise ConfigError(f"layers must be different indices from 0, at least one, not {self.layers!r}")


@partial(jax.jit, static_argnames="energy")
def dominant_mask(
    s: Float[Array, "*layers k"],
    alpha: ScalarLike | None,
    energy: Energy = "sigma2",
    floor: Shaped[Array, "*layers"] | float = 0.0,
) -> Bool[Array, "*layers k"]:
    """True for the fewest leading directions whose energy reaches the share alpha of the total (None: all of them),
    never for those with a singular value up to `floor` (numerical zero)."""
    above = s > jnp.asarray(floor)[..., None]
    if alpha is None:
        return above
    share = s / jnp.maximum(s[..., :1], jnp.finfo(jnp.float32).tiny)  # at most 1: squares cannot overflow
    share = jnp.square(share) if energy == "sigma2" else share
    reached = jnp.cumsum(share, axis=-1)
    return above & (reached - share < alpha * reached[..., -1:] * (1 - _SLACK))


@partial(jax.jit, static_argnames=("energy", "absolute"))
def threshold_mask(
    semantic: Directions,
    noise: Directions,
    alpha: ScalarLike,
    noise_alpha: ScalarLike | None,
    delta: ScalarLike,
    energy: Energy = "sigma2",
    absolute: bool = True,
) -> Bool[Array, "layers k"]:
    """True for the noise-only directions v: max_j |cos(v, u_j)| < delta over the dominant semantic u_j."""
    dominant = dominant_mask(semantic.s, alpha, energy, semantic.floor)
    candidate = dominant_mask(noise.s, noise_alpha, energy, noise.floor)
    cosine = jnp.einsum("lkd,ljd->lkj", noise.v, semantic.v, precision=jax.lax.Precision.HIGHEST)
    cosine = jnp.where(dominant[:, None, :], jnp.abs(cosine) if absolute else cosine, -jnp.inf)
    return candidate & (cosine.max(axis=-1) < delta)


@jax.jit
def complement(
    semantic: Directions,
    noise: Directions,
    semantic_mask: Bool[Array, "layers j"],
    noise_mask: Bool[Array, "layers k"],
    remainder: ScalarLike = 0.3,
) -> Float[Array, "layers width k"]:
    """Masked noise directions without the masked semantic subspace, orthonormalised in order (Gram-Schmidt). A
    direction of which no more than the length `remainder` (of 1) is left becomes a zero column."""

    def project_out(x: Array, rows: Array) -> Array:
        dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        return x - dot(dot(rows, x), rows)

    def one_layer(u: Array, v: Array, keep: Array) -> Array:
        def step(q: Array, item: tuple[Array, Array, Array]) -> tuple[Array, None]:
            index, row, kept = item
            rows = jnp.concatenate([u, q])
            rest = project_out(project_out(row, rows), rows)  # twice: the first pass rounds
            length = jnp.linalg.norm(rest)
            row = jnp.where(kept & (length > remainder), rest / jnp.maximum(length, 1e-6), 0)
            return q.at[index].set(row), None

        return jax.lax.scan(step, jnp.zeros_like(v), (jnp.arange(len(v)), v, keep))[0].T

    return jax.vmap(one_layer)(semantic.v * semantic_mask[..., None], noise.v, noise_mask)


def select_columns(
    semantic: Directions, noise: Directions, selection: Selection
) -> tuple[Float[Array, "layers width rank"], Int[np.ndarray, " layers"]]:
    """Q [L, D, R] and the ranks [L], from the semantic and the noise directions of a calibration. The columns are
    orthonormal, in order of singular value, zero from r_l on; R is the largest rank or 1. Centring and the noise source
    of the selection are those of the directions."""
    alpha, noise_alpha, energy = selection.semantic_alpha, selection.noise_alpha, selection.energy
    if selection.method == "threshold":
        mask = threshold_mask(semantic, noise, alpha, noise_alpha, selection.delta, energy, selection.absolute)
        host = np.asarray(noise.v).swapaxes(-1, -2) * np.asarray(mask)[:, None]
    else:
        dominant = dominant_mask(semantic.s, alpha, energy, semantic.floor)
        candidate = dominant_mask(noise.s, noise_alpha, energy, noise.floor)
        host = np.asarray(complement(semantic, noise, dominant, candidate, selection.remainder))
    kept = host.any(axis=1)
    ranks = kept.sum(axis=-1)
    order = np.argsort(~kept, axis=-1, kind="stable")[:, None, : max(1, ranks.max())]  # kept columns first
    return jax.device_put(np.take_along_axis(host, order, axis=-1)), ranks
