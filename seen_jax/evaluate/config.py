"""Settings of an experiment: which model, data sets, noises, SNRs, mitigations and studies."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from seen_jax.audio.mix import MAX_SNR_DB
from seen_jax.data.datasets import DatasetConfig
from seen_jax.errors import ConfigError
from seen_jax.models.sharding import MeshConfig
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_RESID, check_site
from seen_jax.subspace import Selection

NONE, SEEN, RESTORATION = "none", "seen", "restoration"
SNRS = (-10.0, -5.0, 0.0, 5.0, 10.0, 20.0, 30.0)
STUDIES = (
    *("localisation", "readings", "delta", "pareto", "transfer", "calibration_size", "calibration_snr", "pooling"),
    *("strength", "layers", "partial"),
)
CLIPS, ITEMS = DatasetConfig("seen-tiny/calibration"), DatasetConfig("seen-tiny/demo")
PAPER = Selection()


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """A noise to test with.

    spec: as `noise_source` takes it: a synthetic name, a file, a folder or a corpus. name: in tables; the source's own
    by default. calibrated: whether a basis is made of it; a noise without one is measured and removed with the union
    of the others' bases, as an unseen noise.
    """

    spec: str
    name: str | None = None
    calibrated: bool = True


@dataclasses.dataclass(frozen=True)
class RestorationConfig:
    """What a restoration (`seen_jax.mitigations.restoration`) is fitted to, and how.

    clips of `dataset`, the tasks in turn, clean and with every calibrated noise at each of `snrs`, all after the
    mitigation's denoiser. layer: of the encoder's residual stream, which is edited; negative ones count from the last.
    gate_layers: those that tell the noise of a clip. strength: share of the change that is made. penalty: of the
    ridge. rank: of the maps, None for full; a batch holds layers x clips x width x rank numbers for it. temperature:
    above 1 for softer mixtures of maps.
    """

    dataset: DatasetConfig = CLIPS
    clips: int = 48
    snrs: tuple[float, ...] = (-10.0, -5.0, 0.0, 5.0, 10.0)
    layer: int = 0
    gate_layers: tuple[int, ...] = (0,)
    strength: float = 0.5
    penalty: float = 0.01
    rank: int | None = None
    temperature: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "snrs", tuple(float(snr) for snr in self.snrs))
        object.__setattr__(self, "gate_layers", tuple(self.gate_layers))
        if self.clips < 2:
            raise ConfigError(f"a restoration needs 2 clips or more, not {self.clips}")
        if not self.snrs or len(set(self.snrs)) < len(self.snrs) or not all(abs(s) <= MAX_SNR_DB for s in self.snrs):
            raise ConfigError(f"a restoration needs different SNRs of at most {MAX_SNR_DB:g} dB, not {list(self.snrs)}")
        if not self.gate_layers:
            raise ConfigError("a restoration needs a gate layer or more: [0] is a start")
        if not math.isfinite(self.strength):
            raise ConfigError(f"the strength of a restoration must be a finite number, not {self.strength}")


@dataclasses.dataclass(frozen=True)
class MitigationConfig:
    """What is done about noise: a waveform denoiser, an edit of the model (SEEN or a restoration), or both in turn.

    denoiser: one of `seen_jax.audio.denoise`, with its options. seen: whether SEEN edits the model. site, selection,
    strength: of SEEN; the experiment's own by default. restoration: its settings, None for none.
    """

    name: str
    denoiser: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    seen: bool = False
    site: str | None = None
    selection: Selection | None = None
    strength: float | None = None
    restoration: RestorationConfig | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise ConfigError(f"a mitigation's name has letters, digits and + - . _ only, not {self.name!r}")
        if not self.seen and (self.site, self.selection, self.strength) != (None, None, None):
            raise ConfigError(f"mitigation {self.name}: site, selection and strength belong to SEEN: add `seen: true`")
        if self.seen and self.restoration is not None:
            raise ConfigError(f"mitigation {self.name}: choose SEEN or a restoration, they are not combined")
        if self.site is not None:
            check_site(self.site)


def mitigation(short: str) -> MitigationConfig:
    """ "none", "seen", "restoration", the name of a denoiser, or that and "+seen" or "+restoration"."""
    if short == NONE:
        return MitigationConfig(NONE)
    first, plus, second = short.partition("+")
    edit = second if plus else first if first in (SEEN, RESTORATION) else ""
    if edit not in ("", SEEN, RESTORATION) or (plus and not edit):
        raise ConfigError(
            f"the mitigation {short!r} should be a denoiser and '+seen' or '+restoration', or be written out with its "
            "fields"
        )
    return MitigationConfig(
        short,
        denoiser=first if plus or not edit else None,
        seen=edit == SEEN,
        restoration=RestorationConfig() if edit == RESTORATION else None,
    )


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """Clips of calibration: `clips` of a data set, each paired with a noise of its own at `snr_db` against it."""

    dataset: DatasetConfig = CLIPS
    clips: int = 48
    snr_db: float = 0.0

    def __post_init__(self) -> None:
        if self.clips < 2:
            raise ConfigError(f"a calibration needs 2 clips or more, not {self.clips}")


CALIBRATION, ONE = CalibrationConfig(), MeshConfig()


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """An experiment. Raises ConfigError on values that make no sense.

    Attributes:
        model: "seen-tiny", a Hugging Face folder or a hub name; dtype: of parameters and activations.
        mesh: the devices that it is split over; results do not depend on it.
        out: folder of the results; what is done in it already is not done again.
        datasets: what is asked. limit: at most so many items of each task of a data set.
        calibration: clips that the bases are made of; a clip that is tested is refused.
        noises: names, paths or sections; snrs: in dB.
        mitigations: "none" first; names or sections.
        site, selection, strength: how SEE is measured and SEEN edits, unless a mitigation says otherwise.
        task_prompts: ask in the model's own words for the paper's tasks, unless the data bring prompts.
        permute_choices: offer the choices of every item in another order (drawn by the seed).
        studies: further experiments on calibrations, readings, layers and strengths, of `STUDIES`.
        study_items: items of each data set in the studies.
    """

    model: str = "seen-tiny"
    dtype: str = "float32"
    mesh: MeshConfig = ONE
    out: str = "runs/evaluate"
    datasets: tuple[DatasetConfig, ...] = (ITEMS,)
    limit: int | None = None
    calibration: CalibrationConfig = CALIBRATION
    noises: tuple[NoiseConfig | str, ...] = ("white", "babble", "engine")
    snrs: tuple[float, ...] = SNRS
    mitigations: tuple[MitigationConfig | str, ...] = (NONE, SEEN)
    site: str = ENCODER_MLP_ACT
    selection: Selection = PAPER
    strength: float = 1.0
    task_prompts: bool = True
    permute_choices: bool = False
    studies: tuple[str, ...] = ()
    study_items: int = 24
    batch_size: int = 16
    max_new_tokens: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        noises = tuple(NoiseConfig(n) if isinstance(n, str) else n for n in self.noises)
        arms = tuple(mitigation(m) if isinstance(m, str) else m for m in self.mitigations)
        object.__setattr__(self, "noises", noises)
        object.__setattr__(self, "mitigations", arms)
        object.__setattr__(self, "snrs", tuple(float(snr) for snr in self.snrs))
        check_site(self.site)
        if bad := [snr for snr in (*self.snrs, self.calibration.snr_db) if not abs(snr) <= MAX_SNR_DB]:
            raise ConfigError(f"an SNR must be between -{MAX_SNR_DB:g} and {MAX_SNR_DB:g} dB, not {bad}")
        for name, values in (
            ("snrs", self.snrs),
            ("noises", [noise.name or noise.spec for noise in noises]),
            ("mitigations", [arm.name for arm in arms]),
            ("datasets", [d.name or d.path for d in self.datasets]),
        ):
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{name} must be at least one, each only once, not {list(values)}")
        if arms[0] != MitigationConfig(NONE):
            raise ConfigError(f"the first mitigation must be {NONE!r}: everything is compared with it")
        if self.site == ENCODER_RESID and any(arm.restoration for arm in arms):
            raise ConfigError(f"a restoration edits {ENCODER_RESID}: SEE must be measured at another `site`")
        if not any(noise.calibrated for noise in noises):
            raise ConfigError("at least one noise must be calibrated: bases are made of those")
        if unknown := [study for study in self.studies if study not in STUDIES]:
            raise ConfigError(f"unknown studies {unknown}; there are {', '.join(STUDIES)}")
        lowest = {"limit": 1, "batch_size": 1, "max_new_tokens": 1, "seed": 0, "study_items": 2}
        for name, low in lowest.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise ConfigError(f"{name} must be {low} or more, not {value}")
        for arm in arms:
            if not math.isfinite(self.strength if arm.strength is None else arm.strength):
                raise ConfigError(f"strength must be a finite number, not {arm.strength or self.strength}")

    def folder(self) -> Path:
        return Path(self.out).expanduser()
