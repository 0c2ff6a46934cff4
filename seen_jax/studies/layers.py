"""SEE and SEEN at one layer, at named groups of layers, and from the localised layer on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import get_args

import pandas as pd

from seen_jax.report.figures import layer_probe
from seen_jax.studies.base import Case, Figure, Lab, Measurements, Study
from seen_jax.studies.measure import seen_scores
from seen_jax.subspace.localize import NamedLayers, resolve_layers


class Layers(Study):
    name = "layers"
    title = "Study: one layer at a time"
    lead = "SEE and SEEN at a single layer, and at named groups of layers."
    names, values = ("layer", "noise"), ("pearson", "pearson_snr", "gain", "clean_gsr")

    def cases(self, lab: Lab) -> Iterator[Case]:
        """The experiment's basis with other layers; "auto" keeps the localised layer and those after it."""
        for noise in lab.noises:
            basis = lab.basis(noise)
            depth = len(basis.ranks)
            sets: dict[int | str, tuple[int, ...]] = {layer: (layer,) for layer in range(depth)}
            thirds = [name for name in get_args(NamedLayers) if name.endswith("third")] if depth > 2 else []
            sets |= {name: resolve_layers(name, depth) for name in (*thirds, "all")}
            if noise in lab.calibrated:
                sets["auto"] = resolve_layers("auto", depth, lab.calibration(noise).localization())
            for name, layers in sets.items():
                yield Case({"noise": noise, "layer": name}, noise, basis.with_layers(layers))

    def rows(self, lab: Lab, cases: Sequence[Case], measured: Measurements) -> pd.DataFrame:
        return seen_scores(lab, measured, cases, [None, *lab.low], "layers for")

    def figures(self, rows: pd.DataFrame) -> Iterator[Figure]:
        yield "layer_probe", "Pearson r and GSR gain of every layer.", partial(layer_probe, rows)


LAYERS = Layers()
