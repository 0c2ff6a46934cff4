"""The noise basis. Axes: L layers, D width, R rank padded with zero columns, r_l rank of layer l (may be 0)."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from seen_jax.errors import BasisError
from seen_jax.subspace.card import Facts
from seen_jax.subspace.identity import MODEL_KEYS, Identity, is_named
from seen_jax.subspace.localize import NamedLayers, resolve_layers
from seen_jax.subspace.sharing import Shared
from seen_jax.subspace.store import read_folder, write_folder
from seen_jax.subspace.trees import register

KIND = "noise basis"
RANK_MULTIPLE = 16  # directions are padded with zero columns to a multiple of this, so that bases share programs
_UNION_FLOOR = 1e-3  # what two unit directions closer than this differ by is rounding, not a direction
_ORTHONORMAL = 1e-4


@dataclass(frozen=True, eq=False)
class NoiseBasis(Shared):
    """Noise directions of every layer of one site, and the layers to use. A pytree whose one leaf is `q`.

    site: name of the place in the layer stack, for instance "encoder.mlp_act".
    q, ranks: [L, D, R] float32; the first r_l (ranks) columns of layer l are orthonormal, the others zero.
    layers: the kept ones, ascending; the others are neither measured nor edited.
    card: where it comes from (model, fingerprint, noise, SNR, selection), JSON values.
    Raises BasisError: parts that do not fit each other, columns that are not orthonormal, NaN.
    >>> q = jnp.eye(4)[None, :, :2]
    >>> subspace.NoiseBasis("encoder.resid", q, ranks=(2,), layers=(0,), card={"noise": "white"})
    NoiseBasis('encoder.resid', layers=(0,) of 1, ranks=(2,), noise='white')
    """

    kind = KIND

    site: str
    q: Float[Array, "layers width rank"]
    ranks: tuple[int, ...]
    layers: tuple[int, ...]
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        q = np.asarray(self.q)
        if q.ndim != 3 or q.dtype != np.float32 or 0 in q.shape:
            raise BasisError(f"a noise basis is float32 [layers, width, rank], not {q.dtype} {list(q.shape)}")
        depth, _, rank = q.shape
        if len(self.ranks) != depth or not all(0 <= r <= rank for r in self.ranks):
            raise BasisError(f"ranks {self.ranks} do not fit a basis of {depth} layers and {rank} columns")
        if not self.layers or list(self.layers) != sorted(set(self.layers) & set(range(depth))):
            raise BasisError(f"kept layers {self.layers} are not ascending layers of 0 to {depth - 1}")
        if not np.isfinite(q).all():
            raise BasisError(f"the noise basis of {self.site} holds NaN or infinite values")
        expected = np.arange(rank)[None, :] < np.asarray(self.ranks)[:, None]
        error = np.abs(np.swapaxes(q, 1, 2) @ q - expected[..., None] * np.eye(rank)).max(axis=(1, 2))
        if bad := np.flatnonzero(error > _ORTHONORMAL).tolist():
            raise BasisError(f"the columns of the noise basis of {self.site} are not orthonormal in layers {bad}")

    @classmethod
    def of_columns(
        cls, site: str, columns: Sequence[np.ndarray], layers: tuple[int, ...], card: dict[str, Any]
    ) -> "NoiseBasis":
        """From the directions [D, r_l] of each layer."""
        ranks = tuple(x.shape[1] for x in columns)
        q = np.zeros((len(columns), len(columns[0]), max(1, *ranks)), np.float32)
        for padded, x in zip(q, columns, strict=True):
            padded[:, : x.shape[1]] = x
        return cls(site, jnp.asarray(q), ranks, layers, card)

    def __repr__(self) -> str:
        origin = "".join(f", {key}={self.card[key]!r}" for key in ("model", "noise") if key in self.card)
        return f"NoiseBasis({self.site!r}, layers={self.layers} of {len(self.ranks)}, ranks={self.ranks}{origin})"

    @cached_property
    def padded_q(self) -> Float[Array, "layers width padded"]:
        """`q` on the device with zero columns up to a multiple of `RANK_MULTIPLE`; one array for all edits of a basis,
        by which `generate_edits` knows that they share their directions."""
        if isinstance(self.q, jax.core.Tracer):
            return pad_rank(self.q)
        with jax.ensure_compile_time_eval():  # it outlives a trace that asks for it first
            return jax.device_put(pad_rank(self.q))

    def mean_see(self, per_layer: Float[Array | np.ndarray, "layers ..."]) -> Float[Array | np.ndarray, "..."]:
        """SEE [...] of the stack: the mean over the kept layers of per_layer [L, ...]; rank 0 counts as 0."""
        xp: Any = np if isinstance(per_layer, np.ndarray) else jnp  # on the host nothing is compiled
        kept = xp.stack([per_layer[i] if self.ranks[i] else xp.zeros_like(per_layer[i]) for i in self.layers])
        return xp.asarray(kept.mean(axis=0))

    def strengths(self, strength: ScalarLike = 1.0) -> Float[Array, " layers"]:
        """SEEN's lambda per layer, float32: `strength` (may be traced) at kept layers, 0 elsewhere."""
        kept = np.isin(np.arange(len(self.ranks)), self.layers).astype(np.float32)
        if isinstance(strength, jax.Array):
            return strength * kept
        return jnp.asarray(jax.device_put(np.multiply(kept, strength, dtype=np.float32)))  # nothing is compiled

    def with_layers(self, layers: NamedLayers | tuple[int, ...]) -> "NoiseBasis":
        """The same directions (also on the device), other layers kept. ConfigError on unknown layers and on "auto"."""
        basis = copy.copy(self)
        object.__setattr__(basis, "layers", resolve_layers(layers, len(self.ranks)))
        return basis

    def for_any_model(self) -> "NoiseBasis":
        """The same basis for use with any model whose layers and width fit it: whose weights it was made of no longer
        counts."""
        basis = copy.copy(self)
        object.__setattr__(basis, "card", {**self.card, "any_model": True})
        return basis

    def check(self, site: str, layers: int, width: int, model: Identity | None = None) -> None:
        """Raise BasisError, naming what differs, unless this basis fits the site, number of layers and width to be
        edited, and was made of that model's weights. The same weights in another precision give a warning."""
        depth, known_width, _ = self.q.shape
        pairs: list[tuple[str, object, object]] = [("site", self.site, site), ("layers", depth, layers)]
        pairs += [("width", known_width, width)]
        differing = [pair for pair in pairs if pair[1] != pair[2]]
        differences = [f"{name} {here} (the model: {there})" for name, here, there in differing]
        if not differences and model is not None and not self.card.get("any_model"):
            differences = self._differences(model)
        if differences:
            other = self.card.get("of_model") or self.card.get("model") or "another model"
            anyway = "" if differing else ", or use it all the same with --any-model (in Python: basis.for_any_model())"
            made_for = f"this noise basis was made for {other}: {', '.join(differences)}"
            raise BasisError(f"{made_for}; calibrate this model{anyway}")

    def _differences(self, model: Identity) -> list[str]:
        """How the model that this basis was made for differs from another one. Raises BasisError for a released basis
        whose model is not known."""
        if "released" in self.card and model.family:
            if not (name := self.card.get("of_model")):
                ask = "say it with --of-model NAME (in Python: load_released(..., of_model=NAME))"
                raise BasisError(f"{self.card['released']} does not say which model it was made for: {ask}")
            if not is_named(name, model):
                return [f"family or size (the model: {model.model}, {model.family})"]
        mine = Identity.of_card(self.card)
        match mine.compare(model):
            case "other model":
                return [f"model fingerprint {mine.fingerprint} (the model: {model.fingerprint})"]
            case "other precision":
                precisions = f"{mine.stored} there, {model.stored} here"
                note = f"this noise basis was made of the same weights in another precision: {precisions}"
                warnings.warn(note, stacklevel=4)
        return []

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write basis.safetensors and card.json, all or nothing. Raises BasisError as `write_folder`."""
        card = {**self.card, "site": self.site, "ranks": list(self.ranks), "layers": list(self.layers)}
        return write_folder(folder, KIND, {"q": np.asarray(self.q)}, card, overwrite)

    def facts(self) -> Facts:
        """What its README says; SEE only where `push_to_hub` was given it."""
        see = {f"SEE, {name}": values for name, values in (self.card.get("see") or {}).items()}
        return Facts(KIND, self.site, self.q.shape[1], self.card, self.ranks, self.layers, see)

    @classmethod
    def from_released(cls, name: str) -> "NoiseBasis":
        """A basis that the paper's authors released, such as "qwen2.5-omni/crowd", from their repository at a pinned
        commit, once. Raises BasisError: an unknown name, no connection, or another file than they released."""
        from seen_jax.subspace.released import load_by_name

        return load_by_name(name)

    @classmethod
    def load(cls, folder: str | Path) -> "NoiseBasis":
        """Read a saved basis. Raises BasisError where it is missing, damaged or inconsistent."""
        tensors, card = read_folder(folder, KIND, ("site", "ranks", "layers"))
        if set(tensors) != {"q"}:
            raise BasisError(f"{folder} holds tensors {sorted(tensors)}, expected q")
        try:
            ranks, layers = (tuple(int(i) for i in card[name]) for name in ("ranks", "layers"))
            return cls(str(card["site"]), jnp.asarray(tensors["q"]), ranks, layers, card)
        except (TypeError, ValueError) as error:
            raise BasisError(f"the card of {folder} is damaged ({error}): make the basis again") from error
        except BasisError as error:
            raise BasisError(f"{folder}: {error}") from error


register(NoiseBasis, leaves=("q",), static=("site", "ranks", "layers", "card"))


def pad_rank(q: Any, least: int = 0) -> Any:
    """q [..., R] with zero columns up to the next multiple of `RANK_MULTIPLE` that is not below R or `least`."""
    columns = -(-max(least, q.shape[-1], 1) // RANK_MULTIPLE) * RANK_MULTIPLE - q.shape[-1]
    if not columns:
        return q
    widths = [(0, 0)] * (q.ndim - 1) + [(0, columns)]
    return jnp.pad(q, widths) if isinstance(q, jax.core.Tracer) else np.pad(np.asarray(q), widths)


def union(bases: Sequence[NoiseBasis]) -> NoiseBasis:
    """One basis for several noises of one site and model: orthonormal columns that span all of theirs, in order of how
    much the bases share them. It keeps every layer that any of them keeps.

    bases: each takes part at the layers that it keeps. BasisError: none, or of different sites, shapes or models.
    >>> subspace.union([basis, basis]).ranks == basis.ranks
    True
    """
    if not bases:
        raise BasisError("a union needs at least one noise basis")
    first = bases[0]
    depth, width = first.q.shape[:2]
    for other in bases[1:]:
        other.check(first.site, depth, width, Identity.of_card(first.card))
    spans: list[np.ndarray] = []
    for layer in range(depth):
        parts = [np.asarray(b.q[layer, :, : b.ranks[layer]], np.float64) for b in bases if layer in b.layers]
        u, s, _ = np.linalg.svd(np.concatenate([np.zeros((width, 1)), *parts], axis=1), full_matrices=False)
        spans.append(u[:, s > _UNION_FLOOR])
    layers = tuple(sorted({layer for basis in bases for layer in basis.layers}))
    shared: dict[str, Any] = {key: first.card[key] for key in MODEL_KEYS if key in first.card}
    return NoiseBasis.of_columns(first.site, spans, layers, {**shared, "union": [b.card for b in bases]})
