"""Mean and second moments of rows that are too many to keep, mergeable across batches, processes and files.

Axes: L layers, n clips, D width, m rows of a batch.

The second moments X^T X of rows X [n, D] are kept as their square root: R of a QR decomposition, with R^T R = X^T X. R
has the right singular vectors and singular values of X itself, where an eigendecomposition of X^T X in float64 has lost
what lies below 1e-6 of the largest singular value. A leading column of ones carries n and the mean along, and what is
below the first row of R is the factor of the centred rows. Two factors merge by the QR of both, one above the other
(TSQR: Demmel et al. 2012, SIAM J. Sci. Comput. 34).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64

from seen_jax.errors import BasisError
from seen_jax.subspace.svd import Directions, right_singular


class Moments(NamedTuple):
    """Moments of rows of every layer: a pytree of host arrays; every method returns a new one. Up to D rows are kept as
    they are, so a small set costs no more than its rows and is exactly them.

    n: number of rows.
    factor: [L, D + 1, D + 1] float64, R of the rows (1, x) of all that is not pending; [L, 0, D + 1] before there are
        more than D rows.
    pending: batches [L, m, D] float32 of rows, at most D in all.
    >>> rows = np.random.default_rng(0).standard_normal((2, 50, 8), np.float32)
    >>> subspace.Moments.of(rows[:, :20]).merge(subspace.Moments.of(rows[:, 20:])).shape
    (2, 50, 8)
    """

    n: int
    factor: Float64[np.ndarray, "layers rows augmented"]
    pending: tuple[Float32[np.ndarray, "layers _ width"], ...]

    @classmethod
    def of(cls, rows: Float[np.ndarray, "layers n width"]) -> "Moments":
        """The moments of rows [L, n, D]. Raises BasisError on an empty array, NaN or infinite values."""
        rows = np.asarray(rows, np.float32)
        if rows.ndim != 3 or 0 in rows.shape:
            raise BasisError(f"moments need activations [layers, clips, width], not {list(rows.shape)}")
        if bad := np.flatnonzero(~np.isfinite(rows).all(axis=(1, 2))).tolist():
            raise BasisError(f"activations hold NaN or infinite values in layers {bad}")
        depth, n, width = rows.shape
        return _reduced(n, [], [rows], np.zeros((depth, 0, width + 1)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(L, n, D)."""
        return self.factor.shape[0], int(self.n), self.factor.shape[2] - 1

    def merge(self, other: "Moments") -> "Moments":
        """Those of both sets of rows; associative and commutative up to rounding. BasisError unless L and D agree."""
        if self.factor.shape[::2] != other.factor.shape[::2]:
            mine, theirs = (f"{m.shape[0]} layers and width {m.shape[2]}" for m in (self, other))
            raise BasisError(f"moments of {mine} cannot be merged with those of {theirs}")
        factors = [m.factor for m in (self, other) if m.factor.shape[1]]
        return _reduced(self.n + other.n, factors, [*self.pending, *other.pending], self.factor[:, :0])

    def directions(self, center: bool = False) -> Directions:
        """`right_singular` of all rows. One layer at a time: only one is in float64 twice."""
        if not self.factor.shape[1]:
            return right_singular(np.concatenate(self.pending, axis=1), center)
        factors = (_r([self.factor], self.pending, layer)[None, int(center) :, 1:] for layer in range(len(self.factor)))
        each = [right_singular(factor, n=self.shape[1]) for factor in factors]
        return Directions(*(jnp.concatenate(parts) for parts in zip(*each, strict=True)))

    def energy_share(self, q: Float[Array | np.ndarray, "layers width rank"]) -> Float64[np.ndarray, " layers"]:
        """Share of the energy of all rows that lies in the columns of q, sum ||x Q||^2 / sum ||x||^2 [L], in [0, 1]."""
        inside, total = np.zeros(len(q)), np.zeros(len(q))
        for rows in (self.factor[..., 1:], *self.pending):
            for layer, x in enumerate(rows):
                inside[layer] += np.square(x @ np.asarray(q[layer], np.float64)).sum()
                total[layer] += np.square(x, dtype=np.float64).sum()
        return np.minimum(inside / np.where(total > 0, total, 1), 1)


def _reduced(
    n: int, factors: list[np.ndarray], pending: list[np.ndarray], none: Float64[np.ndarray, "layers 0 augmented"]
) -> Moments:
    """Moments of factors and rows that wait, reduced to one factor where there are several or too many rows."""
    depth, _, augmented = none.shape
    if len(factors) < 2 and sum(rows.shape[1] for rows in pending) < augmented:
        return Moments(n, factors[0] if factors else none, tuple(pending))
    return Moments(n, np.stack([_r(factors, pending, layer) for layer in range(depth)]), ())


def _r(factors: list[np.ndarray], pending: list[np.ndarray] | tuple[np.ndarray, ...], layer: int) -> np.ndarray:
    """R [D + 1, D + 1] of one layer, float64; there are more than D rows."""
    rows = [np.insert(rows[layer].astype(np.float64), 0, 1, axis=1) for rows in pending]
    return np.asarray(np.linalg.qr(np.concatenate([*(factor[layer] for factor in factors), *rows]), mode="r"))
