"""Scores of outputs and their intervals, as pure functions of strings and numbers.

GSR compares with the model's own clean answer, accuracy with the ground truth: they are never mixed up. An item under
several SNRs is one observation: the `items` of an interval say which values belong together. The same seed gives the
same interval."""

import functools
import math
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

RESAMPLES, TAILS = 2000, (0.025, 0.975)  # of a bootstrap
ROUNDING = 1e-12  # of means: smaller differences are none
CHUNK = 4_000_000  # resampled values held at once
LONG_RUN = 4  # one word so many times in a row is not a sentence
COSINES: tuple[str, ...] = ("act-act_noise", "act-deact_noise", "deact-act_noise")
COSINES += ("act-deact", "deact-deact_noise", "act_noise-deact_noise")

Kind = Literal["pearson", "spearman"]
Values = Sequence[float | int | bool] | Shaped[np.ndarray, " values"]
Pooled = Float[Any, "layers width"]
Counts = Int[np.ndarray, " items"]


class Estimate(NamedTuple):
    """A value with the ends of its confidence interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


def plain_words(text: str) -> str:
    """Lower case, punctuation gone (apostrophes too), single blanks: what the word error rate compares."""
    return " ".join(re.sub(r"[^\w\s]|_", "", text.lower()).split())


def answer(output: str, letter: str | None) -> str:
    """What GSR compares: the letter where the output names one, else its `plain_words`, or the stripped output."""
    return letter or plain_words(output) or output.strip()


def gsr(clean_answers: Sequence[str], answers: Sequence[str]) -> float:
    """Generation success rate (paper): the share of answers equal to the model's own clean answer; NaN for none."""
    return float(np.mean([c == a for c, a in zip(clean_answers, answers, strict=True)])) if answers else math.nan


@functools.cache
def whisper_words() -> Callable[[str], str] | None:
    """Whisper's normaliser of English text, in which "colour" is "color" and "twenty one" is "21": what most published
    word error rates compare. None without the extra `whisper`."""
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError:
        return None
    return EnglishTextNormalizer()


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], words: Callable[[str], str] = plain_words
) -> tuple[Counts, Counts]:
    """(errors, words of the reference) of every pair, by jiwer: substitutions, deletions and insertions together; words
    where the reference has none are all errors. words: the normaliser of both texts."""
    import jiwer

    pairs = [(words(r), words(h)) for r, h in zip(references, hypotheses, strict=True)]
    errors = np.array([len(h.split()) for _, h in pairs], np.int64)
    spoken = [i for i, (r, _) in enumerate(pairs) if r]
    if spoken:
        aligned = jiwer.process_words([pairs[i][0] for i in spoken], [pairs[i][1] for i in spoken])
        length = lambda c: max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx)
        errors[spoken] = [sum(length(c) for c in chunks if c.type != "equal") for chunks in aligned.alignments]
    return errors, np.array([len(r.split()) for r, _ in pairs], np.int64)


def cosine_similarities(act: Pooled, deact: Pooled, act_noise: Pooled, deact_noise: Pooled) -> dict[str, float]:
    """Cosines between four pooled activations of a clip, each the mean over layers, named as in the released scripts.
    act, deact: clean audio without and with SEEN; act_noise, deact_noise: noisy audio. Layers in which one of the two
    is zero are left out; NaN where all are."""
    named = {"act": act, "deact": deact, "act_noise": act_noise, "deact_noise": deact_noise}
    arrays = {name: np.asarray(a, np.float64) for name, a in named.items()}
    cosines = {}
    for pair in COSINES:
        a, b = (arrays[name] for name in pair.split("-"))
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        defined = norms > 0
        each = np.clip((a * b).sum(-1)[defined] / norms[defined], -1, 1)
        cosines[pair] = float(each.mean()) if defined.any() else math.nan
    return cosines


def nonsense(output: str) -> bool:
    """Whether an output is empty or says one word four times in a row."""
    words = output.split()
    return not words or any(len(set(words[i : i + LONG_RUN])) == 1 for i in range(len(words) - LONG_RUN + 1))


@functools.lru_cache(maxsize=4096)
def wilson(hits: int, n: int) -> Estimate:
    """A share with its 95 % Wilson score interval (scipy); NaN for n = 0."""
    from scipy.stats import binomtest

    if n == 0:
        return UNDEFINED
    interval = binomtest(hits, n).proportion_ci(0.95, "wilson")
    return Estimate(hits / n, float(interval.low), float(interval.high))


def correlation(x: Values, y: Values, kind: Kind = "pearson") -> float:
    """Pearson or Spearman correlation of points; NaN for fewer than three and where one side is constant."""
    return float(_correlations(np.array([[x], [y]], np.float64), kind)[0])


def correlation_of_means(
    x: Float[np.ndarray, "items points"], y: Float[np.ndarray, "items points"], kind: Kind = "pearson", seed: int = 0
) -> Estimate:
    """Correlation over points, each the means of x and of y over items; NaN where an item has no value. The 95 %
    percentile bootstrap interval is over the items: all values of one move together. Resamples in which a point has no
    item, or one side is constant, are left out."""
    known = [~np.isnan(values) for values in (x, y)]
    n, rng, parts = len(x), np.random.default_rng(seed), []
    means = lambda weights: np.stack(
        [(weights @ np.nan_to_num(v)) / np.maximum(weights @ k, 1) for v, k in zip((x, y), known, strict=True)]
    )
    value = float(_correlations(means(np.ones((1, n))), kind)[0]) if n else math.nan
    if math.isnan(value):
        return UNDEFINED
    size = max(1, CHUNK // max(x.size, 1))
    for start in range(0, RESAMPLES, size):
        weights = rng.multinomial(n, np.full(n, 1 / n), size=min(size, RESAMPLES - start)).astype(np.float64)
        whole = np.all([weights @ k > 0 for k in known], axis=(0, 2))
        parts.append(_correlations(means(weights[whole]), kind))
    drawn = np.concatenate(parts)
    low, high = np.nanquantile(drawn, TAILS) if not np.isnan(drawn).all() else [math.nan] * 2
    return Estimate(value, float(low), float(high))


def _correlations(samples: Float[np.ndarray, "2 samples points"], kind: Kind) -> Float[np.ndarray, " samples"]:
    """Of every sample of pairs."""
    from scipy.stats import rankdata

    if samples.shape[-1] < 3:
        return np.full(samples.shape[1], np.nan)
    pairs = rankdata(samples, axis=-1) if kind == "spearman" else samples
    flat = (np.ptp(pairs, axis=-1) <= ROUNDING * np.abs(pairs).max(axis=-1)).any(axis=0)
    xs, ys = pairs - pairs.mean(axis=-1, keepdims=True)
    norms = np.sqrt((xs**2).sum(-1) * (ys**2).sum(-1))
    r = (xs * ys).sum(-1) / np.where(norms > 0, norms, 1)
    return np.where(flat | (norms == 0), np.nan, np.clip(r, -1, 1))


def auroc(score: Float[np.ndarray, "*values"], event: Bool[np.ndarray, "*values"]) -> Float[np.ndarray, "*groups"]:
    """Area under the ROC curve along the first axis: how often the score is higher where the event happened than where
    it did not, ties counting half; NaN where it always or never happened."""
    from scipy.stats import rankdata

    event = np.asarray(event, bool)
    happened, total = event.sum(0), len(event)
    pairs = happened * (total - happened)
    above = (rankdata(score, axis=0) * event).sum(0) - happened * (happened + 1) / 2
    return np.where(pairs > 0, above / np.maximum(pairs, 1), np.nan)


def mcnemar(a: Bool[np.ndarray, " items"], b: Bool[np.ndarray, " items"]) -> tuple[int, int, float]:
    """McNemar's exact test (scipy's binomial test) between two mitigations on the same items, True = right: how many
    items only `a` and only `b` got right, and the two-sided p value; 1 where they never differ."""
    from scipy.stats import binomtest

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return only_a, only_b, p


def mean_interval(
    values: Values, items: Sequence[Hashable] | Values, seed: int = 0, tails: tuple[float, float] = TAILS
) -> Estimate:
    """Mean of all values with a percentile bootstrap interval over the `items` of each, of 95 % unless `tails` say
    otherwise; NaN for no values."""
    array, index = np.asarray(values, np.float64), pd.factorize(pd.Series(list(items)))[0]
    if not array.size:
        return UNDEFINED
    sums, counts = np.bincount(index, array), np.bincount(index)
    n, rng, means = len(sums), np.random.default_rng(seed), []
    rows = max(1, CHUNK // n)
    for start in range(0, RESAMPLES, rows):
        drawn = rng.integers(n, size=(min(rows, RESAMPLES - start), n))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), tails)
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high))
