"""calibrate, score and generate on a tiny random model: right values, in order, whatever the batch size."""

from __future__ import annotations

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_omni import random_basis, random_q, wave, write_checkpoint

import seen_jax
from seen_jax import Decoding, Request, projection
from seen_jax.audio import write_audio
from seen_jax.audio.mix import mix_at_snr
from seen_jax.errors import AudioError, BasisError, ConfigError, SeenError
from seen_jax.models.config import conv_length
from seen_jax.models.generate import answer_batch
from seen_jax.models.load import load
from seen_jax.models.model import forward
from seen_jax.models.pooling import pool
from seen_jax.models.sites import DECODER_RESID, ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR, SITES, Taps
from seen_jax.subspace import formulas

LENGTHS = (5200, 3300, 6400, 4807, 4000)  # not in order; all pad to 40 mel frames, so that programs are shared
RANKS = (2, 0, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_checkpoint(tmp_path_factory.mktemp("tiny") / "omni"))


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
    pooled = pool(model, clips, [site], "red", batch_size=2)[site]
    assert pooled.shape == (layers, 5, width) and pooled.dtype == np.float32
    for i, clip in enumerate(clips):
        if site == ENCODER_MLP_ACT:
            a = taps[i][site][:, 0, : conv_length(-(-len(clip) // 160))]
        else:
            index = model.processor.prepare([Request([clip], "red")]).audio_index[0]
            a = taps[i][site][:, 0][:, index >= 0]
        np.testing.assert_allclose(pooled[:, i], a.mean(1), atol=1e-5)


def test_pool_does_not_depend_on_the_batch_size(model, clips):
    sites = (ENCODER_MLP_ACT, DECODER_RESID)
    few, many = (pool(model, clips, sites, "red", batch_size=n) for n in (2, 8))
    chex.assert_trees_all_close(few, many, atol=1e-5, rtol=0)  # activations of the order of 1


def test_calibrate(model, clips, noises):
    """Clean, scaled noise and mixture, pair by pair; the shorter list sets the number."""
    steps = []
    card = {"noise": "white"}
    calibration = seen_jax.calibrate(
        model, clips, noises, snr_db=-3.0, batch_size=2, card=card, progress=lambda *step: steps.append(step)
    )
    assert calibration.site == ENCODER_MLP_ACT
    mixtures = [mix_at_snr(c, n, -3.0).audio for c, n in zip(clips, noises, strict=False)]
    waves = {"clean": clips, "noisy": mixtures, "noise": [m - c for m, c in zip(mixtures, clips, strict=True)]}
    for name, group in waves.items():
        expected = pool(model, group, [ENCODER_MLP_ACT], batch_size=2)[ENCODER_MLP_ACT]
        np.testing.assert_allclose(getattr(calibration.statistics, name), expected, atol=1e-5)
    assert calibration.card["fingerprint"] == model.identity(calibration.site).fingerprint
    assert calibration.card["noise"] == "white"
    assert calibration.card["snr_db"] == -3.0 and len(set(calibration.card["data"]["clean"])) == 5
    assert steps[-1] == ("calibrating", 15, 15) and steps == sorted(set(steps))

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


def test_an_answer_says_whether_it_was_cut(model, clips, answers):
    for answer in answers:
        assert answer.finished == (len(answer.tokens) < 8)
    short = seen_jax.generate(model, clips[:2], "name the color", decoding=Decoding(1), batch_size=2)
    assert [answer.finished for answer in short] == [not answer.tokens for answer in short]
    assert not all(answer.finished for answer in short)


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
        model, clips, prompts, decoding=Decoding(8), batch_size=2, progress=lambda *step: steps.append(step)
    )
    for i in (0, 3):
        alone = seen_jax.generate(model, [clips[i]] * 2, prompts[i], decoding=Decoding(8), batch_size=2)
        assert alone[0] == alone[1] == out[i]
    assert steps == [("answering", done, 5) for done in (2, 4, 5)]


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
    marked = dataclasses.replace(basis, card=model.identity(basis.site).card())
    assert seen_jax.score(model, clips[:2], marked, batch_size=2)[0].see > 0


def test_arguments_that_make_no_sense_are_refused(model, clips, basis):
    with pytest.raises(ConfigError, match="2 prompts for 5 clips"):
        seen_jax.generate(model, clips, ["red", "green"])
    for strength in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="strength must be a finite number"):
            projection(model, basis, strength)
    with pytest.raises(TypeError, match=r"generate\(\) has no argument 'batchsize'"):
        seen_jax.generate(model, clips, batchsize=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'batchsize'"):
        seen_jax.score(model, clips, basis, batchsize=2)
    with pytest.raises(ConfigError, match="batch size must be at least 1, not 0"):
        seen_jax.score(model, clips, basis, batch_size=0)
    long = np.full(4_800_001, 0.1, np.float32)
    for call in (
        lambda: seen_jax.score(model, [clips[0], long], basis),
        lambda: seen_jax.generate(model, [clips[0], long], "red"),
        lambda: pool(model, [clips[0], long], [ENCODER_MLP_ACT]),
    ):
        with pytest.raises(AudioError, match=r"300\.0 s.* at most 300 s: cut it"):
            call()


# --- audio in any form ---


def test_every_form_of_a_clip_gives_the_same_answer(model, clips, basis, tmp_path):
    """Integers were once read as floats, which changed half of the answers."""
    pcm = np.round(clips[0] * 32768).astype(np.int16)
    exact = (pcm / 32768).astype(np.float32)
    path = write_audio(tmp_path / "clip.wav", exact)
    pair = {"array": exact, "sampling_rate": 16000}
    forms = [exact, exact.tolist(), exact.astype(float), pcm, path, str(path), (pcm, 16000), pair]
    forms.append(Request([path], "red"))
    call = functools.partial(seen_jax.generate, model, prompt="red", basis=basis, decoding=Decoding(4), batch_size=2)
    expected = call([exact] * 2)[0]
    for answer in (*call(forms), *map(call, forms)):  # one clip in, one answer out
        assert answer.tokens == expected.tokens and answer.see == pytest.approx(expected.see, abs=1e-6)
    score = seen_jax.score(model, str(path), basis)
    assert score == seen_jax.score(model, [pcm], basis)[0] and isinstance(score, seen_jax.Score)
    assert isinstance(seen_jax.run(model, pcm), seen_jax.Run) and isinstance(
        seen_jax.run(model, [pcm])[0], seen_jax.Run
    )
    a, b = (seen_jax.calibrate(model, clean, noise) for clean, noise in ((pcm, path), ([exact], [exact])))
    chex.assert_trees_all_equal(a.source, b.source)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.array([0.1, np.nan]), "clip 1: 1 of 2 samples are NaN"),
        (np.zeros((2, 800)), "clip 1: one dimension expected"),
        (np.zeros(0), "clip 1: the wave has no samples"),
        ((np.ones(800), 16000.0), "clip 1: the sample rate must be an int"),
        ("gone.wav", "no audio file gone.wav"),
        (Request([np.ones(800), np.full(800, np.inf)], "red"), r"clip 1\.1: 800 of 800 samples"),
    ],
)
def test_audio_that_cannot_be_used_is_named(model, clips, basis, clip, message):
    for call in (seen_jax.generate, seen_jax.run, functools.partial(seen_jax.score, basis=basis)):
        with pytest.raises(AudioError, match=message):
            call(model, [clips[0], clip])
    if not isinstance(clip, Request):
        with pytest.raises(AudioError, match=message.replace("clip 1", "calibration pair 0: noise")):
            seen_jax.calibrate(model, clips, [clip])


def test_digital_silence_is_warned_of(model, clips, basis):
    with pytest.warns(UserWarning, match="clip 1 is digital silence"):
        scores = seen_jax.score(model, [clips[0], np.zeros(4000, np.float32)], basis, batch_size=2)
    assert len(scores) == 2
    with pytest.warns(UserWarning, match="clip 0 is digital silence"):
        seen_jax.generate(model, np.zeros(4000, np.int16), "red", decoding=Decoding(1), batch_size=2)


# --- SEE over time ---


@pytest.mark.parametrize("site", [ENCODER_MLP_ACT, PROJECTOR, DECODER_RESID])
def test_see_over_time_has_the_mean_and_the_times_of_its_positions(model, clips, site):
    basis = random_basis(model.config, site, [2] * model.config.site_shape(site)[0])
    scores = seen_jax.score(model, clips, basis, "red", frames=True, batch_size=2)
    plain = seen_jax.score(model, clips, basis, "red", batch_size=2)
    hop = 0.02 if site == ENCODER_MLP_ACT else 0.04
    for score, other, clip in zip(scores, plain, clips, strict=True):
        assert other.frames is None and score.see == pytest.approx(other.see, abs=1e-6)
        np.testing.assert_allclose(score.frames.mean(1), score.per_layer, atol=1e-6)
        assert score.frames.shape[1:] == score.times.shape
        first = 0.0 if site == ENCODER_MLP_ACT else 0.01  # an audio token is the mean of two positions
        np.testing.assert_allclose(score.times, first + hop * np.arange(len(score.times)), atol=1e-9)
        assert len(clip) / 16000 - 0.05 < score.times[-1] < len(clip) / 16000


# --- run ---


def test_run_gives_activations_and_logits_of_each_clip_without_padding(model, clips, taps):
    """Those of every clip alone, in the order of the clips; SEE before and after an edit."""
    runs = seen_jax.run(model, clips, "red", SITES, batch_size=2)
    lalm = model.tapped(Taps(SITES, "full"))
    for run, full, clip in zip(runs, taps, clips, strict=True):
        batch = model.processor.prepare([Request([clip], "red")])
        length, positions = int(batch.lengths[0]), conv_length(-(-len(clip) // 160))
        real = {ENCODER_MLP_ACT: positions, ENCODER_RESID: positions, PROJECTOR: positions // 2}
        for site in SITES:
            expected = full[site][:, 0, : real.get(site, length)]
            assert run.activations[site].dtype == np.float32
            np.testing.assert_allclose(run.activations[site], expected, atol=1e-5)
        logits = forward(lalm, model.variables, batch, {}).logits[0, :length]
        np.testing.assert_allclose(run.logits, logits, atol=1e-5)
    one = seen_jax.run(model, clips[0], "red", PROJECTOR)
    assert set(one.activations) == {PROJECTOR} and one.see == {}


def test_run_of_a_request_joins_its_clips(model, clips, basis):
    edits = projection(model, basis, 0.5)
    both, *alone = seen_jax.run(model, [Request(clips[:2], "red"), *clips[:2]], "red", edits=edits, batch_size=4)
    parts = [run.activations[ENCODER_MLP_ACT] for run in alone]
    np.testing.assert_allclose(both.activations[ENCODER_MLP_ACT], np.concatenate(parts, 1), atol=1e-5)
    mean = np.mean([run.see[ENCODER_MLP_ACT].before for run in alone], 0)
    np.testing.assert_allclose(both.see[ENCODER_MLP_ACT].before, mean, atol=1e-6)
    assert both.see[ENCODER_MLP_ACT].after.shape == (3,)


# --- edits ---


def test_the_edit_of_a_basis(model, basis):
    edit = projection(model, basis, 0.4)[ENCODER_MLP_ACT]
    np.testing.assert_allclose(edit.scale, [0, 0.4, 0.4], atol=1e-7)
    assert edit.u.shape == (3, 40, 16)  # padded, so that bases share programs
    assert np.array_equal(edit.u[..., :3], basis.q) and not np.asarray(edit.u[..., 3:]).any()
    same = projection(model, basis.with_layers((0,)), 1.0)[ENCODER_MLP_ACT]
    assert same.u is edit.u, "edits of one basis must share their directions, see generate_edits"
    assert projection(model, basis, layers=[0])[ENCODER_MLP_ACT].scale.tolist() == [1, 0, 0]
    assert seen_jax.measuring(model, basis)[ENCODER_MLP_ACT].scale is None


def test_directions_make_an_edit(model, clips):
    """Of one layer or all; those with no column of a layer only measure there."""
    q = random_q(3, 24, 2, 0)
    for directions in (q, q[0]):
        edit = projection(model, directions, site=ENCODER_RESID, layers=(1, 2))[ENCODER_RESID]
        assert np.array_equal(edit.u[1, :, :2], q[1] if directions is q else q[0])
        assert edit.scale.tolist() == [0, 1, 1]
    for bad, error, message in (
        (2 * q, BasisError, "not orthonormal"),
        (q[:, :20], BasisError, r"must be \[24, 'R'\] or \[3, 24, 'R'\], not \[3, 20, 2\]"),
        (q * np.nan, BasisError, "NaN"),
    ):
        with pytest.raises(error, match=message):
            projection(model, bad, site=ENCODER_RESID)
    with pytest.raises(ConfigError, match="need a site"):
        projection(model, q)
    with pytest.raises(ConfigError, match="unknown site"):
        projection(model, q, site="encoder")


def test_steering_and_linear_maps_do_what_they_say(model, clips):
    """On the activations of the first edited layer, and they reach the logits."""
    rng = np.random.default_rng(0)
    vector, matrix = rng.standard_normal(32).astype(np.float32), rng.standard_normal((32, 32)).astype(np.float32) / 6
    u, v = (rng.standard_normal((32, 2)).astype(np.float32) for _ in range(2))
    run = functools.partial(seen_jax.run, model, clips[0], "red", DECODER_RESID)
    plain = run()
    a = plain.activations[DECODER_RESID][1]
    cases = {
        "steering": (seen_jax.steering(model, DECODER_RESID, vector, 2.0, layers=1), a + 2 * vector),
        "matrix": (seen_jax.linear_map(model, DECODER_RESID, matrix, vector, layers=[1]), a @ matrix + vector),
        "pair": (seen_jax.linear_map(model, DECODER_RESID, (u, v), layers=(1,)), a + (a @ u) @ v.T),
        "half": (seen_jax.linear_map(model, DECODER_RESID, matrix, strength=0.5, layers=1), (a + a @ matrix) / 2),
    }
    for name, (edits, expected) in cases.items():
        edited = run(edits=edits)
        np.testing.assert_allclose(edited.activations[DECODER_RESID][1], expected, atol=2e-4, err_msg=name)
        np.testing.assert_allclose(edited.activations[DECODER_RESID][0], plain.activations[DECODER_RESID][0], atol=1e-5)
        assert np.abs(edited.logits - plain.logits).max() > 1e-2
        assert edited.see == {}
    text = run(edits=seen_jax.steering(model, DECODER_RESID, vector, layers=1, text=0.0)).activations[DECODER_RESID][1]
    moved = np.abs(text - a).max(-1) > 1e-3
    assert 0 < moved.sum() < len(a)  # audio tokens alone


def test_generate_takes_edits_beside_a_basis(model, clips, basis):
    steer = seen_jax.steering(model, DECODER_RESID, np.random.default_rng(0).standard_normal(32), 8.0)
    plain, both = (
        seen_jax.generate(model, clips, "red", basis, decoding=Decoding(8), batch_size=2, edits=edits)
        for edits in (None, steer)
    )
    assert [a.tokens for a in plain] != [a.tokens for a in both]
    assert [a.see for a in plain] == pytest.approx([a.see for a in both], abs=1e-6)
    with pytest.raises(ConfigError, match=r"two edits of encoder\.mlp_act"):
        seen_jax.generate(model, clips, "red", basis, edits=projection(model, basis))


def test_edits_that_do_not_fit_the_model_are_refused(model, clips, basis):
    edit = projection(model, basis)[ENCODER_MLP_ACT]
    for edits, message in (
        ({"encoder.mlp": edit}, "unknown site 'encoder.mlp'"),
        ({DECODER_RESID: edit}, r"has u of shape \[3, 40, 16\].*3 layers of width 32"),
        ({ENCODER_MLP_ACT: edit.replace(scale=edit.scale[:2])}, r"has scale of shape \[2\]"),
    ):
        for call in (seen_jax.generate, seen_jax.run):
            with pytest.raises(ConfigError, match=message):
                call(model, clips, edits=edits)
    for vector in (np.ones(31), np.full(32, np.nan)):
        with pytest.raises(ConfigError, match=r"the vector of an edit of decoder\.resid"):
            seen_jax.steering(model, DECODER_RESID, vector)
    with pytest.raises(ConfigError, match=r"layers \[3\] do not exist"):
        seen_jax.steering(model, DECODER_RESID, np.ones(32), layers=[3])
    with pytest.raises(ConfigError, match="u has 2 columns and v 3"):
        seen_jax.linear_map(model, DECODER_RESID, (np.ones((32, 2)), np.ones((32, 3))))


def test_other_layers_strengths_noises_and_ranks_recompile_nothing(model, clips, basis, monkeypatch):
    chex.clear_trace_counter()
    traced_once = chex.assert_max_traces(answer_batch.__wrapped__, n=1)
    monkeypatch.setattr("seen_jax.models.generate.answer_batch", jax.jit(traced_once, static_argnums=(0, 5)))
    call = functools.partial(seen_jax.generate, model, clips[:2], "red", decoding=Decoding(8), batch_size=2)
    wide = random_basis(model.config, ENCODER_MLP_ACT, (1, 14, 9))
    bases = [basis, basis.with_layers("all"), wide]
    answers = [call(basis=b, strength=strength) for b in bases for strength in (1.0, 0.4)]
    assert len({tuple((a.see, a.see_after) for a in answer) for answer in answers}) == len(answers)


def test_a_strength_sweep_is_a_vmap_over_projection(model, clips, basis):
    batch = model.processor.prepare([Request([clips[0]], "red")])

    def after(strength):
        out = model.lalm.apply(model.variables, batch, projection(model, basis, strength))
        return out.see[ENCODER_MLP_ACT].after

    swept = jax.jit(jax.vmap(after))(jnp.array([0.0, 0.5, 1.0]))
    answer = seen_jax.run(model, clips[0], "red", edits=projection(model, basis, 0.5))
    np.testing.assert_allclose(swept[1, :, 0], answer.see[ENCODER_MLP_ACT].after, atol=1e-6)
    assert float(swept[2, 2, 0]) < 1e-6 < float(swept[0, 2, 0])


def test_directions_stay_on_the_host_where_the_strength_is_traced(model, basis):
    edit = lambda strength: projection(model, basis.q, strength, basis.site)[basis.site]
    traced, plain = jax.jit(edit)(0.5), edit(0.5)
    np.testing.assert_array_equal(traced.u, plain.u)
    np.testing.assert_allclose(traced.scale, plain.scale)
    with pytest.raises(BasisError, match="outside of the traced function"):
        jax.jit(lambda q: projection(model, q, site=basis.site))(basis.q)


# --- what is shown ---


def test_reprs_are_short_and_treescope_shows_everything(model, clips, basis):
    marked = dataclasses.replace(basis, card={"model": "tiny", "noise": "white", "data": {"clean": ["x"] * 99}})
    calibration = seen_jax.calibrate(model, clips[:1], clips[1:2], card={"noise": "pink"})
    run = seen_jax.run(model, clips[0], edits=projection(model, basis))
    score = seen_jax.score(model, clips[0], basis, frames=True)
    shown = [
        (marked, "NoiseBasis('encoder.mlp_act', layers=(1, 2) of 3, ranks=(2, 0, 3), model='tiny', noise='white')"),
        (calibration, "Calibration('encoder.mlp_act', layers=3, clips=1, width=40, model="),
        (model, "family='qwen2_5_omni', encoder=3 layers of 24, decoder=3 layers of 32, dtype=float32)"),
        (score, "Score(see=0."),
        (run, "activations={'encoder.mlp_act': [3, 17, 40]}, see=['encoder.mlp_act'])"),
        (projection(model, basis)[ENCODER_MLP_ACT], "Edit(u=[3, 40, 16], scale=[3])"),
    ]
    for value, text in shown:
        assert text in repr(value) and len(repr(value)) < 300
    treescope = pytest.importorskip("treescope")
    for value in (
        *(value for value, _ in shown),
        run.see[ENCODER_MLP_ACT],
        Taps(SITES),
        seen_jax.Answer("red", (1, 2)),
    ):
        assert type(value).__name__ in treescope.render_to_text(value)


# --- numbers that are not finite ---


def test_a_clip_whose_numbers_are_not_finite_is_named(model, clips, basis):
    """The word "blue" has no embedding; clip 3 alone is asked about it."""
    token = model.processor.tokenizer("blue", add_special_tokens=False)["input_ids"][0]
    prompts = ["red"] * 3 + ["blue", "red"]
    params = model.variables["params"]
    table = params["decoder"]["embed"]["embedding"].at[token].set(jnp.nan)
    decoder = {**params["decoder"], "embed": {"embedding": table}}
    broken = dataclasses.replace(model, variables={"params": {**params, "decoder": decoder}})
    expected = functools.partial(pytest.raises, SeenError)
    logits = r"^clip 3: the model's logits are not finite \(NaN or infinite\): a weight or an edit is too large"
    with expected(match=logits):
        seen_jax.generate(broken, clips, prompts, basis=basis, batch_size=2, decoding=Decoding(2))
    with expected(match=logits):
        seen_jax.run(broken, clips, prompts, batch_size=2)
    at_decoder = random_basis(model.config, DECODER_RESID, RANKS, layers=(1, 2))
    with expected(match=r"^clip 3: its SEE is not finite \(NaN or infinite\)"):
        seen_jax.score(broken, clips, at_decoder, prompts, batch_size=2)
    prompts[3] = "red"
    assert len(seen_jax.generate(broken, clips, prompts, basis=basis, batch_size=2, decoding=Decoding(2))) == 5


def test_numbers_beyond_float16_do_no_harm_in_a_float16_model(model, clips):
    half = dataclasses.replace(model, lalm=model.lalm.clone(dtype=jnp.float16))
    large = seen_jax.steering(model, DECODER_RESID, np.full(model.config.decoder.width, 6e4, np.float32), 2.0)
    answers = [seen_jax.generate(m, clips[0], "red", edits=large, decoding=Decoding(1)) for m in (model, half)]
    assert answers[0].tokens == answers[1].tokens
