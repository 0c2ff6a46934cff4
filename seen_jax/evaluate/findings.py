"""Failure signatures of the method, detected in an experiment's tables and calibrations, and named in words."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pandas as pd

from seen_jax.evaluate.tables import ALL, UP_TO
from seen_jax.mitigations.base import NONE
from seen_jax.subspace import Calibration, Finding, NoiseBasis, diagnose

CLEAN_FLOOR = 0.95  # GSR of clean audio below this is worth a warning
WEAK = -0.8  # a Pearson correlation of SEE with GSR above this is low; the paper reports -0.96 to -1.00
FEW = 6  # names in a message
MORE_NONSENSE = 0.05  # a rise of the share of nonsense outputs that counts
WORST_FIRST = ("error", "warning", "info")


def findings(tables: Mapping[str, pd.DataFrame], bases: pd.DataFrame, seen_mitigations: Sequence[str]) -> list[Finding]:
    """What is striking about an experiment, worst first. tables: of `seen_jax.evaluate.tables.make_tables`. bases:
    noise, site, ranks, layers and localised (None: not calibrated) of every basis. seen_mitigations: those that are
    SEEN alone; each is judged by itself."""
    cells, comparisons = tables["conditions"], tables["comparisons"]
    results, scored = [*_bases(bases), *_correlation(tables["correlations"])], cells[cells["items"] > 0]
    for name in seen_mitigations:
        pair = comparisons[(comparisons["mitigation"] == name) & (comparisons["against"] == NONE)]
        changes = pair.loc[pair["group"] == UP_TO, ["difference", "low", "high"]].itertuples(index=False)
        judged = [*_clean(scored[scored["mitigation"] == name]), *_nonsense(scored, name)]
        judged += [_change(*change) for change in changes]
        prefix = f"{name}: " if len(seen_mitigations) > 1 else ""
        results += [dataclasses.replace(f, message=prefix + f.message) for f in judged]
    return sorted(results, key=lambda finding: WORST_FIRST.index(finding.severity))


def diagnoses(
    calibrations: Mapping[tuple[str, str], Calibration],
    bases: Mapping[tuple[str, str], NoiseBasis],
    measured: Iterable[tuple[str, str, Finding]] = (),
) -> pd.DataFrame:
    """What `seen_jax.subspace.diagnose` finds about calibrations (by noise and site), each finding once: a table of
    noise, site, code, severity and message, the worst first. bases: by noise and mitigation. measured: (noise, site,
    finding) of studies; those of sites of the bases count too."""
    distinct = {(noise, id(basis)): basis for (noise, _), basis in bases.items()}
    sites = {(noise, basis.site) for (noise, _), basis in distinct.items()}
    rows = [(n, site, f.code, f.severity, f.message) for n, site, f in measured if (n, site) in sites]
    for (noise, _), basis in distinct.items():
        if calibration := calibrations.get((noise, basis.site)):
            rows += [(noise, basis.site, f.code, f.severity, f.message) for f in diagnose(calibration, basis)]
    table = pd.DataFrame(rows, columns=["noise", "site", "code", "severity", "message"]).drop_duplicates()
    return table.sort_values("severity", key=lambda s: s.map(WORST_FIRST.index), kind="stable", ignore_index=True)


def _bases(bases: pd.DataFrame) -> Iterator[Finding]:
    if bases.empty:
        return
    empty = [not any(ranks[k] for k in layers) for ranks, layers in zip(bases["ranks"], bases["layers"], strict=True)]
    if any(empty):
        where = _where(bases[empty])
        message = f"no noise direction passes the selection for {where}: SEE is 0 and SEEN does nothing there"
        yield Finding("empty-basis", "error", message)
    if any(lost := [localised == False for localised in bases["localised"]]):  # noqa: E712  None is not False
        where = _where(bases[lost])
        message = f"no layer is above the mean distance and below the mean direction for {where}: there is no l*"
        yield Finding("no-layer-found", "info", message)


def _where(bases: pd.DataFrame) -> str:
    return "; ".join(f"{_some(part['noise'])} at {site}" for site, part in bases.groupby("site", sort=False))


def _some(names: Iterable[str]) -> str:
    once = list(dict.fromkeys(names))
    return ", ".join(once[:FEW]) + (f" and {len(once) - FEW} more" if len(once) > FEW else "")


def _correlation(correlations: pd.DataFrame) -> Iterator[Finding]:
    each = correlations[correlations["task"] != ALL].sort_values("pearson", ascending=False, kind="stable")
    names = each["task"] + " in " + each["noise"]
    if (absent := each["pearson"].isna()).any():
        message = (
            f"SEE or GSR does not vary over the SNRs for {_some(names[absent])}, so they cannot be correlated: the "
        )
        message += "basis is empty, the SNRs are too few, or the model answers all noisy audio alike"
        yield Finding("low-correlation", "warning", message)
    if (weak := each["pearson"] > WEAK).any():
        worst = _some(f"{name} {r:+.2f}" for name, r in zip(names[weak], each.loc[weak, "pearson"], strict=True))
        message = f"SEE follows GSR badly: Pearson r {worst} (the paper: -0.96 to -1.00). The layers, the site or the "
        message += "selection of the basis do not fit this model and noise"
        yield Finding("low-correlation", "warning", message)


def _clean(cells: pd.DataFrame) -> Iterator[Finding]:
    clean = cells[cells["snr_db"].isna()]
    kept = (clean["gsr"] * clean["items"]).groupby(clean["noise"], sort=False).sum()
    gsr = (kept / clean.groupby("noise", sort=False)["items"].sum()).sort_values(kind="stable")
    if noises := _some(f"{noise} {value:.1%}" for noise, value in gsr[gsr < CLEAN_FLOOR].items()):
        message = f"SEEN changes the answers about clean audio: GSR {noises}, below {CLEAN_FLOOR:.0%}. The basis holds "
        message += "semantics: lower delta, keep fewer layers, or use a smaller strength"
        yield Finding("clean-gsr-drops", "warning", message)


def _nonsense(cells: pd.DataFrame, name: str) -> Iterator[Finding]:
    """An empty answer to a choice is both nonsense and unparseable: the larger count is what is surely wrong."""
    wrong = cells["unparseable"].fillna(0).clip(lower=cells["nonsense"]).astype(float)
    total = cells["items"][cells["mitigation"] == name].sum()
    before, after = (wrong[cells["mitigation"] == m].sum() / max(total, 1) for m in (NONE, name))
    if after - before > MORE_NONSENSE:
        message = "SEEN makes the model talk nonsense (empty, looping, or no letter): "
        message += f"{after:.1%} of outputs, {before:.1%} without it. "
        message += "The strength is too large, or the basis takes out too much"
        yield Finding("nonsense", "warning", message)


def _change(value: float, low: float, high: float) -> Finding:
    numbers = f"GSR of noisy audio changes by {100 * value:+.1f} points on average"
    numbers += f" (95 % interval {100 * low:+.1f} to {100 * high:+.1f}, over the clips)"
    if low > 0:
        return Finding("gain", "info", f"SEEN helps on these clips: {numbers}")
    if high < 0:
        return Finding("seen-harms", "warning", f"SEEN harms on these clips: {numbers}")
    return Finding("no-gain", "info", f"SEEN gains nothing that these clips can show: {numbers}")
