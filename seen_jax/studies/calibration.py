"""Calibrations: where clean and noise activations part, how much the number of clips and their SNR matter, and bases
made of the mean activation of every clip, as the paper's are, against bases of all frames."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
import pandas as pd

from seen_jax.errors import ConfigError
from seen_jax.models.batching import Prepared, group_requests, run_batches
from seen_jax.models.pooling import measured as measured_activations
from seen_jax.models.pooling import per_request
from seen_jax.models.processor import DEFAULT_PROMPT, Request
from seen_jax.models.sites import ENCODER_SITES, SITES, Taps
from seen_jax.report.figures import layer_curves
from seen_jax.report.format import plain
from seen_jax.studies.base import Case, Column, Figure, Lab, Measurements, Study
from seen_jax.studies.lab import calibrate, calibration_waves
from seen_jax.subspace import Calibration, NoiseBasis, Statistics
from seen_jax.subspace.selection import NoiseSource, select_columns
from seen_jax.subspace.svd import Directions, directions_of_moments

SIZES = (10, 20, 50, 100, 200)
SNRS = (-10.0, 0.0, 10.0, 20.0)
WIDEST = 1024  # of a site for Pooling: second moments of D x D are taken for every layer


class Localisation(Study):
    name = "localisation"
    title = "Study: localisation"
    lead = "How far apart clean and noise activations are at every layer of every site, and how differently they point."
    names, values = ("site", "noise"), ("l_star", "l_first")
    columns: Mapping[str, Column] = {"l_star": ("l*", plain), "l_first": ("first kept layer", plain)}
    sites, measures = SITES, False

    def rows(self, lab: Lab, cases: Sequence[Case], measured: Measurements) -> pd.DataFrame:
        """l_star: missing where no layer meets the rule; l_first: what is then kept."""
        rows = []
        for noise, site in itertools.product(lab.calibrated, lab.sites(SITES)):
            calibration = lab.calibrations[noise, site]
            curves, place = calibration.curves()._asdict(), calibration.localization()
            fields = {"noise": noise, "site": site, **{name: np.asarray(x).tolist() for name, x in curves.items()}}
            rows.append({**fields, "l_star": place.first if place.found else None, "l_first": place.first})
        return pd.DataFrame(rows)

    def figures(self, rows: pd.DataFrame) -> Iterator[Figure]:
        for site, curves in rows.groupby("site", sort=False):
            caption = f"{site}: distance and direction between clean and noise activations; star: l*, the first kept."
            yield f"localisation_{str(site).replace('.', '_')}", caption, partial(layer_curves, curves)


class Compared(Study):
    """Bases of other calibrations, beside the largest one or that of 0 dB."""

    values = ("rank", "pearson", "pearson_snr", "overlap")
    columns: Mapping[str, Column] = {
        "clips": ("clips of the calibration", plain),
        "calibration_snr_db": ("SNR of the calibration (dB)", plain),
        "overlap": ("overlap (0 to 1)", plain),
    }

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
                parts = {name: values[:, order[:size]] for name, values in whole.statistics.tensors().items()}
                fewer = Calibration(config.site, Statistics(**parts), whole.card)
                yield Case({"noise": noise, "clips": size}, noise, fewer.select(config.selection))


class CalibrationSnr(Compared):
    name = "calibration_snr"
    title = "Study: SNR of the calibration"
    lead = "The same selection with noise at other levels in the calibration."
    names = ("calibration_snr_db", "noise_source", "noise")
    sweeps = (("calibration_snr_db", "pearson", "noise"), ("calibration_snr_db", "overlap", "noise"))

    def cases(self, lab: Lab) -> Iterator[Case]:
        site, clips = lab.config.site, lab.config.calibration.clips
        calibrations = {snr: calibrate(lab, [site], snr, clips) for snr in SNRS}
        for noise, source, snr in itertools.product(lab.calibrated, get_args(NoiseSource), SNRS):
            selection = dataclasses.replace(lab.config.selection, noise_source=source)
            fields = {"noise": noise, "noise_source": source, "calibration_snr_db": snr}
            yield Case(fields, noise, calibrations[snr][noise, site].select(selection))


def overlap(a: NoiseBasis, b: NoiseBasis) -> float | None:
    """Mean cos^2 of the principal angles between two bases: over the angles of a layer, then over the layers that both
    keep and where both have directions; None without any."""
    shares = []
    for layer in sorted({*a.layers} & {*b.layers}):
        if few := min(a.ranks[layer], b.ranks[layer]):
            shares.append(float(np.square(np.asarray(a.q[layer], np.float64).T @ b.q[layer]).sum()) / few)
    return float(np.mean(shares)) if shares else None


class Pooling(Study):
    name = "pooling"
    title = "Study: pooling"
    lead = "Bases made of the mean activation of every clip, as the paper's are, and of all frames."
    names = ("noise", "pooled")
    columns: Mapping[str, Column] = {"pooled": ("of clip means", str)}

    def check(self, experiment: Any) -> None:
        site = experiment.config.site
        if (width := experiment.model.config.site_shape(site)[1]) > WIDEST:
            needed = f"the study 'pooling' needs second moments of {site}, {width} x {width} per layer, and takes"
            advice = "leave it out of `studies`, or choose another site"
            raise ConfigError(f"{needed} widths up to {WIDEST}: {advice}")

    def cases(self, lab: Lab) -> Iterator[Case]:
        """Both keep the same layers."""
        for noise in lab.calibrated:
            basis = lab.basis(noise)
            semantic, other = frame_directions(lab, noise)
            q, ranks = select_columns(semantic, other, lab.config.selection)
            yield Case({"noise": noise, "pooled": True}, noise, basis)
            frames = dataclasses.replace(basis, q=q, ranks=tuple(ranks.tolist()))
            yield Case({"noise": noise, "pooled": False}, noise, frames)


def frame_directions(lab: Lab, noise: str) -> list[Directions]:
    """Semantic and noise directions of all frames of the calibration's clips."""
    config, model, site, selection = lab.config, lab.model, lab.config.site, lab.config.selection
    lalm = model.tapped(Taps((site,), "full"))

    def run(prepared: Prepared) -> list[np.ndarray]:
        values = np.asarray(measured_activations(model, lalm, prepared, {})[0][site], np.float64)
        return per_request(model, site, values, prepared)

    kinds = calibration_waves(lab, noise, config.calibration.snr_db, config.calibration.clips)
    order = sorted(range(config.calibration.clips), key=lambda i: len(kinds["clean"][i]))
    sums: list[Any] = [0, 0.0, 0.0, 0.0, 0.0]  # frames, and of each side the sum and the second moments
    for start in range(0, len(order), config.batch_size):  # the activations of one batch are in memory at a time
        frames = {}
        for kind in ("clean", "noise" if selection.noise_source == "pure" else "noisy"):
            requests = [Request([kinds[kind][i]], DEFAULT_PROMPT) for i in order[start : start + config.batch_size]]
            groups = group_requests(model, requests, config.batch_size, text=site not in ENCODER_SITES)
            frames[kind] = np.concatenate(run_batches(model, requests, run, groups), axis=1)
        clean, other = frames.values()
        sides = clean, other - clean if "noisy" in frames else other
        new = [clean.shape[1], *(x for a in sides for x in (a.sum(1), np.swapaxes(a, 1, 2) @ a))]
        sums = [x + y for x, y in zip(sums, new, strict=True)]
    n, *rest = sums
    mean = lambda total: total[:, :, None] * total[:, None] / n if selection.center else 0
    return [directions_of_moments(second - mean(total), n) for total, second in (rest[:2], rest[2:])]


LOCALISATION, CALIBRATION_SIZE, CALIBRATION_SNR = Localisation(), CalibrationSize(), CalibrationSnr()
POOLING = Pooling()
