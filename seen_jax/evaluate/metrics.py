"""Scores of outputs, as pure functions of strings and numbers.

GSR compares with the model's own clean answer and accuracy with the ground truth: they are never mixed up.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from seen_jax.errors import ConfigError

RESAMPLES, TAILS = 2000, (0.025, 0.975)  # of a bootstrap
LONG_RUN = 4  # one word so many times in a row is not a sentence


class Estimate(NamedTuple):
    """A value with the ends of its confidence interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


def plain_words(text: str) -> str:
    """Lower case, punctuation gone (apostrophes too), single blanks: what the word error rate compares."""
    return " ".join(re.sub(r"[^\w\s]|_", "", text.lower()).split())


def normalised(text: str) -> str:
    """`plain_words`, or the stripped text where those leave nothing."""
    return plain_words(text) or text.strip()


def answer(output: str, letter: str | None) -> str:
    """What GSR compares: the letter of a multiple choice where the output names one, else the normalised output."""
    return letter or normalised(output)


def gsr(clean_answers: Sequence[str], answers: Sequence[str]) -> float:
    """Generation success rate (paper): the share of answers equal to the model's own clean answer; NaN for none.

    Raises:
        ConfigError: the two differ in length.
    """
    if len(clean_answers) != len(answers):
        raise ConfigError(f"{len(answers)} answers cannot be compared with {len(clean_answers)} clean answers")
    return float(np.mean([c == a for c, a in zip(clean_answers, answers, strict=True)])) if answers else math.nan


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
        aligned = jiwer.process_words([pairs[i][0] for i in spoken], [pairs[i][1] for i in spoken])
        errors[spoken] = [
            sum(
                max(part.ref_end_idx - part.ref_start_idx, part.hyp_end_idx - part.hyp_start_idx)
                for part in parts
                if part.type != "equal"
            )
            for parts in aligned.alignments
        ]
    return WordErrors(errors, np.array([len(r.split()) for r, _ in pairs], np.int64))


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
    cosines = {f"{a}-{b}": _mean_cosine(arrays[a], arrays[b]) for a, b in combinations(named, 2)}
    return {name: cosines[name] for name in COSINES}


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


@functools.lru_cache(maxsize=4096)
def wilson(hits: int, n: int) -> Estimate:
    """A share with its 95 % Wilson score interval (scipy); NaN for n = 0. ConfigError unless 0 <= hits <= n."""
    from scipy.stats import binomtest

    if not 0 <= hits <= n:
        raise ConfigError(f"{hits} of {n} is not a share")
    if n == 0:
        return UNDEFINED
    interval = binomtest(hits, n).proportion_ci(0.95, "wilson")
    return Estimate(hits / n, float(interval.low), float(interval.high))


def correlation(
    x: Sequence[float | int] | Float[np.ndarray, " cells"],
    y: Sequence[float | int] | Float[np.ndarray, " cells"],
    kind: Literal["pearson", "spearman"] = "pearson",
    seed: int = 0,
) -> Estimate:
    """Pearson or Spearman correlation of cells, with a 95 % percentile bootstrap interval over pairs.

    Resamples that are constant on one side are left out; the same seed gives the same interval.

    Returns:
        NaN for fewer than three cells and where one side is constant.

    Raises:
        ConfigError: x and y differ in length.
    """
    from scipy.stats import rankdata

    if len(x) != len(y):
        raise ConfigError(f"a correlation needs pairs, not {len(x)} and {len(y)} values")
    both, n = np.array([x, y], np.float64), len(x)
    if n < 3:
        return UNDEFINED
    draws = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    samples = np.concatenate([both[:, None], both[:, draws]], axis=1)  # [2, 1 + resamples, n], the data first
    values = _pearson(rankdata(samples, axis=-1) if kind == "spearman" else samples)
    if np.isnan(values[0]):
        return UNDEFINED
    low, high = np.nanquantile(values[1:], TAILS) if not np.isnan(values[1:]).all() else [np.nan] * 2
    return Estimate(float(values[0]), float(low), float(high))


def _pearson(pairs: Float[np.ndarray, "2 samples n"]) -> Float[np.ndarray, " samples"]:
    """Correlation of every sample, NaN where a side is constant."""
    flat = (np.ptp(pairs, axis=-1) == 0).any(axis=0)
    x, y = pairs - pairs.mean(axis=-1, keepdims=True)
    norms = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    r = (x * y).sum(-1) / np.where(norms > 0, norms, 1)
    return np.where(flat | (norms == 0), np.nan, np.clip(r, -1, 1))
