"""Restoration: what noise took from the activations is put back by a map fitted to pairs of noisy and clean frames.

The map is the least-squares (ridge) estimate of the clean frame from the noisy one, one per condition (a noise at an
SNR), as in SPLICE (Deng et al. 2000), there for cepstra, here for a site of the model. A linear-Gaussian classifier of
pooled activations says how much of each condition a clip is (the gate); the condition "clean" has no map. All of it is
closed form: no gradient, no step on the model.

Axes: N clips, T frames, D width, K conditions, R rank, P descriptors, L layers of a site.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seen_jax.api import Progress
from seen_jax.errors import ConfigError
from seen_jax.models.edits import Edit
from seen_jax.models.encoder import Audio, within
from seen_jax.models.lalm import Lalm
from seen_jax.models.model import Model, batches
from seen_jax.models.sites import ENCODER_RESID, Taps
from seen_jax.prefetch import ahead

_STILL = 1e-3  # below it a channel's spread over the frames counts as none


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Sums over frames of one condition. gram: [D + 1, D + 1] of (frame, 1) with itself. cross: [D + 1, D] of (frame,
    1) with the change that restores it. They add up over batches and over conditions. float64."""

    gram: Float[np.ndarray, "affine affine"]
    cross: Float[np.ndarray, "affine width"]

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.cross + other.cross)


def moments(
    noisy: Float[np.ndarray, "clips frames width"],
    clean: Float[np.ndarray, "clips frames width"],
    mask: Bool[np.ndarray, "clips frames"],
) -> Moments:
    """The sums over the frames that are real (mask) of the same clips with and without noise.

    Raises ConfigError where a real frame holds NaN or infinite values.
    """
    x = np.asarray(noisy[mask], np.float64)
    change = np.asarray(clean[mask], np.float64) - x
    if not (np.isfinite(x).all() and np.isfinite(change).all()):
        raise ConfigError("activations to restore hold NaN or infinite values: check the clips and the model's dtype")
    z = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    return Moments(z.T @ z, z.T @ change)


def ridge(sums: Moments, penalty: float) -> tuple[Float[np.ndarray, "width width"], Float[np.ndarray, " width"]]:
    """(A, b) such that frame + frame A + b is the clean frame with the least squared error + penalty ||A||^2.

    penalty: as a share of the mean energy of a channel; b is not penalised. Raises ConfigError unless it is positive
    and there are frames.
    """
    if not (penalty > 0 and np.isfinite(penalty)):
        raise ConfigError(f"the ridge penalty must be positive, not {penalty}: 0.01 is a start")
    if not sums.gram[-1, -1] > 0:
        raise ConfigError("there are no frames to fit a restoration to: calibrate with at least one clip")
    width = len(sums.gram) - 1
    weight = penalty * max(float(np.trace(sums.gram[:-1, :-1])) / width, float(np.finfo(np.float64).tiny))
    weights = np.append(np.full(width, weight), 0.0)
    found = np.linalg.solve(sums.gram + np.diag(weights), sums.cross)
    return found[:-1], found[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """One affine map per condition, restored = a + (a U_k) V^T + b_k, with common orthonormal directions V.

    u: [K, D, R] directions that are read, v: [D, R] written, bias: [K, D]; float32.
    """

    u: Float[np.ndarray, "conditions width rank"]
    v: Float[np.ndarray, "width rank"]
    bias: Float[np.ndarray, "conditions width"]


def fit_maps(
    sums: Sequence[Moments | None],
    penalty: float = 1e-2,
    strengths: Sequence[float] | None = None,
    rank: int | None = None,
) -> Maps:
    """The ridge map of every condition, cut to a common rank.

    sums: one per condition; None: leave this condition as it is (clean audio). strengths: share of each map's change
    that is made, 1 if not given; less keeps more of the noisy frame, where the estimate is too smooth for what comes
    after it. rank: None for D. The cut is that of reduced-rank regression: V spans the changes that carry the most
    energy over the frames of all conditions.

    Raises ConfigError: no condition with sums, widths that differ, as many strengths as there are no conditions for,
    a rank out of 1..D, or as `ridge`.
    """
    given = [s for s in sums if s is not None]
    if not given or len({len(s.gram) for s in given}) > 1:
        raise ConfigError("a restoration needs a condition with paired activations, all of one width")
    width = len(given[0].gram) - 1
    share = np.ones(len(sums)) if strengths is None else np.asarray(strengths, np.float64)
    if share.shape != (len(sums),) or not np.isfinite(share).all():
        raise ConfigError(f"there are {len(sums)} conditions: give as many finite strengths, not {strengths}")
    rank = width if rank is None else rank
    if not 1 <= rank <= width:
        raise ConfigError(f"the rank of a restoration must be from 1 to {width}, not {rank}")
    a, b = np.zeros((len(sums), width, width)), np.zeros((len(sums), width))
    energy = np.zeros((width, width))
    for k, own in enumerate(sums):
        if own is not None:
            full = ridge(own, penalty)
            a[k], b[k] = (share[k] * x for x in full)
            energy += a[k].T @ own.gram[:-1, :-1] @ a[k]
    v = np.linalg.eigh(energy)[1][:, ::-1][:, :rank]
    return Maps(*(x.astype(np.float32) for x in (a @ v, v, b)))


@dataclasses.dataclass(frozen=True, eq=False)
class Gate:
    """Posterior of the conditions given a clip's descriptors: Gaussians of one covariance (linear discriminant).

    weight: [P, K], offset: [K]; the logits are (x weight + offset) / temperature.
    """

    weight: Float[np.ndarray, "descriptors conditions"]
    offset: Float[np.ndarray, " conditions"]
    temperature: float = 1.0

    def __call__(self, x: Float[np.ndarray, "clips descriptors"]) -> Float[np.ndarray, "clips conditions"]:
        """How much of each condition a clip is; rows add up to 1."""
        logits = (x.astype(np.float64) @ self.weight + self.offset) / self.temperature
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)


def fit_gate(
    x: Float[np.ndarray, "clips descriptors"],
    condition: Int[np.ndarray, " labels"],
    shrinkage: float = 0.05,
    temperature: float = 1.0,
) -> Gate:
    """Fit the gate to clips of known condition, numbered from 0, each with the same prior.

    x: `describe`, or SEE per layer and noise. shrinkage: of the covariance of standardised descriptors towards a
    multiple of the identity. temperature: above 1 for softer weights. Raises ConfigError: a condition without clips,
    a shrinkage outside of (0, 1], a temperature that is not positive.
    """
    if len(x) != len(condition) or len(x) == 0:
        raise ConfigError(f"{len(x)} clips with descriptors, {len(condition)} with a condition: give one for each")
    count = int(condition.max()) + 1
    if missing := sorted(set(range(count)) - set(condition.tolist())):
        raise ConfigError(f"conditions {missing} of 0 to {count - 1} have no clips to fit the gate to")
    if not (0 < shrinkage <= 1 and temperature > 0):
        raise ConfigError(f"a gate needs a shrinkage in (0, 1] and a positive temperature: {shrinkage}, {temperature}")
    x = x.astype(np.float64)
    centre, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    z = (x - centre) / spread
    means = np.stack([z[condition == k].mean(axis=0) for k in range(count)])
    rest = z - means[condition]
    cov = (1 - shrinkage) * rest.T @ rest / len(z)
    level = max(np.trace(rest.T @ rest) / rest.size, np.finfo(np.float64).eps)
    cov[np.diag_indices_from(cov)] += shrinkage * level
    weight = np.linalg.solve(cov, means.T)
    offset = -0.5 * np.einsum("kp,pk->k", means, weight)
    weight = weight / spread[:, None]
    return Gate(weight, offset - centre @ weight, temperature)


def describe(
    a: Float[Array, "layers clips frames width"], mask: Bool[Array, "clips frames"]
) -> Float[Array, "clips descriptors"]:
    """Mean and log standard deviation over a clip's real frames of every channel of the given layers, float32."""
    valid = mask[None, ..., None]
    n = jnp.maximum(mask.sum(axis=1), 1)[None, :, None]
    mean = jnp.where(valid, a, 0).sum(axis=2) / n
    variance = jnp.where(valid, jnp.square(a - mean[:, :, None]), 0).sum(axis=2) / n
    parts = jnp.concatenate([mean, jnp.log(jnp.sqrt(variance) + _STILL)], axis=-1)
    return jnp.moveaxis(parts, 0, 1).reshape(len(mask), -1).astype(jnp.float32)


def restoration_edit(maps: Maps, weights: Float[np.ndarray, "clips conditions"], layer: int, layers: int) -> Edit:
    """The edit of one layer of a site, of `layers` in all, that restores each clip by its own mixture of maps.

    weights: of a gate, one row per row of the encoder (a clip, or each of the parts that a family cuts it into). The
    other layers stay as they are, bit for bit, as does a clip of which all is a condition without a map.
    Raises ConfigError for a layer that is not there, or weights for other conditions.
    """
    if not 0 <= layer < layers:
        raise ConfigError(f"there is no layer {layer} among {layers}")
    if weights.shape[1] != len(maps.u):
        raise ConfigError(f"the gate knows {weights.shape[1]} conditions, the maps {len(maps.u)}: fit both to the same")
    w = weights.astype(np.float32)
    only = (np.arange(layers) == layer).astype(np.float32)
    stack = lambda x: jnp.asarray(only.reshape(-1, *[1] * x.ndim) * x)  # noqa: E731
    read = -np.einsum("nk,kdr->ndr", w, maps.u)  # an edit subtracts
    bias = np.einsum("nk,kd->nd", w, maps.bias)[:, None]
    return Edit(u=stack(read), scale=jnp.asarray(only), v=stack(maps.v), bias=stack(bias))


@dataclasses.dataclass(frozen=True, eq=False)
class Paired:
    """What one condition leaves of its clips: the sums of `moments`, None for clean audio, and the descriptors [N, P]
    of the encoder's rows."""

    sums: Moments | None
    described: Float[np.ndarray, "rows descriptors"]

    def save(self, path: Path) -> None:
        """All or nothing. Raises ConfigError where the disk refuses."""
        sums: dict[str, Any] = {} if self.sums is None else {"gram": self.sums.gram, "cross": self.sums.cross}
        partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.savez(file, described=self.described, **sums)
            partial.replace(path)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}; what was done is kept") from None

    @classmethod
    def load(cls, path: Path) -> Paired:
        """Raises ConfigError for a damaged file."""
        try:
            with np.load(path) as found:
                sums = Moments(found["gram"], found["cross"]) if "gram" in found else None
                return cls(sums, found["described"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path} is damaged ({error}): move it away to make it again") from None


def pair(
    model: Model,
    heard: Sequence[Callable[[], np.ndarray]],
    clean: Sequence[np.ndarray] | None,
    layer: int,
    gate_layers: Sequence[int],
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Paired:
    """Pass the clips of a condition as they are heard, and the same clips as they should be, through the encoder.

    heard: make 16 kHz waves, called ahead of the model. clean: of the same lengths; None: this condition needs no map.
    """
    found: list[Paired] = []
    work = list(batches(list(range(len(heard))), batch_size, model.rows))
    made = ahead(partial(_audio_of, model, heard, own, rows) for own, rows in work)
    for (own, rows), (audio, owners) in zip(work, made, strict=True):
        kept = [row for i in range(len(own)) for row in owners[i]]
        noisy, described, mask = (
            np.asarray(x) for x in _listened(_tapped(model), model.variables, audio, layer, tuple(gate_layers))
        )
        sums = None
        if clean is not None:
            target, _ = model.processor.audio([clean[i] for i in rows])
            wanted = np.asarray(_listened(_tapped(model), model.variables, target, layer, tuple(gate_layers))[0])
            sums = moments(noisy[kept], wanted[kept], mask[kept])
        found.append(Paired(sums, described[kept]))
        if progress:
            progress(own[-1] + 1, len(heard))
    total = [part.sums for part in found if part.sums is not None]
    described = np.concatenate([part.described for part in found])
    return Paired(reduce(Moments.__add__, total) if total else None, described)


def _audio_of(
    model: Model, heard: Sequence[Callable[[], np.ndarray]], own: Sequence[int], rows: Sequence[int]
) -> tuple[Audio, list[list[int]]]:
    waves = {i: heard[i]() for i in own}  # the others fill the batch up with one of these
    return model.processor.audio([waves[i] for i in rows])


def _tapped(model: Model) -> Lalm:
    return model.tapped(Taps((ENCODER_RESID,), "full"))


@partial(jax.jit, static_argnums=(0, 3, 4))
def _listened(
    lalm: Lalm, variables: Any, audio: Audio, layer: int, gate_layers: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """(activations [A, T, D] of a layer, descriptors [A, P] of the gate's layers, real positions [A, T])."""
    a = lalm.apply(variables, audio, {}, method="encode").records[ENCODER_RESID]["tap"].astype(jnp.float32)
    mask = within(lalm.config.encoder, audio.frames, audio.features.shape[1])
    return a[layer], describe(a[jnp.asarray(gate_layers)], mask), mask


@dataclasses.dataclass(frozen=True, eq=False)
class Restoration:
    """Maps of one layer of the encoder's residual stream, and the gate that mixes them for every clip."""

    maps: Maps
    gate: Gate
    layer: int
    gate_layers: tuple[int, ...]

    def edit(self, model: Model, audio: Audio) -> dict[str, Edit]:
        """The edit for the rows of `audio`. A first pass through the encoder tells the gate what they are."""
        described = _listened(_tapped(model), model.variables, audio, self.layer, self.gate_layers)[1]
        depth = model.config.site_shape(ENCODER_RESID)[0]
        return {ENCODER_RESID: restoration_edit(self.maps, self.gate(np.asarray(described)), self.layer, depth)}


def fit_restoration(
    pairs: Sequence[Paired],
    layer: int,
    gate_layers: Sequence[int],
    strength: float = 0.5,
    penalty: float = 1e-2,
    rank: int | None = None,
    temperature: float = 1.0,
) -> Restoration:
    """Fit maps and gate to the conditions. Raises ConfigError as `fit_maps` and `fit_gate`."""
    maps = fit_maps([part.sums for part in pairs], penalty, [strength] * len(pairs), rank)
    labels = np.repeat(np.arange(len(pairs)), [len(part.described) for part in pairs])
    gate = fit_gate(np.concatenate([part.described for part in pairs]), labels, temperature=temperature)
    return Restoration(maps, gate, layer, tuple(gate_layers))
