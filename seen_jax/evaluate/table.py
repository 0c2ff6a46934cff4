"""Rows of a sweep, and what follows from them: scores per condition, SEE per layer, SEE against GSR."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seen_jax.data.items import Item
from seen_jax.data.letters import answer_letter
from seen_jax.evaluate import metrics
from seen_jax.evaluate.stats import correlate

NONE, SEEN = "none", "seen"
MITIGATIONS = (NONE, SEEN)
ALL = "all"


@dataclass(frozen=True)
class Row:
    """One answer. snr_db: None for clean audio. see, see_after: mean over the kept layers, before and after the edit
    of the same pass. layers, layers_after: SEE of every layer. `noise` also names the basis, for clean audio too."""

    noise: str
    snr_db: float | None
    mitigation: str
    item: str
    task: str
    output: str
    see: float
    see_after: float
    layers: tuple[float, ...]
    layers_after: tuple[float, ...]


Key = tuple[str, float | None, str]  # noise, SNR, mitigation


def cells(rows: Iterable[Row]) -> dict[Key, dict[str, Row]]:
    """{(noise, snr_db, mitigation): {item id: row}}, in the order of the rows."""
    found: dict[Key, dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row.noise, row.snr_db, row.mitigation), {})[row.item] = row
    return found


def conditions(rows: Sequence[Row], items: Sequence[Item]) -> list[dict[str, Any]]:
    """One dict of JSON values per noise, SNR, mitigation and task, and for all tasks together (task "all").

    Keys: noise, snr_db (None: clean), mitigation, task, items, gsr with its Wilson interval gsr_low and gsr_high,
    accuracy (choices), wer (transcripts against the reference), wer_clean (against the own clean output), see,
    see_after, fixed and broken (SEEN against the same audio without it), nonsense. None where something is undefined.
    """
    by_cell = cells(rows)
    tasks = [ALL, *dict.fromkeys(item.task for item in items)]
    table = []
    for (noise, snr, mitigation), cell in by_cell.items():
        clean, plain = by_cell[noise, None, NONE], by_cell[noise, snr, NONE]
        for task in tasks:
            chosen = [item for item in items if task in (ALL, item.task)]
            own = [cell[item.id] for item in chosen]
            reference, before = ([c[item.id].output for item in chosen] for c in (clean, plain))
            scores = _scores(chosen, own, reference, before if mitigation != NONE else None)
            table.append({"noise": noise, "snr_db": snr, "mitigation": mitigation, "task": task, **scores})
    return table


def _scores(
    items: Sequence[Item], rows: Sequence[Row], clean: Sequence[str], before: Sequence[str] | None
) -> dict[str, Any]:
    outputs = [row.output for row in rows]
    hits = metrics.same(clean, outputs)
    gsr = metrics.wilson(int(hits.sum()), len(hits))
    lettered = [i for i, item in enumerate(items) if item.letter]
    spoken = [i for i, item in enumerate(items) if item.task == "transcription"]
    spoken_outputs = [outputs[i] for i in spoken]
    fixed, broken = (None, None) if before is None else metrics.fixed_broken(clean, before, outputs)
    letters = {i: answer_letter(outputs[i], items[i].choices) for i in lettered}
    odd = [letters.get(i, "") is None or metrics.nonsense(output) for i, output in enumerate(outputs)]
    values = {
        "items": len(items),
        "gsr": gsr.value,
        "gsr_low": gsr.low,
        "gsr_high": gsr.high,
        "accuracy": metrics.accuracy([letters[i] for i in lettered], [items[i].letter for i in lettered]),
        "wer": metrics.wer([items[i].answer for i in spoken], spoken_outputs),
        "wer_clean": metrics.wer([clean[i] for i in spoken], spoken_outputs),
        "see": float(np.mean([row.see for row in rows])),
        "see_after": float(np.mean([row.see_after for row in rows])),
        "fixed": fixed,
        "broken": broken,
        "nonsense": sum(odd),
    }
    return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in values.items()}


def layer_means(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean SEE of every layer without SEEN: dicts of noise, snr_db (None: clean) and see, a list over the layers."""
    return [
        {"noise": noise, "snr_db": snr, "see": np.mean([r.layers for r in cell.values()], axis=0).tolist()}
        for (noise, snr, mitigation), cell in cells(rows).items()
        if mitigation == NONE
    ]


def correlations(table: Sequence[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """SEE against GSR over the noisy cells of each noise, and over all noises (noise "all"), without SEEN.

    Dicts of noise, cells, pearson and spearman, each with `_low` and `_high`; None where undefined.
    """
    noisy = [c for c in table if c["task"] == ALL and c["mitigation"] == NONE and c["snr_db"] is not None]
    return correlate(noisy, ("noise",), seed=seed, pooled=ALL)
