"""The strength of SEEN, from nothing to more than the whole noise subspace."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pandas as pd

from seen_jax.studies.base import Case, Figure, Lab, Measurements, Study
from seen_jax.studies.measure import mitigate

STRENGTHS = tuple(i / 10 for i in range(13))


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


STRENGTH = Strength()
