"""The files of a demo: page, figures, calibrations, and the numbers as JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seen_jax.data.items import Item, voices
from seen_jax.evaluate import figures, report
from seen_jax.evaluate.findings import gain, signatures
from seen_jax.evaluate.readings import explain
from seen_jax.evaluate.settings import DemoConfig
from seen_jax.evaluate.sweep import mix, noises_for
from seen_jax.evaluate.table import ALL, NONE, SEEN, Row, conditions, correlations, layer_means
from seen_jax.models.model import Model
from seen_jax.subspace import Calibration, NoiseBasis, diagnose

KIND = "seen-jax demo"
PAGE, NUMBERS = "index.html", "results.json"
EXAMPLES_PER_TASK = 2


class Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds |= {stage: round(now - self.last, 2), "total": round(now - self.start, 2)}
        self.last = now


def labels_of(noises: Sequence[str]) -> dict[str, str]:
    """A short name per noise for figures and folders: the noise's own, or the name of its file, made unique."""
    labels: dict[str, str] = {}
    for noise in noises:
        base = re.sub(r"[^\w.-]+", "_", Path(noise).stem).strip("._") or "noise"
        names = (base if i == 1 else f"{base}-{i}" for i in range(1, len(noises) + 2))
        labels[noise] = next(name for name in names if name not in labels.values())
    return labels


def write_results(
    folder: Path,
    config: DemoConfig,
    model: Model,
    items: Sequence[Item],
    clips: Sequence[Item],
    calibrations: Mapping[str, Calibration],
    bases: Mapping[str, NoiseBasis],
    rows: Sequence[Row],
    clock: Clock,
) -> dict[str, Any]:
    """Write every file of the demo; returns what results.json holds."""
    labels = labels_of(config.noises)
    for noise, calibration in calibrations.items():
        calibration.save(folder / "calibration" / labels[noise])
    table, layers = conditions(rows, items), layer_means(rows)
    correlated = correlations(table, config.seed)
    change = gain(rows, config.seed)
    found = [{"noises": [], **dataclasses.asdict(f)} for f in signatures(table, correlated, change)]
    found += diagnoses(calibrations, bases, labels)
    snr = report.telling_snr(table, config.snrs)
    paths = figures.draw(table, layers, correlated, calibrations, bases, snr, labels, folder / "figures")
    clock.mark("figures")
    clean = next(c for c in table if (c["snr_db"], c["mitigation"], c["task"]) == (None, NONE, ALL))
    summary: dict[str, Any] = {
        "kind": KIND,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: _version(name) for name in ("seen-jax", "jax", "flax", "numpy", "transformers")},
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
        "seconds": clock.seconds,
        "config": dataclasses.asdict(config),
        "model": {
            "name": model.name,
            "family": model.config.family,
            "fingerprint": model.fingerprint,
            "parameters": sum(int(np.size(x)) for x in jax.tree.leaves(model.variables)),
        },
        "clean": {key: clean[key] for key in ("accuracy", "wer")},
        "reading": explain(model, config.site, config.selection),
        "labels": labels,
        "noises": [_noise(noise, labels[noise], calibrations[noise], bases[noise]) for noise in config.noises],
        "clips": {"calibration": len(clips), "demo": len(items), "tasks": dict(Counter(i.task for i in items))},
        "headline": headline(table, correlated),
        "gain": {key: None if math.isnan(v) else v for key, v in change._asdict().items()},
        "findings": found,
        "example_snr": snr,
        "conditions": table,
        "layers": layers,
        "correlations": correlated,
    }
    shown = report.examples(items, rows, example_waves(config, items, voices(clips), snr), snr)
    (folder / PAGE).write_text(report.render(summary, shown, paths), "utf-8")
    (folder / NUMBERS).write_text(json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")
    write_csv(folder / "conditions.csv", table)
    write_csv(folder / "items.csv", item_rows(items, rows))
    return json.loads((folder / NUMBERS).read_text("utf-8"))


def diagnoses(
    calibrations: Mapping[str, Calibration], bases: Mapping[str, NoiseBasis], labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Findings about the calibrations, equal ones told once with the noises that they are about."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for noise, calibration in calibrations.items():
        for finding in diagnose(calibration, bases[noise]):
            entry = {"noises": [], **dataclasses.asdict(finding)}
            found.setdefault((finding.code, finding.message), entry)["noises"].append(labels[noise])
    return list(found.values())


def headline(table: Sequence[Mapping[str, Any]], correlated: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers at the top of the page: means over noises (and SNRs); None where undefined."""
    every = [c for c in table if c["task"] == ALL]
    noisy = [c for c in every if c["snr_db"] is not None]
    lowest = min(c["snr_db"] for c in noisy)

    def mean(key: str, mitigation: str, **where: Any) -> float:
        own = [c[key] for c in every if c["mitigation"] == mitigation and all(c[k] == v for k, v in where.items())]
        return float(np.mean(own))

    per_noise = [c["pearson"] for c in correlated if c["noise"] != ALL]
    return {
        "pearson": None if None in per_noise else float(np.mean(per_noise)),
        "lowest_snr": lowest,
        "see_clean": mean("see", NONE, snr_db=None),
        "see_noisy": mean("see", NONE, snr_db=lowest),
        "gsr_none": float(np.mean([c["gsr"] for c in noisy if c["mitigation"] == NONE])),
        "gsr_seen": float(np.mean([c["gsr"] for c in noisy if c["mitigation"] == SEEN])),
        "gsr_clean_seen": mean("gsr", SEEN, snr_db=None),
    }


def _noise(spec: str, label: str, calibration: Calibration, basis: NoiseBasis) -> dict[str, Any]:
    curves, place = calibration.curves(), calibration.localization()
    return {
        "spec": spec,
        "label": label,
        "ranks": list(basis.ranks),
        "rank_text": figures.ranks(basis),
        "layers": list(basis.layers),
        "localised": place.found,
        "first_layer": place.first,
        "magnitude": np.asarray(curves.magnitude).tolist(),
        "direction": np.asarray(curves.direction).tolist(),
    }


def example_waves(
    config: DemoConfig, items: Sequence[Item], speech: Sequence[np.ndarray], snr_db: float
) -> dict[tuple[str, str], np.ndarray]:
    """{(item id, noise): noisy wave of the sweep} for the first items of each task, the noises in turn."""
    waves = [item.wave for item in items]
    drawn = {noise: noises_for(noise, waves, f"sweep/{noise}", config.seed, speech) for noise in config.noises}
    seen: Counter[str] = Counter()
    found: dict[tuple[str, str], np.ndarray] = {}
    for i, item in enumerate(items):
        seen[item.task] += 1
        if seen[item.task] <= EXAMPLES_PER_TASK:
            noise = config.noises[len(found) % len(config.noises)]
            found[item.id, noise] = mix(item, drawn[noise][i], snr_db)
    return found


def item_rows(items: Sequence[Item], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every answer with the item's own data, for items.csv."""
    by_id = {item.id: item for item in items}
    clean = {(r.noise, r.item): r.output for r in rows if r.snr_db is None and r.mitigation == NONE}
    return [
        {
            "item": row.item,
            "task": row.task,
            "noise": row.noise,
            "snr_db": row.snr_db,
            "mitigation": row.mitigation,
            "output": row.output,
            "clean_output": clean[row.noise, row.item],
            "same": row.output.strip() == clean[row.noise, row.item].strip(),
            "answer": by_id[row.item].answer,
            "letter": by_id[row.item].letter,
            "see": row.see,
            "see_after": row.see_after,
        }
        for row in rows
    ]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """None becomes an empty field; floats are written in full."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
