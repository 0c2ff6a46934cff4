"""Measurements that studies share: SEE of any basis under any noise, and answers with and without SEEN.

One measuring pass answers every item once, clean and at each SNR of each noise. The SEE of all cases of all studies is
taken from it, so a basis costs no pass of its own; only GSR under SEEN does.
Axes: S levels (clean, then the SNRs), L layers, D width, C directions, N subjects.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float

from seen_jax.edits import projection
from seen_jax.evaluate import metrics
from seen_jax.files import digest
from seen_jax.models.batching import Prepared
from seen_jax.models.edits import Edits
from seen_jax.models.encoder import within
from seen_jax.models.generate import Decoding, Generated, generate
from seen_jax.models.generate_edits import generate_edits
from seen_jax.models.lalm import Lalm
from seen_jax.models.model import Model
from seen_jax.models.pooling import of_clips
from seen_jax.models.sites import DECODER_SITES, ENCODER_SITES, PROJECTOR, Taps
from seen_jax.progress import shifted
from seen_jax.studies.lab import Lab, Level
from seen_jax.subspace import NoiseBasis, see

VARIANTS = 13  # (basis, strength) pairs of one compiled call
BATCHES = 4  # of answers in memory at once: with more variants, a batch has fewer items
DIRECTIONS = 64  # of the measuring pass: their number is padded to a multiple of this

Numbers = Sequence[float] | Float[np.ndarray, " points"]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A basis whose SEE is measured under a noise. fields: what its row begins with."""

    fields: dict[str, Any]
    noise: str
    basis: NoiseBasis


@dataclasses.dataclass(frozen=True, eq=False)
class Measurements:
    """What the measuring pass gave.

    Attributes:
        answers: of every subject, by noise and level.
        see: [S, N] of a case, each subject clean and at each SNR of the case's noise.
    """

    snrs: tuple[float, ...]
    answers: Mapping[tuple[str, Level], list[str]]
    see: Mapping[Case, Float[np.ndarray, "levels subjects"]]

    def gsr(self, noise: str, snr: Level, answers: Sequence[str] | None = None) -> float:
        """GSR at a level of a noise: without SEEN, or of other answers."""
        return metrics.gsr(self.answers[noise, None], self.answers[noise, snr] if answers is None else answers)

    def correlations(self, case: Case) -> dict[str, float | None]:
        """Pearson correlations over the SNRs of GSR with SEE and, as a baseline, with the SNR itself."""
        gsr = [self.gsr(case.noise, snr) for snr in self.snrs]
        return {"pearson": pearson(self.see[case][1:].mean(1), gsr), "pearson_snr": pearson(self.snrs, gsr)}

    def means(self, case: Case) -> dict[str, float]:
        """SEE of clean audio, and its mean over the SNRs."""
        sees = self.see[case]
        return {"see_clean": float(sees[0].mean()), "see_noisy": float(sees[1:].mean())}


def pearson(x: Numbers, y: Numbers) -> float | None:
    """Pearson's r; None for fewer than three points, or where one side is constant."""
    defined = len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0
    return float(np.corrcoef(x, y)[0, 1]) if defined else None


def measure(lab: Lab, cases: Sequence[Case]) -> Measurements:
    """Answer every subject once per noise and level, and take the SEE of all cases from the same pass.

    Each direction is measured once, however many bases of a site have it.
    """
    model, levels = lab.model, lab.levels
    places, matrices = _directions(model, cases)
    shape = lambda q: (len(levels), len(q), q.shape[-1], len(lab.subjects))
    shares = {key: np.zeros(shape(q), np.float32) for key, q in matrices.items()}
    tapped = model.tapped(Taps(tuple(dict.fromkeys(site for site, _ in matrices)), "full"))
    outputs: dict[tuple[str | None, Level], list[str]] = {}
    jobs: list[tuple[str | None, Level]] = [(None, None), *itertools.product(lab.noises, lab.config.snrs)]
    for done, (noise, snr) in enumerate(jobs):
        tested = {key: jnp.asarray(q) for key, q in matrices.items() if noise in (None, key[1])}

        def run(prepared: Prepared, tested: dict[tuple[str, str], jax.Array] = tested) -> list[Any]:
            texts, out = generated(lab, tapped, prepared, {})
            sees = {}
            for (site, name), q in tested.items():
                mask = jnp.asarray(positions(model, site, prepared.inputs))
                each = see_by_direction(out.taps[site], q, mask)
                sees[site, name] = of_clips(model, site, np.asarray(each), prepared)
            return [(text, {key: x[:, row] for key, x in sees.items()}) for row, text in enumerate(texts)]

        progress = shifted(lab.progress, done * len(lab.subjects), len(jobs) * len(lab.subjects))
        hear = None if noise is None else lambda k, noise=noise, snr=snr: lab.subjects[k].wave(noise, snr)
        results = lab.run(run, "measuring for the studies", progress, hear)
        outputs[noise, snr] = lab.answers([text for text, _ in results])
        for key in tested:
            shares[key][levels.index(snr)] = np.stack([sees[key] for _, sees in results], axis=-1)
    answers = {(n, s): outputs[None if s is None else n, s] for n, s in itertools.product(lab.noises, levels)}
    of_case = {}
    for case, layers in places.items():
        share = shares[case.basis.site, case.noise]
        of_case[case] = np.minimum([share[:, i, layers[i]].sum(1) for i in case.basis.layers], 1).mean(0)
    return Measurements(lab.config.snrs, answers, of_case)


def _directions(
    model: Model, cases: Sequence[Case]
) -> tuple[dict[Case, list[list[int]]], dict[tuple[str, str], Float[np.ndarray, "layers width directions"]]]:
    """The different directions of every layer, by site and noise, and which of them the layers of each case have.

    Zero columns fill all layers up to one number of directions.
    """
    known: dict[tuple[str, str], list[dict[bytes, int]]] = {}
    places: dict[Case, list[list[int]]] = {}
    for case in cases:
        layers = known.setdefault((case.basis.site, case.noise), [{} for _ in case.basis.ranks])
        places[case] = []
        for directions, q, rank in zip(layers, np.asarray(case.basis.q), case.basis.ranks, strict=True):
            columns = [column.tobytes() for column in q[:, :rank].T]
            places[case].append([directions.setdefault(column, len(directions)) for column in columns])
    matrices = {}
    for (site, noise), layers in known.items():
        count = -(-max(1, *map(len, layers)) // DIRECTIONS) * DIRECTIONS
        matrix = np.zeros((len(layers), model.config.site_shape(site)[1], count), np.float32)
        for layer, directions in enumerate(layers):
            for column, i in directions.items():
                matrix[layer, :, i] = np.frombuffer(column, np.float32)
        matrices[site, noise] = matrix
    return places, matrices


def generated(lab: Lab, lalm: Lalm, prepared: Prepared, edits: Edits) -> tuple[list[str], Generated]:
    """Outputs for a group, and what was measured on the way."""
    inputs: Any = prepared.inputs
    out = generate(lalm, lab.model.variables, inputs, edits, Decoding(lab.config.max_new_tokens))
    return lab.model.processor.decode(np.asarray(out.tokens), np.asarray(out.lengths)), out


@jax.jit
def see_by_direction(
    a: Float[Array, "layers rows positions width"],
    q: Float[Array, "layers width directions"],
    mask: Bool[Array, "rows positions"],
) -> Float[Array, "layers rows directions"]:
    """SEE along each direction alone. Those of orthonormal directions add up to that of their basis."""
    each = jax.vmap(see, in_axes=(None, 1, None), out_axes=-1)
    return jax.lax.map(lambda layer: each(layer[0], layer[1][..., None], mask), (a, q))


def positions(model: Model, site: str, inputs: Any) -> Bool[np.ndarray, "rows positions"]:
    """The positions over which SEE is averaged at a site: real frames, or audio tokens."""
    if site in DECODER_SITES:
        return np.asarray(inputs.audio_index) >= 0
    encoder, frames, total = model.config.encoder, np.asarray(inputs.frames), inputs.features.shape[1]
    if site == PROJECTOR:
        return np.arange(encoder.token_count(total)) < encoder.token_count(frames)[:, None]
    return within(encoder, frames, total)


def frames_of(
    model: Model, site: str, values: Float[np.ndarray, "layers rows positions ..."], prepared: Prepared
) -> list[Float[np.ndarray, "layers frames ..."]]:
    """Values at the real positions of each clip."""
    mask = positions(model, site, prepared.inputs)
    clips = prepared.clips if site in ENCODER_SITES else [[row] for row in range(len(prepared.rows))]
    return [np.concatenate([values[:, row, mask[row]] for row in rows], axis=1) for rows in clips]


@dataclasses.dataclass(frozen=True, eq=False)
class Mitigated:
    """Answers of every subject with SEEN, at some levels of a noise. answers: by `identity`, strength and level."""

    measured: Measurements
    noise: str
    low: Sequence[Level]
    answers: Mapping[tuple[str, float, Level], list[str]]

    def gsr(self, snr: Level, basis: NoiseBasis, strength: float = 1.0) -> float:
        """GSR with SEEN at a level."""
        answers = None if idle(basis, strength) else self.answers[identity(basis), strength, snr]
        return self.measured.gsr(self.noise, snr, answers)

    def gain(self, basis: NoiseBasis, strength: float = 1.0) -> float | None:
        """Mean change of GSR by SEEN at SNRs up to 10 dB; None if there are none."""
        changes = [self.gsr(snr, basis, strength) - self.measured.gsr(self.noise, snr) for snr in self.low]
        return float(np.mean(changes)) if changes else None


def mitigate(
    lab: Lab,
    measured: Measurements,
    noise: str,
    variants: Sequence[tuple[NoiseBasis, float]],
    levels: Sequence[Level],
    stage: str,
) -> Mitigated:
    """Answer all subjects with SEEN under each (basis, strength), several in one compiled call.

    Variants that change nothing are not run. Those that another study answered are run again: which variants share a
    call, and with it the last bits, must not depend on where a run was cut.
    """
    model, count, decoding = lab.model, len(lab.subjects), Decoding(lab.config.max_new_tokens)
    wanted = {(identity(basis), strength): basis for basis, strength in variants if not idle(basis, strength)}
    parts = [list(wanted.items())[start : start + VARIANTS] for start in range(0, len(wanted), VARIANTS)]
    answers: dict[tuple[str, float, Level], list[str]] = {}
    for done, (part, snr) in enumerate(itertools.product(parts, levels)):
        edits = [projection(model, basis, strength) for (_, strength), basis in part]

        def run(prepared: Prepared, edits: Any = edits) -> list[tuple[str, ...]]:
            each = generate_edits(model.lalm, model.variables, prepared.batch, edits, decoding, model.microbatch)
            return list(zip(*(model.processor.decode(out.tokens, out.lengths) for out in each), strict=True))

        progress = shifted(lab.progress, done * count, len(parts) * len(levels) * count)
        size = max(1, min(lab.config.batch_size, BATCHES * lab.config.batch_size // len(part)))
        hear = lambda k, snr=snr: lab.subjects[k].wave(noise, snr)
        outputs = zip(*lab.run(run, stage, progress, hear, size), strict=True)
        answers |= {(*key, snr): lab.answers(texts) for (key, _), texts in zip(part, outputs, strict=True)}
    return Mitigated(measured, noise, lab.low, answers)


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


def identity(basis: NoiseBasis) -> str:
    """The same for bases that edit alike: kept layers and their directions."""
    q = np.asarray(basis.q)
    columns = (np.ascontiguousarray(q[layer, :, : basis.ranks[layer]]).tobytes() for layer in basis.layers)
    return digest([f"{basis.site} {basis.layers}", *columns])


def idle(basis: NoiseBasis, strength: float) -> bool:
    """Whether SEEN changes nothing, bit for bit."""
    return strength == 0 or not any(basis.ranks[layer] for layer in basis.layers)
