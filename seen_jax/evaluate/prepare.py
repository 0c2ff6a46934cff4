"""Everything that an experiment makes once: model, items, noises, calibrations and fitted mitigations."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from seen_jax.audio.sources import NoiseSource, noise_source
from seen_jax.calibrating import calibrate
from seen_jax.data.datasets import DatasetConfig, load_dataset
from seen_jax.data.items import Entry, Item
from seen_jax.data.leakage import SplitGuard
from seen_jax.errors import AudioError, BasisError, ConfigError
from seen_jax.evaluate.config import ExperimentConfig, NoiseConfig
from seen_jax.evaluate.hosts import ALONE, Hosts
from seen_jax.evaluate.ledger import MANIFEST, claim
from seen_jax.evaluate.parts import make_parts
from seen_jax.files import digest, now, versions
from seen_jax.mitigations.base import Fitting, Wave
from seen_jax.mitigations.chain import Chain
from seen_jax.models.load import load
from seen_jax.models.model import Model
from seen_jax.models.processor import Request
from seen_jax.models.prompts import task_messages
from seen_jax.progress import Progress
from seen_jax.subspace import Calibration, NoiseBasis

COMMANDS = ("seen-jax", "cli")  # the program by its name, or python -m seen_jax.cli
SPEECH = ("transcription", "speech")  # tasks whose clips hold voices


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """What is ready before the first answer.

    Attributes:
        entries: the items of every data set. noises are numbered by an item's place here.
        sources: every noise by name, in the order of the configuration.
        calibrations: (noise, site) -> calibration; further ones are added when they are first asked for.
        bases: noise -> the basis along which SEE is measured where a mitigation brings none.
        mitigations: label -> fitted chain.
        manifest: what manifest.json holds.
    """

    config: ExperimentConfig
    model: Model
    entries: Mapping[str, Sequence[Entry]]
    sources: Mapping[str, NoiseSource]
    calibrations: Mapping[tuple[str, str], Calibration]
    bases: Mapping[str, NoiseBasis]
    mitigations: Mapping[str, Chain]
    manifest: Mapping[str, Any]

    @property
    def noises(self) -> tuple[str, ...]:
        return tuple(self.sources)

    def basis(self, noise: str, mitigation: str) -> NoiseBasis:
        """The basis along which SEE of a mitigation is measured."""
        return self.mitigations[mitigation].basis(noise) or self.bases[noise]


def prepare(config: ExperimentConfig, progress: Progress, hosts: Hosts = ALONE) -> Experiment:
    """Load and check everything, claim the folder, and calibrate and fit what is not there yet.

    Of several processes the first claims and calibrates; the others wait for what they need of it.
    """
    mesh = config.mesh.mesh()
    entries = {dataset_name(d): first_of_each_task(load_dataset(d), config.limit) for d in config.datasets}
    wanted = [(config.calibration.dataset, config.calibration.clips)]
    wanted += [data for chain in config.chains for data in chain.data()]
    chosen = {(dataset, count): calibration_entries(dataset, count) for dataset, count in wanted}
    clips = chosen[wanted[0]]
    sources = noise_sources(config, [entry.wave() for entry in clips if entry.task in SPEECH])
    model = load(config.model, config.dtype, mesh, progress)
    hosts.wait_for(config.folder() / MANIFEST, "waiting for process 0", progress, hosts.timeout)
    manifest = claim(config.folder(), make_manifest(config, model, entries, chosen))
    waves = {key: [entry.wave() for entry in part] for key, part in chosen.items()}
    guard = SplitGuard()
    for key, part in chosen.items():
        for entry, wave in zip(part, waves[key], strict=True):
            guard.add(f"{entry.dataset}/{entry.id}", wave)
    check_split(guard, entries, progress)
    noises: Sequence[NoiseConfig] = config.noises  # type: ignore[assignment]
    calibrated = tuple(name for name, noise in zip(sources, noises, strict=True) if noise.calibrated)
    calibrations = _Calibrations(config, model, sources, waves[wanted[0]], progress, hosts)
    fitting = Fitting(
        model=model,
        clips=waves[wanted[0]],
        noises=sources,
        calibrated=calibrated,
        calibration=lambda noise, site: calibrations[noise, site],
        waves=lambda dataset, count: waves[dataset, count],
        site=config.site,
        selection=config.selection,
        strength=config.strength,
        seed=config.seed,
        batch_size=config.batch_size,
        folder=config.folder(),
        wait_for=lambda path, stage: hosts.wait_for(path, f"waiting for process 0: {stage}", progress),
        progress=progress,
    )
    bases = fitting.bases(config.site, config.selection)
    fitted = {c.label: c.fit(dataclasses.replace(fitting, folder=_folder(config, c))) for c in config.chains}
    return Experiment(config, model, entries, sources, calibrations, bases, fitted, manifest)


def _folder(config: ExperimentConfig, chain: Chain) -> Path:
    return config.folder() / "mitigations" / chain.label


class _Calibrations(dict[tuple[str, str], Calibration]):
    """Calibrations by noise and site, from their folders if they are there, else computed and kept."""

    def __init__(
        self,
        config: ExperimentConfig,
        model: Model,
        sources: Mapping[str, NoiseSource],
        waves: Sequence[Wave],
        progress: Progress,
        hosts: Hosts,
    ) -> None:
        self.config, self.model, self.sources, self.waves = config, model, sources, waves
        self.progress, self.hosts = progress, hosts

    def __missing__(self, key: tuple[str, str]) -> Calibration:
        noise, site = key
        config, folder = self.config, self.config.folder() / "calibration" / noise / site
        self.hosts.wait_for(folder, f"waiting for process 0: calibrating {noise}", self.progress)
        if folder.exists():
            try:
                self[key] = Calibration.load(folder)
            except BasisError as error:
                raise ConfigError(f"{error}; or move {folder} away to make it again") from None
            return self[key]
        drawn = [self.sources[noise].clip(i, len(w), config.seed, "calibration") for i, w in enumerate(self.waves)]
        self[key] = calibrate(
            self.model,
            self.waves,
            drawn,
            site,
            config.calibration.snr_db,
            batch_size=config.batch_size,
            card={"noise": noise},
            progress=lambda _, done, total: self.progress(f"calibrating {noise}", done, total),
        )
        self[key].save(folder)
        return self[key]


def noise_sources(config: ExperimentConfig, speech: Sequence[Wave]) -> dict[str, NoiseSource]:
    """The noises by name. speech: clips whose voices "babble" is made of, half of them for each part."""
    noises: Sequence[NoiseConfig] = config.noises  # type: ignore[assignment]
    sources = [noise_source(noise.spec, speech if len(speech) > 1 else ()) for noise in noises]
    named = {noise.name or source.name: source for noise, source in zip(noises, sources, strict=True)}
    if len(named) < len(noises):
        raise ConfigError("two noises have the same name: give each a `name`")
    return named


def dataset_name(dataset: DatasetConfig) -> str:
    """What tables call a data set."""
    return dataset.name or dataset.path


def first_of_each_task(entries: Sequence[Entry], limit: int | None) -> list[Entry]:
    """The first `limit` entries of each task, in their order."""
    count: Counter[str] = Counter()
    kept = []
    for entry in entries:
        count[entry.task] += 1
        if limit is None or count[entry.task] <= limit:
            kept.append(entry)
    return kept


def in_turns(entries: Sequence[Entry]) -> list[int]:
    """Places of entries with the tasks in turn: the first of each task, then the second of each, and so on."""
    tasks: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        tasks.setdefault(entry.task, []).append(i)
    return [i for turn in itertools.zip_longest(*tasks.values()) for i in turn if i is not None]


def calibration_entries(dataset: DatasetConfig, clips: int) -> list[Entry]:
    """So many clips of a data set, the tasks in turn. ConfigError if there are too few."""
    entries = load_dataset(dataset)
    if len(entries) < clips:
        raise ConfigError(f"{dataset_name(dataset)} has {len(entries)} clips for calibration, not {clips}")
    return [entries[i] for i in in_turns(entries)[:clips]]


def make_manifest(
    config: ExperimentConfig,
    model: Model,
    entries: Mapping[str, Sequence[Entry]],
    chosen: Mapping[tuple[DatasetConfig, int], Sequence[Entry]],
) -> dict[str, Any]:
    """What the experiment is (its identity, which a resumed run must share), and where it was begun."""
    identity = config.identity()
    identity["fingerprint"] = model.fingerprint
    identity["items"] = {name: digest(entry.id for entry in part) for name, part in entries.items()}
    identity["clips"] = [digest(entry.id for entry in part) for part in chosen.values()]
    parts = make_parts(entries, config.batch_size)
    parameters = sum(x.size for x in jax.tree.leaves(model.variables))
    return {
        "identity": identity,
        "parts": digest(str(part) for part in parts),
        "created": now(),
        "command": shlex.join(["seen-jax", *sys.argv[1:]]) if Path(sys.argv[0]).stem in COMMANDS else None,
        "versions": versions(),
        "device": f"{jax.local_devices()[0].device_kind} ({jax.default_backend()})",
        "model": {
            "name": model.name,
            "family": model.config.family,
            "fingerprint": model.fingerprint,
            "parameters": parameters,
        },
    }


def check_split(guard: SplitGuard, entries: Mapping[str, Sequence[Entry]], progress: Progress) -> None:
    """Refuse test items that share audio with the calibration. Files that cannot be read fail later, one by one."""
    items = [(name, entry) for name, part in entries.items() for entry in part]
    for done, (name, entry) in enumerate(items, 1):
        try:
            wave = entry.wave()
        except AudioError:
            wave = None
        if wave is not None:
            guard.check(f"{name}/{entry.id}", wave)
        progress("checking the split", done, len(items))


def request_of(experiment: Experiment, entry: Entry, item: Item) -> Request:
    """The question about an item: the data set's own prompt, or the task in the model's words."""
    if not experiment.config.task_prompts or entry.prompt:
        return Request([item.wave], item.prompt)
    if not item.choices and item.question:
        return Request([item.wave], item.question)
    task = "multiple_choice" if item.choices else "transcription"
    names = (experiment.model.name, experiment.model.config.family)
    return Request([item.wave], messages=task_messages(names, task, item.question, item.choices))
