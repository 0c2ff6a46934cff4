"""Choosing a reading of the method: the ranking on made-up figures, the measurements on a tiny model."""

import dataclasses
import json
import math

import numpy as np
import pytest
from evaluate_models import random_model

import seen_jax
from seen_jax.audio.mix import mix_at_snr
from seen_jax.data.items import load_clips
from seen_jax.errors import ConfigError
from seen_jax.evaluate import choose as choosing
from seen_jax.evaluate.choose import choose, measure
from seen_jax.evaluate.readings import Candidate, Scored, candidates, explain, pick, rank, to_json
from seen_jax.evaluate.sweep import noises_for
from seen_jax.models.generate import Decoding
from seen_jax.subspace import Calibration, Selection, Statistics

SITE = "encoder.mlp_act"


def scored(pearson, clean_gsr, delta=0.1, see_clean=0.1):
    option = Candidate(SITE, Selection(delta=delta))
    return Scored(option, pearson, 0.2, see_clean, {}, {}, clean_gsr)


def test_candidates_are_all_different_readings():
    options = candidates(("projector",))
    assert len(options) == 48 == len(set(options))
    assert {(o.selection.method, o.selection.delta) for o in options} == {
        *(("threshold", delta) for delta in (0.05, 0.1, 0.2)),
        ("complement", 0.1),
    }
    assert len(candidates()) == 96


def test_the_most_negative_correlation_that_keeps_clean_audio_wins():
    best = scored({"a": -0.99, "b": -0.97}, 0.90)
    second = scored({"a": -0.90, "b": -0.98}, 0.95, 0.2)
    third = scored({"a": -1.00, "b": -0.50}, 1.00, 0.3)
    unchecked = scored({"a": -1.00, "b": -0.99}, None, 0.4)
    empty = scored({"a": -1.00, "b": float("nan")}, 1.00, 0.5)
    ranked = rank([empty, third, second, best, unchecked])
    assert ranked == [unchecked, best, second, third, empty]
    assert pick(ranked) is second
    assert pick(rank([best, empty])) is best
    assert not best.passes and second.passes and not empty.passes
    for r, see, wins in ((-0.922, 0.09, True), (-0.922, 0.11, False), (-0.918, 0.09, False)):
        gentler = scored({"a": r, "b": r}, 0.96, 0.6, see)  # the second one has -0.94: closer than 0.02 is a tie
        assert pick(rank([second, gentler])) is (gentler if wins else second)
    with pytest.raises(ConfigError, match="does not vary"):
        pick([empty])


@pytest.fixture(scope="module")
def synthetic():
    """A calibration whose noise lies in directions 4 to 7 of 16, clean audio in the first four."""
    rng = np.random.default_rng(0)
    clean, noise = np.zeros((2, 3, 12, 16), np.float32)
    clean[..., :4] = rng.normal(size=(3, 12, 4)) * (8, 4, 2, 1)
    noise[..., 4:8] = rng.normal(size=(3, 12, 4)) * (8, 4, 2, 1)
    return Calibration(SITE, Statistics(clean, noise, clean + noise))


OPTIONS = [
    Candidate(SITE, Selection(noise_alpha=alpha, layers=layers)) for alpha in (0.5, None) for layers in ("all", (0,))
]


def fake_measure(per_layer):
    """GSR 0, 1/2 and 1 at three SNRs; SEE of each basis and layer as given: [snrs, bases, layers]."""

    def measured(model, items, noises, snrs, stacks, *_):
        assert {q.shape[0] for q in stacks.values()} == {2}  # two different bases for four candidates
        outputs = {("white", None): ["a", "b"], ("white", 0.0): ["x", "x"]}
        outputs |= {("white", 5.0): ["a", "x"], ("white", 10.0): ["a", "b"]}
        levels = [None, 0.0, 5.0, 10.0]
        return outputs, {(SITE, "white", s): np.array(v) for s, v in zip(levels, per_layer, strict=True)}

    return measured


def run_choose(monkeypatch, synthetic, kept_gsr, check=12):
    """SEE falls with GSR only in layer 0 of the second basis (no noise cut)."""
    flat, rising, falling = [0.5, 0.5, 0.5], [0.1, 0.6, 0.7], [0.9, 0.5, 0.1]
    sees = [[[0.5] * 3, [0.5] * 3]]
    sees += [[[r, r, r], [f, 3 * r, c]] for r, f, c in zip(rising, falling, flat, strict=True)]
    asked = []

    def clean_gsr(model, items, clean, bases, batch_size):
        asked.append((sum(bases["white"].ranks), bases["white"].layers))
        return kept_gsr(*asked[-1])

    monkeypatch.setattr(choosing, "measure", fake_measure(sees))
    monkeypatch.setattr(choosing, "clean_gsr", clean_gsr)
    found = choose(random_model(), [], {(SITE, "white"): synthetic}, ["white"], [0.0, 5.0, 10.0], OPTIONS, check=check)
    return *found, asked


def test_choice_from_made_up_measurements(monkeypatch, synthetic):
    chosen, ranked, asked = run_choose(monkeypatch, synthetic, lambda *_: 1.0)
    assert chosen.candidate == Candidate(SITE, Selection(layers=(0,)))
    assert chosen.pearson["white"] == pytest.approx(-1)
    assert (chosen.see_clean, chosen.see_noisy) == pytest.approx((0.5, 0.5))
    assert chosen.layers == {"white": (0,)} and chosen.ranks == {"white": (4, 4, 4)}
    expected = np.corrcoef([0.1, 0.6, 0.7], [0, 0.5, 1])[0, 1]
    assert sorted(r.mean for r in ranked)[-2:] == pytest.approx([expected] * 2)
    assert len(ranked) == 4 == len(asked)


def test_choice_goes_on_until_one_keeps_clean_audio(monkeypatch, synthetic):
    chosen, ranked, asked = run_choose(monkeypatch, synthetic, lambda rank, layers: 0.9 + 0.1 * (layers != (0,)), 1)
    assert chosen is ranked[1] and chosen.clean_gsr == 1.0
    assert ranked[0].clean_gsr == 0.9 and [r.clean_gsr for r in ranked[2:]] == [None, None]
    assert len(asked) == 2


def test_missing_calibration(synthetic):
    with pytest.raises(ConfigError, match="no calibration for"):
        choose(random_model(), [], {}, ["white"], [0.0], OPTIONS)


@pytest.fixture(scope="module")
def items():
    return [*load_clips("validation", 1)[:2], load_clips("validation", 1)[3]]


SITES = ("encoder.mlp_act", "projector", "decoder.resid")


def test_see_of_stacked_bases_is_that_of_score_at_every_kind_of_site(items):
    model = random_model()
    clean = [clip.wave for clip in load_clips("calibration", 1)]
    stacks, bases = {}, {}
    for site in SITES:
        calibration = seen_jax.calibrate(model, clean, noises_for("white", clean, "calibrate", 0), site)
        basis = calibration.select(Selection(method="complement", layers="all")).truncate(2)
        assert set(basis.ranks) == {2}
        second = dataclasses.replace(basis, q=basis.q.at[..., 0].set(0)[..., ::-1], ranks=(1,) * len(basis.ranks))
        bases[site] = [basis, second]
        stacks[site, "white"] = np.stack([b.q for b in bases[site]])
    outputs, sees = measure(model, items, ["white"], [5.0], stacks, batch_size=2)
    noise = noises_for("white", [item.wave for item in items], "choose/white", 0)
    waves = {
        None: [item.wave for item in items],
        5.0: [mix_at_snr(item.wave, n, 5.0).audio for item, n in zip(items, noise, strict=True)],
    }
    for snr, own in waves.items():
        answers = seen_jax.generate(model, own, [i.prompt for i in items], decoding=Decoding(choosing.MAX_NEW_TOKENS))
        assert outputs["white", snr] == [a.text for a in answers]
        for site, both in bases.items():
            for i, basis in enumerate(both):
                # the prompt follows the audio, so it has no influence at the audio's positions
                expected = np.mean([s.per_layer for s in seen_jax.score(model, own, basis)], axis=0)
                np.testing.assert_allclose(sees[site, "white", snr][i], expected, atol=1e-6)


def test_choice_on_a_model_and_its_explanation(items, tmp_path):
    model = random_model()
    clean = [clip.wave for clip in load_clips("calibration", 1)]
    calibration = seen_jax.calibrate(model, clean, noises_for("white", clean, "calibrate", 0))
    options = [Candidate(SITE, Selection(method=m, layers="all")) for m in ("complement", "threshold")]
    chosen, ranked = choose(
        model, items, {(SITE, "white"): calibration}, ["white"], [0.0, 50.0, 100.0], options, batch_size=2
    )
    assert chosen in ranked and 0 <= chosen.clean_gsr <= 1
    assert 0 < chosen.see_clean < 1 and not math.isnan(chosen.mean)

    path = tmp_path / "choice.json"
    path.write_text(json.dumps(to_json(model, chosen, ranked, len(items)), allow_nan=False))
    own = explain(model, SITE, chosen.candidate.selection, path)
    assert "chosen among 2 readings on 3 validation clips" in own["why"]
    assert f"{chosen.mean:+.2f}" in own["why"]
    other = explain(model, "projector", Selection(), path)
    assert "took another one" in other["why"] and "threshold (delta 0.1)" in other["text"]
    assert explain(model, SITE, Selection(), tmp_path / "none")["why"] == "It is the one that the configuration names."
