"""SEEN along bases on other noises than their own, at single layers and groups of layers, and at other strengths."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import get_args

import pandas as pd

from seen_jax.report.figures import layer_probe, transfer_heatmap
from seen_jax.studies.base import Case, Figure, Lab, Measurements, Study
from seen_jax.studies.lab import Level
from seen_jax.studies.measure import mitigate
from seen_jax.subspace.localize import NamedLayers, resolve_layers

STRENGTHS = tuple(i / 10 for i in range(13))


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


class Strength(Study):
    name = "strength"
    title = "Study: strength of SEEN"
    lead = "λ scales what SEEN takes out; the paper sees new disturbance above 1."
    names, values = ("strength", "noise", "snr_db"), ("gsr", "clean_gsr", "gain")
    sweeps = (("strength", "gain", "noise"), ("strength", "clean_gsr", "noise"))

    def rows(self, lab: Lab, cases: Sequence[Case], measured: Measurements) -> pd.DataFrame:
        """gain: of GSR against no SEEN at the same SNR; snr_db is missing for clean audio."""
        rows = []
        for noise in lab.noises:
            basis = lab.basis(noise)
            variants = [(basis, strength) for strength in STRENGTHS]
            seen = mitigate(lab, measured, noise, variants, lab.levels, f"strengths for {noise}")
            for strength, snr in itertools.product(STRENGTHS, lab.levels):
                gsr, clean = (seen.gsr(at, basis, strength) for at in (snr, None))
                scores = {"gsr": gsr, "clean_gsr": clean, "gain": gsr - measured.gsr(noise, snr)}
                rows.append({"noise": noise, "strength": strength, "snr_db": snr, **scores})
        return pd.DataFrame(rows)

    def shown(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["snr_db"].notna()]

    def figures(self, rows: pd.DataFrame) -> Iterable[Figure]:
        return super().figures(self.shown(rows))


def seen_scores(
    lab: Lab, measured: Measurements, cases: Sequence[Case], levels: Sequence[Level], stage: str
) -> pd.DataFrame:
    """One row per case: its correlations, the gain of GSR by SEEN at strength 1 and, if `levels` have clean audio, the
    GSR of clean audio under it."""
    seen, rows = {}, []
    for noise in lab.noises:
        variants = [(case.basis, 1.0) for case in cases if case.noise == noise]
        seen[noise] = mitigate(lab, measured, noise, variants, levels, f"{stage} {noise}")
    for c in cases:
        clean = {"clean_gsr": seen[c.noise].gsr(None, c.basis)} if None in levels else {}
        rows.append({**c.fields, **measured.correlations(c), "gain": seen[c.noise].gain(c.basis), **clean})
    return pd.DataFrame(rows)


TRANSFER, LAYERS, STRENGTH = Transfer(), Layers(), Strength()
