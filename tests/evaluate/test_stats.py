"""Paired comparisons and intervals against scipy and values worked out by hand."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seen_jax.evaluate import metrics as stats


def test_mcnemar_by_hand():
    a = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0, 1], bool)
    b = np.array([1, 0, 0, 0, 0, 0, 1, 1, 0, 1], bool)
    assert stats.mcnemar(a, b) == (5, 1, pytest.approx(2 * (1 + 6) / 2**6))
    assert stats.mcnemar(a, a) == (0, 0, 1.0)
    assert stats.mcnemar(a[:0], a[:0]) == (0, 0, 1.0)


@given(arrays(bool, (2, 30)))
def test_mcnemar_is_symmetric(hits):
    only_a, only_b, p = stats.mcnemar(*hits)
    assert stats.mcnemar(*hits[::-1]) == (only_b, only_a, p)
    assert only_b - only_a == hits[1].sum() - hits[0].sum()
    assert 0 < p <= 1


def test_two_items_have_three_resampled_means():
    assert stats.mean_interval([0.0, 1.0], "ab") == (0.5, 0.0, 1.0)
    assert stats.mean_interval([3.0] * 5, range(5)) == (3, 3, 3)
    assert np.isnan(stats.mean_interval([], [])).all()


def test_intervals_are_those_of_scipy(monkeypatch):
    monkeypatch.setattr(stats, "RESAMPLES", 20000)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=80), rng.normal(0.3, size=80)
    expected = scipy.stats.bootstrap((b - a,), np.mean, method="percentile", n_resamples=20000, rng=rng)
    found = stats.mean_interval(b - a, range(80))
    assert found.value == pytest.approx(np.mean(b) - np.mean(a))
    interval = expected.confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.01)
    assert stats.mean_interval(b - a, range(80), seed=1) == stats.mean_interval(b - a, range(80), seed=1) != found


@settings(max_examples=30)
@given(arrays(np.int64, st.integers(1, 25), elements=st.integers(-5, 5)))
def test_an_interval_lies_within_the_values_and_turns_with_the_sign(values):
    found = stats.mean_interval(values, range(len(values)))
    assert values.min() <= found.low <= found.high <= values.max()
    turned = stats.mean_interval(-values, range(len(values)))
    assert turned == pytest.approx((-found.value, -found.high, -found.low))


def test_hits_of_two_mitigations():
    a, b = np.array([True, False] * 50), np.array([True, True] * 50)
    found = stats.mean_interval(b.astype(float) - a, range(100))
    assert found.value == 0.5 and 0.35 < found.low < 0.45 and 0.55 < found.high < 0.65


def test_values_of_one_item_are_one_observation():
    values, items = np.repeat([0.0, 1.0, 0.0, 1.0], 25), np.repeat(list("abcd"), 25)
    alone, together = stats.mean_interval(values, range(100)), stats.mean_interval(values, items.tolist())
    assert alone.value == together.value == 0.5
    assert together == stats.mean_interval([0.0, 1.0, 0.0, 1.0], "abcd")
    assert together.high - together.low > 3 * (alone.high - alone.low)
    uneven = stats.mean_interval([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert uneven == (0.75, 0.0, 1.0)


def test_large_inputs_are_resampled_in_parts(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = stats.mean_interval(values, range(50))
    monkeypatch.setattr(stats, "CHUNK", 101)
    assert stats.mean_interval(values, range(50)) == pytest.approx(whole)
