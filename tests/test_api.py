"""calibrate, score and generate on a tiny random model: right values, in order, whatever the batch size."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_omni import random_basis, wave

import seen_jax
from seen_jax import Decoding, Request
from seen_jax.api import pool, seen_edit
from seen_jax.audio.mix import mix_at_snr
from seen_jax.errors import AudioError, BasisError, ConfigError
from seen_jax.models.config import conv_length
from seen_jax.models.model import forward
from seen_jax.models.sites import DECODER_RESID, ENCODER_MLP_ACT, PROJECTOR, SITES, Taps
from seen_jax.subspace import formulas

LENGTHS = (5200, 3300, 6400, 4807, 4000)  # not in order; all pad to 40 mel frames, so that programs are shared
RANKS = (2, 0, 3)


@pytest.fixture(scope="module")
def clips():
    return [wave(n, seed) for seed, n in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def noises():
    rng = np.random.default_rng(5)
    return [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (2000, 9000, 6400, 4807, 4000, 100)]


@pytest.fixture(scope="module")
def taps(model, clips):
    """Full activations of every clip alone, from the pure function below the API."""
    lalm = model.tapped(Taps(SITES, "full"))
    outs = [forward(lalm, model.variables, model.processor.prepare([Request([x], "red")]), {}) for x in clips]
    return [out.taps for out in outs]


@pytest.fixture(scope="module")
def basis(model):
    return random_basis(model.config, ENCODER_MLP_ACT, RANKS, layers=(1, 2))


# --- pool and calibrate ---


@pytest.mark.parametrize("site", [ENCODER_MLP_ACT, DECODER_RESID])
def test_pool_is_the_mean_over_valid_frames_in_the_order_of_the_clips(model, clips, taps, site):
    layers, width = model.config.site_shape(site)
    pooled = pool(model, clips, site, "red", batch_size=2)
    assert pooled.shape == (layers, 5, width) and pooled.dtype == np.float32
    for i, clip in enumerate(clips):
        if site == ENCODER_MLP_ACT:
            a = taps[i][site][:, 0, : conv_length(-(-len(clip) // 160))]
        else:
            index = model.processor.prepare([Request([clip], "red")]).audio_index[0]
            a = taps[i][site][:, 0][:, index >= 0]
        np.testing.assert_allclose(pooled[:, i], a.mean(1), atol=1e-5)


def test_pool_does_not_depend_on_the_batch_size(model, clips):
    for site in (ENCODER_MLP_ACT, DECODER_RESID):
        a, b = (pool(model, clips, site, "red", batch_size=n) for n in (2, 8))
        np.testing.assert_allclose(a, b, atol=1e-5)  # activations of the order of 1


def test_calibrate(model, clips, noises):
    """Clean, scaled noise and mixture, pair by pair; the shorter list sets the number."""
    steps = []
    card = {"noise": "white"}
    calibration = seen_jax.calibrate(
        model, clips, noises, snr_db=-3.0, batch_size=2, card=card, progress=lambda done, of: steps.append((done, of))
    )
    assert calibration.site == ENCODER_MLP_ACT
    mixtures = [mix_at_snr(c, n, -3.0).audio for c, n in zip(clips, noises, strict=False)]
    waves = {"clean": clips, "noisy": mixtures, "noise": [m - c for m, c in zip(mixtures, clips, strict=True)]}
    for name, group in waves.items():
        expected = pool(model, group, ENCODER_MLP_ACT, batch_size=2)
        np.testing.assert_allclose(getattr(calibration.statistics, name), expected, atol=1e-5)
    assert calibration.card["fingerprint"] == model.fingerprint and calibration.card["noise"] == "white"
    assert calibration.card["snr_db"] == -3.0 and len(set(calibration.card["data"]["clean"])) == 5
    assert steps[-1] == (15, 15) and steps == sorted(set(steps))

    larger = seen_jax.calibrate(model, clips, noises, snr_db=-3.0, batch_size=5)
    np.testing.assert_allclose(larger.statistics.noise, calibration.statistics.noise, atol=1e-5)
    assert larger.card["data"] == calibration.card["data"]

    selected = calibration.select(seen_jax.Selection(layers="all"))
    assert max(selected.ranks) > 0
    see = [score.see for score in seen_jax.score(model, [*clips, *mixtures], selected, batch_size=5)]
    assert len(see) == 10 and 0 < min(see) < max(see) < 1


def test_calibrate_refuses_what_it_cannot_use(model, clips, noises):
    with pytest.raises(AudioError, match="at least one clean clip and one noise clip"):
        seen_jax.calibrate(model, clips, [])
    with pytest.raises(AudioError, match="calibration pair 1"):
        seen_jax.calibrate(model, clips, [noises[0], np.zeros(4000, np.float32)])
    with pytest.raises(ConfigError, match=r"unknown site 'encoder\.mlp'.*Did you mean 'encoder\.mlp_act'"):
        seen_jax.calibrate(model, clips, noises, site="encoder.mlp")


# --- score ---


def test_score_is_the_formula_in_the_order_of_the_clips(model, clips, taps, basis):
    scores = seen_jax.score(model, clips, basis, batch_size=2)
    assert len(scores) == len(clips)
    for score, full, clip in zip(scores, taps, clips, strict=True):
        a = full[ENCODER_MLP_ACT][:, :, : conv_length(-(-len(clip) // 160))]
        mask = jnp.ones(a.shape[1:3])
        layers = [float(formulas.see(x, q, mask)[0]) for x, q in zip(a, basis.q, strict=True)]
        energy = [float(formulas.noise_energy(x, q)[0].mean()) for x, q in zip(a, basis.q, strict=True)]
        assert score.per_layer == pytest.approx(layers, abs=1e-6)
        assert score.energy == pytest.approx(energy, rel=1e-5)
        assert score.per_layer[1] == 0 and score.kept == (1, 2)
        assert score.see == pytest.approx((layers[1] + layers[2]) / 2, abs=1e-6)
        assert 0 < score.see < 1
    assert len({round(score.see, 6) for score in scores}) == len(clips)


@pytest.mark.parametrize("site", [ENCODER_MLP_ACT, PROJECTOR, DECODER_RESID])
def test_score_does_not_depend_on_the_batch_size(model, clips, site):
    basis = random_basis(model.config, site, [2] * model.config.site_shape(site)[0])
    few, many = (seen_jax.score(model, clips, basis, prompt="red", batch_size=n) for n in (2, 8))
    assert [s.see for s in few] == pytest.approx([s.see for s in many], abs=1e-6)
    np.testing.assert_allclose([s.energy for s in few], [s.energy for s in many], rtol=1e-5)


# --- generate ---


@pytest.fixture(scope="module")
def answers(model, clips, basis):
    """SEEN at full strength, small batches."""
    return seen_jax.generate(model, clips, "name the color", basis, decoding=Decoding(8), batch_size=2)


def test_generate_reports_see_and_reads_the_tokens(model, clips, basis, answers):
    scores = seen_jax.score(model, clips, basis, batch_size=2)
    tokenizer = model.processor.tokenizer
    for answer, score in zip(answers, scores, strict=True):
        assert answer.text == tokenizer.decode(answer.tokens, skip_special_tokens=True).strip()
        assert 0 < len(answer.tokens) <= 8 and not set(answer.tokens) & set(model.config.stop_tokens)
        # Only layer 2 is edited (layer 0 is not kept, layer 1 has rank 0), so it sees what the score saw.
        assert answer.see == pytest.approx(score.see, abs=1e-6)
        assert answer.see_after == pytest.approx(0, abs=1e-6)
    assert len({answer.tokens for answer in answers}) > 1


def test_strength_zero_measures_and_changes_nothing(model, clips, basis, answers):
    plain = seen_jax.generate(model, clips, "name the color", decoding=Decoding(8), batch_size=2)
    measured = seen_jax.generate(model, clips, "name the color", basis, 0.0, Decoding(8), batch_size=2)
    scores = seen_jax.score(model, clips, basis, batch_size=2)
    for a, b, score in zip(plain, measured, scores, strict=True):
        assert (a.text, a.tokens) == (b.text, b.tokens)
        assert a.see is None and a.see_after is None
        assert b.see == pytest.approx(score.see, abs=1e-6) and b.see_after == pytest.approx(b.see, abs=1e-6)
    assert [a.tokens for a in answers] != [a.tokens for a in plain], "SEEN changes no answer: nothing is compared"


def test_generate_does_not_depend_on_the_batch_size(model, clips, basis, answers):
    many = seen_jax.generate(model, clips, "name the color", basis, decoding=Decoding(8), batch_size=8)
    assert [a.tokens for a in many] == [a.tokens for a in answers]
    assert [a.see for a in many] == pytest.approx([a.see for a in answers], abs=1e-6)
    hot = Decoding(8, temperature=1.5)
    few, many, other = (
        [a.tokens for a in seen_jax.generate(model, clips, "red", decoding=hot, seed=seed, batch_size=n)]
        for n, seed in ((2, 3), (8, 3), (8, 4))
    )
    assert few == many and many != other


def test_one_prompt_per_clip_and_progress(model, clips):
    steps = []
    prompts = ["red", "green", "blue", "name the music", "which color"]
    out = seen_jax.generate(
        model, clips, prompts, decoding=Decoding(8), batch_size=2, progress=lambda done, of: steps.append((done, of))
    )
    for i in (0, 3):
        alone = seen_jax.generate(model, [clips[i]] * 2, prompts[i], decoding=Decoding(8), batch_size=2)
        assert alone[0] == alone[1] == out[i]
    assert steps == [(2, 5), (4, 5), (5, 5)]


def test_requests_with_several_clips(model, clips, basis):
    """SEE of a request is the mean over its clips (whole clips are not weighted by length)."""
    requests = [
        Request([clips[0], clips[1]], "red"),
        Request([clips[2]], "green"),
        Request([clips[3], clips[4]], "blue"),
    ]
    out = seen_jax.generate(model, requests, basis=basis, strength=0.0, decoding=Decoding(8), batch_size=3)
    see = [score.see for score in seen_jax.score(model, clips, basis, batch_size=2)]
    expected = [(see[0] + see[1]) / 2, see[2], (see[3] + see[4]) / 2]
    assert [a.see for a in out] == pytest.approx(expected, abs=1e-6)
    assert [a.see_after for a in out] == pytest.approx(expected, abs=1e-6)
    alone = seen_jax.generate(model, [clips[2]] * 2, "green", decoding=Decoding(8), batch_size=2)
    assert out[1].tokens == alone[0].tokens


def test_nothing_in_nothing_out(model, basis):
    assert seen_jax.score(model, [], basis) == []
    assert seen_jax.generate(model, [], "red", basis) == []


# --- errors ---


def test_a_basis_of_something_else_is_refused(model, clips, basis):
    def refused(other, message):
        for call in (
            lambda: seen_jax.score(model, clips, other),
            lambda: seen_jax.generate(model, clips, "red", other),
        ):
            with pytest.raises(BasisError, match=message):
                call()

    refused(
        dataclasses.replace(basis, card={"fingerprint": "other", "model": "big"}), "made for big: model fingerprint"
    )
    refused(dataclasses.replace(basis, q=basis.q[:2], ranks=RANKS[:2], layers=(1,)), r"layers 2 \(the model: 3\)")
    wide = dataclasses.replace(basis, q=jnp.pad(basis.q, ((0, 0), (0, 8), (0, 0))))
    refused(wide, r"width 48 \(the model: 40\)")
    with pytest.raises(ConfigError, match="unknown site"):
        seen_jax.score(model, clips, dataclasses.replace(basis, site="decoder.mlp"))
    own = dataclasses.replace(basis, card={"fingerprint": model.fingerprint})
    assert seen_jax.score(model, clips[:2], own, batch_size=2)[0].see > 0


def test_arguments_that_make_no_sense_are_refused(model, clips, basis):
    with pytest.raises(ConfigError, match="2 prompts for 5 clips"):
        seen_jax.generate(model, clips, ["red", "green"])
    for strength in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="strength must be a finite number"):
            seen_edit(model, basis, strength)
    with pytest.raises(ConfigError, match="batch size must be at least 1, not 0"):
        seen_jax.score(model, clips, basis, batch_size=0)
    long = np.zeros(4_800_001, np.float32)
    for call in (
        lambda: seen_jax.score(model, [clips[0], long], basis),
        lambda: seen_jax.generate(model, [clips[0], long], "red"),
        lambda: pool(model, [clips[0], long], ENCODER_MLP_ACT),
    ):
        with pytest.raises(AudioError, match=r"300\.0 s.* at most 300 s: cut it"):
            call()


def test_the_edit_of_a_basis(model, basis):
    edits = seen_edit(model, basis, 0.4)
    assert list(edits) == [ENCODER_MLP_ACT]
    np.testing.assert_allclose(edits[ENCODER_MLP_ACT].scale, [0, 0.4, 0.4], atol=1e-7)
    assert np.array_equal(edits[ENCODER_MLP_ACT].u, basis.q)
