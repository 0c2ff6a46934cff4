"""Many selections of the method on the same items, and which of them works best on the model.

Choose on validation data: on data sets that are not those on which the selection is shown afterwards."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_RESID
from seen_jax.report.blocks import Block, Grid, Text
from seen_jax.report.format import Target, grid, number, plain, share
from seen_jax.studies.base import Case, Column, Lab, Measurements, Study
from seen_jax.studies.measure import mitigate, pearson
from seen_jax.subspace import NoiseBasis, Selection
from seen_jax.subspace.localize import NamedLayers, resolve_layers
from seen_jax.subspace.selection import NoiseSource

SITES = (ENCODER_MLP_ACT, ENCODER_RESID)
METHODS = (*(("threshold", delta) for delta in (0.05, 0.1, 0.2)), ("complement", None))
LAYERS: tuple[NamedLayers, ...] = ("auto", "all", "last_third")
CLEAN_FLOOR = 0.95  # GSR of clean audio with SEEN that a selection must keep
TIE = 0.02  # correlations this close do not differ on seven SNRs and a few dozen clips
CHECKED = 12  # selections whose clean GSR is measured at a time
BEST = 15  # selections that are shown
CHOICES = ("site", "method", "delta", "energy", "noise_source", "center", "noise_alpha", "layers")
KEPT = f"keep a clean GSR of {share(CLEAN_FLOOR)} % with SEEN"
RULE = (
    f"Of the selections that {KEPT} and whose mean correlation of SEE and GSR is within {TIE:g} of the best such one, "
    "it is the one in which noise stands out most: the ratio of noisy to clean SEE is the largest."
)


class Selections(Study):
    name = "selections"
    title = "Study: selections of the method"
    lead = "All selections are measured on the same answers. SEE should fall as GSR rises."
    names, values = CHOICES, ("mean_pearson", "worst", "clean_gsr", "see_noisy", "see_clean")
    columns: Mapping[str, Column] = {"mean_pearson": ("mean r", number), "worst": ("worst r", number)}
    sites = SITES

    def cases(self, lab: Lab) -> Iterator[Case]:
        """Numbered selections (the field "selection"), each with every calibrated noise."""
        rest = ("sigma2", "sigma"), get_args(NoiseSource), (False, True), (None, 0.95)
        for k, (site, (method, delta), *values) in enumerate(itertools.product(lab.sites(SITES), METHODS, *rest)):
            options: dict[str, Any] = dict(zip(CHOICES[1:-1], (method, delta, *values), strict=True))
            selection = Selection(**{**options, "delta": delta or Selection.delta}, layers="all")
            for noise in lab.calibrated:
                calibration = lab.calibrations[noise, site]
                basis, place = calibration.select(selection), calibration.localization()
                for i, layers in enumerate(LAYERS, len(LAYERS) * k):
                    kept = resolve_layers(layers, len(basis.ranks), place)
                    fields = {"selection": i, "site": site, **options, "layers": layers, "noise": noise}
                    yield Case(fields, noise, basis.with_layers(kept))

    def rows(self, lab: Lab, cases: Sequence[Case], measured: Measurements) -> pd.DataFrame:
        """ranks: of all layers; spearman: of SEE and SNR. The same in all rows of a selection: mean_pearson over the
        noises; clean_gsr with SEEN, the lowest over the noises, where it was needed; and whether it was chosen."""
        rows: list[dict[str, Any]] = []
        bases: dict[int, list[NoiseBasis]] = {}
        for case in cases:
            bases.setdefault(case.fields["selection"], []).append(case.basis)
            spearman = pearson(rankdata(measured.see[case][1:].mean(1)), rankdata(measured.snrs))
            scores = {**measured.correlations(case), "spearman": spearman, **measured.means(case)}
            rows.append({**case.fields, "ranks": list(case.basis.ranks), **scores})
        candidates = ranked(pd.DataFrame(rows))

        def clean_gsr(numbers: Sequence[int]) -> list[float]:
            variants = [(basis, 1.0) for k in numbers for basis in bases[k]]
            seen = mitigate(lab, measured, lab.noises[0], variants, [None], "clean audio under selections")
            return [min(seen.gsr(None, basis) for basis in bases[k]) for k in numbers]

        candidates["clean_gsr"] = checked(candidates["mean_pearson"], clean_gsr)
        candidates["chosen"] = candidates.index == pick(candidates)
        return pd.DataFrame(rows).join(candidates[["mean_pearson", "clean_gsr", "chosen"]], "selection")

    def section(self, rows: pd.DataFrame, target: Target) -> list[Block]:
        first = rows.astype({"clean_gsr": float}).groupby("selection")[["clean_gsr", "chosen", *CHOICES]].first()
        candidates = ranked(rows).join(first)
        columns = self.headed([*self.names, *self.values])
        titled = lambda title, table: grid(table, columns, len(CHOICES), title)
        texts = [Text(self.lead), Text(f"{len(candidates)} selections on {rows['noise'].nunique()} noises.")]
        if undefined := int(candidates["mean_pearson"].isna().sum()):
            texts.append(Text(f"For {undefined} of them SEE or GSR does not vary for some noise.", note=True))
        chosen = candidates[candidates["chosen"]]
        passed = bool((chosen["clean_gsr"] >= CLEAN_FLOOR).any())
        rule = RULE if passed else f"None was found to {KEPT}; this one correlates best, if any correlation is defined."
        choice: list[Block] = [titled("The chosen selection", chosen), Text(rule, note=True)]
        best = titled(f"The first {BEST} in order of the mean correlation", candidates.head(BEST))
        return [*texts, *choice, by_choice(rows), best, *target.link(f"study_{self.name}")]


def ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per selection, over the noises: those whose SEE falls most clearly as GSR rises first, undefined last."""
    groups = rows.astype({"pearson": float}).groupby("selection")
    table = groups[["see_clean", "see_noisy"]].mean()
    table["mean_pearson"] = groups["pearson"].agg(lambda r: r.mean(skipna=False))
    table["worst"] = groups["pearson"].agg(lambda r: r.max(skipna=False))
    return table.sort_values("mean_pearson", kind="stable", na_position="last")


def checked(correlations: pd.Series, measure: Callable[[Sequence[int]], Sequence[float]]) -> pd.Series:
    """Clean GSR of selections by number: of the first few, and of further ones until one keeps the floor and no other
    correlates as well; missing elsewhere. correlations: the best first, undefined last."""
    clean, defined = pd.Series(float("nan"), correlations.index), correlations.dropna()
    for start in range(0, len(defined), CHECKED):
        if defined.iloc[start] > defined[clean[defined.index] >= CLEAN_FLOOR].min() + TIE:  # NaN: none has passed
            break
        part = list(defined.index[start : start + CHECKED])
        clean[part] = np.array(measure(part))
    return clean


def pick(candidates: pd.DataFrame) -> int | None:
    """The number of the selection that `RULE` chooses. If none keeps clean audio: the first with a defined correlation,
    or None. candidates: by number, the best correlation first."""
    defined = candidates.dropna(subset=["mean_pearson"])
    passing = defined[defined["clean_gsr"] >= CLEAN_FLOOR]
    if passing.empty:
        return None if defined.empty else int(defined.index[0])
    close = passing[passing["mean_pearson"] <= passing["mean_pearson"].iloc[0] + TIE]
    return int((close["see_noisy"] / (close["see_clean"] + 1e-9)).idxmax())  # the first among equals


def by_choice(rows: pd.DataFrame) -> Grid:
    """What each choice is worth: the mean correlation over all selections that make it."""
    tables = []
    for name in CHOICES:
        groups = rows.astype({"pearson": float}).groupby(name, dropna=False)["pearson"]
        table = groups.agg(["mean", "count", "size"]).rename_axis("value").reset_index()
        tables.append(table.assign(choice=name.replace("_", " "), value=table["value"].map(plain)))
    columns: dict[str, Column] = {"choice": ("choice", str), "value": ("value", str), "mean": ("mean r", number)}
    columns |= {"count": ("defined", plain), "size": ("rows", plain)}
    title = "Each choice by itself: mean over all selections and noises"
    return grid(pd.concat(tables), columns, 2, title)


SELECTIONS = Selections()
