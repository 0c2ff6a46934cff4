"""Failure signatures on made-up tables."""

import pytest

from seen_jax.evaluate.findings import UP_TO, experiment_signatures, gain, signatures
from seen_jax.evaluate.metrics import Estimate
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


def cell(snr, mitigation, gsr, task="music", noise="rain", **other):
    values = {"snr_db": snr, "mitigation": mitigation, "gsr": gsr, "task": task, "noise": noise}
    return {**values, "items": 50, "nonsense": 0, "unparseable": None, **other}


def found_in(cells, change=None, correlations=(), bases=(), arms=("seen",)):
    pairs = [] if change is None else [{"mitigation": "seen", "against": "none", "group": UP_TO, **change}]
    return experiment_signatures(cells, correlations, pairs, bases, arms)


CELLS = [cell(snr, m, 1.0) for snr in (None, 0.0) for m in ("none", "seen", "wiener")]


def test_an_experiment_that_works_has_no_warning():
    (finding,) = found_in(CELLS, {"difference": 0.05, "low": 0.01, "high": 0.09})
    assert finding.code == "gain" and "+5.0 points" in finding.message


def test_harm_is_seen_whichever_mitigation_the_table_names_first():
    turned = {"mitigation": "none", "against": "seen", "difference": 0.1, "low": 0.05, "high": 0.2}
    (finding,) = found_in(CELLS, turned)
    assert finding.code == "seen-harms" and "-10.0 points" in finding.message and "-20.0 to -5.0" in finding.message


def test_clean_gsr_is_pooled_over_the_tasks_of_a_noise():
    other = [cell(None, "seen", 0.88, task="speech"), cell(None, "seen", 0.5, noise="hum"), cell(None, "wiener", 0.1)]
    (finding,) = found_in([*CELLS, *other])
    assert finding.code == "clean-gsr-drops" and "GSR hum 50.0%, rain 94.0%," in finding.message
    assert found_in([*CELLS, cell(None, "seen", 0.9, task="speech")]) == []
    assert found_in([*CELLS, cell(None, "seen", None, items=0)]) == []


def test_several_arms_are_named():
    worse = [cell(None, "seen2", 0.5), cell(0.0, "seen2", 0.5)]
    (finding,) = found_in([*CELLS, *worse], arms=("seen", "seen2"))
    assert finding.message.startswith("seen2: SEEN changes the answers")


def test_answers_without_a_letter_are_nonsense():
    (finding,) = found_in([*CELLS, cell(5.0, "seen", 0.5, unparseable=9, nonsense=3)])
    assert finding.code == "nonsense" and "6.0% of outputs" in finding.message
    assert found_in([*CELLS, cell(5.0, "seen", 0.5, unparseable=7, nonsense=3)]) == []


def test_bases_and_correlations_of_an_experiment():
    bases = [
        {"noise": n, "site": "s", "ranks": [3, r], "layers": [1], "localised": ok}
        for n, r, ok in (("a", 0, True), ("b", 1, False), ("c", 1, None))
    ]
    weak = [{"task": "music", "noise": f"n{i}", "pearson": -0.1 * i} for i in range(8)]
    found = found_in(CELLS, correlations=[*weak, {"task": ALL, "noise": ALL, "pearson": 0.9}], bases=bases)
    assert [f.code for f in found] == ["empty-basis", "low-correlation", "no-layer-found"]
    assert "for a at s:" in found[0].message and "for b at s:" in found[2].message
    assert "r music in n0 -0.00, music in n1 -0.10" in found[1].message and "n5 -0.50 and 2 more (" in found[1].message
