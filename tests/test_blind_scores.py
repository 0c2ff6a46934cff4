"""Blind scores and the gate on a tiny random model: the evidence is right, in order, whatever the batch size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_omni import wave, write_checkpoint

import seen_jax
from seen_jax import Decoding, Request, When
from seen_jax.blind import Observer, noisier, observe
from seen_jax.errors import AudioError, BasisError, ConfigError
from seen_jax.models.batching import group_requests
from seen_jax.models.evidence import Answers, forced
from seen_jax.models.generate import generate
from seen_jax.models.model import forward
from seen_jax.models.sites import ENCODER_RESID
from seen_jax.subspace.blind import BlindModel, Monotone, fit_clean

LENGTHS = (5200, 3300, 6400, 4807)
DECODING = Decoding(3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "omni")


@pytest.fixture(scope="module")
def model(folder):
    return seen_jax.load(folder)


@pytest.fixture(scope="module")
def clips():
    return [wave(n, seed) for seed, n in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def blind(model, clips):
    """Not fitted: random rising risks of the right shape, over what the statistics really are."""
    layers = tuple(range(model.config.site_shape(ENCODER_RESID)[0]))
    rng = np.random.default_rng(0)
    a = rng.standard_normal((len(layers), 50, model.config.site_shape(ENCODER_RESID)[1]))
    observer = Observer(model, layers, fit_clean(a, 4), DECODING)
    requests = [Request([clip], "red") for clip in clips]
    evidence = observe(observer, requests, group_requests(model, requests, 8), lambda *_: None)
    risks = []
    for part in (0, 1):
        knots = np.quantile(np.stack([x[part] for x in evidence]), [0, 0.5, 1], axis=0).T.astype(np.float32)
        weights = rng.exponential(1 / len(knots), (len(knots), 2)).astype(np.float32)
        risks.append(Monotone(knots, weights, np.float32([-1.0])))
    card = model.identity("decoder.resid").card() | {"encoder": model.identity(ENCODER_RESID).card()}
    return BlindModel(layers, observer.clean, *risks, card)


def test_forced_log_probabilities_are_those_of_a_full_pass(model, clips):
    batch = model.processor.prepare([Request([clip], "red bird") for clip in clips])
    out = generate(model.lalm, model.variables, batch, {}, DECODING)
    given = forced(model.lalm, model.variables, batch, {}, Answers(out.tokens, out.lengths))
    lengths = np.asarray(out.lengths)
    for row, n in enumerate(lengths):
        start, answer = int(batch.lengths[row]), np.asarray(out.tokens[row, :n])
        tokens = jnp.concatenate([batch.tokens[row, :start], answer])[None]
        audio_index = jnp.pad(batch.audio_index[row, :start], (0, n), constant_values=-1)[None]
        whole = batch.replace(tokens=tokens, audio_index=audio_index, lengths=jnp.array([start + n]))
        expected = jax.nn.log_softmax(forward(model.lalm, model.variables, whole, {}).logits[0, start - 1 :])
        ids = np.append(answer, expected[n].argmax())
        assert np.asarray(given.expected)[row, : n + 1].tolist() == ids.tolist()
        np.testing.assert_allclose(given.log_probs[row, : n + 1], expected[np.arange(n + 1), ids], atol=1e-4)
        np.testing.assert_allclose(given.log_probs[row, :n], expected[:n].max(-1), atol=1e-4)  # greedy
        np.testing.assert_allclose(given.entropy[row, : n + 1], -(np.exp(expected) * expected).sum(-1), atol=1e-3)


def test_scores_are_risks_and_do_not_depend_on_the_batch(model, clips, blind):
    many = seen_jax.blind_score(model, clips, "red", blind, decoding=DECODING)
    few = seen_jax.blind_score(model, clips, "red", blind, decoding=DECODING, batch_size=1)
    assert [x.answer for x in many] == [x.answer for x in few]
    np.testing.assert_allclose([x.risk for x in many], [x.risk for x in few], atol=1e-3)
    np.testing.assert_allclose([x.encoder_risk for x in many], [x.encoder_risk for x in few], atol=1e-3)
    assert len({round(x.risk, 6) for x in many}) == len(clips) and all(0 < x.risk < 1 for x in many)
    assert [x.answer for x in many] == [x.text for x in seen_jax.generate(model, clips, "red", decoding=DECODING)]


def test_the_encoder_alone_gives_the_same_risk_of_the_encoder(model, folder, clips, blind):
    whole = seen_jax.blind_score(model, clips, "red", blind, decoding=DECODING)
    for other, options in ((model, {"encoder_only": True}), (seen_jax.load(folder, part="encoder"), {})):
        alone = seen_jax.blind_score(other, clips, "red", blind, **options)
        np.testing.assert_allclose([x.encoder_risk for x in alone], [x.encoder_risk for x in whole], atol=1e-3)
        assert {(x.risk, x.answer) for x in alone} == {(None, None)}


def test_a_gate_answers_mitigates_or_abstains(model, clips, blind):
    ask = lambda when, audio=clips: seen_jax.generate(model, audio, "red", decoding=DECODING, when=when)
    plain = seen_jax.generate(model, clips, "red", decoding=DECODING)
    risks = [x.risk for x in seen_jax.blind_score(model, clips, "red", blind, decoding=DECODING)]
    always = ask(When(np.inf, np.inf, blind=blind))
    assert [x.text for x in always] == [x.text for x in plain] and {x.action for x in always} == {"answer"}
    np.testing.assert_allclose([x.risk for x in always], risks, atol=1e-3)
    assert [(x.text, x.tokens, x.action) for x in ask(When(-np.inf, blind=blind))] == [("", (), "abstain")] * 4
    low, high = np.sort(risks)[[0, 2]] + 2e-3
    quieter = lambda x: (0.25 * x[::-1]).copy()
    mixed = ask(When(low, high, quieter, blind=blind))
    wanted = ["answer" if r <= low else "mitigate" if r <= high else "abstain" for r in risks]
    assert [x.action for x in mixed] == wanted and sorted(wanted) == ["abstain", "answer", "mitigate", "mitigate"]
    again = seen_jax.generate(model, [quieter(x) for x in clips], "red", decoding=DECODING)
    texts = {"answer": plain, "mitigate": again}
    assert [x.text for x in mixed] == [texts[a][i].text if a in texts else "" for i, a in enumerate(wanted)]


def test_what_cannot_be_scored_is_refused(model, clips, blind):
    with pytest.raises(BasisError, match="seen-jax blind"):
        seen_jax.blind_score(model, clips, "red")  # the shipped one is that of seen-tiny
    with pytest.raises(ConfigError):
        When(float("nan"))
    with pytest.raises(ConfigError, match="swap"):
        When(0.5, 0.2, noisier)
    with pytest.raises(AudioError):
        seen_jax.fit_blind(model, [], "red")
    with pytest.raises(BasisError, match="answers of both kinds"):
        seen_jax.fit_blind(model, clips[:1], "red", ["white"], [100], 2)
    with pytest.warns(UserWarning, match="silence"):
        assert 0 <= seen_jax.blind_score(model, np.zeros(5000, np.float32), "red", blind, decoding=DECODING).risk <= 1
