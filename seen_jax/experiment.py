"""A whole experiment in one call: answers, studies, tables and report, all of it resumable."""

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from seen_jax.api import score_groups
from seen_jax.audio.mix import mix_at_snr
from seen_jax.evaluate.answer import answer_clean, answer_unit
from seen_jax.evaluate.config import ExperimentConfig
from seen_jax.evaluate.findings import diagnoses
from seen_jax.evaluate.hosts import ALONE, Hosts
from seen_jax.evaluate.ledger import ANSWERS, Ledger, remove_experiment
from seen_jax.evaluate.prepare import Experiment, Unit, prepare, request_of
from seen_jax.evaluate.tables import UP_TO, Trial, json_rows, make_tables, to_csv
from seen_jax.files import LOCK, locked, to_json, write_file
from seen_jax.mitigations.base import NONE
from seen_jax.models.batching import Group, filled
from seen_jax.models.processor import Bucket
from seen_jax.models.sites import ENCODER_SITES
from seen_jax.progress import Progress, automatic
from seen_jax.registry import STUDIES
from seen_jax.report.blocks import Section
from seen_jax.report.format import Target
from seen_jax.report.players import ExampleClip, telling_snr
from seen_jax.report.write import write_report
from seen_jax.studies.run import run_studies
from seen_jax.subspace import NoiseBasis

EXAMPLES = 2  # of each task, that the report plays


class Results(NamedTuple):
    experiment: Experiment
    trials: Sequence[Trial]
    tables: Mapping[str, pd.DataFrame]  # by name, as the studies
    studies: Mapping[str, pd.DataFrame]


def evaluate(
    config: ExperimentConfig, progress: Progress = automatic, hosts: Hosts = ALONE, overwrite: bool = False
) -> dict[str, Any]:
    """Run what is not done yet of an experiment, and write its tables and report anew.

    progress: called as progress(stage, done, in all). hosts: this process among those that share the work, of
    `seen_jax.evaluate.hosts.join`; all need the same config and folder. overwrite: whether to begin anew where the
    folder holds an experiment; only what that one wrote is deleted.
    Returns what summary.json holds and, as "page", the path of the report; a process that does not lead, only "out"
    and, once its share is done, the number of its "answers". Raises ConfigError, CheckpointError, AudioError and
    BasisError: what was done stays, and the next call resumes it."""
    with locked(config.folder(), f"{LOCK}-{hosts.index}" if hosts.index else LOCK):
        return _evaluate(config, Clock(progress), hosts, overwrite)


def _evaluate(config: ExperimentConfig, clock: "Clock", hosts: Hosts, overwrite: bool) -> dict[str, Any]:
    folder = config.folder()
    if overwrite and hosts.leads:
        remove_experiment(folder)
    experiment = prepare(config, clock, hosts)
    results = run(experiment, clock, hosts)
    if results is None:
        return {"out": str(folder), "answers": experiment.count_answers(share_of(experiment, hosts))}
    summary = summarise(experiment, results.tables)
    write_file(folder / "summary.json", to_json(summary))
    clock("writing the report", 0, 1)
    studies = [(STUDIES[name], rows) for name, rows in results.studies.items()]
    sections = [Section(study.title, study.section(rows, Target(folder))) for study, rows in studies]
    seconds = {stage: round(seconds, 2) for stage, seconds in clock.times.items() if stage}
    manifest = {**experiment.manifest, "note": config.note, "seconds": seconds}
    headline = [number for study, rows in studies for number in study.headline(rows)]
    page = write_report(folder, manifest, results.tables, sections, list(example_clips(results)), headline)
    clock("writing the report", 1, 1)
    return {**summary, "page": str(page.resolve())}


def run(experiment: Experiment, progress: Progress = automatic, hosts: Hosts = ALONE) -> Results | None:
    """Answer what is not answered yet, run the studies, and write all tables; None in a process that does not lead."""
    config = experiment.config
    ledger = answer_units(experiment, progress, hosts)
    if not hosts.leads:
        return None
    studies = run_studies(experiment, progress) if config.studies else {}
    units = experiment.units

    def count() -> tuple[int, int]:
        ledger.refresh()
        done = experiment.count_answers(unit for unit in units if unit.key in ledger.done)
        return done, experiment.count_answers(units)

    needed = "answers of other processes: start those that stopped again, or this one without hosts to do the rest here"
    hosts.wait(count, "waiting for the other processes", progress, needed)
    ledger.gather([unit.key for unit in units])  # as one process would have written them
    trials = [Trial.from_json(row) for row in ledger.rows()]
    bases = {(n, label): experiment.basis(n, label) for label in experiment.mitigations for n in experiment.noises}
    tables = make_tables(trials, config.seed)
    measured = itertools.chain(*(STUDIES[name].findings(rows) for name, rows in studies.items()))
    diagnosed = diagnoses(experiment.calibrations, bases, measured)
    tables |= {"bases": basis_table(experiment, bases), "diagnoses": diagnosed}
    for name, table in {**tables, **{f"study_{name}": table for name, table in studies.items()}}.items():
        write_file(config.folder() / "tables" / f"{name}.csv", to_csv(table))
    return Results(experiment, trials, tables, studies)


class Clock:
    """A progress callback that also measures how long each stage takes."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.stage, self.begun = progress, "", time.monotonic()
        self.times: defaultdict[str, float] = defaultdict(float)

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        self.times[self.stage] += now - self.begun
        self.stage, self.begun = stage, now
        self.progress(stage, done, total)


def share_of(experiment: Experiment, hosts: Hosts) -> list[Unit]:
    """The units of this process: whole parts, whose noises share their clean answers."""
    return [unit for unit in experiment.units if hosts.owns(unit.part)]


def answer_units(experiment: Experiment, progress: Progress, hosts: Hosts) -> Ledger:
    """Answer what is not answered yet of this process's share."""
    ledger, share = Ledger(experiment.config.folder() / ANSWERS, hosts.index), share_of(experiment, hosts)
    pending = [unit for unit in share if unit.key not in ledger.done]
    total = experiment.count_answers(share)
    done = total - experiment.count_answers(pending)
    progress("answering", done, total)
    for _, units in itertools.groupby(pending, key=lambda unit: unit.part):
        clean = None
        for unit in units:
            clean = clean or answer_clean(experiment, unit)
            ledger.add(unit.key, [trial.to_json() for trial in answer_unit(experiment, unit, clean)])
            done += experiment.count_answers([unit])
            progress("answering", done, total)
    return ledger


def basis_table(experiment: Experiment, bases: Mapping[tuple[str, str], NoiseBasis]) -> pd.DataFrame:
    """The basis of every noise and mitigation: ranks and kept layers, and where localisation put l*."""
    columns = ["noise", "mitigation", "site", "calibrated", "localised", "first_layer", "ranks", "layers"]
    rows = []
    for (noise, label), basis in bases.items():
        calibration = experiment.calibrations.get((noise, basis.site))
        place = None if calibration is None else calibration.localization()
        localised = (False, None, None) if place is None else (True, place.found, place.first)
        rows.append((noise, label, basis.site, *localised, list(basis.ranks), list(basis.layers)))
    return pd.DataFrame(rows, columns=columns).astype({"first_layer": "Int64"})


def summarise(experiment: Experiment, tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """The few numbers that say how it went."""
    comparisons, overall, correlations = (tables[name] for name in ("comparisons", "overall", "correlations"))
    gains = comparisons[(comparisons["group"] == UP_TO) & (comparisons["against"] == NONE)].set_index("mitigation")
    clean = overall[overall["snr_db"].isna()].set_index("mitigation")["gsr"]
    columns = {"gsr_clean": clean, "gain": gains["difference"], "low": gains["low"], "high": gains["high"]}
    mitigations = pd.DataFrame(columns, [*experiment.mitigations]).fillna({"gain": 0.0})
    summary: dict[str, Any] = {"out": str(experiment.config.folder()), "model": experiment.model.name}
    summary |= {"answers": len(tables["answers"]), "failed": len(tables["failures"])}
    summary["mitigations"] = json_rows(mitigations.rename_axis("name").reset_index())
    intervals = correlations[["dataset", "task", "noise", "pearson", "pearson_low", "pearson_high"]]
    return {**summary, "pearson": json_rows(intervals)}


def example_clips(results: Results) -> Iterator[ExampleClip]:
    """The first items of each task for the report, the noises in turn, at one SNR."""
    experiment, snr = results.experiment, telling_snr(results.tables["conditions"])
    trials = {(t.dataset, t.item, t.noise, t.snr_db, t.mitigation): t for t in results.trials if t.failed is None}
    mitigated = [label for label in experiment.mitigations if label != NONE]
    labels = {"clean": (None, NONE), "noisy": (snr, NONE), **{f"noisy + {label}": (snr, label) for label in mitigated}}
    shown: Counter[tuple[str, str]] = Counter()
    for dataset, entries in experiment.entries.items():
        for place, entry in enumerate(entries):
            noise = experiment.noises[shown.total() % len(experiment.noises)]
            keys = {name: (dataset, entry.id, noise, *key) for name, key in labels.items()}
            of_item = {name: trials[key] for name, key in keys.items() if key in trials}
            if shown[dataset, entry.task] < EXAMPLES and len(of_item) == len(labels):
                shown[dataset, entry.task] += 1
                yield example_clip(experiment, dataset, place, (noise, snr), of_item)


def example_clip(
    experiment: Experiment, dataset: str, place: int, condition: tuple[str, float], trials: Mapping[str, Trial]
) -> ExampleClip:
    """An item with its waves as an experiment makes them, and SEE over time along the experiment's basis."""
    (noise, snr), model, entries = condition, experiment.model, experiment.entries[dataset]
    item = entries[place].item()
    drawn = experiment.sources[noise].clip(place, len(item.wave), experiment.config.seed, "test")
    waves = {"clean": item.wave, "noisy": mix_at_snr(item.wave, drawn, snr).audio}
    denoisers = ((label, chain) for label, chain in experiment.mitigations.items() if chain.changes_audio)
    for label, chain in itertools.islice(denoisers, 1):
        waves[f"denoised ({label})"] = chain.hear(waves["noisy"])
    basis, indices = experiment.bases[noise], list(range(len(waves)))
    sizes = zip(*(unit.bucket for unit in experiment.units), strict=True)
    bucket = Bucket(*map(max, sizes))  # of all clips: SEE compiles once
    rows = filled(indices, min(experiment.config.batch_size, len(entries)), model.rows)
    group = Group(indices, rows, bucket, text=basis.site not in ENCODER_SITES)
    requests = [request_of(experiment, entries[place], item).with_audio([wave]) for wave in waves.values()]
    scores: Any = score_groups(model, requests, [group], basis, frames=True)
    see: Any = {name: (s.times, basis.mean_see(s.frames)) for name, s in zip(waves, scores, strict=True)}
    return ExampleClip(item.id, item.task, item.prompt, item.answer, noise, snr, waves, trials, see)
