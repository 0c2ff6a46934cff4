"""Runs an experiment: calibrates, answers every item under every condition, and keeps what it has done."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import operator
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from seen_jax.api import calibrate, per_clip
from seen_jax.audio.denoise import Denoiser, denoiser
from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.audio.io import audio_seconds
from seen_jax.audio.mix import mix_at_snr
from seen_jax.audio.sources import NoiseSource, noise_source
from seen_jax.data.datasets import DatasetConfig, load_dataset
from seen_jax.data.items import Entry, Item
from seen_jax.data.leakage import SplitGuard
from seen_jax.data.letters import answer_letter
from seen_jax.data.permute import permuted_choices
from seen_jax.errors import AudioError, BasisError, ConfigError
from seen_jax.evaluate.config import (
    NONE,
    SEEN,
    ExperimentConfig,
    MitigationConfig,
    NoiseConfig,
)
from seen_jax.evaluate.hosts import ALONE, Hosts, Report
from seen_jax.evaluate.ledger import ANSWERS, MANIFEST, Ledger, Row, claim
from seen_jax.evaluate.metrics import cosine_similarities
from seen_jax.evaluate.sweep import common_rank
from seen_jax.mitigations.restoration import Paired, Restoration, fit_restoration, pair
from seen_jax.models.buckets import Room, share_rooms
from seen_jax.models.edits import Edit
from seen_jax.models.encoder import first_edited
from seen_jax.models.generate import Decoding, generate_each
from seen_jax.models.lalm import Batch
from seen_jax.models.model import Model, load, up_to_multiple
from seen_jax.models.processor import Request
from seen_jax.models.prompts import task_messages
from seen_jax.models.sites import ENCODER_RESID, ENCODER_SITES, Taps
from seen_jax.prefetch import overlapped
from seen_jax.subspace import Calibration, NoiseBasis, union

Wave = Float[np.ndarray, " _"]
COMMANDS = ("seen-jax", "cli")  # as the program may have been started: its own name, or python -m seen_jax.cli
RANKS = 16
NO_WAVE = np.zeros(0, np.float32)  # of an item of which only the words are looked at
SIGNIFICANT = 7  # digits of a float32 that are kept in rows


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to run the model: a basis of a site and SEEN's strength; 0 only measures."""

    name: str
    basis: NoiseBasis
    strength: float


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """Everything that is made once: model, entries and their batches, noises, denoisers, calibrations and bases."""

    config: ExperimentConfig
    model: Model
    entries: Mapping[str, Sequence[Entry]]
    parts: Sequence[Part]
    sources: Mapping[str, NoiseSource]
    denoisers: Mapping[str, Denoiser]
    calibrations: Mapping[tuple[str, str], Calibration]
    bases: Mapping[tuple[str, str], NoiseBasis]  # of a noise and a mitigation
    restorations: Mapping[str, Restoration] = dataclasses.field(default_factory=dict)  # of a mitigation

    @property
    def arms(self) -> tuple[MitigationConfig, ...]:
        return self.config.mitigations  # type: ignore[return-value]

    @property
    def noises(self) -> tuple[str, ...]:
        return tuple(self.sources)

    @functools.cached_property
    def units(self) -> list[Unit]:
        return units(self)

    def answers(self, units: Iterable[Unit]) -> int:
        """How many answers some work has."""
        per_item = (1 + len(self.config.snrs)) * len(self.arms)
        return per_item * sum(len(unit.places) for unit in units)


def prepare(config: ExperimentConfig, report: Report, hosts: Hosts = ALONE) -> Experiment:
    """Load and check everything, claim the folder, and calibrate what is not calibrated yet.

    Of several processes the first claims and calibrates; the others wait for what they need of it.
    """
    mesh = config.mesh.mesh()
    noises: Sequence[NoiseConfig] = config.noises  # type: ignore[assignment]
    arms: Sequence[MitigationConfig] = config.mitigations  # type: ignore[assignment]
    denoisers = {arm.name: denoiser(arm.denoiser, **arm.options) for arm in arms if arm.denoiser}
    entries = {name_of(d): per_task(load_dataset(d), config.limit) for d in config.datasets}
    clips = calibration_entries(config.calibration.dataset, config.calibration.clips)
    further = {a.name: calibration_entries(a.restoration.dataset, a.restoration.clips) for a in arms if a.restoration}
    speech = [e.wave() for e in clips if e.task in ("transcription", "speech")]
    found = [
        noise_source(n.spec, speech if len(speech) > 1 else ()) for n in noises
    ]  # half of the voices for each part
    sources = {n.name or source.name: source for n, source in zip(noises, found, strict=True)}
    if len(sources) < len(noises):
        raise ConfigError("two noises have the same name: give each a `name`")
    tick = lambda done, total: report("loading the model", done, total)  # noqa: E731
    model = load(config.model, config.dtype, mesh, tick)
    folder = config.folder()
    hosts.wait_for(folder / MANIFEST, "waiting for process 0", report, hosts.timeout)
    batches = parts(entries, config.batch_size)
    claim(folder, manifest(config, model, entries, clips, further) | {"batches": digest([str(b) for b in batches])})
    waves = [entry.wave() for entry in clips]
    own_waves = {name: [entry.wave() for entry in own] for name, own in further.items()}
    guard = SplitGuard()
    for part, heard in ((clips, waves), *((further[name], own_waves[name]) for name in further)):
        for entry, wave in zip(part, heard, strict=True):
            guard.add(f"{entry.dataset}/{entry.id}", wave)
    check_split(guard, entries, report)
    sites = dict.fromkeys([config.site, *(arm.site for arm in arms if arm.site)])
    calibrated = [name for name, noise in zip(sources, noises, strict=True) if noise.calibrated]
    calibrations = {}
    for name in calibrated:
        drawn = [sources[name].clip(i, len(wave), config.seed, "calibration") for i, wave in enumerate(waves)]
        for site in sites:
            calibrations[name, site] = calibration_of(
                model, config, folder / "calibration" / name / site, name, site, waves, drawn, report, hosts
            )
    bases = {}
    for arm in arms:
        site, selection = arm.site or config.site, arm.selection or config.selection
        own = {name: calibrations[name, site].select(selection) for name in calibrated}
        together = union(list(own.values())) if len(calibrated) < len(sources) else None
        for name in sources:
            basis = own.get(name, together)
            assert basis is not None
            bases[name, arm.name] = basis
    known = {name: sources[name] for name in calibrated}
    restorations = {
        arm.name: restoration_of(model, config, arm, denoisers.get(arm.name), own_waves[arm.name], known, report, hosts)
        for arm in arms
        if arm.restoration
    }
    return Experiment(config, model, entries, batches, sources, denoisers, calibrations, bases, restorations)


def restoration_of(
    model: Model,
    config: ExperimentConfig,
    arm: MitigationConfig,
    denoise: Denoiser | None,
    waves: Sequence[Wave],
    noises: Mapping[str, NoiseSource],
    report: Report,
    hosts: Hosts,
) -> Restoration:
    """The restoration of a mitigation; what a condition leaves of the clips comes from its file if that is there."""
    settings = arm.restoration
    assert settings is not None
    depth = model.config.site_shape(ENCODER_RESID)[0]
    places = (settings.layer, *settings.gate_layers)
    if bad := [layer for layer in places if not -depth <= layer < depth]:
        raise ConfigError(f"mitigation {arm.name}: there are no layers {bad} among the encoder's {depth}")
    layer, *gate_layers = (place % depth for place in places)
    folder = config.folder() / "restoration" / arm.name
    conditions = [("", 0.0), *itertools.product(noises, settings.snrs)]  # clean audio first
    found = []
    for noise, snr in conditions:
        stage = f"fitting {arm.name}" + (f" to {noise} at {snr:g} dB" if noise else "")
        path = folder / (f"{noise}_{snr:g}.npz" if noise else "clean.npz")
        hosts.wait_for(path, f"waiting for process 0: {stage}", report)
        if path.exists():
            found.append(Paired.load(path))
            continue
        source = noises.get(noise)
        heard = [
            functools.partial(heard_clip, wave, i, source, snr, config.seed, denoise) for i, wave in enumerate(waves)
        ]
        tick = lambda done, total, stage=stage: report(stage, done, total)  # noqa: E731
        clean = waves if noise else None
        found.append(pair(model, heard, clean, layer, gate_layers, config.batch_size, tick))
        found[-1].save(path)
    return fit_restoration(
        found, layer, gate_layers, settings.strength, settings.penalty, settings.rank, settings.temperature
    )


def heard_clip(
    wave: Wave, index: int, noise: NoiseSource | None, snr: float, seed: int, denoise: Denoiser | None
) -> Wave:
    """A clip of calibration under a noise, after a denoiser."""
    if noise is not None:
        wave = mix_at_snr(wave, noise.clip(index, len(wave), seed, "calibration"), snr).audio
    return denoise(wave) if denoise else wave


def per_task(entries: Sequence[Entry], limit: int | None) -> list[Entry]:
    """The first `limit` entries of each task."""
    seen: Counter[str] = Counter()
    kept = []
    for entry in entries:
        seen[entry.task] += 1
        if limit is None or seen[entry.task] <= limit:
            kept.append(entry)
    return kept


def name_of(dataset: DatasetConfig) -> str:
    return dataset.name or dataset.path


def calibration_entries(dataset: DatasetConfig, clips: int) -> list[Entry]:
    """So many clips of a data set, the tasks in turn. ConfigError if there are too few."""
    found = load_dataset(dataset)
    tasks: dict[str, list[Entry]] = {}
    for entry in found:
        tasks.setdefault(entry.task, []).append(entry)
    turns = [own[i] for i in range(len(found)) for own in tasks.values() if i < len(own)]
    if len(turns) < clips:
        raise ConfigError(f"{name_of(dataset)} has {len(turns)} clips for calibration, not {clips}")
    return turns[:clips]


def manifest(
    config: ExperimentConfig,
    model: Model,
    entries: Mapping[str, Sequence[Entry]],
    clips: Sequence[Entry],
    further: Mapping[str, Sequence[Entry]],
) -> dict[str, Any]:
    """What the experiment is (its identity, which a resumed run must share), and where it was begun."""
    fields = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    for free in ("out", "studies", "study_items", "mesh"):
        fields.pop(free)
    sets = {name: digest([entry.id for entry in own]) for name, own in entries.items()}
    identity = {**fields, "fingerprint": model.fingerprint, "items": sets, "clips": digest([e.id for e in clips])}
    identity["restoration_clips"] = {name: digest([e.id for e in own]) for name, own in further.items()}
    return {
        "identity": identity,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["seen-jax", *sys.argv[1:]]) if Path(sys.argv[0]).stem in COMMANDS else None,
        "versions": {name: version(name) for name in ("seen-jax", "jax", "jaxlib", "flax", "numpy", "transformers")},
        "device": f"{jax.local_devices()[0].device_kind} ({jax.default_backend()})",
        "model": {"name": model.name, "family": model.config.family, "fingerprint": model.fingerprint},
    }


def digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def check_split(guard: SplitGuard, entries: Mapping[str, Sequence[Entry]], report: Report) -> None:
    """Refuse test items that share audio with the calibration. Files that cannot be read fail later, one by one."""
    total = sum(map(len, entries.values()))
    done = 0
    for name, own in entries.items():
        for entry in own:
            try:
                wave = entry.wave()
            except AudioError:
                wave = None
            if wave is not None:
                guard.check(f"{name}/{entry.id}", wave)
            done += 1
            report("checking the split", done, total)


def calibration_of(
    model: Model,
    config: ExperimentConfig,
    folder: Path,
    noise: str,
    site: str,
    waves: Sequence[Wave],
    noises: Sequence[Wave],
    report: Report,
    hosts: Hosts,
) -> Calibration:
    """The calibration of a noise and a site, from its folder if it is there."""
    hosts.wait_for(folder, f"waiting for process 0: calibrating {noise}", report)
    if folder.exists():
        try:
            return Calibration.load(folder)
        except BasisError as error:
            raise ConfigError(f"{error}; or move {folder} away to make it again") from None
    found = calibrate(
        model,
        waves,
        noises,
        site,
        config.calibration.snr_db,
        batch_size=config.batch_size,
        card={"noise": noise},
        progress=lambda done, total: report(f"calibrating {noise}", done, total),
    )
    found.save(folder)
    return found


def stacked(settings: Sequence[Setting]) -> dict[str, Edit]:
    """The edits of some settings with a leading axis; every site is in all of them, with strength 0 where not meant.

    Ranks are filled up to a multiple of RANKS, so that noises share compiled programs. Directions that all settings
    have in common have no such axis.
    """
    found = {}
    for site in dict.fromkeys(setting.basis.site for setting in settings):
        here = common_rank({str(i): s.basis for i, s in enumerate(settings) if s.basis.site == site}, RANKS)
        other = next(iter(here.values()))
        bases = [here.get(str(i)) for i in range(len(settings))]
        scales = [(b or other).strengths(s.strength if b else 0.0) for b, s in zip(bases, settings, strict=True)]
        q = [np.asarray((b or other).q) for b in bases]
        one = len({id(s.basis) for s in settings if s.basis.site == site}) == 1
        found[site] = Edit(*jax.device_put((q[0] if one else np.stack(q), np.stack([np.asarray(x) for x in scales]))))
    return found


def measured(settings: Sequence[Setting]) -> dict[str, Edit]:
    """The same where no setting edits: SEE of every basis from one pass that all of them share."""
    each = lambda u: u if u.ndim > 3 else jnp.broadcast_to(u, (len(settings), *u.shape))  # noqa: E731
    return {site: Edit(u=each(edit.u), scale=None) for site, edit in stacked(settings).items()}


@dataclasses.dataclass(frozen=True)
class Heard:
    """What came of one clip under one setting. see, see_after: SEE per layer, before and after the edit; energy: raw
    projected energy per layer before it; pooled: mean activations [L, D] at the experiment's site, after it."""

    output: str
    see: list[float]
    see_after: list[float]
    energy: list[float]
    pooled: Float[np.ndarray, "layers width"]


def hear(
    experiment: Experiment,
    batch: Batch,
    rows: Sequence[Sequence[Sequence[int]]],
    settings: Sequence[Setting],
    restoration: Restoration | None = None,
) -> list[list[Heard]]:
    """Answers of a batch of one-clip requests under each setting, in one compiled call: [setting][request].

    Settings of strength 0 share one pass through the model, if all are.
    """
    model, config = experiment.model, experiment.config
    lalm = model.tapped(Taps((config.site,)))
    decoding = Decoding(config.max_new_tokens)
    shared = restoration.edit(model, batch.audio) if restoration else None
    edits = stacked(settings) if any(setting.strength for setting in settings) else measured(settings)
    first = first_edited(model.config.encoder, edits | (shared or {}))
    out = jax.device_get(generate_each(lalm, model.variables, batch, edits, decoding, shared, first, model.flight))
    tokens, lengths = out.tokens, out.lengths
    clips = [clip for own in rows for clip in own]

    def of_clips(site: str, values: np.ndarray) -> np.ndarray:
        return per_clip(model, site, values, batch.frames, clips) if site in ENCODER_SITES else values

    found = []
    for s, setting in enumerate(settings):
        site, see = setting.basis.site, out.see[setting.basis.site]
        texts = model.processor.decode(tokens[s], lengths[s])
        before, after, energy = (
            of_clips(site, np.asarray(x[s], np.float32)) for x in (see.before, see.after, see.energy)
        )
        pooled = of_clips(config.site, np.asarray(out.taps[config.site][s], np.float32))
        found.append(
            [
                Heard(text, short(before[:, b]), short(after[:, b]), short(energy[:, b]), pooled[:, b])
                for b, text in enumerate(texts)
            ]
        )
    return found


def short(values: Float[np.ndarray, " layers"]) -> list[float]:
    """Numbers as they go into a row: no more digits than a float32 has."""
    return [float(f"{float(x):.{SIGNIFICANT}g}") for x in values]


class Part(NamedTuple):
    """A batch of items of a data set, of like length. number: in it; places: of the items; seconds: of each, 0 where
    only reading would tell."""

    dataset: str
    number: int
    places: list[int]
    seconds: list[float]


def parts(entries: Mapping[str, Sequence[Entry]], size: int) -> list[Part]:
    """All batches, of `size` items at most."""
    found = []
    for name, own in entries.items():
        length = [seconds_of(entry) for entry in own]
        order = sorted(range(len(own)), key=lambda i: (length[i], i))
        for b in range(0, len(order), size):
            places = order[b : b + size]
            found.append(Part(name, b // size, places, [length[i] for i in places]))
    return found


class Unit(NamedTuple):
    """The least that is done or not done: a batch of items under one noise.

    batch: its number among those of all data sets. places: of the items in their data set. room: what they are padded
    to.
    """

    key: str
    batch: int
    dataset: str
    places: list[int]
    noise: str
    room: Room


def units(experiment: Experiment) -> list[Unit]:
    """All the work, of all processes: which shapes batches share depends on all of them."""
    wanted = []
    for part in experiment.parts:
        entries = [experiment.entries[part.dataset][i] for i in part.places]
        requests = [request_of(experiment, entry, entry.item(NO_WAVE)) for entry in entries]
        samples = [[math.ceil(seconds * SAMPLE_RATE)] for seconds in part.seconds]
        wanted.append(experiment.model.processor.room(requests, samples))
    return [
        Unit(f"{part.dataset}/{part.number}/{noise}", batch, part.dataset, part.places, noise, room)
        for batch, (part, room) in enumerate(zip(experiment.parts, share_rooms(wanted), strict=True))
        for noise in experiment.noises
    ]


def seconds_of(entry: Entry) -> float:
    """Length of an entry without reading its audio; 0 where only reading would tell."""
    if entry.seconds is not None:
        return entry.seconds
    try:
        return 0.0 if entry.parquet_row is not None else audio_seconds(entry.path)
    except AudioError:
        return 0.0


def request_of(experiment: Experiment, entry: Entry, item: Item) -> Request:
    """The question about an item: the data set's own prompt, or the task in the model's words."""
    if not experiment.config.task_prompts or entry.prompt:
        return Request([item.wave], item.prompt)
    task = "multiple_choice" if item.choices else "transcription"
    if not item.choices and item.question:
        return Request([item.wave], item.question)
    names = (experiment.model.name, experiment.model.config.family)
    return Request([item.wave], messages=task_messages(names, task, item.question, item.choices))


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """The items of a batch that can be read, with the prompts of all of them; filled up with the first to one shape.

    places: of the items in their data set. rows: which item each of the batch's rows asks about; owners: the encoder
    rows of each. failed: why the others cannot be read.
    """

    places: list[int]
    items: list[Item]
    rows: list[int]
    room: Room
    batch: Batch
    owners: list[list[list[int]]]
    failed: dict[int, str]


def asked(experiment: Experiment, unit: Unit) -> Asked | dict[int, str]:
    """What there is to ask about some items of a data set; why not, if none of them can be read."""
    config, entries = experiment.config, experiment.entries[unit.dataset]
    items: dict[int, Item] = {}
    failed: dict[int, str] = {}
    for i in unit.places:
        try:
            item = entries[i].item()
            experiment.model.processor.checked(item.wave)
        except AudioError as error:
            failed[i] = str(error)
            continue
        items[i] = permuted_choices(item, config.seed)[0] if config.permute_choices and item.choices else item
    if not items:
        return failed
    places = list(items)
    size = up_to_multiple(min(config.batch_size, len(entries)), experiment.model.rows)
    rows = [*range(len(places)), *[0] * (size - len(places))]
    requests = [request_of(experiment, entries[places[k]], items[places[k]]) for k in rows]
    batch, owners = experiment.model.processor.prepared(requests, room=unit.room)
    return Asked(places, list(items.values()), rows, unit.room, batch, owners, failed)


Answers = dict[tuple[str, str], list[Heard]]  # of a noise and a mitigation


def answers(
    experiment: Experiment, ask: Asked, heard: Sequence[Sequence[Wave]], noises: Sequence[str]
) -> Iterator[Answers]:
    """Answers under every mitigation to each of some versions of the audio of all items.

    noises: whose bases SEEN takes away. Where nothing is edited SEE is measured along those of all noises, in one pass
    of one shape. Denoisers run ahead of the model, each once.
    """
    kinds = alike(experiment.arms)

    def prepare(job: tuple[Sequence[Wave], list[MitigationConfig]]) -> tuple[Batch, list[MitigationConfig]]:
        waves, arms = job
        return dataclasses.replace(ask.batch, features=features_of(experiment, ask, waves, arms[0])), arms

    def told(job: tuple[Batch, list[MitigationConfig]]) -> Answers:
        found: Answers = {}
        batch, arms = job
        for own in calls(arms):
            for together in [[noise] for noise in noises] if own[0].seen else [experiment.noises]:
                pairs = list(itertools.product(together, own))
                settings = [setting_of(experiment, arm, noise) for noise, arm in pairs]
                each = hear(experiment, batch, ask.owners, settings, experiment.restorations.get(own[0].name))
                found |= {(noise, arm.name): said for (noise, arm), said in zip(pairs, each, strict=True)}
        return found

    found = overlapped(itertools.product(heard, kinds), prepare, told, experiment.model.concurrent)
    for _ in heard:
        yield functools.reduce(operator.or_, itertools.islice(found, len(kinds)))


def calls(arms: Sequence[MitigationConfig]) -> list[list[MitigationConfig]]:
    """Mitigations that hear the same audio, by what edits the model: nothing, SEEN, or a restoration each."""
    found: dict[str, list[MitigationConfig]] = {}
    for arm in arms:
        found.setdefault(arm.name if arm.restoration else SEEN if arm.seen else NONE, []).append(arm)
    return list(found.values())


def features_of(experiment: Experiment, ask: Asked, waves: Sequence[Wave], arm: MitigationConfig) -> Any:
    """Features of all rows, after the denoiser of a mitigation if it has one."""
    if arm.denoiser:
        waves = [experiment.denoisers[arm.name](wave) for wave in waves]
    return experiment.model.processor.audio([waves[k] for k in ask.rows], ask.room)[0].features


def alike(arms: Sequence[MitigationConfig]) -> list[list[MitigationConfig]]:
    """Mitigations that hear the same audio, those without a denoiser first."""
    found: dict[str, list[MitigationConfig]] = {"": []}
    for arm in arms:
        key = json.dumps([arm.denoiser, arm.options], sort_keys=True, default=str) if arm.denoiser else ""
        found.setdefault(key, []).append(arm)
    return list(found.values())


class Clean:
    """What clean audio gave for the last batch: it is the same under every noise, so it is answered once."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self._of: tuple[str, list[int]] | None = None
        self._ask: Asked | dict[int, str] = {}
        self._answers: Answers = {}

    def __call__(self, unit: Unit) -> tuple[Asked | dict[int, str], Answers]:
        if self._of != (unit.dataset, unit.places):
            self._ask, self._answers = asked(self.experiment, unit), {}
            if isinstance(self._ask, Asked):
                waves = [item.wave for item in self._ask.items]
                [self._answers] = answers(self.experiment, self._ask, [waves], self.experiment.noises)
            self._of = unit.dataset, unit.places
        return self._ask, self._answers


def run_unit(experiment: Experiment, clean: Clean, unit: Unit) -> list[Row]:
    """Rows of one batch of items under one noise: clean, and at every SNR, under every mitigation."""
    config, dataset, noise = experiment.config, unit.dataset, unit.noise
    entries = experiment.entries[dataset]
    ask, quiet = clean(unit)
    failed = dict(ask if isinstance(ask, dict) else ask.failed)
    noisy: dict[int, list[Wave]] = {}
    for i, item in [] if isinstance(ask, dict) else zip(ask.places, ask.items, strict=True):
        try:
            drawn = experiment.sources[noise].clip(i, len(item.wave), config.seed, "test")
            noisy[i] = [mix_at_snr(item.wave, drawn, snr).audio for snr in config.snrs]
        except AudioError as error:
            failed[i] = str(error)
    levels = (None, *config.snrs)
    rows = [
        blank(dataset, entries[i], noise, snr, arm.name) | {"failed": why}
        for i, why in failed.items()
        for snr in levels
        for arm in experiment.arms
    ]
    if isinstance(ask, dict) or not noisy:
        return rows
    of_items = [noisy.get(i, [item.wave] * len(config.snrs)) for i, item in zip(ask.places, ask.items, strict=True)]
    heard = [list(waves) for waves in zip(*of_items, strict=True)]
    for snr, found in zip(levels, itertools.chain([quiet], answers(experiment, ask, heard, [noise])), strict=True):
        for arm, (k, i) in itertools.product(experiment.arms, enumerate(ask.places)):
            if i not in noisy:
                continue
            row = row_of(experiment, dataset, entries[i], ask.items[k], noise, snr, arm, found[noise, arm.name][k])
            if arm.seen and not arm.denoiser and snr is not None and (arm.site or config.site) == config.site:
                four = (of[noise, name][k].pooled for name in (NONE, arm.name) for of in (quiet, found))
                act, act_noise, deact, deact_noise = four
                row["cosines"] = cosines(act, deact, act_noise, deact_noise)
            rows.append(row)
    return rows


def setting_of(experiment: Experiment, arm: MitigationConfig, noise: str) -> Setting:
    strength = experiment.config.strength if arm.strength is None else arm.strength
    return Setting(arm.name, experiment.bases[noise, arm.name], strength if arm.seen else 0.0)


def blank(dataset: str, entry: Entry, noise: str, snr: float | None, mitigation: str) -> Row:
    """The part of a row that says what was asked."""
    return {
        "dataset": dataset,
        "task": entry.task,
        "item": entry.id,
        "noise": noise,
        "snr_db": snr,
        "mitigation": mitigation,
    }


def row_of(
    experiment: Experiment,
    dataset: str,
    entry: Entry,
    item: Item,
    noise: str,
    snr: float | None,
    arm: MitigationConfig,
    heard: Heard,
) -> Row:
    basis = experiment.bases[noise, arm.name]
    mean = lambda per_layer: short(np.asarray(basis.mean_see(np.asarray(per_layer, np.float32)))[None])[0]  # noqa: E731
    return blank(dataset, entry, noise, snr, arm.name) | {
        "output": heard.output,
        "letter": answer_letter(heard.output, item.choices) if item.letter else None,
        "right": item.letter or None,
        "reference": item.answer if not item.letter and item.answer else None,
        "see": mean(heard.see),
        "see_after": mean(heard.see_after),
        "layers": heard.see,
        "layers_after": heard.see_after,
        "energy": heard.energy,
    }


def cosines(act: np.ndarray, deact: np.ndarray, act_noise: np.ndarray, deact_noise: np.ndarray) -> dict[str, float]:
    """The six similarities of the released scripts, None where undefined."""
    found = cosine_similarities(act, deact, act_noise, deact_noise)
    return {name: short(np.asarray([x]))[0] for name, x in found.items() if np.isfinite(x)}


def run(experiment: Experiment, report: Report, hosts: Hosts = ALONE) -> Ledger:
    """Do what is not done yet of this process's share: whole batches, for all noises have their clean answers in
    common."""
    ledger = Ledger(experiment.config.folder() / ANSWERS, hosts.index)
    share = [unit for unit in experiment.units if hosts.owns(unit.batch)]
    pending = [unit for unit in share if unit.key not in ledger.done]
    total = experiment.answers(share)
    done = total - experiment.answers(pending)
    report("answering", done, total)
    clean = Clean(experiment)
    for unit in pending:
        ledger.add(unit.key, run_unit(experiment, clean, unit))
        done += experiment.answers([unit])
        report("answering", done, total)
    return ledger


def gather(experiment: Experiment, ledger: Ledger, report: Report, hosts: Hosts = ALONE) -> None:
    """Wait until all processes have done their shares, and leave the answers as one process would have."""
    work = experiment.units
    total = experiment.answers(work)

    def progress() -> tuple[int, int]:
        ledger.refresh()
        return experiment.answers(unit for unit in work if unit.key in ledger.done), total

    needed = "answers of other processes: start those that stopped again, or this one without hosts to do the rest here"
    hosts.wait(progress, "waiting for the other processes", report, needed=needed)
    ledger.gather([unit.key for unit in work])
