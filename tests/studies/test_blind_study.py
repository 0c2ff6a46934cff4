import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from seen_jax.evaluate.metrics import auroc
from seen_jax.studies.blind import ALPHA, COVERAGES, errors, gated, rates

RNG = np.random.default_rng(0)
TASKS = np.array(["a", "b"] * 400)
RISK = RNG.random((800, 6)) * np.linspace(0.2, 1, 6)
CHANGED = RNG.random((800, 6)) < RISK


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_auroc_is_that_of_scikit_learn(seed, count):
    rng = np.random.default_rng(seed)
    score, event = rng.integers(5, size=(count, 3)).astype(float), rng.random((count, 3)) < 0.5
    for value, x, y in zip(auroc(score, event), score.T, event.T, strict=True):
        assert np.isnan(value) if len(set(y)) < 2 else value == pytest.approx(roc_auc_score(y, x))


def test_rates_of_a_score_that_knows_the_risk_and_of_one_that_knows_nothing():
    knows, guesses = (rates(x, CHANGED, TASKS) for x in (RISK, RNG.random((800, 6))))
    assert knows["pearson"] < -0.95 and knows["worst"] < -0.9 and knows["auroc"] > knows["auroc_inside"] > 0.6
    assert abs(guesses["auroc_inside"] - 0.5) < 0.1 and guesses["worst"] >= guesses["pearson"] - 0.3
    level = rates(np.tile(RISK.mean(0), (800, 1)), CHANGED, TASKS)
    assert level["auroc_inside"] == 0.5 < level["auroc"]
    assert rates(RISK, np.zeros_like(CHANGED), TASKS) == {
        "pearson": None, "worst": None, "auroc": None, "auroc_inside": None
    }  # fmt: skip


def test_risk_falls_with_coverage_and_a_gate_keeps_to_its_share():
    shares = errors(RISK, CHANGED)
    assert shares[-1] == CHANGED.mean() and len(shares) == len(COVERAGES) and shares[4] < shares[-1]
    gate = gated(RISK, CHANGED)
    assert gate["wrong"] < ALPHA + 0.05 and 0.3 < gate["answered"] < 1
