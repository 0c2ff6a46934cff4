"""Settings of an experiment: which model, data sets, noises, SNRs, mitigations and studies."""

import dataclasses
import functools
import json
import math
import os
from pathlib import Path
from typing import Any

from seen_jax.audio.mix import MAX_SNR_DB
from seen_jax.data.datasets import DatasetConfig
from seen_jax.errors import ConfigError
from seen_jax.mitigations.base import NONE
from seen_jax.mitigations.chain import Chain, make_chain
from seen_jax.models.precision import dtype_for
from seen_jax.models.quantized import check_weights
from seen_jax.models.sharding import MeshConfig
from seen_jax.models.sites import ENCODER_MLP_ACT, check_site
from seen_jax.registry import STUDIES
from seen_jax.subspace import Selection

SNRS = (-10.0, -5.0, 0.0, 5.0, 10.0, 20.0, 30.0)
CLIPS, ITEMS = DatasetConfig("seen-tiny/calibration"), DatasetConfig("seen-tiny/demo")
ONE_DEVICE, PAPER = MeshConfig(), Selection()
FREE = ("out", "studies", "study_items", "study_sites", "mesh", "note")  # what a resumed experiment may change


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """A noise to test with."""

    spec: str  # as `noise_source` takes it: a synthetic name, a file, a folder or a corpus
    name: str | None = None  # in tables; the source's own by default
    calibrated: bool = True  # bases are made of it; else it is unseen: measured and removed with the others' union


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """Clips of calibration: `clips` of a data set, each paired with a noise of its own at `snr_db` against it."""

    dataset: DatasetConfig = CLIPS
    clips: int = 48
    snr_db: float = 0.0

    def __post_init__(self) -> None:
        if self.clips < 2:
            raise ConfigError(f"a calibration needs 2 clips or more, not {self.clips}")


CALIBRATION = CalibrationConfig()


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """An experiment. mitigations: "none" first; names such as "wiener+seen", or sections of a name and kinds with their
    options. site, selection, strength: how SEE is measured and SEEN edits, unless a mitigation says otherwise. Raises
    ConfigError on values that make no sense."""

    model: str = "seen-tiny"  # or a Hugging Face folder or a hub name
    dtype: str = "auto"  # of parameters and activations: float32 on a CPU, bfloat16 or float16 on an accelerator
    weights: str | None = None  # int8, int8-all or int4: matrices in few bits (`load`)
    mesh: MeshConfig = ONE_DEVICE  # the devices that the model is split over; results do not depend on it
    out: str = "runs/evaluate"  # folder of the results; what it already holds is not done again
    note: str = ""  # shown in the report, for example where the selection comes from
    datasets: tuple[DatasetConfig, ...] = (ITEMS,)  # what is asked
    limit: int | None = None  # at most so many items of each task of a data set
    calibration: CalibrationConfig = CALIBRATION  # clips that the bases are made of; a clip that is tested is refused
    noises: tuple[NoiseConfig | str, ...] = ("white", "babble", "engine")  # names, paths or sections
    snrs: tuple[float, ...] = SNRS  # in dB
    mitigations: tuple[dict[str, Any] | str, ...] = (NONE, "seen")
    site: str = ENCODER_MLP_ACT
    selection: Selection = PAPER
    strength: float = 1.0
    task_prompts: bool = True  # ask in the model's own words for the paper's tasks, unless the data bring prompts
    permute_choices: bool = False  # offer the choices of every item in another order (drawn by the seed)
    studies: tuple[str, ...] = ()  # names of further experiments on calibrations, selections, layers and strengths
    study_items: int = 24  # of each data set in the studies
    study_sites: tuple[str, ...] | None = None  # where studies of several sites look (default: at all of theirs)
    batch_size: int = 16  # items at a time
    max_new_tokens: int = 32  # of an answer
    seed: int = 0  # of noises, resampling and orders

    def __post_init__(self) -> None:
        noises = self.all_noises
        object.__setattr__(self, "noises", noises)
        object.__setattr__(self, "snrs", tuple(float(snr) for snr in self.snrs))
        for site in (self.site, *(self.study_sites or ())):
            check_site(site)
        dtype_for(self.dtype)
        check_weights(self.weights)
        if bad := [snr for snr in (*self.snrs, self.calibration.snr_db) if not abs(snr) <= MAX_SNR_DB]:
            raise ConfigError(f"an SNR must be between -{MAX_SNR_DB:g} and {MAX_SNR_DB:g} dB, not {bad}")
        noise_names, labels = [n.name or n.spec for n in noises], [chain.label for chain in self.chains]
        named: dict[str, list[Any]] = {"snrs": [*self.snrs], "noises": noise_names, "mitigations": labels}
        for name, values in {**named, "datasets": [d.label for d in self.datasets]}.items():
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{name} must be at least one, each only once, not {values}")
        if self.chains[0] != Chain(NONE):
            raise ConfigError(f"the first mitigation must be {NONE!r}: everything is compared with it")
        if not any(noise.calibrated for noise in noises):
            raise ConfigError("at least one noise must be calibrated: bases are made of those")
        for study in self.studies:
            STUDIES[study]  # refuses an unknown one
        for name, low in {"limit": 1, "batch_size": 1, "max_new_tokens": 1, "seed": 0, "study_items": 2}.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise ConfigError(f"{name} must be {low} or more, not {value}")
        if not math.isfinite(self.strength):
            raise ConfigError(f"strength must be a finite number, not {self.strength}")

    @property
    def all_noises(self) -> tuple[NoiseConfig, ...]:
        """The noises as sections, also those that are given by name."""
        return tuple(NoiseConfig(n) if isinstance(n, str) else n for n in self.noises)

    @functools.cached_property
    def chains(self) -> tuple[Chain, ...]:
        """The mitigations, checked and ready to be fitted."""
        return tuple(make_chain(entry) for entry in self.mitigations)

    def folder(self) -> Path:
        return Path(os.path.expanduser(self.out))

    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share, as JSON values."""
        fields = dataclasses.asdict(self) | {"mitigations": [chain.describe() for chain in self.chains]}
        return json.loads(json.dumps({k: v for k, v in fields.items() if k not in FREE}, default=str))
