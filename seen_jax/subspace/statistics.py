"""What a calibration knows of its clips: all pooled activations (`Statistics`), or their sums (`Streamed`).

Axes: L layers, n clips, D width. Both answer what a calibration asks: shape, curves, directions, SEE.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from seen_jax.errors import BasisError
from seen_jax.subspace.formulas import see_frames
from seen_jax.subspace.localize import Curves, layer_curves
from seen_jax.subspace.moments import Moments
from seen_jax.subspace.svd import Directions, right_singular
from seen_jax.subspace.trees import register

Side = Literal["clean", "pure", "difference"]
NO_NOISY = "noise_source='difference' needs noisy activations, which this calibration lacks: calibrate with noisy clips"

_see_by_layer = jax.jit(jax.vmap(see_frames))


@dataclass(frozen=True, eq=False)
class Statistics:
    """Activations pooled per clip at one site, on the host, float32 (other float arrays are converted).

    clean, noise, noisy: each [L, n, D], aligned pair by pair: clean requests, pure-noise clips, and (or None) the clean
        requests with their noise mixed in.
    Raises BasisError: different or empty shapes, NaN or infinite values.
    >>> subspace.Statistics(clean=np.ones((4, 10, 16)), noise=np.zeros((4, 10, 16))).shape
    (4, 10, 16)
    """

    clean: Float[np.ndarray, "layers n width"]
    noise: Float[np.ndarray, "layers n width"]
    noisy: Float[np.ndarray, "layers n width"] | None = None

    def __post_init__(self) -> None:
        for name, value in self.tensors().items():
            array = np.asarray(value, np.float32)
            object.__setattr__(self, name, array)
            if array.ndim != 3 or 0 in array.shape:
                raise BasisError(f"{name} activations must be [layers, clips, width], not {list(array.shape)}")
            if array.shape != self.clean.shape:
                shapes = f"{name} activations are {list(array.shape)}, the clean ones {list(self.clean.shape)}"
                raise BasisError(f"{shapes}: calibrate with as many noise clips as clean ones, at the same site")
            if bad := np.flatnonzero(~np.isfinite(array).all(axis=(1, 2))).tolist():
                raise BasisError(f"{name} activations hold NaN or infinite values in layers {bad}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(L, n, D)."""
        depth, n, width = self.clean.shape
        return depth, n, width

    def curves(self) -> Curves:
        """`layer_curves` of the clean and the noise activations."""
        return layer_curves(self.clean, self.noise)

    def distance(self) -> float:
        """||S - N||_F over all layers, relative to the larger of both; 0 where both are zero."""
        scale = max(float(np.linalg.norm(self.clean)), float(np.linalg.norm(self.noise)))
        return float(np.linalg.norm(self.clean - self.noise)) / scale if scale else 0.0

    def directions(self, side: Side, center: bool) -> Directions:
        """`right_singular` of the clean, the noise, or the noisy minus clean activations. BasisError without noisy."""
        if side != "difference":
            return right_singular(self.clean if side == "clean" else self.noise, center)
        if self.noisy is None:
            raise BasisError(NO_NOISY)
        return right_singular(self.noisy - self.clean, center)

    def pooled_see(self, q: Float[Array, "layers width rank"]) -> dict[str, np.ndarray]:
        """SEE [L] of "clean" and of "noisy" pooled activations ("noise" without those), the mean over the clips."""
        name, other = ("noise", self.noise) if self.noisy is None else ("noisy", self.noisy)
        sides = ("clean", self.clean), (name, other)
        return {key: np.asarray(_see_by_layer(a, q)).mean(axis=-1) for key, a in sides}

    def tensors(self) -> dict[str, np.ndarray]:
        """By name, as a folder keeps them."""
        return {"clean": self.clean, "noise": self.noise} | ({} if self.noisy is None else {"noisy": self.noisy})

    def merge(self, other: "Statistics") -> "Statistics":
        """Those of both sets of clips. BasisError: other layers or width, noisy activations in one of them only."""
        mine, theirs = self.tensors(), other.tensors()
        _check_alike(self.shape, other.shape, len(mine) == len(theirs))
        return Statistics(**{name: np.concatenate([a, theirs[name]], axis=1) for name, a in mine.items()})


@dataclass(frozen=True, eq=False)
class Streamed:
    """What a calibration keeps of clips that do not fit in memory: moments of each side, and sums over pairs.

    clean, noise, difference: moments of the pooled activations, and (or None) of noisy minus clean ones.
    sums: [4, L] float64, ||S||^2, ||N||^2, <S, N> and ||S - N||^2 over all clips.
    >>> part = subspace.Streamed.of(calibration.statistics)
    >>> part.merge(part).shape == (4, 2 * calibration.source.shape[1], 768)
    True
    """

    clean: Moments
    noise: Moments
    difference: Moments | None
    sums: Float64[np.ndarray, "4 layers"]

    @classmethod
    def of(cls, batch: Statistics) -> "Streamed":
        """Of the clips of a batch."""
        s, n = batch.clean.astype(np.float64), batch.noise.astype(np.float64)
        products = ((s, s), (n, n), (s, n), (s - n, s - n))
        sums = np.stack([np.einsum("lnd,lnd->l", a, b) for a, b in products])
        difference = None if batch.noisy is None else Moments.of(batch.noisy - batch.clean)
        return cls(Moments.of(batch.clean), Moments.of(batch.noise), difference, sums)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(L, n, D)."""
        return self.clean.shape

    def merge(self, other: "Streamed") -> "Streamed":
        """Those of both sets of clips. BasisError: other layers or width, noisy activations in one of them only."""
        mine, theirs = self.difference, other.difference
        _check_alike(self.shape, other.shape, (mine is None) == (theirs is None))
        difference = None if mine is None or theirs is None else mine.merge(theirs)
        clean, noise = self.clean.merge(other.clean), self.noise.merge(other.noise)
        return Streamed(clean, noise, difference, self.sums + other.sums)

    def curves(self) -> Curves:
        """`layer_curves` of all clips."""
        clean, noise, inner, apart = self.sums
        norms = np.sqrt(clean) * np.sqrt(noise)
        direction = np.clip(inner / np.where(norms > 0, norms, 1), -1, 1)
        return Curves(jnp.asarray(np.sqrt(apart), jnp.float32), jnp.asarray(direction, jnp.float32))

    def distance(self) -> float:
        """||S - N||_F over all layers, relative to the larger of both; 0 where both are zero."""
        clean, noise, apart = np.sqrt(self.sums[[0, 1, 3]].sum(axis=1))
        return float(apart / max(clean, noise)) if max(clean, noise) else 0.0

    def directions(self, side: Side, center: bool) -> Directions:
        """`Moments.directions` of the clean, the noise, or the noisy minus clean activations. BasisError without."""
        moments = {"clean": self.clean, "pure": self.noise, "difference": self.difference}[side]
        if moments is None:
            raise BasisError(NO_NOISY)
        return moments.directions(center)

    def pooled_see(self, q: Float[Array, "layers width rank"]) -> dict[str, np.ndarray]:
        """SEE [L] of "clean" and "noise" pooled activations, where clips count by their energy."""
        return {"clean": self.clean.energy_share(q), "noise": self.noise.energy_share(q)}

    def tensors(self) -> dict[str, np.ndarray]:
        """By name, as a folder keeps them."""
        sides = {"clean": self.clean, "noise": self.noise, "difference": self.difference}
        none = self.clean.factor[:, :0, 1:].astype(np.float32)
        tensors = {"sums": self.sums}
        for name, moments in sides.items():
            if moments is not None:
                tensors[f"{name}.factor"] = moments.factor
                tensors[f"{name}.pending"] = np.concatenate([none, *moments.pending], axis=1)
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], n: int) -> "Streamed":
        """Back from `tensors` of n clips. Raises BasisError where they do not fit each other or hold NaN."""
        names = {name.partition(".")[0] for name in tensors} - {"sums"}
        expected = {"sums", *(f"{name}.{part}" for name in names for part in ("factor", "pending"))}
        if set(tensors) != expected or not {"clean", "noise"} <= names <= {"clean", "noise", "difference"}:
            raise BasisError(f"tensors {sorted(tensors)} are not those of a streamed calibration")
        if bad := sorted(name for name, tensor in tensors.items() if not np.isfinite(tensor).all()):
            raise BasisError(f"{', '.join(bad)} hold NaN or infinite values")
        depth, _, width = tensors["clean.pending"].shape
        sides = {}
        for name in names:
            factor, pending = tensors[f"{name}.factor"], tensors[f"{name}.pending"]
            rows = factor.shape[1]
            square = factor.shape == (depth, rows, width + 1) and rows in (0, width + 1)
            counted = n > width if rows else n == pending.shape[1]
            if not (square and pending.shape[::2] == (depth, width) and counted):
                raise BasisError(f"{name}: factor {factor.shape} and rows {pending.shape} do not fit {n} clips")
            sides[name] = Moments(n, factor, (pending,) if pending.shape[1] else ())
        if tensors["sums"].shape != (4, depth):
            raise BasisError(f"sums are {tensors['sums'].shape}, expected {(4, depth)}")
        return cls(sides["clean"], sides["noise"], sides.get("difference"), tensors["sums"])


register(Statistics, leaves=("clean", "noise", "noisy"))
register(Streamed, leaves=("clean", "noise", "difference", "sums"))


def _check_alike(mine: tuple[int, int, int], other: tuple[int, int, int], same_parts: bool) -> None:
    if mine[::2] != other[::2]:
        raise BasisError(f"{mine[0]} layers of width {mine[2]} cannot be merged with {other[0]} of width {other[2]}")
    if not same_parts:
        raise BasisError("only one of two calibrations has noisy activations: they cannot be merged")
