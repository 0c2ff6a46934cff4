"""Failure signatures of the method, detected in the figures of a sweep and named in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seen_jax.evaluate.metrics import Estimate
from seen_jax.evaluate.readings import CLEAN_FLOOR
from seen_jax.evaluate.table import ALL, NONE, SEEN, Row, cells
from seen_jax.subspace import Finding

WEAK = -0.8  # a Pearson correlation of SEE with GSR above this is low; the paper reports -0.96 to -1.00
FEW = 6  # names in a message
UP_TO = "noisy <= 10 dB"  # where the paper's score curves bend
MORE_NONSENSE = 0.05  # a rise of the share of nonsense outputs that counts

Table = Sequence[Mapping[str, Any]]


def gain(rows: Sequence[Row], seed: int = 0) -> Estimate:
    """Change of GSR by SEEN, mean over all noisy cells, with a 95 % bootstrap interval over the items (not the cells:
    what happens to one clip at several SNRs is one observation). From -1 to 1; NaN for no noisy cells."""
    from scipy.stats import bootstrap

    by_cell = cells(rows)
    changes: dict[str, list[int]] = {}
    for (noise, snr, mitigation), cell in by_cell.items():
        if snr is None or mitigation != SEEN:
            continue
        clean, plain = by_cell[noise, None, NONE], by_cell[noise, snr, NONE]
        for name, row in cell.items():
            reference = clean[name].output.strip()
            change = int(row.output.strip() == reference) - int(plain[name].output.strip() == reference)
            changes.setdefault(name, []).append(change)
    if not changes:
        return Estimate(*[float("nan")] * 3)
    means = np.array([np.mean(values) for values in changes.values()])
    value = float(means.mean())
    if len(means) < 2 or np.ptp(means) == 0:
        return Estimate(value, value, value)
    found = bootstrap((means,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed))
    return Estimate(value, float(found.confidence_interval.low), float(found.confidence_interval.high))


def signatures(table: Table, correlations: Sequence[Mapping[str, Any]], change: Estimate) -> list[Finding]:
    """Findings, worst first. Codes: clean-gsr-drops, low-correlation, nonsense, seen-harms, no-gain, gain.

    table and correlations: of `conditions` and `correlations`. change: of `gain`.
    """
    every = [c for c in table if c["task"] == ALL]
    found = [*_clean(every), *_correlation(correlations), *_nonsense(every), *_change(change)]
    return sorted(found, key=lambda finding: ("error", "warning", "info").index(finding.severity))


def experiment_signatures(
    conditions: Table, correlations: Table, comparisons: Table, bases: Table, arms: Sequence[str]
) -> list[Finding]:
    """As `signatures`, in the tables of an experiment (`seen_jax.evaluate.tables`), and the codes empty-basis and
    no-layer-found. arms: the mitigations that are SEEN alone, each judged by itself."""
    found = _bases(bases)
    named = [{**c, "noise": f"{c['task']} in {c['noise']}"} for c in correlations if c["noise"] != ALL]
    found += _correlation(named)
    for arm in arms:
        table = [row for m in (NONE, arm) for row in _pooled(conditions, m)]
        own = [c for c in comparisons if (c["mitigation"], c["against"], c["group"]) == (arm, NONE, UP_TO)]
        own += [_turned(c) for c in comparisons if (c["mitigation"], c["against"], c["group"]) == (NONE, arm, UP_TO)]
        change = [Estimate(*(c[key] for key in ("difference", "low", "high"))) for c in own]
        judged = [*_clean(table), *_nonsense(table), *(f for c in change for f in _change(c))]
        prefix = f"{arm}: " if len(arms) > 1 else ""
        found += [dataclasses.replace(f, message=prefix + f.message) for f in judged]
    return sorted(found, key=lambda finding: ("error", "warning", "info").index(finding.severity))


def _turned(c: Mapping[str, Any]) -> dict[str, Any]:
    return {"difference": -c["difference"], "low": -c["high"], "high": -c["low"]}


def _pooled(conditions: Table, mitigation: str) -> list[dict[str, Any]]:
    """The cells of a mitigation over all tasks, as `signatures` takes them. An empty choice is both nonsense and
    unparseable: the larger of the two counts is what is surely wrong."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for c in conditions:
        if c["mitigation"] == mitigation and c["items"] and c["gsr"] is not None:
            groups.setdefault((c["noise"], c["snr_db"]), []).append(c)
    return [
        {
            "noise": noise,
            "snr_db": snr,
            "mitigation": NONE if mitigation == NONE else SEEN,
            "items": sum(c["items"] for c in own),
            "gsr": sum(c["items"] * c["gsr"] for c in own) / sum(c["items"] for c in own),
            "nonsense": sum(max(c["nonsense"], c["unparseable"] or 0) for c in own),
        }
        for (noise, snr), own in groups.items()
    ]


def _bases(bases: Table) -> list[Finding]:
    found = []
    empty = [b for b in bases if not any(b["ranks"][layer] for layer in b["layers"])]
    if empty:
        message = f"no noise direction passes the selection for {_where(empty)}: SEE is 0 and SEEN does nothing there"
        found.append(Finding("empty-basis", "error", message))
    if lost := [b for b in bases if b["localised"] is False]:
        message = f"no layer is above the mean distance and below the mean direction for {_where(lost)}: there is no l*"
        found.append(Finding("no-layer-found", "info", message))
    return found


def _where(bases: Table) -> str:
    sites = dict.fromkeys(b["site"] for b in bases)
    return "; ".join(f"{_some([b['noise'] for b in bases if b['site'] == site])} at {site}" for site in sites)


def _some(names: Sequence[str]) -> str:
    """The first few of some names, each once."""
    own = list(dict.fromkeys(names))
    return ", ".join(own[:FEW]) + (f" and {len(own) - FEW} more" if len(own) > FEW else "")


def _clean(table: Table) -> list[Finding]:
    low = [c for c in table if c["snr_db"] is None and c["mitigation"] == SEEN and c["gsr"] < CLEAN_FLOOR]
    if not low:
        return []
    names = _some([f"{c['noise']} {c['gsr']:.1%}" for c in sorted(low, key=lambda c: c["gsr"])])
    message = (
        f"SEEN changes the answers about clean audio: GSR {names}, below {CLEAN_FLOOR:.0%}. The basis holds semantics: "
        "lower delta, keep fewer layers, or use a smaller strength"
    )
    return [Finding("clean-gsr-drops", "warning", message)]


def _correlation(correlations: Sequence[Mapping[str, Any]]) -> list[Finding]:
    per_noise = [c for c in correlations if c["noise"] != ALL]
    found = []
    if absent := [c["noise"] for c in per_noise if c["pearson"] is None]:
        message = (
            f"SEE or GSR does not vary over the SNRs for {_some(absent)}, so they cannot be correlated: the basis "
            "is empty, the SNRs are too few, or the model answers all noisy audio alike"
        )
        found.append(Finding("low-correlation", "warning", message))
    if weak := [c for c in per_noise if c["pearson"] is not None and c["pearson"] > WEAK]:
        worst = sorted(weak, key=lambda c: -c["pearson"])
        names = _some([f"{c['noise']} {c['pearson']:+.2f}" for c in worst])
        message = (
            f"SEE follows GSR badly: Pearson r {names} (the paper: -0.96 to -1.00). The layers, the site or the "
            "reading of the basis do not fit this model and noise"
        )
        found.append(Finding("low-correlation", "warning", message))
    return found


def _nonsense(table: Table) -> list[Finding]:
    share = {m: sum(c["nonsense"] for c in table if c["mitigation"] == m) for m in (NONE, SEEN)}
    total = sum(c["items"] for c in table if c["mitigation"] == SEEN)
    if not total or (share[SEEN] - share[NONE]) / total <= MORE_NONSENSE:
        return []
    message = (
        f"SEEN makes the model talk nonsense (empty, looping, or no letter): {share[SEEN] / total:.1%} of outputs, "
        f"{share[NONE] / total:.1%} without it. The strength is too large, or the basis takes out too much"
    )
    return [Finding("nonsense", "warning", message)]


def _change(change: Estimate) -> list[Finding]:
    if np.isnan(change.value):
        return []
    numbers = f"GSR of noisy audio changes by {100 * change.value:+.1f} points on average"
    numbers += f" (95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f}, over the clips)"
    if change.low > 0:
        return [Finding("gain", "info", f"SEEN helps on these clips: {numbers}")]
    if change.high < 0:
        return [Finding("seen-harms", "warning", f"SEEN harms on these clips: {numbers}")]
    return [Finding("no-gain", "info", f"SEEN gains nothing that these clips can show: {numbers}")]
