"""A calibration. Source: arXiv 2601.07331, offline calibration. Axes: L layers, n clips, D width."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.errors import BasisError
from seen_jax.subspace.basis import NoiseBasis
from seen_jax.subspace.card import Facts
from seen_jax.subspace.identity import MODEL_KEYS
from seen_jax.subspace.localize import Curves, Localization, localize, resolve_layers
from seen_jax.subspace.selection import NoiseSource, Selection, select_columns
from seen_jax.subspace.sharing import Shared
from seen_jax.subspace.statistics import Side, Statistics, Streamed
from seen_jax.subspace.store import read_folder, write_folder
from seen_jax.subspace.svd import Directions
from seen_jax.subspace.trees import register

KIND = "calibration"
SIDES = ("clean", "noise")
# card keys in which merged calibrations agree
SHARED = ("fingerprint", "noise", "snr_db", "prompt", "dtype", "weights")
ORIGIN = (*MODEL_KEYS, "noise", "snr_db", "data")  # that a basis takes over
STAMPS = ("date", "versions")  # of the moment of writing
DOUBLE = frozenset({"sums", "clean.factor", "noise.factor", "difference.factor"})  # float64 in a folder


@dataclass(frozen=True, eq=False)
class Calibration(Shared):
    """Pooled activations of clean and noise clips at one site, or factors of their second moments. Bases are selected
    from these without a forward pass. A pytree of the arrays of `source`.

    site, source: as of a `NoiseBasis`; activations of every clip, or what a stream keeps of them.
    card: where they come from, JSON values. Keys that other parts read, all optional: "model" (name or path),
        "fingerprint", "stored" and "sample" (of its weights), "noise" (name), "snr_db", "data" ({"clean": [hashes],
        "noise": [hashes]}).
    >>> calibration
    Calibration('encoder.mlp_act', layers=4, clips=..., width=768, model='seen-tiny', noise='white', snr_db=0.0)
    >>> calibration.select(seen_jax.Selection(method="complement", layers="all")).layers
    (0, 1, 2, 3)
    """

    kind = KIND

    site: str
    source: Statistics | Streamed
    card: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        layers, clips, width = self.source.shape
        origin = "".join(f", {key}={self.card[key]!r}" for key in ("model", "noise", "snr_db") if key in self.card)
        return f"Calibration({self.site!r}, layers={layers}, clips={clips}, width={width}{origin})"

    @property
    def statistics(self) -> Statistics:
        """The activations of every clip. Raises BasisError for a streamed calibration, which has none."""
        if isinstance(self.source, Statistics):
            return self.source
        kept = "this calibration was streamed: it keeps second moments, no activations of single clips"
        raise BasisError(f"{kept}; calibrate without streaming for what needs those")

    def curves(self) -> Curves:
        """Magnitude and direction over the layers, of clean against pure-noise activations."""
        return self.source.curves()

    def localization(self) -> Localization:
        """The first layer to keep (always from pure noise, whatever the noise source of a selection)."""
        return localize(self.curves())

    def directions(self, center: bool = False, noise_source: NoiseSource = "pure") -> tuple[Directions, Directions]:
        """Semantic and noise directions, computed once: a sweep over alpha and delta only masks them. Raises BasisError
        for the noise source "difference" without noisy statistics."""
        return self._directions("clean", center), self._directions(noise_source, center)

    @cached_property
    def _directions(self) -> Callable[[Side, bool], Directions]:
        return cache(self.source.directions)

    def select(self, selection: Selection | None = None) -> NoiseBasis:
        """The noise basis under a selection (default: `Selection()`). It holds all layers and marks those to keep.
        Raises BasisError: as `directions`. ConfigError: layers that this stack does not have."""
        selection, localization = selection or Selection(), self.localization()
        layers = resolve_layers(selection.layers, self.source.shape[0], localization)
        q, ranks = select_columns(*self.directions(selection.center, selection.noise_source), selection)
        card: dict[str, Any] = {key: self.card[key] for key in ORIGIN if key in self.card}
        card |= {"clips": self.source.shape[1], "selection": asdict(selection), "localization": localization._asdict()}
        return NoiseBasis(self.site, q, tuple(ranks.tolist()), layers, card)

    def save(self, folder: str | Path, overwrite: bool = False, ranks: bool = True) -> Path:
        """Write statistics.safetensors and card.json, all or nothing. The card gains site, clips, curves, localisation
        and the ranks of the default selection; ranks=False leaves those out and saves their SVD. Raises BasisError as
        `store.write_folder`: an existing folder is only replaced with overwrite=True."""
        card = {**self.card, "site": self.site, "clips": self.source.shape[1]}
        card["curves"] = {name: np.asarray(curve).tolist() for name, curve in self.curves()._asdict().items()}
        card["localization"] = self.localization()._asdict()
        if ranks:
            card["default_ranks"] = list(self.select().ranks)
        return write_folder(folder, KIND, self.source.tensors(), card, overwrite)

    def facts(self) -> Facts:
        """What its README says: curves, and ranks and SEE of the default selection on its own pooled activations."""
        basis, curves = self.select(), self.curves()._asdict()
        see = {f"SEE, {name}": x.tolist() for name, x in self.source.pooled_see(basis.q).items()}
        columns = {name: np.asarray(curve).tolist() for name, curve in curves.items()} | see
        card = {**basis.card, **self.card, "clips": self.source.shape[1]}
        return Facts(KIND, self.site, self.source.shape[2], card, basis.ranks, basis.layers, columns)

    @classmethod
    def load(cls, folder: str | Path) -> "Calibration":
        """Read a saved calibration. Raises BasisError where it is missing, damaged or inconsistent."""
        tensors, card = read_folder(folder, KIND, ("site",), DOUBLE)
        try:
            return cls(str(card["site"]), _source(tensors, card), card)
        except BasisError as error:
            raise BasisError(f"{folder}: {error}") from error

    def check_like(self, site: str, card: Mapping[str, Any]) -> None:
        """Raise BasisError, naming what differs, unless clips of that site and card may be counted with these."""
        pairs = [("site", self.site, site)]
        pairs += [(key, self.card[key], card[key]) for key in SHARED if key in self.card and key in card]
        if differences := [f"{name} ({mine!r} and {theirs!r})" for name, mine, theirs in pairs if mine != theirs]:
            raise BasisError(f"these calibrations cannot be merged, they differ in {', '.join(differences)}")

    def merge(self, *others: "Calibration") -> "Calibration":
        """One calibration of the clips of all, such as parts of a data set calibrated on several machines. It keeps
        single activations where all of them do. The card holds what all cards agree in, and all hashes. Raises
        BasisError: another site, model, noise, SNR or shape; a clip in two of them; noisy activations in some only."""
        cards = [self.card, *(other.card for other in others)]
        for other in others:
            self.check_like(other.site, other.card)
        data = {side: [h for card in cards for h in (card.get("data") or {}).get(side, ())] for side in SIDES}
        each = [dict.fromkeys(hashes) for card in cards if (hashes := (card.get("data") or {}).get("clean"))]
        if twice := [h for h, count in Counter(h for hashes in each for h in hashes).items() if count > 1]:
            hashes = f"hashes {', '.join(twice[:3])}"
            problem = f"{len(twice)} clean clips are in more than one of these calibrations ({hashes})"
            raise BasisError(f"{problem}: calibrate each clip in one part only")
        sources = [self.source, *(other.source for other in others)]
        kept = [source for source in sources if isinstance(source, Statistics)]
        streams = (source if isinstance(source, Streamed) else Streamed.of(source) for source in sources)
        alike = len(kept) == len(sources)
        whole: Statistics | Streamed = reduce(Statistics.merge, kept) if alike else reduce(Streamed.merge, streams)
        card = {k: v for k, v in self.card.items() if k not in STAMPS and all(c.get(k) == v for c in cards)}
        return Calibration(self.site, whole, {**card, **({"data": data} if each else {})})


register(Calibration, leaves=("source",), static=("site", "card"))


def _source(tensors: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> Statistics | Streamed:
    if {"clean", "noise"} <= set(tensors) <= {"clean", "noise", "noisy"}:
        return Statistics(**tensors)
    if "sums" in tensors and isinstance(card.get("clips"), int):
        return Streamed.from_tensors(tensors, card["clips"])
    raise BasisError(f"it holds tensors {sorted(tensors)}, expected clean, noise and perhaps noisy")
