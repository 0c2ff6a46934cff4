"""Failure signatures of the method, detected in an experiment's tables and calibrations, and named in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from seen_jax.evaluate.metrics import Estimate
from seen_jax.evaluate.tables import ALL, UP_TO
from seen_jax.evaluate.trials import NONE
from seen_jax.subspace import Calibration, Finding, NoiseBasis, diagnose

CLEAN_FLOOR = 0.95  # GSR of clean audio below this is worth a warning
WEAK = -0.8  # a Pearson correlation of SEE with GSR above this is low; the paper reports -0.96 to -1.00
FEW = 6  # names in a message
MORE_NONSENSE = 0.05  # a rise of the share of nonsense outputs that counts
WORST_FIRST = ("error", "warning", "info")


def findings(tables: Mapping[str, pd.DataFrame], bases: pd.DataFrame, seen_mitigations: Sequence[str]) -> list[Finding]:
    """What is striking about an experiment, worst first.

    Codes: empty-basis, no-layer-found, low-correlation, clean-gsr-drops, nonsense, seen-harms, no-gain, gain.

    Args:
        tables: of `seen_jax.evaluate.tables.make_tables`.
        bases: noise, site, ranks, layers and localised (None: not calibrated) of every basis.
        seen_mitigations: those that are SEEN alone; each is judged by itself.
    """
    cells, comparisons = tables["conditions"], tables["comparisons"]
    results = [*_bases(bases), *_correlation(tables["correlations"])]
    scored = cells[cells["items"] > 0]
    for name in seen_mitigations:
        pair = comparisons[(comparisons["mitigation"] == name) & (comparisons["against"] == NONE)]
        changes = pair.loc[pair["group"] == UP_TO, ["difference", "low", "high"]].itertuples(index=False)
        judged = [*_clean(scored[scored["mitigation"] == name]), *_nonsense(scored, name)]
        judged += [_change(Estimate(*change)) for change in changes]
        prefix = f"{name}: " if len(seen_mitigations) > 1 else ""
        results += [dataclasses.replace(f, message=prefix + f.message) for f in judged]
    return sorted(results, key=lambda finding: WORST_FIRST.index(finding.severity))


def diagnoses(
    calibrations: Mapping[tuple[str, str], Calibration], bases: Mapping[tuple[str, str], NoiseBasis]
) -> pd.DataFrame:
    """What `seen_jax.subspace.diagnose` finds about the calibrations of an experiment, each finding once.

    Args:
        calibrations: of a noise and a site. bases: of a noise and a mitigation.

    Returns:
        A table of noise, site, code, severity and message, the worst first.
    """
    distinct = {(noise, id(basis)): basis for (noise, _), basis in bases.items()}
    rows = [
        (noise, basis.site, finding.code, finding.severity, finding.message)
        for (noise, _), basis in distinct.items()
        if (noise, basis.site) in calibrations
        for finding in diagnose(calibrations[noise, basis.site], basis)
    ]
    table = pd.DataFrame(rows, columns=["noise", "site", "code", "severity", "message"]).drop_duplicates()
    return table.sort_values("severity", key=lambda s: s.map(WORST_FIRST.index), kind="stable", ignore_index=True)


def _bases(bases: pd.DataFrame) -> list[Finding]:
    if bases.empty:
        return []
    results = []
    empty = [not any(ranks[k] for k in layers) for ranks, layers in zip(bases["ranks"], bases["layers"], strict=True)]
    if any(empty):
        where = _where(bases[empty])
        message = f"no noise direction passes the selection for {where}: SEE is 0 and SEEN does nothing there"
        results.append(Finding("empty-basis", "error", message))
    if any(lost := [localised == False for localised in bases["localised"]]):  # noqa: E712  None is not False
        where = _where(bases[lost])
        message = f"no layer is above the mean distance and below the mean direction for {where}: there is no l*"
        results.append(Finding("no-layer-found", "info", message))
    return results


def _where(bases: pd.DataFrame) -> str:
    return "; ".join(f"{_some(part['noise'])} at {site}" for site, part in bases.groupby("site", sort=False))


def _some(names: Iterable[str]) -> str:
    """The first few of some names, each once."""
    once = list(dict.fromkeys(names))
    return ", ".join(once[:FEW]) + (f" and {len(once) - FEW} more" if len(once) > FEW else "")


def _correlation(correlations: pd.DataFrame) -> list[Finding]:
    each = correlations[correlations["task"] != ALL].sort_values("pearson", ascending=False, kind="stable")
    names = each["task"] + " in " + each["noise"]
    results = []
    if (absent := each["pearson"].isna()).any():
        message = (
            f"SEE or GSR does not vary over the SNRs for {_some(names[absent])}, so they cannot be correlated: the "
            "basis is empty, the SNRs are too few, or the model answers all noisy audio alike"
        )
        results.append(Finding("low-correlation", "warning", message))
    if (weak := each["pearson"] > WEAK).any():
        worst = _some(f"{name} {r:+.2f}" for name, r in zip(names[weak], each.loc[weak, "pearson"], strict=True))
        message = (
            f"SEE follows GSR badly: Pearson r {worst} (the paper: -0.96 to -1.00). The layers, the site or the "
            "selection of the basis do not fit this model and noise"
        )
        results.append(Finding("low-correlation", "warning", message))
    return results


def _clean(cells: pd.DataFrame) -> list[Finding]:
    clean = cells[cells["snr_db"].isna()]
    kept = (clean["gsr"] * clean["items"]).groupby(clean["noise"], sort=False).sum()
    gsr = (kept / clean.groupby("noise", sort=False)["items"].sum()).sort_values(kind="stable")
    low = gsr[gsr < CLEAN_FLOOR]
    if low.empty:
        return []
    noises = _some(f"{noise} {value:.1%}" for noise, value in low.items())
    message = (
        f"SEEN changes the answers about clean audio: GSR {noises}, below {CLEAN_FLOOR:.0%}. The basis holds "
        "semantics: lower delta, keep fewer layers, or use a smaller strength"
    )
    return [Finding("clean-gsr-drops", "warning", message)]


def _nonsense(cells: pd.DataFrame, name: str) -> list[Finding]:
    """An empty answer to a choice is both nonsense and unparseable: the larger count is what is surely wrong."""
    wrong = cells["unparseable"].fillna(0).clip(lower=cells["nonsense"]).astype(float)
    total = cells["items"][cells["mitigation"] == name].sum()
    before, after = (wrong[cells["mitigation"] == m].sum() / max(total, 1) for m in (NONE, name))
    if after - before <= MORE_NONSENSE:
        return []
    message = (
        f"SEEN makes the model talk nonsense (empty, looping, or no letter): {after:.1%} of outputs, {before:.1%} "
        "without it. The strength is too large, or the basis takes out too much"
    )
    return [Finding("nonsense", "warning", message)]


def _change(change: Estimate) -> Finding:
    numbers = f"GSR of noisy audio changes by {100 * change.value:+.1f} points on average"
    numbers += f" (95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f}, over the clips)"
    if change.low > 0:
        return Finding("gain", "info", f"SEEN helps on these clips: {numbers}")
    if change.high < 0:
        return Finding("seen-harms", "warning", f"SEEN harms on these clips: {numbers}")
    return Finding("no-gain", "info", f"SEEN gains nothing that these clips can show: {numbers}")
