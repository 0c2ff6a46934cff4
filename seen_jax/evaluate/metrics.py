"""Scores of outputs, as pure functions of strings and numbers.

GSR compares with the model's own clean output and accuracy with the ground truth: they are never mixed up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from seen_jax.errors import ConfigError

LONG_RUN = 4  # one word so many times in a row is not a sentence


class Estimate(NamedTuple):
    """A value with the ends of its confidence interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


def same(clean_outputs: Sequence[str], outputs: Sequence[str]) -> Bool[np.ndarray, " items"]:
    """True where an output equals the clean one, white space at both ends aside. ConfigError on different lengths."""
    if len(clean_outputs) != len(outputs):
        raise ConfigError(f"{len(outputs)} outputs cannot be compared with {len(clean_outputs)} clean outputs")
    return np.array([c.strip() == o.strip() for c, o in zip(clean_outputs, outputs, strict=True)], bool)


def gsr(clean_outputs: Sequence[str], outputs: Sequence[str]) -> float:
    """Generation success rate (paper): the share of outputs equal to the model's own clean output; NaN for none."""
    return share(same(clean_outputs, outputs))


def share(hits: Bool[np.ndarray, " items"]) -> float:
    """Share of True, NaN for no items."""
    return float(np.mean(hits)) if len(hits) else float("nan")


def accuracy(letters: Sequence[str | None], right: Sequence[str]) -> float:
    """Share of items whose letter is right; a missing letter (None) is a failed item. NaN for no items."""
    if len(letters) != len(right):
        raise ConfigError(f"{len(letters)} letters cannot be compared with {len(right)} right ones")
    return share(np.array([a is not None and a == b for a, b in zip(letters, right, strict=True)], bool))


def plain_words(text: str) -> str:
    """Lower case, punctuation gone (apostrophes too), single blanks: what the word error rate compares."""
    return " ".join(re.sub(r"[^\w\s]|_", "", text.lower()).split())


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word errors per reference word over all pairs, by jiwer, on `plain_words`; NaN for no pairs.

    Words where the reference has none count as errors; where all references are empty, the rate is 0 if all
    hypotheses are empty too, else 1.
    """
    import jiwer

    if len(references) != len(hypotheses):
        raise ConfigError(f"{len(hypotheses)} hypotheses cannot be compared with {len(references)} references")
    pairs = [(plain_words(r), plain_words(h)) for r, h in zip(references, hypotheses, strict=True)]
    if not pairs:
        return float("nan")
    spoken = [(r, h) for r, h in pairs if r]
    inserted = sum(len(h.split()) for r, h in pairs if not r)
    if not spoken:
        return float(inserted > 0)
    found = jiwer.process_words([r for r, _ in spoken], [h for _, h in spoken])
    errors = found.substitutions + found.deletions + found.insertions + inserted
    return errors / (found.hits + found.substitutions + found.deletions)


def fixed_broken(clean: Sequence[str], noisy: Sequence[str], mitigated: Sequence[str]) -> tuple[int, int]:
    """(items that differ from clean when noisy and equal it when mitigated, items the other way round)."""
    before, after = same(clean, noisy), same(clean, mitigated)
    return int((~before & after).sum()), int((before & ~after).sum())


def nonsense(output: str, multiple_choice: bool = False) -> bool:
    """Whether an output is empty, says one word four times in a row, or, as a choice, names no letter."""
    from seen_jax.train.tasks import answer_letter

    words = output.split()
    runs = (len(set(words[i : i + LONG_RUN])) == 1 for i in range(len(words) - LONG_RUN + 1))
    return not words or any(runs) or (multiple_choice and answer_letter(output) is None)


def wilson(hits: int, n: int, level: float = 0.95) -> Estimate:
    """A share with its Wilson score interval (scipy); NaN for n = 0. ConfigError unless 0 <= hits <= n."""
    from scipy.stats import binomtest

    if not 0 <= hits <= n:
        raise ConfigError(f"{hits} of {n} is not a share")
    if n == 0:
        return Estimate(*[float("nan")] * 3)
    interval = binomtest(hits, n).proportion_ci(level, "wilson")
    return Estimate(hits / n, float(interval.low), float(interval.high))


def correlation(
    x: Sequence[float | int] | Float[np.ndarray, " cells"],
    y: Sequence[float | int] | Float[np.ndarray, " cells"],
    kind: Literal["pearson", "spearman"] = "pearson",
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Pearson or Spearman correlation of cells, with a percentile bootstrap interval over pairs.

    NaN with fewer than three cells or where one side is constant; resamples that are constant on one side are left
    out. The same seed gives the same interval. ConfigError on different lengths.
    """
    from scipy.stats import rankdata

    both = np.array([x, y], np.float64) if len(x) == len(y) else None
    if both is None:
        raise ConfigError(f"a correlation needs pairs, not {len(x)} and {len(y)} values")
    n = both.shape[1]
    if n < 3:
        return Estimate(*[float("nan")] * 3)
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    samples = np.concatenate([both[:, None], both[:, draws]], axis=1)  # [2, 1 + resamples, n], the data first
    values = _pearson(rankdata(samples, axis=-1) if kind == "spearman" else samples)
    if np.isnan(values[0]):
        return Estimate(*[float("nan")] * 3)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.nanquantile(values[1:], tails) if not np.isnan(values[1:]).all() else [np.nan] * 2
    return Estimate(float(values[0]), float(low), float(high))


def _pearson(pairs: Float[np.ndarray, "2 samples n"]) -> Float[np.ndarray, " samples"]:
    """Correlation of every sample, NaN where a side is constant."""
    flat = (np.ptp(pairs, axis=-1) == 0).any(axis=0)
    x, y = pairs - pairs.mean(axis=-1, keepdims=True)
    norms = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    r = (x * y).sum(-1) / np.where(norms > 0, norms, 1)
    return np.where(flat | (norms == 0), np.nan, np.clip(r, -1, 1))
