"""Where in the layers clean and noise activations part: both curves of every site and noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from seen_jax.models.sites import SITES
from seen_jax.report.figures import layer_curves
from seen_jax.report.format import plain
from seen_jax.studies.base import Case, Column, Figure, Lab, Measurements, Study


class Localisation(Study):
    name = "localisation"
    title = "Study: localisation"
    lead = (
        "How far apart clean and noise activations are, and how differently they point, at every layer of every site."
    )
    names, values = ("site", "noise"), ("l_star", "l_first")
    columns: Mapping[str, Column] = {"l_star": ("l*", plain), "l_first": ("first kept layer", plain)}
    measures = False

    def sites(self, config: Any) -> Sequence[str]:
        return SITES

    def rows(self, lab: Lab, cases: Sequence[Case], measured: Measurements) -> pd.DataFrame:
        """l_star: missing where no layer meets the rule; l_first: what is then kept."""
        rows = []
        for noise, site in itertools.product(lab.calibrated, SITES):
            calibration = lab.calibrations[noise, site]
            curves, place = calibration.curves()._asdict(), calibration.localization()
            fields = {"noise": noise, "site": site, **{name: np.asarray(x).tolist() for name, x in curves.items()}}
            rows.append({**fields, "l_star": place.first if place.found else None, "l_first": place.first})
        return pd.DataFrame(rows)

    def figures(self, rows: pd.DataFrame) -> Iterator[Figure]:
        for site, curves in rows.groupby("site", sort=False):
            caption = f"{site}: distance and direction between clean and noise activations; star: l*, the first kept."
            yield f"localisation_{str(site).replace('.', '_')}", caption, partial(layer_curves, curves)


LOCALISATION = Localisation()
