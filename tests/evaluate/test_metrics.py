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
def test_correlation_equals_scipy_and_is_seeded(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=15)
    y = -x + rng.normal(size=15)
    expected = getattr(scipy.stats, f"{kind}r")(x, y).statistic
    found = metrics.correlation(x, y, kind)
    assert found.value == pytest.approx(expected)
    assert -1 <= found.low < found.value < found.high <= 1
    assert found == metrics.correlation(x, y, kind)
    assert found.low != metrics.correlation(x, y, kind, seed=1).low
    wide, narrow = (metrics.correlation(np.tile(x, k), np.tile(y, k), kind) for k in (1, 8))
    assert narrow.high - narrow.low < 0.6 * (wide.high - wide.low)


def test_correlation_of_exact_lines_and_ranks():
    assert metrics.correlation([1, 2, 3, 4], [8, 6, 4, 2]) == pytest.approx((-1, -1, -1))
    assert metrics.correlation([1, 2, 3, 4], [1, 10, 100, 1000], "spearman").value == pytest.approx(1)
    assert metrics.correlation([1, 2, 3, 4], [1, 10, 100, 1000]).value < 0.9


def test_correlation_is_undefined_where_nothing_varies():
    for x, y in (([1, 1, 1, 1], [1, 2, 3, 4]), ([0.1] * 4, [1, 2, 3, 4]), ([1, 2], [1, 2]), ([], [])):
        assert np.isnan(metrics.correlation(x, y)).all()


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
