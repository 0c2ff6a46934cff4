"""Failure signatures on made-up tables."""

import pytest

from seen_jax.evaluate.metrics import Estimate
from seen_jax.evaluate.signatures import gain, signatures
from seen_jax.evaluate.table import ALL, NONE, SEEN, Row

GOOD = [{"noise": "rain", "pearson": -0.97}, {"noise": ALL, "pearson": -0.9}]
HELPS = Estimate(0.05, 0.01, 0.09)


def table(clean_gsr=1.0, nonsense=0):
    rows = [
        {"snr_db": snr, "mitigation": m, "gsr": 1.0, "nonsense": 2, "items": 50}
        for snr in (None, 0)
        for m in (NONE, SEEN)
    ]
    rows[1]["gsr"] = clean_gsr
    rows[3]["nonsense"] += nonsense
    return [{"noise": "rain", "task": ALL, **row} for row in rows]


def codes(*args):
    return [finding.code for finding in signatures(*args)]


def test_a_method_that_works_has_no_warning():
    assert codes(table(), GOOD, HELPS) == ["gain"]
    assert "+5.0 points" in signatures(table(), GOOD, HELPS)[0].message


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (Estimate(0.0, -0.02, 0.02), "no-gain"),
        (Estimate(0.01, 0.0, 0.02), "no-gain"),
        (Estimate(-0.1, -0.2, -0.01), "seen-harms"),
    ],
)
def test_no_gain_and_harm_are_said(change, code):
    assert codes(table(), GOOD, change) == [code]


def test_clean_gsr_drops():
    (finding, _) = signatures(table(clean_gsr=0.949), GOOD, HELPS)
    assert finding.code == "clean-gsr-drops" and "rain 94.9%" in finding.message
    assert codes(table(clean_gsr=0.95), GOOD, HELPS) == ["gain"]


@pytest.mark.parametrize(("r", "message"), [(-0.79, "rain -0.79"), (0.9, "rain +0.90"), (None, "does not vary")])
def test_low_correlation(r, message):
    (finding, _) = signatures(table(), [{"noise": "rain", "pearson": r}, GOOD[1]], HELPS)
    assert finding.code == "low-correlation" and message in finding.message


def test_nonsense_is_compared_with_the_model_without_seen():
    assert codes(table(nonsense=6), GOOD, HELPS) == ["nonsense", "gain"]
    assert codes(table(nonsense=5), GOOD, HELPS) == ["gain"]


def rows(outputs):
    """{(snr, mitigation): outputs of two items}."""
    return [
        Row("rain", snr, m, str(i), "speech", text, 0.1, 0.0, (0.1,), (0.0,))
        for (snr, m), texts in outputs.items()
        for i, text in enumerate(texts)
    ]


def test_gain_by_hand():
    clean = {(None, NONE): ["a", "b"], (None, SEEN): ["z", "z"]}
    noisy = {(0.0, NONE): ["a", "x"], (0.0, SEEN): ["a", "b "], (5.0, NONE): ["a", "x"], (5.0, SEEN): ["y", "b"]}
    found = gain(rows(clean | noisy))
    assert found.value == pytest.approx(((0 - 1) / 2 + (1 + 1) / 2) / 2)
    assert (found.low, found.high) == (-0.5, 1.0)
    same = gain(rows({(None, NONE): ["a", "b"], (0.0, NONE): ["a", "x"], (0.0, SEEN): ["a", "x"]}))
    assert same == (0, 0, 0)
    assert gain(rows(clean)).value != gain(rows(clean)).value  # NaN: nothing noisy
