"""The choice of a selection: the rule on made-up numbers, and how far clean GSR is measured."""

import numpy as np
import pandas as pd
import pytest

from seen_jax.studies import selections
from seen_jax.studies.selections import checked, pick, ranked


def rows_of(*scores):
    """Rows of selections numbered in order, each (correlations by noise, clean GSR, SEE of clean audio)."""
    rows = []
    for k, (pearson, clean, see_clean) in enumerate(scores):
        fields = {"selection": k, "see_noisy": 0.2, "see_clean": see_clean, "clean_gsr": clean}
        rows += [{**fields, "noise": noise, "pearson": r} for noise, r in zip("ab", pearson, strict=True)]
    return pd.DataFrame(rows)


def candidates(*scores):
    rows = rows_of(*scores)
    return ranked(rows).join(rows.groupby("selection")["clean_gsr"].first())


BEST = ((-0.99, -0.97), 0.90, 0.1)
SECOND = ((-0.90, -0.98), 0.95, 0.2)
THIRD = ((-1.00, -0.50), 1.00, 0.3)
UNCHECKED = ((-1.00, -0.99), None, 0.1)
EMPTY = ((-1.00, None), 1.00, 0.1)


def test_the_most_negative_correlation_that_keeps_clean_audio_wins():
    table = candidates(EMPTY, THIRD, SECOND, BEST, UNCHECKED)
    assert list(table.index) == [4, 3, 2, 1, 0]
    assert table["mean_pearson"].isna().tolist() == [False] * 4 + [True]
    assert table["worst"][2] == -0.90
    assert pick(table) == 2
    assert pick(candidates(BEST, EMPTY)) == 0  # none keeps clean audio: the best correlation
    assert pick(candidates(EMPTY)) is None


@pytest.mark.parametrize(
    ("r", "see_clean", "wins"), [(-0.922, 0.19, True), (-0.922, 0.21, False), (-0.918, 0.1, False)]
)
def test_among_ties_the_noise_must_stand_out(r, see_clean, wins):
    """The other one has -0.94 and 0.2: closer than 0.02 is a tie."""
    assert pick(candidates(SECOND, ((r, r), 0.96, see_clean))) == int(wins)


@pytest.mark.parametrize(
    ("kept", "measured"),
    [
        ({0}, [[0, 1]]),  # the first few are enough: the third correlates less well than the first by more than a tie
        ({2}, [[0, 1], [2, 3]]),
        ({1, 3}, [[0, 1]]),
        (set(), [[0, 1], [2, 3], [4]]),  # all with a defined correlation
    ],
)
def test_clean_gsr_is_measured_until_one_passes_and_no_other_is_as_good(monkeypatch, kept, measured):
    correlations = pd.Series([-0.9, -0.8, -0.7, -0.69, -0.6, np.nan], [3, 1, 4, 0, 2, 5])
    number = list(correlations.index)
    calls = []

    def measure(numbers):
        calls.append([number.index(k) for k in numbers])
        return [1.0 if number.index(k) in kept else 0.9 for k in numbers]

    monkeypatch.setattr(selections, "CHECKED", 2)
    values = checked(correlations, measure)
    assert calls == measured
    for place, k in enumerate(number):
        expected = 1.0 if place in kept else 0.9
        assert values[k] == expected if any(place in part for part in measured) else np.isnan(values[k])
