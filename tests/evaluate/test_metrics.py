"""Scores against values worked out by hand."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seen_jax.errors import ConfigError
from seen_jax.evaluate import metrics


def test_gsr_compares_with_the_own_clean_output_after_stripping():
    assert metrics.gsr(["a b", " c", "d", "E"], ["a b ", "c\n", "x", "e"]) == 0.5
    assert np.isnan(metrics.gsr([], []))
    with pytest.raises(ConfigError, match="1 outputs"):
        metrics.gsr(["a", "b"], ["a"])


def test_a_missing_letter_is_a_failed_item():
    assert metrics.accuracy(["A", None, "B", "D"], ["A", "B", "B", "C"]) == 0.5
    assert metrics.accuracy([None, None], ["", "A"]) == 0.0
    with pytest.raises(ConfigError):
        metrics.accuracy(["A"], [])


@pytest.mark.parametrize(
    ("references", "hypotheses", "expected"),
    [
        (["The cat, it's here!"], ["the CAT its here"], 0.0),
        (["one two three four"], ["one three five four"], 2 / 4),  # one deletion, one insertion
        (["a b", "c d e f"], ["a b", "c x e"], 2 / 6),  # pooled over words, not a mean of rates
        ([""], [""], 0.0),
        ([""], ["noise"], 1.0),
        (["..."], ["- !"], 0.0),
        (["a b", ""], ["a b", "c"], 1 / 2),  # a word where nothing was said
        (["a b"], [""], 1.0),
    ],
)
def test_word_error_rate(references, hypotheses, expected):
    assert metrics.wer(references, hypotheses) == pytest.approx(expected)


def test_word_error_rate_of_nothing_is_undefined():
    assert np.isnan(metrics.wer([], []))
    with pytest.raises(ConfigError):
        metrics.wer(["a"], [])


def test_fixed_and_broken():
    clean = ["a", "b", "c", "d"]
    assert metrics.fixed_broken(clean, ["x", "b", "c", "x"], ["a", "y", "c", "y"]) == (1, 1)


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
    with pytest.raises(ConfigError):
        metrics.wilson(3, 2)


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
    with pytest.raises(ConfigError):
        metrics.correlation([1, 2, 3], [1, 2])


def test_fixed_and_broken_against_the_truth():
    right = ["A", "B", "C", "D"]
    assert metrics.fixed_broken_truth(right, ["B", "B", None, "D"], ["A", None, "C", "A"]) == (2, 2)
    with pytest.raises(ConfigError):
        metrics.fixed_broken_truth(right, ["B"], ["A"])


def test_influence_is_what_generation_success_leaves():
    clean, noisy = ["a", "b", "c", "d"], ["a ", "x", "c", "y"]
    assert metrics.influence(clean, noisy) == 0.5 == 1 - metrics.gsr(clean, noisy)
    assert np.isnan(metrics.influence([], []))


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
