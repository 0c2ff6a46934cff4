"""How much the number of clips of a calibration, and the level of their noise, matter."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import numpy as np
import pandas as pd

from seen_jax.report.style import level
from seen_jax.studies.base import Case, Column, Lab, Measurements, Study
from seen_jax.studies.lab import calibrate
from seen_jax.subspace import Calibration, NoiseBasis, Statistics
from seen_jax.subspace.selection import NoiseSource

SIZES = (10, 20, 50, 100, 200)
SNRS = (-10.0, 0.0, 10.0, 20.0)


class Compared(Study):
    """Bases of other calibrations, beside the largest one or that of 0 dB."""

    values = ("rank", "pearson", "pearson_snr", "overlap")

    def rows(self, lab: Lab, cases: Sequence[Case], measured: Measurements) -> pd.DataFrame:
        """overlap: with the reference of the same noise and noise source."""
        kind = lambda case: (case.noise, case.fields.get("noise_source"))
        references = {kind(c): c.basis for c in cases if c.fields.get("calibration_snr_db", 0.0) == 0.0}  # the last one
        rows = super().rows(lab, cases, measured)
        rows["overlap"] = [overlap(case.basis, references[kind(case)]) for case in cases]
        return rows


class CalibrationSize(Compared):
    name = "calibration_size"
    title = "Study: clips of the calibration"
    lead = "The same selection with fewer clips."
    names = ("clips", "noise")
    sweeps = (("clips", "pearson", "noise"), ("clips", "overlap", "noise"))
    clips = max(SIZES)

    def cases(self, lab: Lab) -> Iterator[Case]:
        """Clips are drawn once in a random order, and a larger calibration holds the smaller ones; the last has all."""
        config, most = lab.config, min(len(lab.clips), max(SIZES))
        order = np.random.default_rng(config.seed).permutation(most)
        for (noise, _), whole in calibrate(lab, [config.site], config.calibration.snr_db, most).items():
            for size in [*(size for size in SIZES if size < most), most]:
                basis = subset(whole, order[:size]).select(config.selection)
                yield Case({"noise": noise, "clips": size}, noise, basis)


class CalibrationSnr(Compared):
    name = "calibration_snr"
    title = "Study: SNR of the calibration"
    lead = "The same selection with noise at other levels in the calibration."
    names = ("calibration_snr_db", "noise_source", "noise")
    columns: Mapping[str, Column] = {"calibration_snr_db": ("SNR", level)}
    sweeps = (("calibration_snr_db", "pearson", "noise"), ("calibration_snr_db", "overlap", "noise"))

    def cases(self, lab: Lab) -> Iterator[Case]:
        site, clips = lab.config.site, lab.config.calibration.clips
        calibrations = {snr: calibrate(lab, [site], snr, clips) for snr in SNRS}
        for noise, source, snr in itertools.product(lab.calibrated, get_args(NoiseSource), SNRS):
            selection = dataclasses.replace(lab.config.selection, noise_source=source)
            fields = {"noise": noise, "noise_source": source, "calibration_snr_db": snr}
            yield Case(fields, noise, calibrations[snr][noise, site].select(selection))


def subset(calibration: Calibration, clips: Sequence[int] | np.ndarray) -> Calibration:
    """The calibration of some of its clips."""
    parts = {name: values[:, clips] for name, values in calibration.statistics.tensors().items()}
    return Calibration(calibration.site, Statistics(**parts), calibration.card)


def overlap(a: NoiseBasis, b: NoiseBasis) -> float | None:
    """Mean cos^2 of the principal angles between two bases: over the angles of a layer, then over layers.

    Of layers that both keep and where both have directions; None without any.
    """
    shares = []
    for layer in sorted({*a.layers} & {*b.layers}):
        few = min(a.ranks[layer], b.ranks[layer])
        if few:
            shares.append(float(np.square(np.asarray(a.q[layer], np.float64).T @ b.q[layer]).sum()) / few)
    return float(np.mean(shares)) if shares else None


CALIBRATION_SIZE, CALIBRATION_SNR = CalibrationSize(), CalibrationSnr()
