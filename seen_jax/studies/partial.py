"""Noise over part of the clip, at a random place: as loud there as at 0 dB over the whole clip."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from seen_jax.edits import measuring
from seen_jax.models.batching import Prepared
from seen_jax.models.pooling import per_request
from seen_jax.models.sites import Taps
from seen_jax.report.format import plain, see
from seen_jax.studies.base import Case, Column, Lab, Measurements, Study
from seen_jax.studies.measure import generated

PARTS = (0.25, 0.5, 0.75, 1.0)
SNR = 0.0


class Partial(Study):
    name = "partial"
    title = "Study: noise over part of the clip"
    lead = "Only a share of the clip is noisy."
    names, values = ("share", "noise"), ("see", "see_inside", "see_outside", "gsr")
    columns: Mapping[str, Column] = {
        "share": ("noisy share", plain),
        "see": ("SEE (%)", see),
        "see_inside": ("SEE in noise (%)", see),
        "see_outside": ("SEE outside (%)", see),
    }
    sweeps = (("share", "see", "noise"), ("share", "gsr", "noise"))

    def rows(self, lab: Lab, cases: Sequence[Case], measured: Measurements) -> pd.DataFrame:
        """see: of the whole clip; see_inside, see_outside: of the frames with and without noise."""
        rows = []
        for noise, part in itertools.product(lab.noises, PARTS):
            results = noisy_part(lab, noise, part)
            sees = pd.DataFrame([see for _, see in results]).mean()
            gsr = measured.gsr(noise, None, lab.answers([text for text, _ in results]))
            rows.append({"noise": noise, "share": part, **sees, "gsr": gsr})
        return pd.DataFrame(rows)


def noisy_part(lab: Lab, noise: str, part: float) -> list[tuple[str, dict[str, float]]]:
    """(output, mean SEE of its frames) of every subject with noise over part of its clip."""
    model, basis = lab.model, lab.basis(noise)
    lalm, edits = model.tapped(Taps(see_frames=True)), measuring(model, basis)
    spans = [span(len(s.item.wave), part, [lab.config.seed, s.index, round(100 * part)]) for s in lab.subjects]

    def hear(k: int) -> Float[np.ndarray, " samples"]:
        noisy, wave = slice(*spans[k]), lab.subjects[k].item.wave.copy()
        wave[noisy] = lab.subjects[k].wave(noise, SNR)[noisy]
        return wave

    def run(prepared: Prepared) -> list[tuple[str, dict[str, float]]]:
        texts, out = generated(lab, lalm, prepared, edits)
        clips = per_request(model, basis.site, out.see[basis.site].frames, prepared)
        sees = []
        for k, per_layer in zip(prepared.rows, clips, strict=True):
            frames = np.asarray(basis.mean_see(per_layer))
            start, stop = (sample / len(lab.subjects[k].item.wave) for sample in spans[k])
            moment = (np.arange(len(frames)) + 0.5) / len(frames)
            inside = (moment >= start) & (moment < stop)
            parts = {"see": frames, "see_inside": frames[inside], "see_outside": frames[~inside]}
            sees.append({name: float(x.mean()) if len(x) else np.nan for name, x in parts.items()})
        return list(zip(texts, sees, strict=True))

    return lab.run(run, f"{noise} over {part:.0%} of the clip", hear)


def span(samples: int, part: float, seed: Sequence[int]) -> tuple[int, int]:
    """First and last sample (exclusive) of a part of a clip at a random place."""
    length = max(1, round(part * samples))
    start = int(np.random.default_rng(list(seed)).integers(samples - length + 1))
    return start, start + length


PARTIAL = Partial()
