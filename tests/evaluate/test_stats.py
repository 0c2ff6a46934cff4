"""Paired comparisons and intervals against scipy, jiwer and values worked out by hand."""

import jiwer
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seen_jax.errors import ConfigError
from seen_jax.evaluate import metrics, stats
from seen_jax.evaluate.metrics import WordErrors


def test_mcnemar_by_hand():
    a = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0, 1], bool)
    b = np.array([1, 0, 0, 0, 0, 0, 1, 1, 0, 1], bool)
    assert stats.mcnemar(a, b) == (5, 1, pytest.approx(2 * (1 + 6) / 2**6))
    assert stats.mcnemar(a, a) == (0, 0, 1.0)
    assert stats.mcnemar([], []) == (0, 0, 1.0)
    with pytest.raises(ConfigError, match="1 values cannot be compared with 2"):
        stats.mcnemar([True, False], [True])


@given(arrays(bool, (2, 30)))
def test_mcnemar_is_symmetric(hits):
    first, second = stats.mcnemar(*hits), stats.mcnemar(*hits[::-1])
    assert (first.only_a, first.only_b, first.p) == (second.only_b, second.only_a, second.p)
    assert first.only_b - first.only_a == hits[1].sum() - hits[0].sum()
    assert 0 < first.p <= 1


def test_two_items_have_three_resampled_means():
    assert stats.mean_interval([0.0, 1.0]) == (0.5, 0.0, 1.0)
    assert stats.mean_interval([0.0, 1.0], level=0.4) == (0.5, 0.5, 0.5)  # half of all means lie in the middle
    assert stats.mean_interval([3.0] * 5) == (3, 3, 3)
    assert np.isnan(stats.mean_interval([])).all()


def test_intervals_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=80), rng.normal(0.3, size=80)
    expected = scipy.stats.bootstrap((b - a,), np.mean, method="percentile", n_resamples=20000, rng=rng)
    found = stats.paired_difference(a, b, resamples=20000)
    assert found.value == pytest.approx(np.mean(b) - np.mean(a))
    interval = expected.confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.01)
    narrow = stats.paired_difference(a, b, level=0.5)
    assert found.low < narrow.low < narrow.value < narrow.high < found.high
    assert stats.paired_difference(a, b, seed=1) == stats.paired_difference(a, b, seed=1) != narrow


@settings(max_examples=30)
@given(arrays(np.int64, st.integers(1, 25), elements=st.integers(-5, 5)))
def test_an_interval_lies_within_the_values_and_turns_with_the_sign(values):
    found = stats.mean_interval(values, resamples=200)
    assert values.min() <= found.low <= found.high <= values.max()
    turned = stats.mean_interval(-values, resamples=200)
    assert turned == pytest.approx((-found.value, -found.high, -found.low))


def test_hits_of_two_mitigations():
    a, b = np.array([True, False] * 50), np.array([True, True] * 50)
    found = stats.paired_difference(a, b)
    assert found.value == 0.5 and 0.35 < found.low < 0.45 and 0.55 < found.high < 0.65


def test_values_of_one_item_are_one_observation():
    values, items = np.repeat([0.0, 1.0, 0.0, 1.0], 25), np.repeat(list("abcd"), 25)
    alone, together = stats.mean_interval(values), stats.mean_interval(values, items.tolist())
    assert alone.value == together.value == 0.5
    assert together == stats.mean_interval([0.0, 1.0, 0.0, 1.0])
    assert together.high - together.low > 3 * (alone.high - alone.low)
    uneven = stats.mean_interval([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert uneven == (0.75, 0.0, 1.0)
    with pytest.raises(ConfigError, match="2 item names for 3 values"):
        stats.mean_interval([1, 2, 3], ["a", "b"])


def test_large_inputs_are_resampled_in_parts(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = stats.mean_interval(values)
    monkeypatch.setattr(stats, "CHUNK", 101)
    assert stats.mean_interval(values) == pytest.approx(whole)


REFERENCES = ["one two three", "four", "", "five six seven eight"]
A = ["one two three", "for", "noise", "five seven"]
B = ["one too three", "four", "", "five six seven eight"]


def test_word_error_rates_of_the_same_items():
    first, second = metrics.word_errors(REFERENCES, A), metrics.word_errors(REFERENCES, B)
    assert first.errors.tolist() == [0, 1, 1, 2] and second.errors.tolist() == [1, 0, 0, 0]
    assert first.words.tolist() == [3, 1, 0, 4]
    assert stats.wer_interval(first).value == pytest.approx(metrics.wer(REFERENCES, A)) == 4 / 8
    found = stats.paired_wer_difference(first, second)
    assert found.value == pytest.approx(1 / 8 - 4 / 8)
    assert found.low < found.value < found.high
    assert stats.paired_wer_difference(first, first) == (0, 0, 0)
    with pytest.raises(ConfigError, match="same references"):
        stats.paired_wer_difference(first, metrics.word_errors(REFERENCES[::-1], A))


def test_word_error_rate_without_reference_words_is_undefined():
    nothing = WordErrors(np.array([2]), np.array([0]))
    assert np.isnan(stats.wer_interval(nothing)).all()
    some = WordErrors(np.array([2, 1]), np.array([0, 4]))
    assert stats.wer_interval(some).value == 3 / 4
    assert np.isfinite(stats.wer_interval(some)).all()


def test_wer_interval_is_that_of_scipy():
    rng = np.random.default_rng(1)
    words = rng.integers(3, 30, 60)
    errors = rng.binomial(words, 0.2)
    ratio = lambda e, w, axis: e.sum(axis) / w.sum(axis)  # noqa: E731
    expected = scipy.stats.bootstrap(
        (errors, words), ratio, paired=True, method="percentile", n_resamples=20000, rng=rng
    ).confidence_interval
    found = stats.wer_interval(WordErrors(errors, words), resamples=20000)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.003)


words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6).map(" ".join)


@settings(max_examples=50)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_counts_per_item_are_those_of_jiwer(pairs):
    references, hypotheses = zip(*pairs, strict=True)
    errors, count = metrics.word_errors(references, hypotheses)
    for i, (r, h) in enumerate(pairs):
        if r:
            one = jiwer.process_words(r, h)
            assert errors[i] == one.substitutions + one.deletions + one.insertions
        else:
            assert errors[i] == len(h.split())
        assert count[i] == len(r.split())


def test_bad_values_are_refused():
    with pytest.raises(ConfigError, match="1 of 2 values are not finite"):
        stats.mean_interval([0.0, float("nan")])
    with pytest.raises(ConfigError, match="between 0 and 1, not 95"):
        stats.mean_interval([0.0], level=95)


def test_correlations_per_group_and_pooled():
    rows = [
        {"task": task, "noise": noise, "see": x, "gsr": y}
        for task, noise, line in (("a", "rain", -1.0), ("a", "wind", 0.5), ("b", "rain", -2.0))
        for x, y in ((0.1, line * 0.1), (0.2, line * 0.2), (0.4, line * 0.4))
    ]
    rows += [{"task": "b", "noise": "rain", "see": None, "gsr": 0.3}, {"task": "b", "noise": "hum", "see": 1, "gsr": 1}]
    found = stats.correlate(rows, ("task", "noise"))
    keys = [(row["task"], row["noise"], row["cells"]) for row in found]
    assert keys == [("a", "rain", 3), ("a", "wind", 3), ("b", "rain", 3), ("b", "hum", 1), ("all", "all", 10)]
    assert [row["pearson"] for row in found[:3]] == pytest.approx([-1, 1, -1])
    assert [row["spearman"] for row in found[:3]] == pytest.approx([-1, 1, -1])
    assert found[3]["pearson"] is None and found[3]["spearman_low"] is None
    own = [(row["see"], row["gsr"]) for row in rows if row["see"] is not None]
    assert found[4]["pearson"] == pytest.approx(scipy.stats.pearsonr(*zip(*own, strict=True)).statistic)
    assert found[4]["pearson_low"] <= found[4]["pearson"] <= found[4]["pearson_high"]
    by_task = stats.correlate(rows, ("task",))
    assert [row["cells"] for row in by_task] == [6, 4, 10]
