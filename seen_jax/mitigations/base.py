"""What is done about noise: to the audio before the model hears it, to the model's activations, or both in turn."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from seen_jax.audio.sources import NoiseSource
from seen_jax.data.datasets import DatasetConfig
from seen_jax.models.edits import Edits
from seen_jax.models.encoder import Audio
from seen_jax.models.model import Model
from seen_jax.progress import Progress
from seen_jax.subspace import Calibration, NoiseBasis, Selection, union

Wave = Float[np.ndarray, " _"]
NONE = "none"  # the mitigation without steps, with which all others are compared
SEEN = "seen"  # the one that is SEEN alone, with the settings of the experiment


@dataclasses.dataclass(frozen=True, eq=False)
class Fitting:
    """What a mitigation may be fitted to, and where it may keep what it computes.

    clips: calibration clips, 16 kHz mono float32.
    noises, calibrated: every noise of the experiment; those that bases and maps may be made of. The part "calibration"
        of a noise is for fitting.
    further: other noises, by the spec with which `Mitigation.noise_specs` asks for them.
    calibration: (noise, site) -> its calibration, computed once and kept on disk.
    waves: (data set, how many) -> further clips, of those that `Mitigation.data` asks for.
    site, selection, strength: the experiment's own, for a mitigation that states none.
    folder: for files that survive an interruption. All mitigations share it, so a path must say all that its file
        depends on. `wait_for(path, stage)` must be called before a file is looked for there, so that of several
        processes only the first writes it.
    hear, audio_key: what earlier steps of a chain do to the audio; the same for chains that do the same to it."""

    model: Model
    clips: Sequence[Wave]
    noises: Mapping[str, NoiseSource]
    calibrated: tuple[str, ...]
    calibration: Callable[[str, str], Calibration]
    waves: Callable[[DatasetConfig, int], Sequence[Wave]]
    site: str
    selection: Selection
    strength: float
    seed: int
    batch_size: int
    folder: Path
    wait_for: Callable[[Path, str], None]
    progress: Progress
    further: Mapping[str, NoiseSource] = dataclasses.field(default_factory=dict)
    hear: Callable[[Wave], Wave] = lambda wave: wave
    audio_key: str = ""
    _bases: dict[tuple[str, Selection], dict[str, NoiseBasis]] = dataclasses.field(default_factory=dict, repr=False)

    def sources(self, specs: Sequence[str] | None) -> dict[str, NoiseSource]:
        """By name, the noises to fit to: those that names or specs mean, or the calibrated ones (None)."""
        known = {**self.further, **self.noises}
        sources = [known[spec] for spec in (self.calibrated if specs is None else specs)]
        name = {source: name for name, source in self.noises.items()}
        return {name.get(source, source.name): source for source in sources}

    def bases(self, site: str, selection: Selection) -> dict[str, NoiseBasis]:
        """A basis for every noise; one that is not calibrated gets the union of the others, as an unseen noise. The
        same arguments give the same objects, so that edits along them share their directions."""
        key = site, selection
        if key not in self._bases:
            known = {noise: self.calibration(noise, site).select(selection) for noise in self.calibrated}
            others = [noise for noise in self.noises if noise not in known]
            bases = known | (dict.fromkeys(others, union([*known.values()])) if others else {})
            self._bases[key] = {noise: bases[noise] for noise in self.noises}
        return self._bases[key]


@dataclasses.dataclass(frozen=True)
class Mitigation:
    """Base class of all kinds; by itself it does nothing. A subclass is a frozen dataclass whose fields are its options
    in a configuration file; `name` is its key there. It overrides `hear`, `edits` or both. One that has to be fitted
    returns from `fit` an object that is ready."""

    name: ClassVar[str] = ""

    def data(self) -> Sequence[tuple[DatasetConfig, int]]:
        """Data sets, and how many clips of each, that `fit` reads beside the calibration clips; none may be tested."""
        return ()

    def noise_specs(self) -> Sequence[str]:
        """Noises that `fit` reads beside the calibrated ones: names of the experiment's, or specs of `noise_source`."""
        return ()

    def fit(self, fitting: Fitting) -> "Mitigation":
        """The mitigation, fitted to a model, clips and noises."""
        return self

    def hear(self, wave: Wave) -> Wave:
        """What the model hears in place of a wave (16 kHz mono float32), of the same length. Runs in threads."""
        return wave

    def edits(self, audio: Audio, noises: Sequence[str]) -> Mapping[str, Edits]:
        """{noise: {site: Edit}} of the forward pass over a batch (the encoder's inputs, after `hear`), for every noise
        that it may hold. Edits that do not depend on the noise should be one object for all."""
        return {noise: {} for noise in noises}

    def basis(self, noise: str) -> NoiseBasis | None:
        """The basis that it removes, along which SEE is then measured; None: measure along the experiment's."""
        return None

    @property
    def changes_audio(self) -> bool:
        """Whether it overrides `hear`: mitigations that do not share one pass over the same audio."""
        return type(self).hear is not Mitigation.hear
