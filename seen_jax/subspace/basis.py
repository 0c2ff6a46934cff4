"""The noise basis: per layer a few orthonormal directions that stand for noise, and the layers to use.

Axes: L layers, D width, R rank padded with zero columns, r_l rank of layer l (may be 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from seen_jax.errors import BasisError
from seen_jax.subspace.localize import NamedLayers, resolve_layers
from seen_jax.subspace.store import read_folder, write_folder

KIND = "noise basis"
_UNION_FLOOR = 1e-3  # what two unit directions closer than this differ by is rounding, not a direction
_ORTHONORMAL = 1e-4


@dataclass(frozen=True, eq=False)
class NoiseBasis:
    """Q of every layer of one site. `q` and `strengths(...)` go into a compiled forward pass as data.

    Attributes:
        site: name of the place in the layer stack, for instance "encoder.mlp_act".
        q: [L, D, R] float32; the first r_l columns of layer l are orthonormal, the others zero.
        ranks: r_l of all L layers.
        layers: the kept layers, ascending; the others are neither measured nor edited.
        card: where it comes from (model, fingerprint, noise, SNR, selection), JSON values.

    Raises:
        BasisError: parts that do not fit each other, columns that are not orthonormal, NaN.
    """

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
        scaled = np.multiply(kept, strength, dtype=np.float32)
        return jnp.asarray(jax.device_put(scaled))  # on the host nothing is compiled

    def with_layers(self, layers: NamedLayers | tuple[int, ...]) -> "NoiseBasis":
        """The same directions, other layers kept. Raises ConfigError on unknown layers and on "auto"."""
        return replace(self, layers=resolve_layers(layers, len(self.ranks)))

    def truncate(self, rank: int) -> "NoiseBasis":
        """At most `rank` leading directions per layer; 0 empties the basis. BasisError when negative."""
        if rank < 0:
            raise BasisError(f"a noise basis cannot be cut to rank {rank}: use 0 or more")
        ranks = tuple(min(r, rank) for r in self.ranks)
        width = max(1, *ranks)
        return replace(self, q=self.q[..., :width] * (np.arange(width) < rank).astype(np.float32), ranks=ranks)

    def check(self, site: str, layers: int, width: int, fingerprint: str | None = None) -> None:
        """Raise BasisError, naming what differs, unless this basis fits the model.

        Args: the site, number of layers and width to be edited; fingerprints count where both have one.
        """
        own = self.card.get("fingerprint")
        pairs: list[tuple[str, object, object]] = [
            ("site", self.site, site),
            ("layers", self.q.shape[0], layers),
            ("width", self.q.shape[1], width),
        ]
        if own is not None and fingerprint is not None:
            pairs.append(("model fingerprint", own, fingerprint))
        if wrong := [f"{name} {mine} (the model: {theirs})" for name, mine, theirs in pairs if mine != theirs]:
            made = self.card.get("model") or "another model"
            raise BasisError(f"this noise basis was made for {made}: {', '.join(wrong)}; calibrate this model")

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write basis.safetensors and card.json, all or nothing. Raises BasisError as `write_folder`."""
        card = {**self.card, "site": self.site, "ranks": list(self.ranks), "layers": list(self.layers)}
        return write_folder(folder, KIND, {"q": np.asarray(self.q)}, card, overwrite)

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


def union(bases: Sequence[NoiseBasis]) -> NoiseBasis:
    """One basis for several noises of one site and model: orthonormal columns that span all of theirs.

    A basis takes part at the layers that it keeps; the union keeps every layer that any of them keeps.
    Columns are in order of how much the bases share them.

    Raises:
        BasisError: no basis at all, or bases of different sites, shapes or models.
    """
    if not bases:
        raise BasisError("a union needs at least one noise basis")
    first = bases[0]
    depth, width = first.q.shape[:2]
    for other in bases[1:]:
        other.check(first.site, depth, width, first.card.get("fingerprint"))
    found: list[np.ndarray] = []
    for layer in range(depth):
        parts = [np.asarray(b.q[layer, :, : b.ranks[layer]], np.float64) for b in bases if layer in b.layers]
        u, s, _ = np.linalg.svd(np.concatenate([np.zeros((width, 1)), *parts], axis=1), full_matrices=False)
        found.append(u[:, s > _UNION_FLOOR])
    ranks = tuple(q.shape[1] for q in found)
    q = np.zeros((depth, width, max(1, *ranks)), np.float32)
    for layer, own in enumerate(found):
        q[layer, :, : own.shape[1]] = own
    layers = tuple(sorted({layer for basis in bases for layer in basis.layers}))
    shared: dict[str, Any] = {key: first.card[key] for key in ("model", "fingerprint") if key in first.card}
    return NoiseBasis(first.site, jnp.asarray(q), ranks, layers, {**shared, "union": [b.card for b in bases]})
