"""Scores of outputs, as pure functions of strings and numbers.

GSR compares with the model's own clean output and accuracy with the ground truth: they are never mixed up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

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


def influence(clean_outputs: Sequence[str], noisy_outputs: Sequence[str]) -> float:
    """Share of items whose output the noise changed; NaN for none."""
    return share(~same(clean_outputs, noisy_outputs))


def share(hits: Bool[np.ndarray, " items"]) -> float:
    """Share of True, NaN for no items."""
    return float(np.mean(hits)) if len(hits) else float("nan")


def accuracy(letters: Sequence[str | None], right: Sequence[str]) -> float:
    """Share of items whose letter is right; a missing letter (None) is a failed item. NaN for no items."""
    return share(correct(letters, right))


def correct(letters: Sequence[str | None], right: Sequence[str]) -> Bool[np.ndarray, " items"]:
    """True where a letter is the right one, False where it is missing (None). ConfigError on different lengths."""
    if len(letters) != len(right):
        raise ConfigError(f"{len(letters)} letters cannot be compared with {len(right)} right ones")
    return np.array([a is not None and a == b for a, b in zip(letters, right, strict=True)], bool)


def plain_words(text: str) -> str:
    """Lower case, punctuation gone (apostrophes too), single blanks: what the word error rate compares."""
    return " ".join(re.sub(r"[^\w\s]|_", "", text.lower()).split())


class WordErrors(NamedTuple):
    """Per item: substitutions, deletions and insertions together, and words of the reference."""

    errors: Int[np.ndarray, " items"]
    words: Int[np.ndarray, " items"]


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> WordErrors:
    """Word errors of every pair, by jiwer, on `plain_words`; words where the reference has none are all errors.

    ConfigError on different lengths.
    """
    import jiwer

    if len(references) != len(hypotheses):
        raise ConfigError(f"{len(hypotheses)} hypotheses cannot be compared with {len(references)} references")
    pairs = [(plain_words(r), plain_words(h)) for r, h in zip(references, hypotheses, strict=True)]
    errors = np.array([len(h.split()) for _, h in pairs], np.int64)
    spoken = [i for i, (r, _) in enumerate(pairs) if r]
    if spoken:
        found = jiwer.process_words([pairs[i][0] for i in spoken], [pairs[i][1] for i in spoken])
        errors[spoken] = [
            sum(
                max(part.ref_end_idx - part.ref_start_idx, part.hyp_end_idx - part.hyp_start_idx)
                for part in parts
                if part.type != "equal"
            )
            for parts in found.alignments
        ]
    return WordErrors(errors, np.array([len(r.split()) for r, _ in pairs], np.int64))


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word errors per reference word over all pairs, as `word_errors`; NaN for no pairs.

    Where all references are empty, the rate is 0 if all hypotheses are empty too, else 1.
    """
    errors, words = word_errors(references, hypotheses)
    if not len(errors):
        return float("nan")
    return float(errors.sum() / words.sum()) if words.sum() else float(errors.sum() > 0)


def fixed_broken(clean: Sequence[str], noisy: Sequence[str], mitigated: Sequence[str]) -> tuple[int, int]:
    """(items that differ from clean when noisy and equal it when mitigated, items the other way round)."""
    return _turned(same(clean, noisy), same(clean, mitigated))


def fixed_broken_truth(
    right: Sequence[str], noisy: Sequence[str | None], mitigated: Sequence[str | None]
) -> tuple[int, int]:
    """As `fixed_broken`, for letters against the right ones: (wrong when noisy, right when mitigated; the reverse)."""
    return _turned(correct(noisy, right), correct(mitigated, right))


def _turned(before: Bool[np.ndarray, " items"], after: Bool[np.ndarray, " items"]) -> tuple[int, int]:
    return int((~before & after).sum()), int((before & ~after).sum())


def cosine_similarities(
    act: Float[Any, "layers width"],
    deact: Float[Any, "layers width"],
    act_noise: Float[Any, "layers width"],
    deact_noise: Float[Any, "layers width"],
) -> dict[str, float]:
    """Cosines between four pooled activations of a clip, each the mean over layers, named as in the released scripts.

    act, deact: clean audio without and with SEEN; act_noise, deact_noise: noisy audio. Layers in which one of the two
    is zero are left out; NaN where all are.
    """
    named = {"act": act, "deact": deact, "act_noise": act_noise, "deact_noise": deact_noise}
    arrays = {name: np.asarray(a, np.float64) for name, a in named.items()}
    found = {f"{a}-{b}": _mean_cosine(arrays[a], arrays[b]) for a, b in combinations(named, 2)}
    return {name: found[name] for name in COSINES}


COSINES = (
    "act-act_noise",
    "act-deact_noise",
    "deact-act_noise",
    "act-deact",
    "deact-deact_noise",
    "act_noise-deact_noise",
)


def _mean_cosine(a: Float[np.ndarray, "layers width"], b: Float[np.ndarray, "layers width"]) -> float:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    defined = norms > 0
    if not defined.any():
        return float("nan")
    return float(np.clip((a * b).sum(-1)[defined] / norms[defined], -1, 1).mean())


def nonsense(output: str) -> bool:
    """Whether an output is empty or says one word four times in a row."""
    words = output.split()
    runs = (len(set(words[i : i + LONG_RUN])) == 1 for i in range(len(words) - LONG_RUN + 1))
    return not words or any(runs)


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
