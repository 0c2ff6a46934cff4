"""All that an experiment makes once: model, items, units of work, noises, calibrations and fitted mitigations."""

import contextlib
import dataclasses
import functools
import itertools
import math
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.audio.io import audio_seconds
from seen_jax.audio.sources import NoiseSource, noise_source
from seen_jax.calibrating import calibrate
from seen_jax.data.datasets import DatasetConfig, load_dataset
from seen_jax.data.items import NO_WAVE, Entry, Item
from seen_jax.data.leakage import SplitGuard
from seen_jax.errors import AudioError, BasisError, ConfigError
from seen_jax.evaluate.config import ExperimentConfig
from seen_jax.evaluate.hosts import ALONE, Hosts
from seen_jax.evaluate.ledger import MANIFEST, check_contents, claim
from seen_jax.files import check_name, digest, now, versions
from seen_jax.mitigations.base import Fitting, Wave
from seen_jax.mitigations.chain import Chain
from seen_jax.models import memory
from seen_jax.models.batching import share_buckets
from seen_jax.models.checkpoint import parameter_shapes, read_config
from seen_jax.models.folders import find_folder
from seen_jax.models.load import load
from seen_jax.models.model import Model
from seen_jax.models.precision import dtype_for
from seen_jax.models.processor import Bucket, Request
from seen_jax.models.prompts import task_messages
from seen_jax.progress import Progress
from seen_jax.subspace import Calibration, NoiseBasis

COMMANDS = ("seen-jax", "cli")  # the program by its name, or python -m seen_jax.cli
SPEECH = ("transcription", "speech")  # tasks whose clips hold voices
Entries = Mapping[Any, Sequence[Entry]]  # by data set, or by data set and number of clips


class Part(NamedTuple):
    """Items of a data set, of similar length."""

    dataset: str
    number: int  # in the data set
    places: list[int]  # of the items there
    seconds: list[float]  # of each, 0 where only reading would tell


class Unit(NamedTuple):
    """The least that is done or not done: a part under one noise."""

    key: str  # its name in the ledger
    part: int  # its number among all parts
    dataset: str
    places: list[int]
    noise: str
    bucket: Bucket  # the shape that its batches are padded to


def make_parts(entries: Mapping[str, Sequence[Entry]], size: int) -> list[Part]:
    """All items in parts of at most `size`, data set by data set, from the shortest to the longest. A unit's key
    names a part by its number, so this order decides whether a folder can be resumed: two versions of it must not
    read one ledger. The manifest holds a digest of the parts, and `claim` refuses another one."""
    parts = []
    for name, items in entries.items():
        seconds = [_seconds(entry) for entry in items]
        order = sorted(range(len(items)), key=lambda i: (seconds[i], i))
        for start in range(0, len(order), size):
            places = order[start : start + size]
            parts.append(Part(name, start // size, places, [seconds[i] for i in places]))
    return parts


def _seconds(entry: Entry) -> float:
    if entry.seconds is not None:
        return entry.seconds
    try:
        return 0.0 if entry.parquet_row is not None else audio_seconds(entry.path)
    except AudioError:
        return 0.0


def check_memory(config: ExperimentConfig, entries: Entries) -> None:
    """ConfigError for batches of the longest clips that cannot fit the devices, if JAX knows their memory."""
    if memory.limit() is None:
        return
    shape, family = read_config(find_folder(config.model))
    longest = max((_seconds(entry) for part in entries.values() for entry in part), default=0.0)
    (data, tensor), dtype = config.mesh.devices, dtype_for(config.dtype)
    work = memory.Work(config.batch_size, min(longest, family.framing.longest), data=data, tensor=tensor, dtype=dtype)
    memory.check(config.model, shape, dataclasses.replace(work, new=config.max_new_tokens, weights=config.weights))


def check_length(entry: Entry, model: Model) -> None:
    """AudioError for an item that its file's header says is too long for the model, before it is read."""
    before = 0.0 if entry.seconds is not None else entry.start or 0.0
    model.processor.check_seconds(_seconds(entry) - before)


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """What is ready before the first answer."""

    config: ExperimentConfig
    model: Model
    entries: Entries  # the items of every data set; noises are numbered by an item's place here
    sources: Mapping[str, NoiseSource]  # every noise by name, in the order of the configuration
    calibrations: Mapping[tuple[str, str], Calibration]  # by noise and site: all that bases are made of
    bases: Mapping[str, NoiseBasis]  # of each noise: along these SEE is measured where a mitigation brings none
    mitigations: Mapping[str, Chain]  # fitted, by label
    manifest: Mapping[str, Any]  # what manifest.json holds

    @property
    def noises(self) -> tuple[str, ...]:
        return tuple(self.sources)

    def basis(self, noise: str, mitigation: str) -> NoiseBasis:
        """The basis along which SEE of a mitigation is measured."""
        return self.mitigations[mitigation].basis(noise) or self.bases[noise]

    @functools.cached_property
    def units(self) -> list[Unit]:
        """All units of all processes, one part after the other: which shapes batches share depends on all of them."""
        parts, wanted = make_parts(self.entries, self.config.batch_size), []
        for part in parts:
            entries = [self.entries[part.dataset][i] for i in part.places]
            requests = [request_of(self, entry, entry.item(NO_WAVE)) for entry in entries]
            limit = self.model.processor.family.framing.longest  # an item that is longer fails, and widens no batch
            samples = [[math.ceil(seconds * SAMPLE_RATE) if seconds <= limit else 0] for seconds in part.seconds]
            wanted.append(self.model.processor.bucket(requests, samples))
        return [
            Unit(f"{part.dataset}/{part.number}/{noise}", number, part.dataset, part.places, noise, bucket)
            for number, (part, bucket) in enumerate(zip(parts, share_buckets(wanted), strict=True))
            for noise in self.noises
        ]

    def count_answers(self, units: Iterable[Unit]) -> int:
        """How many answers some units have."""
        per_item = (1 + len(self.config.snrs)) * len(self.config.chains)
        return per_item * sum(len(unit.places) for unit in units)


def prepare(config: ExperimentConfig, progress: Progress, hosts: Hosts = ALONE) -> Experiment:
    """Load and check everything, claim the folder, and calibrate and fit what is not there yet. Of several processes
    the first claims and calibrates; the others wait for what they need of it."""
    mesh, folder = config.mesh.mesh(), config.folder()
    entries = {d.label: first_of_each_task(load_dataset(d), config.limit) for d in config.datasets}
    wanted = [(config.calibration.dataset, config.calibration.clips), *(x for c in config.chains for x in c.data())]
    chosen = {(dataset, count): calibration_entries(dataset, count) for dataset, count in wanted}
    speech = [entry.wave() for entry in chosen[wanted[0]] if entry.task in SPEECH]
    sources = noise_sources(config, speech)
    further = further_noises(config, sources, speech)
    check_memory(config, entries)
    model = load(config.model, config.dtype, mesh, progress, weights=config.weights)
    hosts.wait_for(folder / MANIFEST, "waiting for process 0", progress, hosts.timeout)
    manifest = claim(folder, make_manifest(config, model, entries, chosen))
    waves = {key: [entry.wave() for entry in part] for key, part in chosen.items()}
    contents = check_split(chosen, waves, entries, model, progress)
    contents |= {f"the noise {name}": source.contents() for name, source in (further | sources).items()}
    if hosts.leads:
        check_contents(folder, contents)
    clips = waves[wanted[0]]
    calibrations: dict[tuple[str, str], Calibration] = {}
    wait_for = lambda path, stage: hosts.wait_for(path, f"waiting for process 0: {stage}", progress)

    def calibration(noise: str, site: str) -> Calibration:
        """From its folder if it is there, else computed and kept."""
        key, saved = (noise, site), folder / "calibration" / noise / site
        if key in calibrations:
            return calibrations[key]
        wait_for(saved, f"calibrating {noise}")
        if saved.exists():
            try:
                calibrations[key] = Calibration.load(saved)
            except BasisError as error:
                raise ConfigError(f"{error}; or move {saved} away to make it again") from None
            clean = [digest([wave.tobytes()]) for wave in clips]
            expected = {
                "fingerprint": model.identity(site).fingerprint,
                "noise": noise,
                "snr_db": config.calibration.snr_db,
            }
            card = calibrations[key].card
            differences = [name for name, value in expected.items() if card.get(name) != value]
            differences += ["clips"] * ((card.get("data") or {}).get("clean") != clean)
            if calibrations[key].site != site or differences:
                what = ", ".join(differences or ["site"])
                raise ConfigError(f"{saved} is a calibration of another {what}: move it away to make it again")
        else:
            drawn = [sources[noise].clip(i, len(wave), config.seed, "calibration") for i, wave in enumerate(clips)]
            tick = lambda _, done, total: progress(f"calibrating {noise}", done, total)
            options: Any = {"batch_size": config.batch_size, "card": {"noise": noise}, "progress": tick}
            calibrations[key] = calibrate(model, clips, drawn, site, config.calibration.snr_db, **options)
            calibrations[key].save(saved)
        return calibrations[key]

    calibrated = tuple(name for name, noise in zip(sources, config.all_noises, strict=True) if noise.calibrated)
    of_data = lambda dataset, count: waves[dataset, count]
    settings = config.site, config.selection, config.strength, config.seed, config.batch_size
    files = folder / "mitigations", wait_for, progress
    fitting = Fitting(model, clips, sources, calibrated, calibration, of_data, *settings, *files, further)
    bases = fitting.bases(config.site, config.selection)
    fitted = {chain.label: chain.fit(fitting) for chain in config.chains}
    return Experiment(config, model, entries, sources, calibrations, bases, fitted, manifest)


def noise_sources(config: ExperimentConfig, speech: Sequence[Wave]) -> dict[str, NoiseSource]:
    """The noises by name. speech: clips whose voices "babble" is made of, half of them for each part."""
    noises = config.all_noises
    sources = [noise_source(noise.spec, speech if len(speech) > 1 else ()) for noise in noises]
    names = [check_name("noise", n.name or source.name) for n, source in zip(noises, sources, strict=True)]
    named = dict(zip(names, sources, strict=True))
    if len(named) < len(noises):
        raise ConfigError("two noises have the same name: give each a `name`")
    return named


def further_noises(
    config: ExperimentConfig, sources: Mapping[str, NoiseSource], speech: Sequence[Wave]
) -> dict[str, NoiseSource]:
    """By spec, the noises that mitigations are fitted to and that are no names of the experiment's (`sources`). The
    spec of one of those is that one. ConfigError for an unknown one, and for recordings that are tested."""
    by_spec = {noise.spec: source for noise, source in zip(config.all_noises, sources.values(), strict=True)}
    further: dict[str, NoiseSource] = {}
    for chain in config.chains:
        where = f"mitigation {chain.label}"
        for spec in [spec for spec in chain.noise_specs() if spec not in sources and spec not in further]:
            try:
                source = by_spec.get(spec) or noise_source(spec, speech if len(speech) > 1 else ())
            except ConfigError as error:
                raise ConfigError(f"{where}: {error} Noises of the experiment: {', '.join(sources)}.") from None
            if spec not in by_spec and source.name in {*sources, *(other.name for other in further.values())}:
                raise ConfigError(f"{where}: there is another noise with the name of {spec}, {source.name}: rename it")
            for name, tested in sources.items():
                if spec not in by_spec and (paths := source.reaches_test(tested)):
                    reason = f"{paths[0]} is fitted as part of {spec} and tested as part of {name}"
                    raise ConfigError(f"{where}: {reason}; name {name} instead, which is fitted on its other part")
            check_name("noise", source.name)
            further[spec] = source
    return further


def first_of_each_task(entries: Sequence[Entry], limit: int | None) -> list[Entry]:
    """The first `limit` entries of each task, in their order."""
    turns: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
    return [entry for entry in entries if limit is None or next(turns[entry.task]) < limit]


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
        raise ConfigError(f"{dataset.label} has {len(entries)} clips for calibration, not {clips}")
    return [entries[i] for i in in_turns(entries)[:clips]]


def make_manifest(config: ExperimentConfig, model: Model, entries: Entries, chosen: Entries) -> dict[str, Any]:
    """What the experiment is (its identity, which a resumed run must share), and where it was begun."""
    identity = config.identity()
    identity |= {"fingerprint": model.fingerprint, "dtype": model.dtype}
    identity["model_settings"] = digest([repr(model.config), str(model.processor.tokenizer.chat_template)])
    identity["items"] = {name: digest(entry.id for entry in part) for name, part in entries.items()}
    identity["clips"] = [digest(entry.id for entry in part) for part in chosen.values()]
    about = {"name": model.name, "family": model.config.family, "fingerprint": model.fingerprint}
    return {
        "identity": identity,
        "parts": digest(str(part) for part in make_parts(entries, config.batch_size)),
        "created": now(),
        "command": shlex.join(["seen-jax", *sys.argv[1:]]) if Path(sys.argv[0]).stem in COMMANDS else None,
        "versions": versions(),
        "device": f"{jax.local_devices()[0].device_kind} ({jax.default_backend()})",
        "model": {**about, "parameters": sum(map(math.prod, parameter_shapes(model.config).values()))},
    }


def check_split(
    chosen: Entries, waves: Mapping[Any, Sequence[Wave]], entries: Entries, model: Model, progress: Progress
) -> dict[str, str]:
    """Refuse test items (`entries`) that share audio with the clips that bases and mitigations are made of (`chosen`,
    `waves`). Returns digests of all audio. Files that cannot be read fail later, one by one."""
    guard, clips = SplitGuard(), []
    for key, part in chosen.items():
        for entry, wave in zip(part, waves[key], strict=True):
            guard.add(f"{entry.dataset}/{entry.id}", wave)
            clips.append(wave.tobytes())
    items = [(name, entry) for name, part in entries.items() for entry in part]
    read: dict[str, list[str]] = {name: [] for name in entries}
    for done, (name, entry) in enumerate(items, 1):
        with contextlib.suppress(AudioError):
            check_length(entry, model)
            wave = entry.wave()
            guard.check(f"{name}/{entry.id}", wave)
            read[name].append(digest([entry.id, wave.tobytes()]))
        progress("checking the split", done, len(items))
    return {"the clips of calibration": digest(clips), **{f"the data set {n}": digest(x) for n, x in read.items()}}


def request_of(experiment: Experiment, entry: Entry, item: Item) -> Request:
    """The question about an item: the data set's own prompt, or the task in the model's words."""
    if not experiment.config.task_prompts or entry.prompt:
        return Request([item.wave], item.prompt)
    if not item.choices and item.question:
        return Request([item.wave], item.question)
    task = "multiple_choice" if item.choices else "transcription"
    names = (experiment.model.name, experiment.model.config.family)
    return Request([item.wave], messages=task_messages(names, task, item.question, item.choices))
