"""A calibration: pooled activations of clean and noise clips at one site, from which bases are selected.

Source: arXiv 2601.07331, offline calibration. Axes: L layers, n clips, D width.
The pooled activations themselves are stored: every option of `Selection` can change without a forward pass.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from seen_jax.errors import BasisError
from seen_jax.subspace.basis import NoiseBasis
from seen_jax.subspace.localize import Curves, Localization, layer_curves, localize, resolve_layers
from seen_jax.subspace.selection import NoiseSource, Selection, select_columns
from seen_jax.subspace.store import read_folder, write_folder
from seen_jax.subspace.svd import Directions, right_singular

KIND = "calibration"


@dataclass(frozen=True, eq=False)
class Statistics:
    """Activations pooled per clip at one site, on the host, float32 (other float arrays are converted).

    Attributes:
        clean: [L, n, D], clean requests.
        noise: [L, n, D], pure-noise clips, aligned pair by pair with the clean ones.
        noisy: [L, n, D], the clean requests with their noise mixed in, or None.

    Raises:
        BasisError: different or empty shapes, NaN or infinite values.
    """

    clean: Float[np.ndarray, "layers n width"]
    noise: Float[np.ndarray, "layers n width"]
    noisy: Float[np.ndarray, "layers n width"] | None = None

    def __post_init__(self) -> None:
        for name in ("clean", "noise", "noisy"):
            value = getattr(self, name)
            if value is None and name == "noisy":
                continue
            array = np.asarray(value, np.float32)
            object.__setattr__(self, name, array)
            if array.ndim != 3 or 0 in array.shape:
                raise BasisError(f"{name} activations must be [layers, clips, width], not {list(array.shape)}")
            if array.shape != self.clean.shape:
                raise BasisError(
                    f"{name} activations are {list(array.shape)}, the clean ones {list(self.clean.shape)}: "
                    "calibrate with as many noise clips as clean ones, at the same site"
                )
            if not np.isfinite(array).all():
                bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2))).tolist()
                raise BasisError(f"{name} activations hold NaN or infinite values in layers {bad}")


@dataclass(frozen=True, eq=False)
class Calibration:
    """The statistics of one site and one noise, with a card of JSON values that says where they come from.

    Card keys that other parts read, all optional: "model" (name or path), "fingerprint" (of its weights),
    "noise" (name), "snr_db", "data" ({"clean": [hashes], "noise": [hashes]}).
    """

    site: str
    statistics: Statistics
    card: dict[str, Any] = field(default_factory=dict)
    _directions: dict[tuple[str, bool], Directions] = field(default_factory=dict, init=False, repr=False)  # a cache

    def curves(self) -> Curves:
        """Magnitude and direction over the layers, of clean against pure-noise activations."""
        return layer_curves(self.statistics.clean, self.statistics.noise)

    def localization(self) -> Localization:
        """The first layer to keep (always from pure noise, whatever the noise source of a selection)."""
        return localize(self.curves())

    def directions(self, center: bool = False, noise_source: NoiseSource = "pure") -> tuple[Directions, Directions]:
        """Semantic and noise directions, computed once: what a sweep over alpha and delta masks.

        Raises:
            BasisError: noise_source "difference" without noisy statistics.
        """
        stats = self.statistics
        noise = stats.noise
        if noise_source == "difference":
            if stats.noisy is None:
                raise BasisError(
                    "noise_source='difference' needs noisy activations, which this calibration lacks: "
                    "calibrate with noisy clips"
                )
            noise = stats.noisy - stats.clean
        for name, matrix in (("clean", stats.clean), (noise_source, noise)):
            if (name, center) not in self._directions:
                self._directions[name, center] = right_singular(matrix, center)
        return self._directions["clean", center], self._directions[noise_source, center]

    def select(self, selection: Selection | None = None) -> NoiseBasis:
        """The noise basis under a selection (default: `Selection()`); it holds all layers and marks the kept.

        Raises:
            BasisError: as `directions`. ConfigError: layers that this stack does not have.
        """
        selection = selection or Selection()
        localization = self.localization()
        layers = resolve_layers(selection.layers, self.statistics.clean.shape[0], localization)
        q, ranks = select_columns(*self.directions(selection.center, selection.noise_source), selection)
        origin: dict[str, Any] = {
            key: self.card[key] for key in ("model", "fingerprint", "noise", "snr_db", "data") if key in self.card
        }
        card: dict[str, Any] = {
            **origin,
            "clips": self.statistics.clean.shape[1],
            "selection": asdict(selection),
            "localization": localization._asdict(),
        }
        return NoiseBasis(self.site, q, tuple(ranks.tolist()), layers, card)

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write statistics.safetensors and card.json, all or nothing.

        The card gains site, curves, localisation and the ranks of the default selection. Raises BasisError as
        `store.write_folder`: an existing folder is only replaced with overwrite=True.
        """
        curves, localization = self.curves(), self.localization()
        card: dict[str, Any] = {
            **self.card,
            "site": self.site,
            "curves": {name: np.asarray(c).tolist() for name, c in curves._asdict().items()},
            "localization": localization._asdict(),
            "default_ranks": list(self.select().ranks),
        }
        tensors = {"clean": self.statistics.clean, "noise": self.statistics.noise}
        if self.statistics.noisy is not None:
            tensors["noisy"] = self.statistics.noisy
        return write_folder(folder, KIND, tensors, card, overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> "Calibration":
        """Read a saved calibration. Raises BasisError where it is missing, damaged or inconsistent."""
        tensors, card = read_folder(folder, KIND, ("site",))
        if not {"clean", "noise"} <= set(tensors) <= {"clean", "noise", "noisy"}:
            raise BasisError(f"{folder} holds tensors {sorted(tensors)}, expected clean, noise and perhaps noisy")
        try:
            return cls(str(card["site"]), Statistics(**tensors), card)
        except BasisError as error:
            raise BasisError(f"{folder}: {error}") from error
