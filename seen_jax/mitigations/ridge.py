"""The algebra of a restoration: what noise took from the activations is put back by a map fitted to pairs of frames.

The map is the least-squares (ridge) estimate of the clean frame from the noisy one, one per condition (a noise at an
SNR), as in SPLICE (Deng et al. 2000), there for cepstra, here for a site of the model. A linear-Gaussian classifier of
pooled activations says how much of each condition a clip is (the gate); the condition "clean" has no map.

Axes: N clips, T frames, D width, K conditions, R rank, P descriptors, L layers of a site.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seen_jax.errors import ConfigError
from seen_jax.models.edits import Edit

STILL = 1e-3  # below it a channel's spread over the frames counts as none
Frames = Float[np.ndarray, "clips frames width"]
SHRINKAGE = 0.05  # of the covariance of standardised descriptors, towards a multiple of the identity


@dataclasses.dataclass(frozen=True, eq=False)
class FrameSums:
    """Sums over frames of one condition, which add up over batches; float64."""

    gram: Float[np.ndarray, "affine affine"]  # of (frame, 1) with itself
    cross: Float[np.ndarray, "affine width"]  # of (frame, 1) with the change that restores it

    def __add__(self, other: "FrameSums") -> "FrameSums":
        return FrameSums(self.gram + other.gram, self.cross + other.cross)


def frame_sums(noisy: Frames, clean: Frames, mask: Bool[np.ndarray, "clips frames"]) -> FrameSums:
    """The sums over the frames that are real (mask) of the same clips with and without noise. Raises ConfigError where
    one of those holds NaN or infinite values."""
    x = np.asarray(noisy[mask], np.float64)
    change = np.asarray(clean[mask], np.float64) - x
    if not (np.isfinite(x).all() and np.isfinite(change).all()):
        raise ConfigError("activations to restore hold NaN or infinite values: check the clips and the model's dtype")
    z = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    return FrameSums(z.T @ z, z.T @ change)


def ridge(sums: FrameSums, penalty: float) -> tuple[Float[np.ndarray, "width width"], Float[np.ndarray, " width"]]:
    """(A, b) such that frame + frame A + b is the clean frame with the least squared error + penalty ||A||^2, where the
    penalty is a share of the mean energy of a channel."""
    width = len(sums.gram) - 1
    weight = penalty * max(float(np.trace(sums.gram[:-1, :-1])) / width, float(np.finfo(np.float64).tiny))
    weights = np.append(np.full(width, weight), 0.0)
    affine = np.linalg.solve(sums.gram + np.diag(weights), sums.cross)
    return affine[:-1], affine[-1]


class Maps(NamedTuple):
    """One affine map per condition, restored = a + (a U_k) V^T + b_k, with common orthonormal directions V; float32."""

    u: Float[np.ndarray, "conditions width rank"]
    v: Float[np.ndarray, "width rank"]
    bias: Float[np.ndarray, "conditions width"]


def fit_maps(
    sums: Sequence[FrameSums | None], penalty: float = 1e-2, strength: float = 1.0, rank: int | None = None
) -> Maps:
    """The ridge map of every condition, cut to a common rank.
    sums: one per condition, all of one width; None: leave this condition as it is (clean audio). strength: share of the
    change that is made; less keeps more of the noisy frame, where the estimate is too smooth for what comes after it.
    rank: None for D. The cut is that of reduced-rank regression: V spans the changes that carry the most energy over
    the frames of all conditions. Raises ConfigError for a rank out of 1..D."""
    width = max(len(condition.gram) for condition in sums if condition is not None) - 1
    rank = width if rank is None else rank
    if not 1 <= rank <= width:
        raise ConfigError(f"the rank of a restoration must be from 1 to {width}, not {rank}")
    a, b = np.zeros((len(sums), width, width)), np.zeros((len(sums), width))
    energy = np.zeros((width, width))
    for k, condition in enumerate(sums):
        if condition is not None:
            a[k], b[k] = (strength * x for x in ridge(condition, penalty))
            energy += a[k].T @ condition.gram[:-1, :-1] @ a[k]
    v = np.linalg.eigh(energy)[1][:, ::-1][:, :rank]
    return Maps(*(x.astype(np.float32) for x in (a @ v, v, b)))


class Gate(NamedTuple):
    """Posterior of the conditions given a clip's descriptors: Gaussians of one covariance (linear discriminant). The
    logits are (x weight + offset) / temperature."""

    weight: Float[np.ndarray, "descriptors conditions"]
    offset: Float[np.ndarray, " conditions"]
    temperature: float = 1.0

    def __call__(self, x: Float[np.ndarray, "*clips descriptors"]) -> Float[np.ndarray, "*clips conditions"]:
        """How much of each condition a clip, or a window of it, is; the conditions add up to 1."""
        logits = (x.astype(np.float64) @ self.weight + self.offset) / self.temperature
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return p / p.sum(axis=-1, keepdims=True)


def fit_gate(
    x: Float[np.ndarray, "clips descriptors"], condition: Int[np.ndarray, " clips"], temperature: float = 1.0
) -> Gate:
    """Fit the gate to clips of known condition, numbered from 0, each with clips and the same prior. x: of `describe`.
    temperature: above 1 for softer weights."""
    x, count = x.astype(np.float64), int(condition.max()) + 1
    centre, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    z = (x - centre) / spread
    means = np.stack([z[condition == k].mean(axis=0) for k in range(count)])
    rest = z - means[condition]
    cov = (1 - SHRINKAGE) * rest.T @ rest / len(z)
    level = max(np.trace(rest.T @ rest) / rest.size, np.finfo(np.float64).eps)
    cov[np.diag_indices_from(cov)] += SHRINKAGE * level
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
    parts = jnp.concatenate([mean, jnp.log(jnp.sqrt(variance) + STILL)], axis=-1)
    return jnp.moveaxis(parts, 0, 1).reshape(len(mask), -1).astype(jnp.float32)


def describe_windows(
    a: Float[Array, "layers clips frames width"], mask: Bool[Array, "clips frames"], reach: int
) -> Float[Array, "clips frames descriptors"]:
    """`describe` of a window around every frame, the real frames of the clip that are at most `reach` frames away."""
    valid, places = mask[None, ..., None], jnp.arange(mask.shape[1])
    near = (jnp.abs(places[:, None] - places) <= reach).astype(jnp.float32)
    total = lambda x: jnp.einsum("ts,lnsd->lntd", near, jnp.where(valid, x, 0), precision=jax.lax.Precision.HIGHEST)
    n = jnp.maximum(jnp.einsum("ts,ns->nt", near, mask.astype(jnp.float32)), 1)[None, ..., None]
    of_clip = jnp.where(valid, a, 0).sum(axis=2) / jnp.maximum(mask.sum(axis=1), 1)[None, :, None]
    rest = a - of_clip[:, :, None]  # small numbers, so that their squares lose little
    mean = total(rest) / n
    variance = jnp.maximum(total(jnp.square(rest)) / n - jnp.square(mean), 0)
    parts = jnp.concatenate([mean + of_clip[:, :, None], jnp.log(jnp.sqrt(variance) + STILL)], axis=-1)
    return jnp.moveaxis(parts, 0, 2).reshape(*mask.shape, -1).astype(jnp.float32)


def restoration_edit(maps: Mapping[int, Maps], weights: Float[np.ndarray, "clips *frames maps"], layers: int) -> Edit:
    """The edit of some layers of a site, of `layers` in all, that restores each clip, or each of its frames, by a
    mixture of maps of its own.
    maps: by layer, of one rank. weights: of a gate, one row per row of the encoder (a clip, or each of the parts that a
    family cuts it into), for all of its frames [N, K] or one by one [N, T, K]. The other layers stay as they are, bit
    for bit, as does a clip of which all is a condition without a map."""
    w = weights.astype(np.float32)
    edited = np.isin(np.arange(layers), list(maps)).astype(np.float32)

    def stack(one: Callable[[Maps], np.ndarray]) -> Array:
        made = {layer: one(of_layer) for layer, of_layer in maps.items()}
        nothing = np.zeros_like(next(iter(made.values())))
        return jnp.asarray(np.stack([made.get(layer, nothing) for layer in range(layers)]))

    if w.ndim == 3:
        of_layers = jnp.broadcast_to(jnp.asarray(w), (layers, *w.shape))
        u, v, bias = (stack(one) for one in (lambda m: -m.u, lambda m: m.v, lambda m: m.bias))
        return Edit(u=u, scale=jnp.asarray(edited), v=v, bias=bias, weights=of_layers)
    read = stack(lambda one: -np.einsum("nk,kdr->ndr", w, one.u))  # an edit subtracts
    bias = stack(lambda one: np.einsum("nk,kd->nd", w, one.bias)[:, None])
    return Edit(u=read, scale=jnp.asarray(edited), v=stack(lambda one: one.v), bias=bias)
