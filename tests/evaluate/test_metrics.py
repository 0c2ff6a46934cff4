"""Scores against values worked out by hand."""

import jiwer
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seen_jax.evaluate import metrics


def test_gsr_is_the_share_of_equal_answers():
    assert metrics.gsr(["a", "b", "c", "D"], ["a", "x", "c", "d"]) == 0.5
    assert np.isnan(metrics.gsr([], []))


words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6).map(" ".join)


@settings(max_examples=50)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_word_errors_are_those_of_jiwer(pairs):
    references, hypotheses = zip(*pairs, strict=True)
    errors, count = metrics.word_errors(references, hypotheses)
    for i, (r, h) in enumerate(pairs):
        if r:
            one = jiwer.process_words(r, h)
            assert errors[i] == one.substitutions + one.deletions + one.insertions
        else:
            assert errors[i] == len(h.split())
        assert count[i] == len(r.split())


def test_word_errors_know_no_case_and_punctuation():
    errors, count = metrics.word_errors(["The cat, it's here!", "..."], ["the CAT its here", "- !"])
    assert errors.tolist() == [0, 0] and count.tolist() == [4, 0]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", True),
        ("  ", True),
        ("the the the the cat", True),
        ("the cat the cat the cat", False),
        ("the the the cat", False),
        ("friday", False),
    ],
)
def test_nonsense(output, expected):
    assert metrics.nonsense(output) is expected


def test_wilson_interval_by_its_formula():
    hits, n, z = 7, 20, scipy.stats.norm.ppf(0.975)
    p = hits / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert metrics.wilson(hits, n) == pytest.approx((p, middle - half, middle + half))
    assert metrics.wilson(5, 5).high == 1.0
    assert np.isnan(metrics.wilson(0, 0)).all()


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_correlation_equals_scipy(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=15)
    y = -x + rng.normal(size=15)
    assert metrics.correlation(x, y, kind) == pytest.approx(getattr(scipy.stats, f"{kind}r")(x, y).statistic)


def test_correlation_of_exact_lines_and_ranks():
    assert metrics.correlation([1, 2, 3, 4], [8, 6, 4, 2]) == pytest.approx(-1)
    assert metrics.correlation([1, 2, 3, 4], [1, 10, 100, 1000], "spearman") == pytest.approx(1)
    assert metrics.correlation([1, 2, 3, 4], [1, 10, 100, 1000]) < 0.9


def test_correlation_is_undefined_where_nothing_varies():
    for x, y in (([1, 1, 1, 1], [1, 2, 3, 4]), ([0.1] * 4, [1, 2, 3, 4]), ([1, 2], [1, 2]), ([], [])):
        assert np.isnan(metrics.correlation(x, y))
        assert np.isnan(metrics.correlation_of_means(np.array([x, x], float), np.array([y, y], float))).all()


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_the_interval_of_means_is_over_the_items(kind):
    """It narrows with more items, not with more points, holds the true value as often as it says, and is seeded."""
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 1, 7)

    def drawn(items):
        """SEE that rises and answers that are kept less often with it, each item with an offset of its own."""
        x = slope + rng.normal(size=(items, 1)) + 0.3 * rng.normal(size=(items, 7))
        return x, (rng.uniform(size=(items, 7)) > slope).astype(float)

    few, many = (metrics.correlation_of_means(*drawn(n), kind) for n in (10, 200))
    assert many.high - many.low < 0.5 * (few.high - few.low) and many.value < -0.9
    x, y = drawn(30)
    estimate = metrics.correlation_of_means(x, y, kind)
    assert estimate.value == pytest.approx(metrics.correlation(x.mean(0), y.mean(0), kind))
    assert estimate == metrics.correlation_of_means(x, y, kind) != metrics.correlation_of_means(x, y, kind, seed=1)
    x[3:, 0] = np.nan  # measured for few items: their mean counts
    of_few = metrics.correlation(np.nanmean(x, 0), y.mean(0), kind)
    assert metrics.correlation_of_means(x, y, kind).value == pytest.approx(of_few)
    assert np.isfinite(metrics.correlation_of_means(x, y, kind)).all()


def test_cosines_by_hand():
    act = np.array([[1.0, 0.0], [0.0, 2.0]])
    deact = np.array([[1.0, 0.0], [0.0, 0.0]])  # its second layer is zero: left out
    act_noise = np.array([[3.0, 4.0], [1.0, 1.0]])
    deact_noise = -act
    found = metrics.cosine_similarities(act, deact, act_noise, deact_noise)
    assert tuple(found) == metrics.COSINES
    assert found == pytest.approx(
        {
            "act-act_noise": (0.6 + 0.5**0.5) / 2,
            "act-deact_noise": -1.0,
            "deact-act_noise": 0.6,
            "act-deact": 1.0,
            "deact-deact_noise": -1.0,
            "act_noise-deact_noise": -(0.6 + 0.5**0.5) / 2,
        }
    )
    assert np.isnan(metrics.cosine_similarities(act, 0 * act, act, act)["act-deact"])


@given(arrays(np.float32, (4, 3, 5), elements=st.floats(-10, 10, width=32)), st.floats(0.1, 100))
def test_cosines_are_bounded_and_know_no_scale(stack, scale):
    found = metrics.cosine_similarities(*stack)
    assert all(np.isnan(v) or -1 <= v <= 1 for v in found.values())
    scaled = metrics.cosine_similarities(*(stack.astype(np.float64) * scale))
    np.testing.assert_allclose(list(scaled.values()), list(found.values()), atol=1e-9)
