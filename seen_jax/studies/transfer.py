"""Bases of one noise, and the union of all, used on another noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import pandas as pd

from seen_jax.report.figures import transfer_heatmap
from seen_jax.studies.base import Case, Figure, Lab, Measurements, Study
from seen_jax.studies.measure import seen_scores


class Transfer(Study):
    name = "transfer"
    title = "Study: transfer across noises"
    lead = "Bases of one noise, and the union of all, used on another noise."
    names, values = ("calibration", "noise"), ("pearson", "pearson_snr", "gain")

    def cases(self, lab: Lab) -> Iterator[Case]:
        bases = {noise: lab.basis(noise) for noise in lab.calibrated}
        if len(bases) > 1:
            bases["union"] = lab.union()
        for (calibrated, basis), noise in itertools.product(bases.items(), lab.noises):
            yield Case({"calibration": calibrated, "noise": noise}, noise, basis)

    def rows(self, lab: Lab, cases: Sequence[Case], measured: Measurements) -> pd.DataFrame:
        return seen_scores(lab, measured, cases, lab.low, "transfer to")

    def figures(self, rows: pd.DataFrame) -> Iterator[Figure]:
        yield "transfer_pearson", "Pearson r of SEE and GSR.", partial(transfer_heatmap, rows, "pearson")
        yield "transfer_gain", "GSR that SEEN gains.", partial(transfer_heatmap, rows, "gain")


TRANSFER = Transfer()
