"""Failure signatures on made-up tables."""

import numpy as np
import pandas as pd
import pytest
from subspace_arrays import calibration

from seen_jax.evaluate.findings import diagnoses, findings
from seen_jax.evaluate.tables import ALL, UP_TO
from seen_jax.subspace import Selection, diagnose

GOOD = [{"task": "music", "noise": "rain", "pearson": -0.97}, {"task": ALL, "noise": ALL, "pearson": 0.9}]
HELPS = (0.05, 0.01, 0.09)


def cell(snr, mitigation, gsr, task="music", noise="rain", **other):
    values = {"snr_db": snr, "mitigation": mitigation, "gsr": gsr, "task": task, "noise": noise}
    return {**values, "items": 50, "nonsense": 0, "unparseable": pd.NA, **other}


CELLS = [cell(snr, m, 1.0) for snr in (np.nan, 0.0) for m in ("none", "seen", "wiener")]


def found_in(cells=CELLS, change=HELPS, correlations=GOOD, bases=(), seen=("seen",)):
    keys = ("difference", "low", "high")
    pairs = [{"mitigation": m, "against": "none", "group": UP_TO, **dict(zip(keys, change, strict=True))} for m in seen]
    table = pd.DataFrame(list(cells)).astype({"unparseable": "Int64"})
    tables = {"conditions": table, "correlations": pd.DataFrame(correlations), "comparisons": pd.DataFrame(pairs)}
    return findings(tables, pd.DataFrame(list(bases)), seen)


def test_a_method_that_works_has_no_warning():
    (finding,) = found_in()
    assert finding.code == "gain" and "+5.0 points" in finding.message


@pytest.mark.parametrize(
    ("change", "code"),
    [((0.0, -0.02, 0.02), "no-gain"), ((0.01, 0.0, 0.02), "no-gain"), ((-0.1, -0.2, -0.01), "seen-harms")],
)
def test_no_gain_and_harm_are_named(change, code):
    (finding,) = found_in(change=change)
    assert finding.code == code and f"{100 * change[0]:+.1f} points" in finding.message


@pytest.mark.parametrize(("gsr", "codes"), [(0.949, ["clean-gsr-drops", "gain"]), (0.95, ["gain"])])
def test_clean_gsr_drops(gsr, codes):
    assert [f.code for f in found_in([*CELLS[:1], cell(np.nan, "seen", gsr), *CELLS[3:]])] == codes


def test_clean_gsr_is_pooled_over_the_tasks_of_a_noise():
    other = [cell(np.nan, "seen", 0.88, task="speech"), cell(np.nan, "seen", 0.5, noise="hum")]
    finding, _ = found_in([*CELLS, *other, cell(np.nan, "wiener", 0.1, task="speech")])
    assert finding.code == "clean-gsr-drops" and "GSR hum 50.0%, rain 94.0%," in finding.message
    assert len(found_in([*CELLS, cell(np.nan, "seen", 0.9, task="speech")])) == 1
    assert len(found_in([*CELLS, cell(np.nan, "seen", np.nan, task="speech", items=0)])) == 1


@pytest.mark.parametrize(("r", "message"), [(-0.79, "rain -0.79"), (0.9, "rain +0.90"), (np.nan, "does not vary")])
def test_low_correlation(r, message):
    finding, _ = found_in(correlations=[{**GOOD[0], "pearson": r}, GOOD[1]])
    assert finding.code == "low-correlation" and message in finding.message


def test_many_low_correlations_are_cut_short():
    weak = [{"task": "music", "noise": f"n{i}", "pearson": -0.1 * i} for i in range(8)]
    finding, _ = found_in(correlations=[*weak, GOOD[1]])
    assert "r music in n0 -0.00, music in n1 -0.10" in finding.message and "n5 -0.50 and 2 more (" in finding.message


@pytest.mark.parametrize(
    ("noisy", "bad"),
    [({"nonsense": 6}, True), ({"nonsense": 5}, False), ({"nonsense": 3, "unparseable": 9}, True), ({}, False)],
)
def test_nonsense_is_compared_with_the_model_without_seen(noisy, bad):
    cells = [c for c in CELLS if (c["snr_db"], c["mitigation"]) != (0.0, "seen")]
    found = found_in([*cells, cell(0.0, "seen", 1.0, **noisy)])
    assert ("nonsense" in [f.code for f in found]) is bad


def test_several_mitigations_are_judged_by_themselves():
    worse = [cell(np.nan, "seen2", 0.5), cell(0.0, "seen2", 0.5)]
    found = found_in([*CELLS, *worse], seen=("seen", "seen2"))
    assert [f.message.split(" ")[0] for f in found] == ["seen2:", "seen:", "seen2:"]


def test_bases_without_directions_or_l_star():
    bases = [
        {"noise": n, "site": "s", "ranks": [3, r], "layers": [1], "localised": ok}
        for n, r, ok in (("a", 0, True), ("b", 1, False), ("c", 1, None))
    ]
    found = found_in(bases=bases)
    assert found[0].code == "empty-basis" and "for a at s:" in found[0].message
    assert found[1].code == "no-layer-found" and "for b at s:" in found[1].message


def test_diagnoses_name_each_finding_of_a_basis_once():
    toy = calibration()
    basis = toy.select(Selection(delta=0.3, layers="all"))
    expected = diagnose(toy, basis)
    table = diagnoses({("rain", toy.site): toy}, {(n, m): basis for n in ("rain", "unseen") for m in ("none", "seen")})
    assert expected and set(table["noise"]) == {"rain"} and set(table["site"]) == {toy.site}
    assert table[["code", "severity", "message"]].to_numpy().tolist() == [
        [f.code, f.severity, f.message] for f in expected
    ]
    assert diagnoses({}, {}).empty
