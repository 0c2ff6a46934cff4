"""A Wiener gain inside a subspace: along given directions, a clip shrinks to the clean mean as its statistics ask."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seen_jax.audio.mix import MAX_SNR_DB, mix_at_snr
from seen_jax.errors import ConfigError
from seen_jax.mitigations.base import Fitting, Mitigation, Wave
from seen_jax.models.batching import Prepared, group_requests, run_batches
from seen_jax.models.edits import Edit, Edits
from seen_jax.models.encoder import Audio, within
from seen_jax.models.lalm import Lalm
from seen_jax.models.model import Model
from seen_jax.models.processor import Bucket, Request
from seen_jax.models.sites import ENCODER_RESID, Taps
from seen_jax.subspace import NoiseBasis, Selection

Directions = Float[np.ndarray, "layers width rank"]
Variances = Float[np.ndarray, "..."]  # [R] of a layer, with axes of layers and clips before it


def wiener_gain(signal: Variances, noise: Variances) -> Variances:
    """g = S / (S + N) per direction, in [0, 1], from variances: the linear estimate of a clean coordinate from a noisy
    one with the least squared error, where noise is independent of it. 1 where N is 0."""
    return np.where(noise > 0, signal / np.maximum(signal + noise, np.finfo(np.float64).tiny), 1.0)


def noise_level(observed: Variances, signal: Variances, noise: Variances) -> Float[np.ndarray, "... 1"]:
    """How many times the noise statistics a clip holds: h >= 0 such that S + h N fits its variances best (least squares
    over the directions of a layer). 0 where there is no noise."""
    energy = np.square(noise).sum(axis=-1, keepdims=True)
    fit = (noise * (observed - signal)).sum(axis=-1, keepdims=True)
    return np.maximum(np.where(energy > 0, fit / np.where(energy > 0, energy, 1.0), 0.0), 0.0)


def complement(q: Directions, ranks: Sequence[int]) -> Float[np.ndarray, "layers width others"]:
    """Orthonormal directions of what the first `ranks` columns of each layer leave; then zero columns."""
    parts = [np.linalg.qr(x[:, :rank], mode="complete")[0][:, rank:] for x, rank in zip(q, ranks, strict=True)]
    most = max(part.shape[1] for part in parts)
    return np.stack([np.pad(part, ((0, 0), (0, most - part.shape[1]))) for part in parts]).astype(np.float32)


class Along(NamedTuple):
    """Directions, and what clean and noisy calibration clips are along them: means and variances over frames."""

    directions: Directions
    mean: Float[np.ndarray, "layers rank"]
    signal: Variances  # of clean frames around the mean
    noise: Variances  # mean square of noisy minus clean frames


@dataclasses.dataclass(frozen=True)
class Gain(Mitigation):
    """directions: those of the noise's basis in the encoder's residual stream, or of its complement. selection: of the
    basis, and the layers that are edited; None: the experiment's own. snr: of the noisy calibration clips, in dB; how
    noisy a clip is follows from itself. strength: share of the change that is made."""

    name: ClassVar[str] = "gain"
    directions: Literal["basis", "complement"] = "basis"
    selection: Selection | None = None
    snr: float = 0.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise ConfigError(f"the strength of a gain must be a finite number, not {self.strength}")
        if not abs(self.snr) <= MAX_SNR_DB:
            raise ConfigError(f"the SNR of a gain must be at most {MAX_SNR_DB:g} dB either way, not {self.snr}")

    def fit(self, fitting: Fitting) -> Mitigation:
        """Means and variances of the calibration clips along the directions of every noise; one that is not calibrated
        gets the mean statistics of the others along its own directions."""
        if fitting.site == ENCODER_RESID:
            raise ConfigError(f"a gain edits {ENCODER_RESID}: SEE must be measured at another `site`")
        bases = fitting.bases(ENCODER_RESID, self.selection or fitting.selection)
        named = {noise: self._directions(basis) for noise, basis in bases.items()}
        layers = {noise: basis.layers for noise, basis in bases.items()}
        sums = {noise: square_sums(fitting, noise, self.snr, named) for noise in fitting.calibrated}
        statistics: dict[str, Along] = {}
        for noise, q in named.items():
            along_q = [sums[noise][noise]] if noise in sums else [of_noise[noise] for of_noise in sums.values()]
            frames, total, squares, changes = (np.mean(part, axis=0) for part in zip(*along_q, strict=True))
            mean = total / frames
            statistics[noise] = Along(q, mean, np.maximum(squares / frames - mean**2, 0), changes / frames)
        return FittedGain(fitting.model, statistics, layers, self.strength)

    def _directions(self, basis: NoiseBasis) -> Directions:
        q = np.asarray(basis.q)
        return q if self.directions == "basis" else complement(q, basis.ranks)


@dataclasses.dataclass(frozen=True, eq=False)
class FittedGain(Mitigation):
    """The statistics and layers of every noise."""

    model: Model
    statistics: Mapping[str, Along]
    layers: Mapping[str, tuple[int, ...]]
    strength: float

    def edits(self, audio: Audio, noises: Sequence[str]) -> Mapping[str, Edits]:
        """The edit of the rows of `audio`. A first pass through the encoder gives their variances."""
        lalm = self.model.tapped(Taps((ENCODER_RESID,), "full"))
        statistics = {noise: self.statistics[noise] for noise in noises}
        observed = _observed(lalm, self.model.variables, audio, statistics)
        return {
            noise: {ENCODER_RESID: gain_edit(along, np.asarray(observed[noise]), self.layers[noise], self.strength)}
            for noise, along in statistics.items()
        }


def gain_edit(along: Along, observed: Variances, layers: Sequence[int], strength: float) -> Edit:
    """mean + g (z - mean) in the place of every coordinate z of every clip at some layers, with the gains of its own
    variances `observed` [N, L, R] around that mean. Where all gains are 1, the activations stay, bit for bit."""
    q, mean, signal, noise = along
    lost = 1.0 - wiener_gain(signal, noise_level(observed, signal, noise) * noise)
    lost = np.moveaxis(lost, 0, 1)[:, :, None].astype(np.float32)  # [L, N, 1, R]
    scale = strength * np.isin(np.arange(len(q)), layers).astype(np.float32)
    bias = scale[:, None, None, None] * ((lost * mean[:, None, None].astype(np.float32)) @ q.swapaxes(1, 2)[:, None])
    u, v = q[:, None] * lost, q
    return Edit(u=jnp.asarray(u), scale=jnp.asarray(scale), v=jnp.asarray(v), bias=jnp.asarray(bias, jnp.float32))


Sums = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # frames; sums of z, z^2 and of squared changes [L, R]


def square_sums(fitting: Fitting, noise: str, snr: float, named: Mapping[str, Directions]) -> dict[str, Sums]:
    """By name of the directions, sums over the frames of the calibration clips, clean and with a noise at an SNR,
    as earlier steps of the chain leave them."""
    model, waves = fitting.model, fitting.clips
    lalm = model.tapped(Taps((ENCODER_RESID,), "full"))

    def hear(index: int) -> Wave:
        drawn = fitting.noises[noise].clip(index, len(waves[index]), fitting.seed, "calibration")
        return fitting.hear(mix_at_snr(waves[index], drawn, snr).audio)

    def run(prepared: Prepared) -> list[dict[str, Sums] | None]:
        """The sums of the whole batch, in the place of its first clip."""
        audio = prepared.inputs
        clean, _ = model.processor.audio([waves[i] for i in prepared.rows], Bucket(audio.features.shape[1]))
        real = np.zeros(len(audio.frames), bool)
        real[[row for clip in prepared.clips[: len(set(prepared.rows))] for row in clip]] = True
        of_batch = _sums(lalm, model.variables, audio, clean, real, dict(named))
        result = jax.tree.map(lambda x: np.asarray(x, np.float64), of_batch)
        return [result, *[None] * (len(prepared.rows) - 1)]

    requests = [Request([wave]) for wave in waves]
    groups = group_requests(model, requests, fitting.batch_size, text=False)
    stage = f"fitting the gain to {noise}"
    parts = [part for part in run_batches(model, requests, run, groups, hear, fitting.progress, stage) if part]
    add: Any = lambda sums: tuple(np.asarray(sum(x)) for x in zip(*sums, strict=True))
    return {name: add([part[name] for part in parts]) for name in named}


@functools.partial(jax.jit, static_argnums=0)
def _sums(lalm: Lalm, variables: Any, noisy: Audio, clean: Audio, rows: Array, named: Any) -> dict[str, Any]:
    mask = (within(lalm.config.encoder, clean.frames, clean.features.shape[1]) & rows[:, None])[None, ..., None]
    a, changed = (_activations(lalm, variables, audio) for audio in (clean, noisy))
    total = lambda x: jnp.where(mask, x, 0).sum(axis=(1, 2))

    def along(q: Array) -> tuple[Array, ...]:
        z, change = _coordinates(a, q), _coordinates(changed - a, q)
        return mask.sum(), total(z), total(jnp.square(z)), total(jnp.square(change))

    return {name: along(q) for name, q in named.items()}


@functools.partial(jax.jit, static_argnums=0)
def _observed(lalm: Lalm, variables: Any, audio: Audio, statistics: Any) -> dict[str, Array]:
    mask = within(lalm.config.encoder, audio.frames, audio.features.shape[1])[None, ..., None]
    a = _activations(lalm, variables, audio)

    def mean_square(along: Along) -> Array:
        rest = _coordinates(a, along.directions) - along.mean[:, None, None]
        squares = jnp.where(mask, jnp.square(rest), 0).sum(axis=2)
        return jnp.moveaxis(squares / jnp.maximum(mask.sum(axis=2), 1), 0, 1)

    return {noise: mean_square(along) for noise, along in statistics.items()}


def _activations(lalm: Lalm, variables: Any, audio: Audio) -> Float[Array, "layers clips frames width"]:
    a = lalm.apply(variables, audio, {}, method="encode").records[ENCODER_RESID]["tap"]
    return a.astype(jnp.float32)


def _coordinates(a: Array, q: Any) -> Float[Array, "layers clips frames rank"]:
    return jnp.einsum("lntd,ldr->lntr", a, q, precision=jax.lax.Precision.HIGHEST)
