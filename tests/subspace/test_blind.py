"""The arithmetic of blind scores: distances, rising risks, thresholds that keep their promise, and the folder."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from seen_jax.errors import BasisError, ConfigError
from seen_jax.evaluate.metrics import auroc
from seen_jax.subspace.blind import (
    BlindModel,
    Monotone,
    conformal_threshold,
    disagreement,
    fit_clean,
    fit_monotone,
)
from seen_jax.subspace.identity import Identity

RNG = np.random.default_rng(0)
FRAMES = (RNG.standard_normal((2, 200, 6)) * np.array([5, 4, 3, 1, 1, 1])).astype(np.float32) + 2


def made(seed: int = 0, statistics: int = 3, **card) -> BlindModel:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((300, statistics))
    risk = fit_monotone(x, rng.random(300) < 1 / (1 + np.exp(-x.sum(1))))
    return BlindModel((0, 2), fit_clean(FRAMES, 3), risk, risk, {"model": "m", "fingerprint": "f", **card})


def test_distances_are_those_of_a_gaussian():
    clean = fit_clean(FRAMES, 3)
    a = RNG.standard_normal((2, 7, 6))
    far = clean.distances(a)
    for layer in range(2):
        u, scale, rest = (np.asarray(x[layer], np.float64) for x in clean[1:])
        covariance = (u * scale**2) @ u.T + rest**2 * (np.eye(6) - u @ u.T)
        expected = -multivariate_normal(clean.mean[layer], covariance).logpdf(a[layer])
        np.testing.assert_allclose(far["unlikeliness"][layer], expected, rtol=1e-5)
        x = a[layer] - clean.mean[layer]
        np.testing.assert_allclose(far["residual"][layer], np.linalg.norm(x - x @ u @ u.T, axis=1), rtol=1e-4)
        np.testing.assert_allclose(far["mahalanobis"][layer], np.linalg.norm(x @ u / scale, axis=1), rtol=1e-5)


def test_two_encodings_agree_where_they_are_the_same():
    a = RNG.standard_normal((2, 9, 6))
    same, scaled, other = (disagreement(a, b) for b in (a, 2 * a, RNG.standard_normal((2, 9, 6))))
    np.testing.assert_allclose([same["turn"], same["change"]], 0, atol=1e-12)
    np.testing.assert_allclose(scaled["turn"], 0, atol=1e-12)
    assert (scaled["change"] > 0.9).all() and (other["turn"] > 0.5).all()
    assert np.isfinite(list(disagreement(0 * a, a).values())).all()


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.floats(0, 1e6))
def test_a_risk_never_falls_when_a_statistic_rises(seed, statistic, rise):
    rng = np.random.default_rng(seed)
    risk = Monotone(np.sort(rng.standard_normal((3, 5)), 1), rng.exponential(size=(3, 4)), rng.standard_normal(1))
    x = 3 * rng.standard_normal((20, 3))
    higher = x.copy()
    higher[:, statistic] += rise
    assert (risk(higher) >= risk(x) - 1e-12).all()
    assert ((risk(x) >= 0) & (risk(x) <= 1)).all()


def test_a_fitted_risk_is_calibrated_and_ignores_what_tells_nothing():
    x = RNG.standard_normal((4000, 3))
    truth = 1 / (1 + np.exp(1 - 2 * x[:, 0]))
    changed = RNG.random(4000) < truth
    risk = fit_monotone(np.concatenate([x[:, :2], -x[:, :1]], axis=1), changed)  # a statistic that falls with the risk
    made_of = risk(np.concatenate([x[:, :2], -x[:, :1]], axis=1))
    assert auroc(made_of, changed) > auroc(truth, changed) - 0.005
    assert abs(made_of.mean() - changed.mean()) < 1e-3 and np.abs(made_of - truth).mean() < 0.04
    useful, other, falling = risk.weights.sum(1)
    assert useful > 4 and max(other, falling) < 0.4
    for bad, answers in ((x, np.ones(4000, bool)), (x, np.zeros(4000, bool)), (x * np.nan, changed)):
        with pytest.raises(BasisError):
            fit_monotone(bad, answers)


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.5]), st.booleans()), min_size=1, max_size=40),
    st.floats(0.01, 0.99),
)
def test_a_threshold_lets_through_as_many_wrong_answers_as_it_may_and_no_more(clips, alpha):
    risk, changed = (np.array(x) for x in zip(*clips, strict=True))
    threshold, n = conformal_threshold(risk, changed, alpha), len(clips)
    allowed = alpha * (n + 1) - 1
    through = (changed & (risk <= threshold)).sum()
    assert through <= max(allowed, 0) + 1e-6
    if np.isfinite(threshold):
        assert (changed & (risk <= np.nextafter(threshold, 1))).sum() > allowed - 1e-6
    else:
        assert (threshold > 0) == (allowed >= 0)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_the_guarantee_of_a_threshold_holds_on_new_clips(alpha):
    """Over many draws of calibration and test, the mean share of wrong answers is at most alpha, and close to it."""
    rng = np.random.default_rng(1)
    wrong = []
    for _ in range(3000):
        risk = rng.random(41)
        changed = rng.random(41) < risk**1.5
        threshold = conformal_threshold(risk[:40], changed[:40], alpha)
        wrong.append(changed[40] & (risk[40] <= threshold))
    spread = np.sqrt(alpha * (1 - alpha) / len(wrong))
    assert alpha - 1 / 41 - 3 * spread <= np.mean(wrong) <= alpha + 3 * spread
    with pytest.raises(ConfigError):
        conformal_threshold(risk, changed[1:], alpha)
    with pytest.raises(ConfigError):
        conformal_threshold(risk, changed, 0.0)


def test_a_blind_model_is_kept_in_a_folder(tmp_path):
    blind = made()
    again = BlindModel.load(blind.save(tmp_path / "blind"))
    assert again.layers == blind.layers and again.card["fingerprint"] == "f"
    x = RNG.standard_normal((5, 3))
    np.testing.assert_array_equal(again.answer(x), blind.answer(x))
    with pytest.raises(BasisError, match="exists"):
        blind.save(tmp_path / "blind")
    card = json.loads((tmp_path / "blind" / "card.json").read_text())
    (tmp_path / "blind" / "card.json").write_text(json.dumps(card | {"layers": [0]}))
    with pytest.raises(BasisError, match="damaged"):
        BlindModel.load(tmp_path / "blind")


def test_a_blind_model_is_a_pytree_of_its_arrays():
    blind = made()
    leaves, tree = jax.tree.flatten(blind)
    assert len(leaves) == 10 and jax.tree.unflatten(tree, leaves).card == blind.card
    assert jax.tree.structure(made(1)) == tree != jax.tree.structure(made(noise="white"))


def test_a_blind_model_of_other_weights_is_refused():
    blind = made(encoder={"fingerprint": "e"})
    blind.check(Identity("m", fingerprint="f"))
    blind.check(Identity("m", fingerprint="e"), "encoder")
    with pytest.raises(BasisError, match="fitted to m, not to n"):
        blind.check(Identity("n", fingerprint="g"))
    with pytest.raises(BasisError):
        blind.check(Identity("m", fingerprint="f"), "encoder")


@pytest.mark.parametrize("part", ["clean", "encoder", "answer"])
def test_parts_that_make_no_sense_are_refused(part):
    blind = made()
    parts = {"clean": blind.clean, "encoder": blind.encoder, "answer": blind.answer}
    broken = parts[part]._replace(**{parts[part]._fields[0]: np.full((2, 6), np.nan, np.float32)})
    with pytest.raises(BasisError):
        BlindModel(blind.layers, **{**parts, part: broken})
    if part != "clean":
        with pytest.raises(BasisError, match="fall"):
            BlindModel(blind.layers, **{**parts, part: parts[part]._replace(weights=-1 - parts[part].weights)})
