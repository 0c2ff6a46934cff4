"""Comparisons on the same items, with intervals: McNemar's exact test, bootstrap over items, correlations of cells.

An item heard at several SNRs is one observation: `items` says which values belong together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped

from seen_jax.errors import ConfigError
from seen_jax.evaluate.metrics import Estimate, WordErrors, correlation

RESAMPLES = 2000
CHUNK = 4_000_000  # resampled values held at once

Values = Sequence[float | int | bool] | Shaped[np.ndarray, " items"]


class McNemar(NamedTuple):
    """Items that only the first or only the second got right, and the two-sided p value of that difference."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a: Sequence[bool] | Bool[np.ndarray, " items"], b: Sequence[bool] | Bool[np.ndarray, " items"]) -> McNemar:
    """McNemar's exact test (scipy's binomial test) between two mitigations on the same items, True = right.

    p = 1 where they never differ. ConfigError on different lengths.
    """
    from scipy.stats import binomtest

    first, second = _pair(a, b)
    only_a, only_b = int((first & ~second).sum()), int((~first & second).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def mean_interval(
    values: Values,
    items: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean with a percentile bootstrap interval over items; NaN for no values.

    items: the item of every value, if some belong to the same one. The same seed gives the same interval.
    ConfigError for values that are not finite.
    """
    return ratio_interval(values, np.ones(len(values)), items, resamples, level, seed)


def paired_difference(
    a: Values,
    b: Values,
    items: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean of b - a over the same items, with its interval as in `mean_interval`; of hits (bools): of their shares.

    ConfigError on different lengths.
    """
    first, second = _pair(a, b)
    return mean_interval(second.astype(np.float64) - first, items, resamples, level, seed)


def wer_interval(
    own: WordErrors,
    items: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Word error rate of all items together with its bootstrap interval; NaN where the references have no words."""
    return ratio_interval(own.errors, own.words, items, resamples, level, seed)


def paired_wer_difference(
    a: WordErrors,
    b: WordErrors,
    items: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Word error rate of b less that of a on the same references, with its interval; below zero, b is better.

    ConfigError unless both have the same references.
    """
    if not np.array_equal(a.words, b.words):
        raise ConfigError("word error rates can only be compared on the same references, in the same order")
    return ratio_interval(b.errors - a.errors, a.words, items, resamples, level, seed)


def ratio_interval(
    numerators: Values,
    denominators: Values,
    items: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Sum of numerators over sum of denominators, with a percentile bootstrap interval over items.

    Resamples whose denominators add up to zero are left out. ConfigError on different lengths, values that are not
    finite, and a level outside 0 to 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval must lie between 0 and 1, not {level}")
    top, bottom = _by_item(*_pair(numerators, denominators), items)
    if not bottom.sum():
        return Estimate(*[float("nan")] * 3)
    n, rng = len(top), np.random.default_rng(seed)
    drawn = []
    for start in range(0, resamples, max(1, CHUNK // n)):
        rows = rng.integers(n, size=(min(max(1, CHUNK // n), resamples - start), n))
        drawn.append(np.stack([top[rows].sum(1), bottom[rows].sum(1)]))
    tops, bottoms = np.concatenate([*drawn, np.empty((2, 0))], axis=1)
    values = tops[bottoms > 0] / bottoms[bottoms > 0]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) if len(values) else [math.nan] * 2
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))


def correlate(
    cells: Sequence[Mapping[str, Any]],
    by: Sequence[str],
    x: str = "see",
    y: str = "gsr",
    seed: int = 0,
    pooled: str = "all",
) -> list[dict[str, Any]]:
    """Pearson and Spearman correlation of x and y for every combination of the keys `by`, and over all cells.

    Cells without x or y (None) are left out; which mitigations and SNRs belong together is up to the caller. Dicts of
    the keys (`pooled` in the last one), cells, pearson and spearman, each with `_low` and `_high`; None if undefined.
    """
    kept = [c for c in cells if c[x] is not None and c[y] is not None]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in kept:
        groups.setdefault(tuple(cell[key] for key in by), []).append(cell)
    found = []
    for key, own in [*groups.items(), ((pooled,) * len(by), kept)]:
        entry: dict[str, Any] = {**dict(zip(by, key, strict=True)), "cells": len(own)}
        for kind in ("pearson", "spearman"):
            r = correlation([c[x] for c in own], [c[y] for c in own], kind, seed=seed)
            values = {kind: r.value, f"{kind}_low": r.low, f"{kind}_high": r.high}
            entry |= {name: None if math.isnan(value) else value for name, value in values.items()}
        found.append(entry)
    return found


def _pair(a: Values, b: Values) -> tuple[np.ndarray, np.ndarray]:
    if len(a) != len(b):
        raise ConfigError(f"{len(b)} values cannot be compared with {len(a)}: both need the same items")
    first, second = np.asarray(a), np.asarray(b)
    for array in (first, second):
        if array.size and not np.isfinite(array).all():
            raise ConfigError(f"{(~np.isfinite(array)).sum()} of {len(array)} values are not finite: leave them out")
    return (first, second) if first.size else (np.zeros(0, bool), np.zeros(0, bool))


def _by_item(
    top: Num[np.ndarray, " values"] | Bool[np.ndarray, " values"],
    bottom: Num[np.ndarray, " values"] | Bool[np.ndarray, " values"],
    items: Sequence[Hashable] | None,
) -> tuple[Float[np.ndarray, " items"], Float[np.ndarray, " items"]]:
    """Sums per item; every value is an item of its own if they are not named."""
    if items is None:
        return top.astype(np.float64), bottom.astype(np.float64)
    if len(items) != len(top):
        raise ConfigError(f"{len(items)} item names for {len(top)} values")
    place = dict(zip(dict.fromkeys(items), itertools.count()))
    index = np.array([place[item] for item in items], np.int64)
    return (np.bincount(index, top, len(place)), np.bincount(index, bottom, len(place)))
