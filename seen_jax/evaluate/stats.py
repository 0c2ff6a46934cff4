"""Comparisons on the same items: McNemar's exact test, and means with bootstrap intervals over the items.

An item under several SNRs is one observation: `items` says which values belong together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped

from seen_jax.errors import ConfigError
from seen_jax.evaluate.metrics import RESAMPLES, TAILS, UNDEFINED, Estimate

CHUNK = 4_000_000  # resampled values held at once

Values = Sequence[float | int | bool] | Shaped[np.ndarray, " values"]


class McNemar(NamedTuple):
    """Items that only the first or only the second got right, and the two-sided p value of that difference."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a: Sequence[bool] | Bool[np.ndarray, " items"], b: Sequence[bool] | Bool[np.ndarray, " items"]) -> McNemar:
    """McNemar's exact test (scipy's binomial test) between two mitigations on the same items, True = right.

    p = 1 where they never differ. Raises ConfigError on different lengths.
    """
    from scipy.stats import binomtest

    first, second = _pair(a, b)
    only_a, only_b = int((first > second).sum()), int((first < second).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def paired_difference(a: Values, b: Values, items: Sequence[Hashable] | Values, seed: int = 0) -> Estimate:
    """Mean of b - a, with its interval as in `mean_interval`; of hits (bools): the difference of their shares."""
    first, second = _pair(a, b)
    return mean_interval(second - first, items, seed)


def mean_interval(values: Values, items: Sequence[Hashable] | Values, seed: int = 0) -> Estimate:
    """Mean of all values with a 95 % percentile bootstrap interval over the items.

    Args:
        items: the item of every value.
        seed: the same seed gives the same interval.

    Returns:
        NaN for no values.

    Raises:
        ConfigError: values that are not finite, or another number of items.
    """
    array, names = _pair(values, pd.factorize(pd.Series(list(items)))[0])
    if not array.size:
        return UNDEFINED
    index = names.astype(np.int64)
    sums, counts = np.bincount(index, array), np.bincount(index)
    n, rng, means = len(sums), np.random.default_rng(seed), []
    rows = max(1, CHUNK // n)
    for start in range(0, RESAMPLES, rows):
        drawn = rng.integers(n, size=(min(rows, RESAMPLES - start), n))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), TAILS)
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high))


def _pair(a: Values, b: Values) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64. Raises ConfigError unless they are finite and of one length."""
    if len(a) != len(b):
        raise ConfigError(f"{len(b)} values cannot be compared with {len(a)}: both need the same items")
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if bad := int((~np.isfinite(np.stack([first, second]))).any(0).sum()):
        raise ConfigError(f"{bad} of {len(first)} values are not finite: leave them out")
    return first, second
