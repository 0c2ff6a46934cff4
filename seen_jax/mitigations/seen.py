"""SEEN: the noise subspace is projected out of the activations (paper section 3.3)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from seen_jax.edits import projection
from seen_jax.errors import ConfigError
from seen_jax.mitigations.base import Fitting, Mitigation
from seen_jax.models.edits import Edits
from seen_jax.models.encoder import Audio
from seen_jax.models.sites import check_site
from seen_jax.subspace import NoiseBasis, Selection


@dataclasses.dataclass(frozen=True)
class Seen(Mitigation):
    """site: where it edits; selection: of the basis; strength: lambda. None: the experiment's own."""

    name: ClassVar[str] = "seen"
    site: str | None = None
    selection: Selection | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        if self.site is not None:
            check_site(self.site)
        if self.strength is not None and not math.isfinite(self.strength):
            raise ConfigError(f"strength must be a finite number, not {self.strength}")

    def fit(self, fitting: Fitting) -> Mitigation:
        """Select the basis of every noise."""
        strength = fitting.strength if self.strength is None else self.strength
        bases = fitting.bases(self.site or fitting.site, self.selection or fitting.selection)
        edits = {noise: projection(fitting.model, basis, strength) for noise, basis in bases.items()}
        return FittedSeen(bases, edits)


@dataclasses.dataclass(frozen=True, eq=False)
class FittedSeen(Mitigation):
    """The bases and edits of every noise."""

    bases: Mapping[str, NoiseBasis]
    by_noise: Mapping[str, Edits]

    def edits(self, audio: Audio, noises: Sequence[str]) -> Mapping[str, Edits]:
        return {noise: self.by_noise[noise] for noise in noises}

    def basis(self, noise: str) -> NoiseBasis:
        return self.bases[noise]
