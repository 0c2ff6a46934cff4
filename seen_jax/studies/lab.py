"""What the studies work on: a few items that are mixed with every noise, and further calibrations."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from seen_jax.audio import NoiseSource, mix_at_snr
from seen_jax.calibrating import mixed
from seen_jax.data.datasets import load_dataset
from seen_jax.data.items import Item
from seen_jax.data.leakage import SplitGuard
from seen_jax.data.letters import answer_letter
from seen_jax.data.permute import permuted_choices
from seen_jax.errors import AudioError, ConfigError
from seen_jax.evaluate import metrics
from seen_jax.evaluate.config import ExperimentConfig
from seen_jax.evaluate.prepare import Experiment, calibration_entries, in_turns, request_of
from seen_jax.evaluate.tables import BENDS
from seen_jax.models.batching import Prepared, Wave, group_requests, run_batches
from seen_jax.models.model import Model
from seen_jax.models.pooling import pool
from seen_jax.models.processor import DEFAULT_PROMPT, Request
from seen_jax.progress import Progress, shifted, silent
from seen_jax.subspace import Calibration, NoiseBasis, Statistics, union

Level = float | None  # an SNR in dB, None: clean
Hear = Callable[[int], Wave] | None  # of `run_batches`
Make = Callable[[], list[dict[str, Any]]]  # rows of JSON values
Once = Callable[[str, Make], list[dict[str, Any]]]


def make_anew(name: str, make: Make) -> list[dict[str, Any]]:
    return make()


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """An item of the studies. index: its place in its data set, which decides its noises; these are as long as it."""

    index: int
    item: Item
    request: Request
    noises: Mapping[str, Wave]

    def wave(self, noise: str, snr: Level) -> Wave:
        """The audio at a level of a noise."""
        return self.item.wave if snr is None else mix_at_snr(self.item.wave, self.noises[noise], snr).audio


@dataclasses.dataclass(frozen=True, eq=False)
class Lab:
    """What all studies of an experiment share. subjects: the items, from the shortest to the longest. clips: of
    calibration, the experiment's own first. calibrations: {(noise, site)}, at the experiment's SNR and of its clips.
    once: called as once(name, make), makes a part of a study unless an interrupted run has made it."""

    config: ExperimentConfig
    model: Model
    sources: Mapping[str, NoiseSource]
    subjects: Sequence[Subject]
    clips: Sequence[Wave]
    calibrations: Mapping[tuple[str, str], Calibration]
    progress: Progress = silent
    once: Once = make_anew

    @property
    def noises(self) -> list[str]:
        return list(self.sources)

    @property
    def calibrated(self) -> list[str]:
        """The noises that have bases of their own."""
        return [noise for noise in self.sources if (noise, self.config.site) in self.calibrations]

    @property
    def levels(self) -> list[Level]:
        return [None, *self.config.snrs]

    @property
    def low(self) -> list[Level]:
        """The SNRs at which a gain of GSR is measured."""
        return [snr for snr in self.config.snrs if snr <= BENDS]

    def sites(self, sites: Sequence[str]) -> list[str]:
        """Those among the sites of a study at which the experiment wants it."""
        return [site for site in sites if self.config.study_sites is None or site in self.config.study_sites]

    def calibration(self, noise: str) -> Calibration:
        return self.calibrations[noise, self.config.site]

    def basis(self, noise: str) -> NoiseBasis:
        """The experiment's basis for a noise; the union of all for one that is not calibrated."""
        return self.calibration(noise).select(self.config.selection) if noise in self.calibrated else self.union()

    def union(self) -> NoiseBasis:
        return union([self.basis(noise) for noise in self.calibrated])

    def run(
        self,
        run: Callable[[Prepared], list[Any]],
        stage: str,
        hear: Hear,
        part: tuple[int, int] = (0, 1),
        size: int = 0,
    ) -> list[Any]:
        """`run_batches` on the subjects. part: of the stage, one of how many."""
        requests = [subject.request for subject in self.subjects]
        progress = shifted(self.progress, *(n * len(requests) for n in part))
        groups = group_requests(self.model, requests, size or self.config.batch_size)
        return run_batches(self.model, requests, run, groups, hear, progress, stage)

    def answers(self, outputs: Sequence[str]) -> list[str]:
        """What GSR compares, from the output for every subject."""
        letter = lambda text, item: answer_letter(text, item.choices) if item.letter else None
        pairs = zip(outputs, self.subjects, strict=True)
        return [metrics.answer(text, letter(text, subject.item)) for text, subject in pairs]


def open_lab(experiment: Experiment, sites: Sequence[str], clips: int, progress: Progress = silent) -> Lab:
    """The lab of an experiment, with calibrations at further sites and, if its data set has them, further clips.
    ConfigError if no item can be read and mixed with every noise."""
    waves, calibrations = clips_of(experiment, clips), experiment.calibrations
    subjects = sorted(subjects_of(experiment), key=lambda subject: len(subject.item.wave))
    if not subjects:
        raise ConfigError("no item of the studies can be read and mixed with every noise")
    lab = Lab(experiment.config, experiment.model, experiment.sources, subjects, waves, calibrations, progress)
    usual = experiment.config.calibration
    known = lambda site: all((noise, site) in lab.calibrations for noise in lab.calibrated)
    missing = [site for site in dict.fromkeys(lab.sites(sites)) if not known(site)]
    made = calibrate(lab, missing, usual.snr_db, usual.clips) if missing else {}
    return dataclasses.replace(lab, calibrations={**made, **lab.calibrations})


def subjects_of(experiment: Experiment) -> Iterator[Subject]:
    """The items that can be read and mixed with every noise."""
    config, sources = experiment.config, experiment.sources.items()
    for entries in experiment.entries.values():
        for i in sorted(in_turns(entries)[: config.study_items]):
            with contextlib.suppress(AudioError):
                item = entries[i].item()
                if config.permute_choices and item.choices:
                    item = permuted_choices(item, config.seed)
                experiment.model.processor.checked(item.wave)
                noises = {name: source.clip(i, len(item.wave), config.seed, "test") for name, source in sources}
                for noise in noises.values():
                    mix_at_snr(item.wave, noise, 0.0)
                yield Subject(i, item, request_of(experiment, entries[i], item), noises)


def clips_of(experiment: Experiment, count: int) -> list[Wave]:
    """The experiment's clips of calibration, then readable, untested ones of their data set, up to `count` in all."""
    dataset, clips = experiment.config.calibration.dataset, experiment.config.calibration.clips
    known = calibration_entries(dataset, clips)
    waves = [entry.wave() for entry in known]
    others = [entry for entry in load_dataset(dataset) if entry not in known] if count > clips else []
    guard = SplitGuard()
    for entry in (entry for entries in experiment.entries.values() for entry in entries if others):
        with contextlib.suppress(AudioError):
            guard.add(entry.id, entry.wave())
    for entry in others:
        if len(waves) < count:
            with contextlib.suppress(AudioError, ConfigError):  # broken, or tested
                wave = entry.wave()
                guard.check(entry.id, wave)
                waves.append(wave)
    return waves


def calibrate(lab: Lab, sites: Sequence[str], snr: float, clips: int) -> dict[tuple[str, str], Calibration]:
    """{(noise, site)} of every calibrated noise, of the first `clips` clips; all sites in one pass."""
    model, calibrations = lab.model, {}
    clean: dict[str, np.ndarray] = {}
    for noise in lab.calibrated:
        parts = {}
        for kind, waves in calibration_waves(lab, noise, snr, clips).items():
            args = (DEFAULT_PROMPT, lab.config.batch_size, lab.progress, f"calibrating {noise}")
            parts[kind] = clean if kind == "clean" and clean else pool(model, waves, sites, *args)
        clean = parts["clean"]
        card = {"noise": noise, "snr_db": snr}
        for site in sites:
            statistics = Statistics(**{kind: part[site] for kind, part in parts.items()})
            calibrations[noise, site] = Calibration(site, statistics, {**model.identity(site).card(), **card})
    return calibrations


def calibration_waves(lab: Lab, noise: str, snr: float, clips: int) -> dict[str, list[Wave]]:
    """The first clips of calibration ("clean"), their noises ("noise") and both together ("noisy")."""
    clean, source = lab.clips[:clips], lab.sources[noise]
    drawn = [source.clip(i, len(wave), lab.config.seed, "calibration") for i, wave in enumerate(clean)]
    return mixed(zip(clean, drawn, strict=True), snr)
