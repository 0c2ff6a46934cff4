"""The algebra of a restoration: what noise took from the activations is put back by a map fitted to pairs of frames.

The map is the least-squares (ridge) estimate of the clean frame from the noisy one, one per condition (a noise at an
SNR), as in SPLICE (Deng et al. 2000), there for cepstra, here for a site of the model. A linear-Gaussian classifier of
pooled activations says how much of each condition a clip is (the gate); the condition "clean" has no map. All of it is
closed form: no gradient, no step on the model.

Axes: N clips, T frames, D width, K conditions, R rank, P descriptors, L layers of a site.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seen_jax.errors import ConfigError
from seen_jax.models.edits import Edit

_STILL = 1e-3  # below it a channel's spread over the frames counts as none


@dataclasses.dataclass(frozen=True, eq=False)
class FrameSums:
    """Sums over frames of one condition. gram: [D + 1, D + 1] of (frame, 1) with itself. cross: [D + 1, D] of (frame,
    1) with the change that restores it. They add up over batches and over conditions. float64."""

    gram: Float[np.ndarray, "affine affine"]
    cross: Float[np.ndarray, "affine width"]

    def __add__(self, other: FrameSums) -> FrameSums:
        return FrameSums(self.gram + other.gram, self.cross + other.cross)


def frame_sums(
    noisy: Float[np.ndarray, "clips frames width"],
    clean: Float[np.ndarray, "clips frames width"],
    mask: Bool[np.ndarray, "clips frames"],
) -> FrameSums:
    """The sums over the frames that are real (mask) of the same clips with and without noise.

    Raises ConfigError where a real frame holds NaN or infinite values.
    """
    x = np.asarray(noisy[mask], np.float64)
    change = np.asarray(clean[mask], np.float64) - x
    if not (np.isfinite(x).all() and np.isfinite(change).all()):
        raise ConfigError("activations to restore hold NaN or infinite values: check the clips and the model's dtype")
    z = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    return FrameSums(z.T @ z, z.T @ change)


def ridge(sums: FrameSums, penalty: float) -> tuple[Float[np.ndarray, "width width"], Float[np.ndarray, " width"]]:
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
    affine = np.linalg.solve(sums.gram + np.diag(weights), sums.cross)
    return affine[:-1], affine[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """One affine map per condition, restored = a + (a U_k) V^T + b_k, with common orthonormal directions V.

    u: [K, D, R] directions that are read, v: [D, R] written, bias: [K, D]; float32.
    """

    u: Float[np.ndarray, "conditions width rank"]
    v: Float[np.ndarray, "width rank"]
    bias: Float[np.ndarray, "conditions width"]


def fit_maps(
    sums: Sequence[FrameSums | None],
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
    for k, condition in enumerate(sums):
        if condition is not None:
            a[k], b[k] = (share[k] * x for x in ridge(condition, penalty))
            energy += a[k].T @ condition.gram[:-1, :-1] @ a[k]
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
    """The edit of one layer of a site, of `layers` in all, that restores each clip by a mixture of maps of its own.

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
    stack = lambda x: jnp.asarray(only.reshape(-1, *[1] * x.ndim) * x)
    read = -np.einsum("nk,kdr->ndr", w, maps.u)  # an edit subtracts
    bias = np.einsum("nk,kd->nd", w, maps.bias)[:, None]
    return Edit(u=stack(read), scale=jnp.asarray(only), v=stack(maps.v), bias=stack(bias))
