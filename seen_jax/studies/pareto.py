"""The threshold delta and the energy share alpha of a selection, and what SEEN then takes of noise and clean audio."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from seen_jax.report.figures import front, pareto
from seen_jax.report.format import share
from seen_jax.studies.base import ALPHA, Case, Column, Figure, Lab, Measurements, Study
from seen_jax.studies.measure import identity, idle, mitigate
from seen_jax.subspace import NoiseBasis, Selection

DELTAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
ALPHAS = (0.8, 0.9, 0.95, 0.99)
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
ANSWERED = (0.5, 1.0)  # strengths at which GSR is measured
BASES = 4  # per noise whose GSR is measured


class Delta(Study):
    name = "delta"
    title = f"Study: threshold δ and energy share {ALPHA}"
    lead = "How far a noise direction may lie along the semantic ones, and how many of these there are."
    names: Sequence[str] = ("delta", "semantic_alpha", "noise")
    sweeps = (("delta", "pearson", "noise"), ("delta", "pearson", "semantic_alpha"))

    def cases(self, lab: Lab) -> Iterator[Case]:
        """The experiment's selection with other values. The complement has no delta."""
        methods = [("threshold", delta) for delta in DELTAS] + [("complement", None)]
        for noise, (method, delta), alpha in itertools.product(lab.calibrated, methods, ALPHAS):
            changes: dict[str, Any] = {"method": method, "delta": delta or Selection.delta, "semantic_alpha": alpha}
            basis = lab.calibration(noise).select(dataclasses.replace(lab.config.selection, **changes))
            yield Case({"noise": noise, **changes, "delta": delta}, noise, basis)


class Pareto(Delta):
    name = "pareto"
    title = "Study: suppression against damage"
    lead = "Energy that SEEN takes out of the calibration's noise against what it takes out of clean test audio."
    names = ("delta", "semantic_alpha", "strength", "noise")
    values = ("suppression", "damage", "gain", "clean_gsr")
    columns: Mapping[str, Column] = {"suppression": ("of noise (%)", share), "damage": ("of clean (%)", share)}

    def rows(self, lab: Lab, cases: Sequence[Case], measured: Measurements) -> pd.DataFrame:
        """suppression: share of the energy of the calibration's noise activations; damage: of clean test audio; front:
        no other row of the noise has more suppression and no more damage, or the other way round. gain and clean_gsr
        are measured for a few bases and strengths; missing for the others."""
        tables = []
        for noise in lab.calibrated:
            statistics = lab.calibration(noise).statistics
            energy = statistics.noise
            if lab.config.selection.noise_source == "difference" and statistics.noisy is not None:
                energy = statistics.noisy - statistics.clean
            shares = {case: energy_share(energy, case.basis) for case in cases if case.noise == noise}
            variants = list(itertools.product(spread_bases(shares), ANSWERED))
            seen = mitigate(lab, measured, noise, variants, [None, *lab.low], f"pareto of {noise}")
            answered = {(identity(basis), strength) for basis, strength in variants}
            rows = []
            for case, strength in itertools.product(shares, STRENGTHS):
                known = (identity(case.basis), strength) in answered
                gain = seen.gain(case.basis, strength) if known else None
                clean = seen.gsr(None, case.basis, strength) if known else None
                both = {"suppression": shares[case], "damage": measured.means(case)["see_clean"]}
                both = {name: removed(strength) * value for name, value in both.items()}
                rows.append({**case.fields, "strength": strength, **both, "gain": gain, "clean_gsr": clean})
            table = pd.DataFrame(rows)
            tables.append(table.assign(front=front(table["damage"].to_numpy(), table["suppression"].to_numpy())))
        return pd.concat(tables, ignore_index=True)

    def figures(self, rows: pd.DataFrame) -> Iterator[Figure]:
        method = rows["delta"].map("δ {:g}".format, na_action="ignore").fillna("complement")
        alpha = rows["semantic_alpha"].map(f", {ALPHA} {{:g}}".format)
        label = method + alpha + rows["strength"].map(", λ {:g}".format)
        axes = "damage: energy taken out of clean audio (%)", "suppression: energy taken out of noise (%)"
        caption = "The points that no other one beats; the line joins those of all noises together."
        yield self.name, caption, partial(pareto, rows.assign(label=label, group=rows["noise"]), *axes)

    def shown(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["front"]]


def removed(strength: float) -> float:
    """Share of the energy along a basis that SEEN takes away; negative beyond strength 2, where it adds some."""
    return 1.0 - (1.0 - strength) ** 2


def energy_share(matrix: Float[np.ndarray, "layers n width"], basis: NoiseBasis) -> float:
    """Share of the energy of activations along a basis, mean over its kept layers; 0 at layers without energy."""
    shares = []
    for layer in basis.layers:
        a, q = matrix[layer].astype(np.float64), np.asarray(basis.q[layer], np.float64)
        total = np.square(a).sum()
        shares.append(np.square(a @ q).sum() / total if total else 0.0)
    return float(np.mean(shares))


def spread_bases(shares: Mapping[Case, float]) -> list[NoiseBasis]:
    """A few different bases that change something, spread evenly over the shares of their cases."""
    different = {identity(case.basis): case for case in shares if not idle(case.basis, 1.0)}
    if not different:
        return []
    values = np.array([shares[case] for case in different.values()])
    goals = np.linspace(values.min(), values.max(), BASES)
    chosen = sorted({int(np.abs(values - goal).argmin()) for goal in goals})
    return [list(different.values())[i].basis for i in chosen]


DELTA, PARETO = Delta(), Pareto()
