"""Edits of a model's activations, checked against it: SEEN's projections, measurements, steering vectors, linear maps.
Each maker returns `{site: Edit}`; edits of several sites are joined as `{**a, **b}`. Axes: L layers, D width, R rank.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from seen_jax.errors import BasisError, ConfigError
from seen_jax.models.edits import Edit, Edits, Patch
from seen_jax.models.model import Model
from seen_jax.subspace import NoiseBasis
from seen_jax.subspace.basis import RANK_MULTIPLE, pad_rank
from seen_jax.subspace.localize import NamedLayers, resolve_layers

Layers = NamedLayers | tuple[int, ...] | list[int] | int
Matrix = Float[Array | np.ndarray, "..."]  # shapes are checked here, with errors that say what to do


def projection(
    model: Model,
    basis: NoiseBasis | Matrix,
    strength: ScalarLike = 1.0,
    site: str | None = None,
    layers: Layers | None = None,
) -> dict[str, Edit]:
    """SEEN: a <- a - strength (a Q) Q^T at every frame of every kept layer. SEE is reported before and after.

    At decoder sites it acts at audio tokens. Another strength, noise, rank or layer set recompiles nothing.

    model: the model that is edited.
    basis: a `NoiseBasis`; or directions [D, R] (the same in all layers) or [L, D, R] with orthonormal columns, zero
    columns last. site: where, for directions; a basis knows its site.
    strength: lambda; 1 takes the directions out, 0 measures and changes nothing. May be traced.
    layers: which layers are edited: indices, "all", or a third of the stack; None: those of the basis, or all.
    Returns {site: Edit}, on the device, with zero columns up to a multiple of 16. Raises BasisError for a basis of
    another model and for directions of another shape or that are not orthonormal, and ConfigError for an unknown site,
    layers that are not there, and a strength that is not finite.

    >>> seen_jax.projection(model, basis, strength=0.5)
    {'encoder.mlp_act': Edit(u=[4, 768, 16], scale=[4])}
    """
    basis = checked_basis(model, basis, site)
    basis = basis if layers is None else basis.with_layers(_layers(layers))
    return {basis.site: Edit(u=basis.padded_q, scale=basis.strengths(_finite(strength)))}


def measuring(model: Model, basis: NoiseBasis | Matrix, site: str | None = None) -> dict[str, Edit]:
    """An edit that only measures SEE, {site: Edit} without a scale. The activations stay as they are, which costs less
    than strength 0.

    model, basis, site: as for `projection`, and what it raises.

    >>> seen_jax.measuring(model, basis)
    {'encoder.mlp_act': Edit(u=[4, 768, 16])}
    """
    basis = checked_basis(model, basis, site)
    return {basis.site: Edit(u=basis.padded_q, scale=None)}


def steering(
    model: Model, site: str, vector: Matrix, strength: ScalarLike = 1.0, layers: Layers = "all", text: float = 1.0
) -> dict[str, Edit]:
    """Add a vector to the activations: a <- a + strength * vector.

    model: the model that is edited. site: one of `SITES`. vector: [D], or one per layer [L, D].
    strength: factor of the vector. May be traced.
    layers: which layers are edited: indices, "all", or a third of the stack.
    text: share of it at decoder positions without an audio token, generated ones included.
    Returns {site: Edit}. Raises ConfigError for an unknown site, another shape, layers that are not there, and numbers
    that are not finite.

    >>> seen_jax.steering(model, "decoder.resid", np.ones(192), strength=4.0, layers=[2])
    {'decoder.resid': Edit(u=[4, 192, 16], scale=[4], v=[4, 192, 16], bias=[4, 192], text=[4])}
    """
    nothing = jnp.zeros((_shape(model, site)[1], 1))
    return linear_map(model, site, (nothing, nothing), vector, strength, layers, text)


def linear_map(
    model: Model,
    site: str,
    matrix: Matrix | tuple[Matrix, Matrix],
    bias: Matrix | None = None,
    strength: ScalarLike = 1.0,
    layers: Layers = "all",
    text: float = 1.0,
) -> dict[str, Edit]:
    """Apply a linear map to the activations: a <- a M + bias; or a low-rank one: a <- a + (a U) V^T + bias.

    model, site, layers, text: as for `steering`.
    matrix: M [D, D] or [L, D, D]; or the pair (U, V), each [D, R] or [L, D, R]. bias: [D] or [L, D]; None for none.
    strength: share of the change; 0 leaves the activations, 1 applies the map. May be traced.
    Returns {site: Edit}. Raises ConfigError as `steering`.

    >>> seen_jax.linear_map(model, "encoder.resid", 0.9 * np.eye(192))
    {'encoder.resid': Edit(u=[4, 192, 192], scale=[4], v=[4, 192, 192], text=[4])}
    """
    depth, width = _shape(model, site)
    if isinstance(matrix, tuple):
        u, v = (_stacked(x, site, name, (depth, width, None)) for x, name in zip(matrix, "uv", strict=True))
        if u.shape != v.shape:
            raise ConfigError(f"u has {u.shape[-1]} columns and v {v.shape[-1]}: they must have as many.")
    else:
        v = jnp.broadcast_to(jnp.eye(width), (depth, width, width))
        u = _stacked(matrix, site, "the matrix", (depth, width, width)) - v
    kept = np.isin(np.arange(depth), resolve_layers(_layers(layers), depth)).astype(np.float32)
    scale = _finite(strength) * jnp.asarray(kept)
    shift = None if bias is None else scale[:, None] * _stacked(bias, site, "the vector", (depth, width))
    share = jnp.full(depth, _finite(text), jnp.float32)
    return {site: Edit(jnp.asarray(pad_rank(u)), -scale, jnp.asarray(pad_rank(v)), shift, share)}


class Share(NamedTuple):
    """Which part of the activations a `Patch` replaces: its leaves of these names."""

    whole: Float[np.ndarray, " layers"]
    inside: Float[np.ndarray, " layers"]
    q: Float[Array | np.ndarray, "layers width rank"]


def share_of(
    model: Model,
    site: str,
    layers: Layers | None = None,
    subspace: NoiseBasis | Matrix | None = None,
    outside: bool = False,
) -> Share:
    """Some layers of a site, whole (subspace None), inside a subspace, or outside of it. Arguments and what it raises
    are those of `projection`; None for layers: those of the basis, or all."""
    depth, width = _shape(model, site)
    if subspace is None and outside:
        raise ConfigError("nothing lies outside of the whole space: pass a subspace, or leave `outside` out.")
    basis = None if subspace is None else checked_basis(model, subspace, site)
    default: Layers = "all" if basis is None else basis.layers
    kept = resolve_layers(_layers(default if layers is None else layers), depth)
    chosen = np.isin(np.arange(depth), kept).astype(np.float32)
    if basis is None:
        return Share(chosen, 0 * chosen, np.zeros((depth, width, RANK_MULTIPLE), np.float32))
    return Share(chosen, -chosen, basis.padded_q) if outside else Share(0 * chosen, chosen, basis.padded_q)


def checked_basis(model: Model, basis: NoiseBasis | Matrix, site: str | None = None) -> NoiseBasis:
    """A basis of this model, also from directions. Raises BasisError or ConfigError as `projection`."""
    if isinstance(basis, NoiseBasis):
        if site not in (None, basis.site):
            raise ConfigError(f"the basis was made at {basis.site}, not at {site}: leave the site out.")
        basis.check(basis.site, *_shape(model, basis.site), model.identity(basis.site))
        return basis
    if site is None:
        raise ConfigError("directions need a site: pass site=..., or a NoiseBasis.")
    if isinstance(basis, jax.core.Tracer):
        outside = "make the edit outside of the traced function, and change it there with edit.replace(u=...)"
        raise BasisError(f"traced directions cannot be checked: {outside}.")
    depth, width = _shape(model, site)
    with jax.ensure_compile_time_eval():  # a traced strength does not trace the directions
        q = _stacked(basis, site, "directions", (depth, width, None), BasisError)
    ranks = tuple(int(n) for n in np.asarray(q).any(axis=1).sum(axis=-1))
    return NoiseBasis(site, q, ranks, tuple(range(depth)))


def check_edits(model: Model, edits: Edits) -> None:
    """Raise ConfigError unless the sites and shapes of edits are those of the model. A `Patch` is refused."""
    for site, edit in edits.items():
        expected = _shape(model, site)
        if isinstance(edit, Patch):
            raise ConfigError(f"the patch of {site} belongs to the batch it was made for: use `seen_jax.patch`.")
        for name, ndim in (("u", 3), ("v", 3), ("bias", 2), ("scale", 1), ("text", 1)):
            shape = None if (x := getattr(edit, name)) is None else np.shape(x)
            if shape is not None and (len(shape) != ndim or shape[:2] != expected[: len(shape[:2])]):
                fitting = f"expected {ndim} axes, for {expected[0]} layers of width {expected[1]}."
                raise ConfigError(f"the edit of {site} has {name} of shape {list(shape)}: {fitting}")


def joined(*edits: Edits) -> Edits:
    """Edits of different sites together. Raises ConfigError where two edit one site."""
    together: dict[str, Edit | Patch] = {}
    for part in edits:
        if twice := together.keys() & part.keys():
            raise ConfigError(f"two edits of {', '.join(sorted(twice))}: a site takes one edit per pass.")
        together |= part
    return together


def _shape(model: Model, site: str) -> tuple[int, int]:
    return model.config.site_shape(model.check_site(site))


def _layers(layers: Layers) -> NamedLayers | tuple[int, ...]:
    return layers if isinstance(layers, str) else (layers,) if isinstance(layers, int) else tuple(layers)


def _finite(number: ScalarLike) -> ScalarLike:
    if not isinstance(number, jax.core.Tracer) and not np.isfinite(number).all():
        raise ConfigError(f"an edit's strength must be a finite number, not {number}.")
    return number


def _stacked(x: Any, site: str, name: str, shape: tuple[int | None, ...], error: type[Exception] = ConfigError) -> Any:
    """An array [L, ...] float32 on the device from one per layer, or one for all layers. None stands for any size."""
    x = jnp.asarray(x, jnp.float32)
    x = x if x.ndim == len(shape) else jnp.broadcast_to(x, (shape[0], *x.shape))
    if x.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, x.shape, strict=True)):
        sizes = ["R" if n is None else n for n in shape]
        raise error(f"{name} of an edit of {site} must be {sizes[1:]} or {sizes}, not {list(x.shape[-len(shape) :])}.")
    if not isinstance(x, jax.core.Tracer) and not np.isfinite(np.asarray(x)).all():
        raise error(f"{name} of an edit of {site} holds NaN or infinite numbers.")
    return x
