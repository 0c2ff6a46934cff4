"""A whole experiment in one call: answers, studies, tables and report, all of it resumable."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seen_jax.errors import ConfigError
from seen_jax.evaluate import tables
from seen_jax.evaluate.config import NONE, ExperimentConfig
from seen_jax.evaluate.hosts import ALONE, Hosts, Report
from seen_jax.evaluate.ledger import MANIFEST, Ledger
from seen_jax.evaluate.runner import Experiment, gather, prepare, run
from seen_jax.evaluate.tables import Table
from seen_jax.report.write import write_report
from seen_jax.studies.studies import run_studies

SUMMARY = "summary.json"


def evaluate(
    config: ExperimentConfig,
    report: Report = lambda stage, done, total: None,
    hosts: Hosts = ALONE,
) -> dict[str, Any]:
    """Run what is not done yet of an experiment, and write its tables and report anew.

    report: called with (stage, done, in all). hosts: this process among those that share the work, as
    `seen_jax.evaluate.hosts.join` found it; all need the same config and folder. Returns what summary.json holds and,
    as "page", the path of the report; a process that does not lead returns only "out" and, once its share is done, the
    number of its "answers". Raises ConfigError, CheckpointError, AudioError, BasisError; what was done stays, and the
    next call goes on from it.
    """
    experiment = prepare(config, report, hosts)
    ledger = run(experiment, report, hosts)
    folder = config.folder()
    if not hosts.leads:
        share = (unit for unit in experiment.units if hosts.owns(unit.batch))
        return {"out": str(folder), "answers": experiment.answers(share)}
    studies = run_studies(experiment, report) if config.studies else {}
    gather(experiment, ledger, report, hosts)
    found = tables_of(experiment, ledger)
    for name, table in [*found.items(), *((f"study_{name}", table) for name, table in studies.items())]:
        write_table(folder / "tables" / f"{name}.csv", table)
    summary = summarise(experiment, found)
    write_text(folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    report("writing the report", 0, 1)
    page = write_report(folder, read_manifest(folder), found, studies)
    report("writing the report", 1, 1)
    return {**summary, "page": str(page.resolve())}


def tables_of(experiment: Experiment, ledger: Ledger) -> dict[str, Table]:
    """All tables by name. The same rows give the same tables, however the work was interrupted."""
    rows = tables.ordered(ledger.rows())
    seed = experiment.config.seed
    cells = tables.conditions(rows)
    return {
        "conditions": cells,
        "correlations": tables.correlations(cells, seed),
        "comparisons": tables.comparisons(rows, seed),
        "overall": tables.overall(rows, seed),
        "similarities": tables.similarities(rows),
        "layers": tables.layers(rows),
        "bases": bases(experiment),
        "failures": failures(rows),
        "answers": answers(rows),
    }


def bases(experiment: Experiment) -> Table:
    """The basis of every noise and mitigation: ranks and kept layers, and where localisation put l*."""
    found: Table = []
    for (noise, mitigation), basis in experiment.bases.items():
        calibration = experiment.calibrations.get((noise, basis.site))
        place = calibration.localization() if calibration else None
        found.append(
            {
                "noise": noise,
                "mitigation": mitigation,
                "site": basis.site,
                "calibrated": calibration is not None,
                "localised": None if place is None else place.found,
                "first_layer": None if place is None else place.first,
                "ranks": list(basis.ranks),
                "layers": list(basis.layers),
            }
        )
    return found


def failures(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Items that could not be asked, each once."""
    seen = {(r["dataset"], r["task"], r["item"], r["noise"], r["failed"]): None for r in rows if "failed" in r}
    return [dict(zip(("dataset", "task", "item", "noise", "why"), key, strict=True)) for key in seen]


def answers(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Every answer with what it is held against."""
    keys = ("dataset", "task", "item", "noise", "snr_db", "mitigation", "output", "letter", "right", "reference")
    return [{key: r[key] for key in (*keys, "see", "see_after")} for r in rows if "failed" not in r]


def summarise(experiment: Experiment, found: Mapping[str, Table]) -> dict[str, Any]:
    """The few numbers that say how it went."""
    config = experiment.config
    noisy = [c for c in found["comparisons"] if c["group"] == "noisy <= 10 dB" and c["against"] == NONE]
    quiet = {c["mitigation"]: c["gsr"] for c in found["overall"] if c["snr_db"] is None}
    return {
        "out": str(config.folder()),
        "model": experiment.model.name,
        "answers": len(found["answers"]),
        "failed": len(found["failures"]),
        "mitigations": [
            {
                "name": arm.name,
                "gsr_clean": quiet.get(arm.name),
                "gain": next((c["difference"] for c in noisy if c["mitigation"] == arm.name), 0.0),
                "low": next((c["low"] for c in noisy if c["mitigation"] == arm.name), None),
                "high": next((c["high"] for c in noisy if c["mitigation"] == arm.name), None),
            }
            for arm in experiment.arms
        ],
        "pearson": [
            {key: c[key] for key in ("dataset", "task", "noise", "pearson", "pearson_low", "pearson_high")}
            for c in found["correlations"]
        ],
    }


def write_table(path: Path, table: Table) -> None:
    """A CSV, all or nothing: None becomes an empty field, lists become JSON, floats are written in full."""
    text = io.StringIO()
    if table:
        writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
        writer.writeheader()
        for row in table:
            writer.writerow({k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()})
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; the answers are kept") from None


def read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text("utf-8"))
