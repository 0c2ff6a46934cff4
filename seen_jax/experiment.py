"""A whole experiment in one call: answers, studies, tables and report, all of it resumable."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from seen_jax.api import score_groups
from seen_jax.audio.mix import mix_at_snr
from seen_jax.evaluate.answer import CleanAnswers, answer_unit
from seen_jax.evaluate.config import ExperimentConfig
from seen_jax.evaluate.findings import diagnoses
from seen_jax.evaluate.hosts import ALONE, Hosts
from seen_jax.evaluate.ledger import ANSWERS, Ledger, remove_experiment
from seen_jax.evaluate.prepare import Experiment, prepare, request_of
from seen_jax.evaluate.tables import UP_TO, make_tables, to_csv
from seen_jax.evaluate.trials import NONE, Trial
from seen_jax.evaluate.units import Unit, count_answers, make_units
from seen_jax.files import to_json, write_file
from seen_jax.models.batching import Group, filled, replaced
from seen_jax.models.buckets import Bucket
from seen_jax.models.sites import ENCODER_SITES
from seen_jax.progress import Progress, silent
from seen_jax.registry import STUDIES
from seen_jax.report.blocks import Section
from seen_jax.report.format import Target
from seen_jax.report.players import ExampleClip, telling_snr
from seen_jax.report.write import write_report
from seen_jax.studies.run import run_studies
from seen_jax.subspace import NoiseBasis

SUMMARY = "summary.json"
EXAMPLES = 2  # of each task, that the report plays


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What an experiment gave. tables, studies: by name."""

    experiment: Experiment
    trials: Sequence[Trial]
    tables: Mapping[str, pd.DataFrame]
    studies: Mapping[str, pd.DataFrame]


def evaluate(
    config: ExperimentConfig, progress: Progress = silent, hosts: Hosts = ALONE, overwrite: bool = False
) -> dict[str, Any]:
    """Run what is not done yet of an experiment, and write its tables and report anew.

    Args:
        progress: called as progress(stage, done, in all).
        hosts: this process among those that share the work, of `seen_jax.evaluate.hosts.join`; all need the same config
            and folder.
        overwrite: whether to begin anew where the folder holds an experiment; only what that one wrote is deleted.

    Returns:
        What summary.json holds and, as "page", the path of the report. A process that does not lead returns only "out"
        and, once its share is done, the number of its "answers".

    Raises:
        ConfigError, CheckpointError, AudioError, BasisError: what was done stays, and the next call resumes it.
    """
    clock = Clock(progress)
    if overwrite and hosts.leads:
        remove_experiment(config.folder())
    experiment = prepare(config, clock, hosts)
    results = run(experiment, clock, hosts)
    if results is None:
        share = (unit for unit in make_units(experiment) if hosts.owns(unit.part))
        return {"out": str(config.folder()), "answers": count_answers(experiment, share)}
    summary = summarise(experiment, results.tables)
    write_file(config.folder() / SUMMARY, to_json(summary))
    clock("writing the report", 0, 1)
    target = Target(config.folder())
    studies = [(STUDIES[name], rows) for name, rows in results.studies.items()]
    sections = [Section(study.title, study.section(rows, target)) for study, rows in studies]
    manifest = {**experiment.manifest, "note": config.note, "seconds": clock.seconds()}
    page = write_report(config.folder(), manifest, results.tables, sections, list(example_clips(results)))
    clock("writing the report", 1, 1)
    return {**summary, "page": str(page.resolve())}


def run(experiment: Experiment, progress: Progress = silent, hosts: Hosts = ALONE) -> Results | None:
    """Answer what is not answered yet, run the studies, and write all tables; None in a process that does not lead."""
    config, units = experiment.config, make_units(experiment)
    ledger = answer_units(experiment, units, progress, hosts)
    if not hosts.leads:
        return None
    studies = run_studies(experiment, progress) if config.studies else {}
    gather_units(experiment, units, ledger, progress, hosts)
    trials = [Trial.from_json(row) for row in ledger.rows()]
    bases = {(n, label): experiment.basis(n, label) for label in experiment.mitigations for n in experiment.noises}
    tables = make_tables(trials, config.seed)
    tables |= {"bases": basis_table(experiment, bases), "diagnoses": diagnoses(experiment.calibrations, bases)}
    for name, table in [*tables.items(), *((f"study_{name}", table) for name, table in studies.items())]:
        write_file(config.folder() / "tables" / f"{name}.csv", to_csv(table))
    return Results(experiment, trials, tables, studies)


class Clock:
    """A progress callback that also measures how long each stage takes."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.stage = progress, ""
        self.times: dict[str, float] = {}
        self.begun = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.stage:
            self.times[self.stage] = self.times.get(self.stage, 0.0) + now - self.begun
        self.stage, self.begun = stage, now
        self.progress(stage, done, total)

    def seconds(self) -> dict[str, float]:
        """Seconds of every stage so far."""
        return {stage: round(seconds, 2) for stage, seconds in self.times.items()}


def answer_units(experiment: Experiment, units: Sequence[Unit], progress: Progress, hosts: Hosts = ALONE) -> Ledger:
    """Answer what is not answered yet of this process's share: whole parts, whose noises share their clean answers."""
    ledger = Ledger(experiment.config.folder() / ANSWERS, hosts.index)
    share = [unit for unit in units if hosts.owns(unit.part)]
    pending = [unit for unit in share if unit.key not in ledger.done]
    total = count_answers(experiment, share)
    done = total - count_answers(experiment, pending)
    progress("answering", done, total)
    clean_answers = CleanAnswers(experiment)
    for unit in pending:
        ledger.add(unit.key, [trial.to_json() for trial in answer_unit(experiment, unit, clean_answers)])
        done += count_answers(experiment, [unit])
        progress("answering", done, total)
    return ledger


def gather_units(
    experiment: Experiment, units: Sequence[Unit], ledger: Ledger, progress: Progress, hosts: Hosts = ALONE
) -> None:
    """Wait until all processes have done their shares, and leave the answers as one process would have."""
    total = count_answers(experiment, units)

    def count() -> tuple[int, int]:
        ledger.refresh()
        return count_answers(experiment, (unit for unit in units if unit.key in ledger.done)), total

    needed = "answers of other processes: start those that stopped again, or this one without hosts to do the rest here"
    hosts.wait(count, "waiting for the other processes", progress, needed=needed)
    ledger.gather([unit.key for unit in units])


def basis_table(experiment: Experiment, bases: Mapping[tuple[str, str], NoiseBasis]) -> pd.DataFrame:
    """The basis of every noise and mitigation: ranks and kept layers, and where localisation put l*."""
    columns = ["noise", "mitigation", "site", "calibrated", "localised", "first_layer", "ranks", "layers"]
    rows = []
    for (noise, label), basis in bases.items():
        known = (noise, basis.site) in experiment.calibrations
        place = experiment.calibrations[noise, basis.site].localization() if known else None
        localised = (None, None) if place is None else (place.found, place.first)
        rows.append((noise, label, basis.site, known, *localised, list(basis.ranks), list(basis.layers)))
    return pd.DataFrame(rows, columns=columns).astype({"first_layer": "Int64"})


def summarise(experiment: Experiment, tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """The few numbers that say how it went."""
    comparisons, overall, correlations = (tables[name] for name in ("comparisons", "overall", "correlations"))
    gains = comparisons[(comparisons["group"] == UP_TO) & (comparisons["against"] == NONE)].set_index("mitigation")
    clean = overall[overall["snr_db"].isna()].set_index("mitigation")["gsr"]
    columns = ["dataset", "task", "noise", "pearson", "pearson_low", "pearson_high"]
    return {
        "out": str(experiment.config.folder()),
        "model": experiment.model.name,
        "answers": len(tables["answers"]),
        "failed": len(tables["failures"]),
        "mitigations": [
            {
                "name": label,
                "gsr_clean": number(clean.get(label)),
                "gain": number(gains["difference"].get(label, 0.0)),
                "low": number(gains["low"].get(label)),
                "high": number(gains["high"].get(label)),
            }
            for label in experiment.mitigations
        ],
        "pearson": [
            {key: value if isinstance(value, str) else number(value) for key, value in row.items()}
            for row in correlations[columns].to_dict("records")
        ],
    }


def number(value: Any) -> float | None:
    """A number as JSON has it: None where it is not defined."""
    return None if value is None or not np.isfinite(value) else float(value)


def example_clips(results: Results) -> Iterator[ExampleClip]:
    """The first items of each task for the report, the noises in turn, at one SNR."""
    experiment = results.experiment
    snr = telling_snr(results.tables["conditions"])
    trials = {(t.dataset, t.item, t.noise, t.snr_db, t.mitigation): t for t in results.trials if t.failed is None}
    edited = [label for label, chain in experiment.mitigations.items() if not chain.changes_audio and label != NONE]
    labels = {"clean": (None, NONE), "noisy": (snr, NONE), **{f"noisy + {label}": (snr, label) for label in edited}}
    buckets = [unit.bucket for unit in make_units(experiment)]
    bucket = Bucket(*(max(sizes) for sizes in zip(*buckets, strict=True)))  # one shape for all: SEE compiles once
    shown: Counter[tuple[str, str]] = Counter()
    for dataset, entries in experiment.entries.items():
        for place, entry in enumerate(entries):
            noise = experiment.noises[shown.total() % len(experiment.noises)]
            keys = {name: (dataset, entry.id, noise, *key) for name, key in labels.items()}
            of_item = {name: trials[key] for name, key in keys.items() if key in trials}
            if shown[dataset, entry.task] < EXAMPLES and len(of_item) == len(labels):
                shown[dataset, entry.task] += 1
                yield example_clip(experiment, dataset, place, (noise, snr), of_item, bucket)


def example_clip(
    experiment: Experiment,
    dataset: str,
    place: int,
    condition: tuple[str, float],
    trials: Mapping[str, Trial],
    bucket: Bucket,
) -> ExampleClip:
    """An item with its waves as an experiment makes them, and SEE over time along the experiment's basis."""
    (noise, snr), model, entries = condition, experiment.model, experiment.entries[dataset]
    item = entries[place].item()
    drawn = experiment.sources[noise].clip(place, len(item.wave), experiment.config.seed, "test")
    waves = {"clean": item.wave, "noisy": mix_at_snr(item.wave, drawn, snr).audio}
    for label, chain in experiment.mitigations.items():
        if chain.changes_audio:
            waves[f"denoised ({label})"] = chain.hear(waves["noisy"])
            break
    basis, indices = experiment.bases[noise], list(range(len(waves)))
    size = min(experiment.config.batch_size, len(entries))
    group = Group(indices, filled(indices, size, model.rows), bucket, text=basis.site not in ENCODER_SITES)
    requests = [replaced(request_of(experiment, entries[place], item), wave) for wave in waves.values()]
    scores: Any = score_groups(model, requests, [group], basis, frames=True)
    see: Any = {name: (s.times, basis.mean_see(s.frames)) for name, s in zip(waves, scores, strict=True)}
    return ExampleClip(item.id, item.task, item.prompt, item.answer, noise, snr, waves, trials, see)
