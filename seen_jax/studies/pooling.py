"""Bases made of the mean activation of every clip, as the paper's are, against bases of all frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from seen_jax.errors import ConfigError
from seen_jax.models.batching import Prepared, group_requests, run_batches
from seen_jax.models.pooling import measured
from seen_jax.models.processor import DEFAULT_PROMPT, Request
from seen_jax.models.sites import ENCODER_SITES, Taps
from seen_jax.studies.base import Case, Column, Lab, Study
from seen_jax.studies.lab import calibration_waves
from seen_jax.studies.measure import frames_of
from seen_jax.subspace.selection import select_columns
from seen_jax.subspace.svd import Directions, directions_of_moments

WIDEST = 1024  # of a site: second moments of D x D are taken for every layer


class Pooling(Study):
    name = "pooling"
    title = "Study: pooling"
    lead = "Bases made of the mean activation of every clip, as the paper's are, and of all frames."
    names = ("noise", "pooled")
    columns: Mapping[str, Column] = {"pooled": ("of clip means", str)}

    def check(self, experiment: Any) -> None:
        site = experiment.config.site
        width = experiment.model.config.site_shape(site)[1]
        if width > WIDEST:
            raise ConfigError(
                f"the study 'pooling' needs second moments of {site}, {width} x {width} per layer, and takes widths up "
                f"to {WIDEST}: leave it out of `studies`, or choose another site"
            )

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
        values = np.asarray(measured(model, lalm, prepared, {})[0][site], np.float64)
        return frames_of(model, site, values, prepared)

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


POOLING = Pooling()
