"""Tidy tables of an experiment's rows: scores per cell, mitigations compared on the same items, SEE against GSR."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from seen_jax.evaluate import metrics
from seen_jax.evaluate.config import NONE
from seen_jax.evaluate.ledger import Row
from seen_jax.evaluate.metrics import COSINES
from seen_jax.evaluate.stats import correlate, mcnemar, paired_difference, ratio_interval

Table = list[dict[str, Any]]
TRANSCRIPTION = "transcription"
BENDS = 10.0  # dB: where the paper's score curves bend


def outcome(row: Row) -> str:
    """What GSR compares: the letter of a multiple choice where the output names one, else the output."""
    return row["letter"] or row["output"].strip()


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Rows in an order that does not depend on how the work was cut or interrupted."""
    low = lambda snr: -math.inf if snr is None else snr  # noqa: E731
    keys = ("dataset", "task", "noise", "mitigation", "item")
    first: dict[str, dict[str, int]] = {key: {} for key in keys}
    kept = list(rows)
    for key in keys:
        for value in sorted({row[key] for row in kept}):
            first[key].setdefault(value, len(first[key]))
    return sorted(
        kept, key=lambda r: (*(first[k][r[k]] for k in keys[:3]), low(r["snr_db"]), *(r[k] for k in keys[3:]))
    )


def conditions(rows: Sequence[Row]) -> Table:
    """One dict per dataset, task, noise, snr_db (None: clean) and mitigation.

    items, failed; gsr with its Wilson interval; accuracy (choices) with its; wer against the reference and wer_clean
    against the own clean output; see, see_after and energy, means over the items; against the clean output: fixed and
    broken by the mitigation, and influence, the share that the noise changed; fixed_truth and broken_truth against the
    right letters; unparseable: choices without a letter; nonsense. None where something is undefined.
    """
    cells: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        key = (row["dataset"], row["task"], row["noise"], row["snr_db"], row["mitigation"])
        cells.setdefault(key, {})[row["item"]] = row
    return [
        dict(zip(("dataset", "task", "noise", "snr_db", "mitigation"), key, strict=True))
        | _scores(cell, cells[*key[:3], None, NONE], cells[*key[:4], NONE])
        for key, cell in cells.items()
    ]


def _scores(cell: Mapping[str, Row], clean: Mapping[str, Row], before: Mapping[str, Row]) -> dict[str, Any]:
    names = [n for n in cell if not any("failed" in part[n] for part in (cell, clean, before))]
    own, quiet, plain = ([part[n] for n in names] for part in (cell, clean, before))
    mitigated = bool(own) and own[0]["mitigation"] != NONE
    outputs, reference, unaided = ([outcome(row) for row in part] for part in (own, quiet, plain))
    hits = metrics.same(reference, outputs)
    gsr = metrics.wilson(int(hits.sum()), len(hits))
    chosen = [i for i, row in enumerate(own) if row["right"]]
    right, letters, unaided_letters = (
        [part[i][key] for i in chosen] for part, key in ((own, "right"), (own, "letter"), (plain, "letter"))
    )
    correct = metrics.wilson(int(metrics.correct(letters, right).sum()), len(chosen))
    spoken = [i for i, row in enumerate(own) if row["reference"] is not None and row["task"] == TRANSCRIPTION]
    said = [own[i]["output"] for i in spoken]
    fixed, broken = metrics.fixed_broken(reference, unaided, outputs) if mitigated else (None, None)
    truth = metrics.fixed_broken_truth(right, unaided_letters, letters) if mitigated and chosen else (None, None)
    mean = lambda key: float(np.mean([row[key] for row in own])) if own else math.nan  # noqa: E731
    values: dict[str, Any] = {
        "items": len(own),
        "failed": len(cell) - len(own),
        "gsr": gsr.value,
        "gsr_low": gsr.low,
        "gsr_high": gsr.high,
        "accuracy": correct.value,
        "accuracy_low": correct.low,
        "accuracy_high": correct.high,
        "wer": metrics.wer([own[i]["reference"] for i in spoken], said),
        "wer_clean": metrics.wer([quiet[i]["output"] for i in spoken], said),
        "see": mean("see"),
        "see_after": mean("see_after"),
        "energy": float(np.mean([np.mean(row["energy"]) for row in own])) if own else math.nan,
        "fixed": fixed,
        "broken": broken,
        "influence": 1.0 - metrics.share(metrics.same(reference, unaided)),
        "fixed_truth": truth[0],
        "broken_truth": truth[1],
        "unparseable": sum(letter is None for letter in letters) if chosen else None,
        "nonsense": sum(metrics.nonsense(row["output"]) for row in own),
    }
    return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in values.items()}


def correlations(cells: Table, seed: int = 0) -> Table:
    """SEE against GSR over the SNRs, without mitigation: per dataset, task and noise, and over all of them."""
    noisy = [c for c in cells if c["mitigation"] == NONE and c["snr_db"] is not None]
    return correlate(noisy, ("dataset", "task", "noise"), seed=seed)


def comparisons(rows: Sequence[Row], seed: int = 0) -> Table:
    """Mitigations in pairs on the same answers: gain of GSR, its bootstrap interval over items, and McNemar's test.

    Groups: clean audio, noisy audio up to 10 dB, above, each SNR, and each noise up to 10 dB. difference: mitigation
    less `against`, as a share.
    """
    hit: dict[str, dict[tuple[Any, ...], bool]] = {}
    clean = {
        (r["dataset"], r["item"], r["noise"]): r
        for r in rows
        if r["mitigation"] == NONE and r["snr_db"] is None and "failed" not in r
    }
    for r in rows:
        reference = clean.get((r["dataset"], r["item"], r["noise"]))
        if "failed" not in r and reference is not None:
            key = (r["dataset"], r["item"], r["noise"], r["snr_db"])
            hit.setdefault(r["mitigation"], {})[key] = outcome(r) == outcome(reference)
    keys = list(hit.get(NONE, {}))
    snrs = sorted({key[3] for key in keys if key[3] is not None})
    groups: dict[str, list[tuple[Any, ...]]] = {
        "clean": [k for k in keys if k[3] is None],
        "noisy <= 10 dB": [k for k in keys if k[3] is not None and k[3] <= BENDS],
        "noisy > 10 dB": [k for k in keys if k[3] is not None and k[3] > BENDS],
    }
    groups |= {f"{snr:g} dB": [k for k in keys if k[3] == snr] for snr in snrs}
    for noise in dict.fromkeys(key[2] for key in keys):
        groups[f"{noise} <= 10 dB"] = [k for k in keys if k[2] == noise and k[3] is not None and k[3] <= BENDS]
    found: Table = []
    names = list(hit)
    for b, mitigation in enumerate(names):
        for against in names[:b]:
            for group, own in groups.items():
                both = [k for k in own if k in hit[mitigation] and k in hit[against]]
                if not both:
                    continue
                first, second = (np.array([hit[name][k] for k in both]) for name in (against, mitigation))
                items = [k[:2] for k in both]
                gain = paired_difference(first, second, items, seed=seed)
                test = mcnemar(first, second)
                found.append(
                    {
                        "mitigation": mitigation,
                        "against": against,
                        "group": group,
                        "answers": len(both),
                        "gsr": float(second.mean()),
                        "gsr_against": float(first.mean()),
                        "difference": gain.value,
                        "low": gain.low,
                        "high": gain.high,
                        "only_mitigation": test.only_b,
                        "only_against": test.only_a,
                        "p": test.p,
                    }
                )
    return found


def overall(rows: Sequence[Row], seed: int = 0) -> Table:
    """GSR of every mitigation over all data, tasks and noises, clean and per SNR; bootstrap intervals over items."""
    clean = {
        (r["dataset"], r["item"], r["noise"]): r
        for r in rows
        if r["mitigation"] == NONE and r["snr_db"] is None and "failed" not in r
    }
    groups: dict[tuple[str, float | None], list[tuple[tuple[str, str], bool]]] = {}
    for r in rows:
        reference = clean.get((r["dataset"], r["item"], r["noise"]))
        if "failed" not in r and reference is not None:
            hit = outcome(r) == outcome(reference)
            groups.setdefault((r["mitigation"], r["snr_db"]), []).append(((r["dataset"], r["item"]), hit))
    found: Table = []
    for (name, snr), own in groups.items():
        share = ratio_interval([hit for _, hit in own], [1] * len(own), [item for item, _ in own], seed=seed)
        found.append(
            {
                "mitigation": name,
                "snr_db": snr,
                "answers": len(own),
                "gsr": share.value,
                "gsr_low": share.low,
                "gsr_high": share.high,
            }
        )
    return found


def similarities(rows: Sequence[Row]) -> Table:
    """Means of the six cosines per dataset, task, noise, SNR and mitigation that edits the model."""
    groups: dict[tuple[Any, ...], list[dict[str, float]]] = {}
    for r in rows:
        if "cosines" in r:
            key = (r["dataset"], r["task"], r["noise"], r["snr_db"], r["mitigation"])
            groups.setdefault(key, []).append(r["cosines"])
    return [
        dict(zip(("dataset", "task", "noise", "snr_db", "mitigation"), key, strict=True))
        | {name: _mean([c[name] for c in own if name in c]) for name in COSINES}
        for key, own in groups.items()
    ]


def layers(rows: Sequence[Row]) -> Table:
    """Mean SEE and raw projected energy of every layer, before and after the mitigation."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for r in rows:
        if "failed" not in r:
            groups.setdefault((r["dataset"], r["task"], r["noise"], r["snr_db"], r["mitigation"]), []).append(r)
    found: Table = []
    for key, own in groups.items():
        before, after, energy = (
            np.mean([r[name] for r in own], axis=0) for name in ("layers", "layers_after", "energy")
        )
        where = dict(zip(("dataset", "task", "noise", "snr_db", "mitigation"), key, strict=True))
        found += [
            where | {"layer": i, "see": float(before[i]), "see_after": float(after[i]), "energy": float(energy[i])}
            for i in range(len(before))
        ]
    return found


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
