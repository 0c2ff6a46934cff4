"""Which layers to keep. Source: arXiv 2601.07331, layer localisation. Axes: L layers, n clips, D width."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seen_jax.errors import BasisError, ConfigError

NamedLayers = Literal["auto", "all", "last_third", "middle_third", "first_third"]
_THIRDS = {"all": (0, 3), "first_third": (0, 1), "middle_third": (1, 2), "last_third": (2, 3)}  # from, to


class Curves(NamedTuple):
    """magnitude [L]: ||S_l - N_l||_F, activation units; direction [L]: cos(vec S_l, vec N_l), in [-1, 1]."""

    magnitude: Float[Array, " layers"]
    direction: Float[Array, " layers"]


class Localization(NamedTuple):
    """Layers from `first` on are kept; `found` is False where no layer met the rule (then the last third)."""

    first: int
    found: bool


@jax.jit
def layer_curves(
    clean: Float[Array, "layers n width"] | Float[np.ndarray, "layers n width"],
    noise: Float[Array, "layers n width"] | Float[np.ndarray, "layers n width"],
) -> Curves:
    """The two curves, float32, of activations aligned pair by pair; the direction is 0 where a side is all zero."""
    s, n = jnp.asarray(clean, jnp.float32), jnp.asarray(noise, jnp.float32)
    axes = (1, 2)
    norms = jnp.sqrt(jnp.square(s).sum(axes)) * jnp.sqrt(jnp.square(n).sum(axes))
    cosine = jnp.where(norms > 0, (s * n).sum(axes) / jnp.where(norms > 0, norms, 1), 0)
    return Curves(jnp.sqrt(jnp.square(s - n).sum(axes)), jnp.clip(cosine, -1, 1))


def localize(curves: Curves) -> Localization:
    """l*: the earliest layer with magnitude above its mean over layers and direction below its mean; the last third
    where none qualifies. Raises BasisError on NaN or infinite curves."""
    magnitude, direction = (np.asarray(c, np.float64) for c in curves)  # float64: equal values have an exact mean
    if not (np.isfinite(magnitude).all() and np.isfinite(direction).all()):
        raise BasisError("the localisation curves hold NaN or infinite values: calibrate again")
    qualified = np.flatnonzero((magnitude > magnitude.mean()) & (direction < direction.mean()))
    if qualified.size:
        return Localization(int(qualified[0]), True)
    return Localization(2 * len(magnitude) // 3, False)


def resolve_layers(
    layers: NamedLayers | tuple[int, ...], depth: int, localization: Localization | None = None
) -> tuple[int, ...]:
    """Layer indices, ascending, for a name or an explicit tuple, of a stack of `depth` layers. The thirds are [0,
    L//3), [L//3, 2L//3) and [2L//3, L); "auto" needs a localisation. Raises ConfigError: an unknown name, an index
    outside the stack, or nothing left."""
    if layers == "auto":
        if localization is None:
            raise ConfigError("layers='auto' needs a localisation: name the layers or use a calibration")
        kept = tuple(range(localization.first, depth))
    elif isinstance(layers, str):
        if layers not in _THIRDS:
            known = ", ".join(map(repr, ("auto", *_THIRDS)))
            raise ConfigError(f"unknown layers {layers!r}: use {known} or indices")
        first, last = (third * depth // 3 for third in _THIRDS[layers])
        kept = tuple(range(first, last))
    else:
        kept = tuple(sorted(set(layers)))
        if outside := [layer for layer in kept if not 0 <= layer < depth]:
            raise ConfigError(f"layers {outside} do not exist: there are {depth}, numbered from 0")
    if not kept:
        raise ConfigError(f"layers={layers!r} keeps none of {depth} layers")
    return kept
