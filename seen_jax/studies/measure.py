"""Measurements that studies share: SEE of any basis under any noise, and answers with and without SEEN.

One pass answers every item, clean and at each SNR of each noise, and gives the SEE of all cases of all studies: a basis
costs no pass of its own; only GSR under SEEN does.
Axes: S levels (clean, then the SNRs), L layers, D width, C directions, N subjects."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from seen_jax.edits import projection
from seen_jax.evaluate import metrics
from seen_jax.files import digest
from seen_jax.models.batching import Prepared
from seen_jax.models.edits import Edits
from seen_jax.models.generate import Decoding, Generated, generate
from seen_jax.models.generate_edits import generate_edits
from seen_jax.models.lalm import Lalm
from seen_jax.models.model import Model
from seen_jax.models.pooling import of_clips, real_positions
from seen_jax.models.sites import Taps
from seen_jax.studies.lab import Lab, Level
from seen_jax.subspace import NoiseBasis, see

Variant = tuple[NoiseBasis, float]  # and the strength
Matrices = dict[tuple[str, str], Float[np.ndarray, "layers width directions"]]  # by site and noise
VARIANTS = 13  # (basis, strength) pairs of one compiled call
BATCHES = 4  # of answers in memory at once: with more variants, a batch has fewer items
DIRECTIONS = 64  # of the measuring pass: their number is padded to a multiple of this


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A basis whose SEE is measured under a noise."""

    fields: dict[str, Any]  # what its row begins with
    noise: str
    basis: NoiseBasis


@dataclasses.dataclass(frozen=True, eq=False)
class Measurements:
    """What the measuring pass gave."""

    snrs: tuple[float, ...]
    answers: Mapping[tuple[str, Level], list[str]]  # of every subject
    see: Mapping[Case, Float[np.ndarray, "levels subjects"]]  # [S, N], under the case's noise

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


def pearson(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float | None:
    """Pearson's r; None for fewer than three points, or where one side is constant."""
    defined = len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0
    return float(np.corrcoef(x, y)[0, 1]) if defined else None


def measure(lab: Lab, cases: Sequence[Case]) -> Measurements:
    """Answer every subject once per noise and level, and take the SEE of all cases from the same pass, in which each
    direction is measured once, however many bases of a site have it."""
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
                mask = jnp.asarray(real_positions(model, site, prepared))
                each = see_by_direction(out.taps[site], q, mask)
                sees[site, name] = of_clips(model, site, np.asarray(each), prepared)
            return [(text, {key: x[:, row] for key, x in sees.items()}) for row, text in enumerate(texts)]

        hear = None if noise is None else lambda k, noise=noise, snr=snr: lab.subjects[k].wave(noise, snr)
        results = lab.run(run, "measuring for the studies", hear, (done, len(jobs)))
        outputs[noise, snr] = lab.answers([text for text, _ in results])
        for key in tested:
            shares[key][levels.index(snr)] = np.stack([sees[key] for _, sees in results], axis=-1)
    answers = {(n, s): outputs[None if s is None else n, s] for n, s in itertools.product(lab.noises, levels)}
    of_case = {}
    for case, layers in places.items():
        share = shares[case.basis.site, case.noise]
        of_case[case] = np.minimum([share[:, i, layers[i]].sum(1) for i in case.basis.layers], 1).mean(0)
    return Measurements(lab.config.snrs, answers, of_case)


def _directions(model: Model, cases: Sequence[Case]) -> tuple[dict[Case, list[list[int]]], Matrices]:
    """Which directions the layers of each case have, and all different ones by site and noise, filled with zeros."""
    known: dict[tuple[str, str], list[dict[bytes, int]]] = {}
    places: dict[Case, list[list[int]]] = {}
    for case in cases:
        layers = known.setdefault((case.basis.site, case.noise), [{} for _ in case.basis.ranks])
        places[case] = []
        for directions, q, rank in zip(layers, np.asarray(case.basis.q), case.basis.ranks, strict=True):
            columns = [column.tobytes() for column in q[:, :rank].T]
            places[case].append([directions.setdefault(column, len(directions)) for column in columns])
    matrices: Matrices = {}
    for (site, noise), layers in known.items():
        count = -(-max(1, *map(len, layers)) // DIRECTIONS) * DIRECTIONS
        matrix = np.zeros((len(layers), model.config.site_shape(site)[1], count), np.float32)
        for filled, directions in zip(matrix, layers, strict=True):
            filled[:, : len(directions)] = np.frombuffer(b"".join(directions), np.float32).reshape(-1, len(filled)).T
        matrices[site, noise] = matrix
    return places, matrices


def generated(lab: Lab, lalm: Lalm, prepared: Prepared, edits: Edits) -> tuple[list[str], Generated]:
    """Outputs for a group, and what was measured on the way."""
    out = generate(lalm, lab.model.variables, prepared.batch, edits, Decoding(lab.config.max_new_tokens))
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
    lab: Lab, measured: Measurements, noise: str, variants: Sequence[Variant], levels: Sequence[Level], stage: str
) -> Mitigated:
    """Answer all subjects with SEEN under each (basis, strength) that changes something, several in one compiled
    call. Those that another study answered are run again: which variants share a call, and with it the last bits,
    must not depend on where a run was cut."""
    model, decoding = lab.model, Decoding(lab.config.max_new_tokens)
    wanted = {(identity(basis), strength): basis for basis, strength in variants if not idle(basis, strength)}
    parts = [list(wanted.items())[start : start + VARIANTS] for start in range(0, len(wanted), VARIANTS)]
    answers: dict[tuple[str, float, Level], list[str]] = {}
    for done, (part, snr) in enumerate(itertools.product(parts, levels)):
        edits = [projection(model, basis, strength) for (_, strength), basis in part]

        def run(prepared: Prepared, edits: Any = edits) -> list[tuple[str, ...]]:
            each = generate_edits(model.lalm, model.variables, prepared.batch, edits, decoding, model.microbatch)
            return list(zip(*(model.processor.decode(out.tokens, out.lengths) for out in each), strict=True))

        size = max(1, min(lab.config.batch_size, BATCHES * lab.config.batch_size // len(part)))
        hear = lambda k, snr=snr: lab.subjects[k].wave(noise, snr)
        outputs = zip(*lab.run(run, stage, hear, (done, len(parts) * len(levels)), size), strict=True)
        answers |= {(*key, snr): lab.answers(texts) for (key, _), texts in zip(part, outputs, strict=True)}
    return Mitigated(measured, noise, lab.low, answers)


def identity(basis: NoiseBasis) -> str:
    """The same for bases that edit alike: kept layers and their directions."""
    q = np.asarray(basis.q)
    columns = (np.ascontiguousarray(q[layer, :, : basis.ranks[layer]]).tobytes() for layer in basis.layers)
    return digest([f"{basis.site} {basis.layers}", *columns])


def idle(basis: NoiseBasis, strength: float) -> bool:
    """Whether SEEN changes nothing, bit for bit."""
    return strength == 0 or not any(basis.ranks[layer] for layer in basis.layers)
