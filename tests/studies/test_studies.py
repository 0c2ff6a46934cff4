"""Studies: hand-checked algebra, SEE of the measuring pass against `score`, GSR against the runner, and resuming."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from evaluate_models import random_folder, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

import seen_jax
from seen_jax.api import pool
from seen_jax.audio import write_audio
from seen_jax.data.datasets import DatasetConfig
from seen_jax.data.items import Entry, load_clips
from seen_jax.errors import ConfigError
from seen_jax.evaluate.config import STUDIES, CalibrationConfig, ExperimentConfig, NoiseConfig
from seen_jax.evaluate.runner import prepare, run
from seen_jax.evaluate.tables import conditions
from seen_jax.models.sites import SITES
from seen_jax.studies import studies
from seen_jax.studies.lab import (
    Bench,
    Case,
    energy_share,
    frame_moments,
    mean_rank,
    overlap,
    removed,
    see_of_directions,
    spread,
)
from seen_jax.studies.studies import front, run_studies, span
from seen_jax.subspace import NoiseBasis, Selection, directions_of_moments, right_singular, see, seen

COMPLEMENT = Selection(method="complement", energy="sigma", layers="all")
QUIET = lambda stage, done, total: None  # noqa: E731
SITE = "encoder.mlp_act"


def basis_of(*layers, kept=None):
    """A basis from a list of columns per layer."""
    width, rank = 4, max(1, *(len(own) for own in layers))
    q = np.zeros((len(layers), width, rank), np.float32)
    for i, own in enumerate(layers):
        for j, column in enumerate(own):
            q[i, :, j] = column
    return NoiseBasis(SITE, jnp.asarray(q), tuple(map(len, layers)), kept or tuple(range(len(layers))))


E1, E2, E3 = np.eye(4)[:3]
SLANT = 0.6 * E1 + 0.8 * E3


def test_overlap_by_hand():
    a, b = basis_of([E1, E2], [E1], []), basis_of([SLANT], [E2], [E1])
    assert overlap(a, b) == pytest.approx((0.36 + 0) / 2)  # the third layer has no directions in one of them
    assert overlap(b, a) == pytest.approx(overlap(a, b))
    assert overlap(basis_of([E1, E2]), basis_of([E2, SLANT])) == pytest.approx((1 + 0.36) / 2)
    assert overlap(a, a) == pytest.approx(1)
    assert overlap(basis_of([]), basis_of([E1])) is None
    assert overlap(basis_of([E1], [E1], kept=(0,)), basis_of([E1], [E2])) == pytest.approx(1)
    assert mean_rank(basis_of([E1, E2], [E1], [], kept=(0, 2))) == 1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
def test_overlap_is_of_subspaces(seed, r, s):
    rng = np.random.default_rng(seed)
    columns = lambda m: np.linalg.qr(rng.normal(size=(4, m)))[0]  # noqa: E731
    a, b = columns(r), columns(s)
    own = overlap(basis_of(list(a.T)), basis_of(list(b.T)))
    cosines = np.linalg.svd(a.T @ b, compute_uv=False)
    assert own == pytest.approx(np.mean(cosines**2), abs=1e-5)
    turned = a @ np.linalg.qr(rng.normal(size=(r, r)))[0]
    assert overlap(basis_of(list(turned.T)), basis_of(list(b.T))) == pytest.approx(own, abs=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(-0.5, 2.5))
def test_seen_takes_away_the_suppressed_share(seed, strength):
    rng = np.random.default_rng(seed)
    basis = basis_of(list(np.linalg.qr(rng.normal(size=(4, 2)))[0].T))
    a = rng.normal(size=(1, 5, 4)).astype(np.float32)
    left = np.square(np.asarray(seen(jnp.asarray(a[0]), basis.q[0], strength), np.float64)).sum() / np.square(a).sum()
    assert 1 - left == pytest.approx(removed(strength) * energy_share(a, basis), abs=1e-4)


def test_energy_share_by_hand():
    a = np.zeros((2, 2, 4))
    a[0] = [[3, 4, 0, 0], [0, 0, 5, 0]]
    assert energy_share(a, basis_of([E1], [E1])) == pytest.approx(9 / 50 / 2)  # nothing in the second layer
    assert energy_share(a, basis_of([E1, E2], [E1], kept=(0,))) == pytest.approx(0.5)


def test_front_by_hand():
    assert front([0.5, 0.5, 0.9, 0.2, 0.9], [0.1, 0.2, 0.3, 0.1, 0.3]) == [True, False, True, False, True]


@given(st.integers(1, 10**6), st.floats(0, 1), st.integers(0, 1000))
def test_span_lies_in_the_clip(samples, part, seed):
    start, stop = span(samples, part, [seed])
    assert 0 <= start < stop <= samples
    assert stop - start == max(1, round(part * samples))


def test_items_are_spread_over_tasks():
    entries = [Entry(str(i), task, Path("x")) for i, task in enumerate("aaaabbc")]
    assert spread(entries, 4) == [0, 1, 4, 6]
    assert spread(entries, 3) == [0, 4, 6]
    assert spread(entries, 99) == list(range(7))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_directions_of_moments_are_those_of_the_matrix(seed, n):
    m = np.random.default_rng(seed).normal(size=(2, n, 5)) * (16, 8, 4, 2, 1)
    own, expected = directions_of_moments(np.swapaxes(m, 1, 2) @ m, n), right_singular(m)
    np.testing.assert_allclose(own.s, expected.s, rtol=1e-4)
    np.testing.assert_allclose(own.floor, expected.floor, rtol=1e-4)
    for layer in range(2):
        s = np.asarray(expected.s[layer])
        if np.min(-np.diff(s, append=0)) > 0.05:  # close singular values leave their vectors open
            np.testing.assert_allclose(own.v[layer], expected.v[layer], atol=1e-3)


def test_see_of_directions_adds_up():
    rng = np.random.default_rng(0)
    a, mask = rng.normal(size=(3, 6, 4)).astype(np.float32), rng.random((3, 6)) < 0.7
    q = np.linalg.qr(rng.normal(size=(4, 3)))[0].astype(np.float32)
    a[~mask] = np.nan
    arrays = tuple(map(jnp.asarray, (a, q, mask)))
    np.testing.assert_allclose(see_of_directions(*arrays).sum(-1), see(arrays[0], arrays[1], arrays[2]), rtol=1e-5)


def test_frame_moments_are_of_the_real_frames():
    model = random_model()
    waves = [clip.wave[: 12_000 + 3000 * i] for i, clip in enumerate(load_clips("calibration", 1)[:2])]
    for site in (SITE, "decoder.resid"):
        whole = frame_moments(model, {"clean": waves, "noisy": waves}, site, 2)
        single = [frame_moments(model, {"clean": [wave]}, site, 1)["clean"] for wave in waves]
        assert whole["clean"][0] == sum(n for n, _, _ in single)
        np.testing.assert_allclose(whole["clean"][2], sum(second for _, _, second in single), rtol=1e-3, atol=1e-3)
        means = np.stack([total / n for n, total, _ in single], axis=1)
        np.testing.assert_allclose(means, pool(model, waves, site), atol=1e-4)
        assert not whole["difference"][2].any()


def write_clips(folder: Path, count: int, seed: int) -> str:
    """Chords of different lengths: two questions for every transcript."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "task", "question", "choices", "answer", "text"])
        for i in range(count):
            t = np.arange(round((0.5 + 0.1 * (i % 3)) * 16_000)) / 16_000
            tones = sum(np.sin(2 * np.pi * rng.uniform(100, 2000) * t) for _ in range(3))
            write_audio(folder / f"{i}.wav", 0.1 * tones + 0.01 * rng.standard_normal(len(t)))
            asked = ["sound", "which bird", json.dumps(["cat", "dog"]), "dog", ""]
            writer.writerow([f"{i}.wav", *(["transcription", "", "", "", "the red bird"] if i % 3 == 2 else asked)])
    return str(folder / "items.csv")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ExperimentConfig:
    root = tmp_path_factory.mktemp("studies")
    return ExperimentConfig(
        model=str(random_folder()),
        out=str(root / "out"),
        datasets=(DatasetConfig(write_clips(root / "test", 5, 0), name="birds"),),
        calibration=CalibrationConfig(DatasetConfig(write_clips(root / "calibration", 12, 1)), clips=6),
        noises=("white", "pink", NoiseConfig("engine", calibrated=False)),
        snrs=(-5.0, 0.0, 20.0),
        selection=COMPLEMENT,
        studies=STUDIES,
        study_items=3,
        batch_size=2,
        max_new_tokens=3,
    )


@pytest.fixture(scope="module")
def experiment(config):
    return prepare(config, QUIET)


@pytest.fixture(scope="module")
def done(experiment):
    return run_studies(experiment, QUIET)


def test_all_studies_have_their_rows(done, config):
    assert list(done) == list(STUDIES)
    json.dumps(done, allow_nan=False)
    keys = {name: set(rows[0]) for name, rows in done.items()}
    assert keys["localisation"] == {"noise", "site", "magnitude", "direction", "l_star", "l_first"}
    assert keys["strength"] == {"noise", "strength", "snr_db", "gsr", "clean_gsr", "gain"}
    assert keys["partial"] == {"noise", "share", "see", "see_inside", "see_outside", "gsr"}
    assert {row["site"] for row in done["localisation"]} == set(SITES)
    assert len(done["readings"]) == 2 * 4 * 2 * 2 * 2 * 2 * 3 * 2
    assert len(done["strength"]) == 3 * 13 * 4
    assert {row["calibration"] for row in done["transfer"]} == {"white", "pink", "union"}
    assert {row["noise"] for row in done["transfer"]} == {"white", "pink", "engine"}
    assert [row["clips"] for row in done["calibration_size"] if row["noise"] == "pink"] == [10, 12]
    assert {row["layer"] for row in done["layers"]} == {
        *(0, 1, 2),
        *("first_third", "middle_third", "last_third", "all", "auto"),
    }
    for name in STUDIES:
        assert json.loads((config.folder() / "studies" / f"{name}.json").read_text()) == {
            "items": 3,
            "rows": done[name],
        }


def test_see_of_every_kind_of_basis_is_that_of_score(experiment):
    # the data's own prompts follow the audio, so they have no influence at the audio's positions
    plain = dataclasses.replace(experiment.config, task_prompts=False)
    bench = Bench(dataclasses.replace(experiment, config=plain), QUIET)
    cases = []
    for make in studies.CASES.values():
        own = [case for case in make(bench) if any(case.basis.ranks)]
        cases += own[:: max(1, len(own) // 3)]
    projector = bench.calibration("white", "projector").select(COMPLEMENT)
    decoder = bench.calibration("pink", "decoder.resid").select(COMPLEMENT)
    cases += [Case({}, "white", projector), Case({}, "pink", decoder)]
    bench.plan(cases)
    for case in cases:
        for level, snr in enumerate(bench.levels):
            waves = [bench.noisy(case.noise, k, snr) for k in range(3)]
            expected = [score.see for score in seen_jax.score(experiment.model, waves, case.basis)]
            np.testing.assert_allclose(bench.see(case)[level], expected, atol=2e-6, err_msg=str(case.fields))


def test_rows_agree_with_each_other(done, experiment):
    zero = [row for row in done["strength"] if row["strength"] == 0]
    assert all(row["clean_gsr"] == 1 and row["gain"] == 0 for row in zero)
    reading = {"site": SITE, "method": "complement", "energy": "sigma", "noise_source": "pure", "center": False}
    reading |= {"noise_alpha": None, "layers": "all", "noise": "white"}
    own = next(row for row in done["readings"] if all(row[key] == value for key, value in reading.items()))
    pooled = next(row for row in done["pooling"] if row["pooled"] and row["noise"] == "white")
    plain = next(
        row for row in done["delta"] if (row["noise"], row["delta"], row["semantic_alpha"]) == ("white", None, 0.95)
    )
    for other in (pooled, plain):
        assert (other["see_clean"], other["see_noisy"]) == (own["see_clean"], own["see_noisy"])
        assert other["rank"] == np.mean(own["ranks"])
    same = [row for row in done["calibration_snr"] if row["calibration_snr_db"] == 0]
    assert len(same) == 4 and all(row["overlap"] == pytest.approx(1, abs=1e-5) for row in same if row["rank"])
    for noise in ("white", "pink"):
        strong = {(r["strength"], r["snr_db"]): r for r in done["strength"] if r["noise"] == noise}
        gains = [strong[1.0, snr]["gain"] for snr in (-5.0, 0.0)]
        matched = next(r for r in done["transfer"] if r["calibration"] == r["noise"] == noise)
        whole = next(r for r in done["layers"] if r["noise"] == noise and r["layer"] == "all")
        assert matched["gain"] == pytest.approx(np.mean(gains)) == pytest.approx(whole["gain"])
        assert whole["clean_gsr"] == strong[1.0, None]["gsr"]
    heard = [row for row in done["pareto"] if row["gain"] is not None]
    assert {row["strength"] for row in heard} == {0.5, 1.0}
    assert all(0 <= row["damage"] <= 1 and 0 <= row["suppression"] <= 1 + 1e-6 for row in done["pareto"])
    assert any(row["front"] for row in done["pareto"]) and not all(row["front"] for row in done["pareto"])


def test_noise_over_the_whole_clip_is_the_noisy_clip(done, experiment):
    bench = Bench(experiment, QUIET)
    for noise in bench.experiment.noises:
        rows = {row["share"]: row for row in done["partial"] if row["noise"] == noise}
        waves = [bench.noisy(noise, k, 0.0) for k in range(3)]
        expected = np.mean([score.see for score in seen_jax.score(experiment.model, waves, bench.own(noise))])
        assert rows[1.0]["see"] == pytest.approx(expected, abs=1e-6)
        assert rows[1.0]["see_outside"] is None and rows[1.0]["see_inside"] == pytest.approx(expected, abs=1e-6)
        zero = next(r for r in done["strength"] if (r["noise"], r["strength"], r["snr_db"]) == (noise, 0.0, 0.0))
        assert rows[1.0]["gsr"] == zero["gsr"]
        assert rows[0.5]["see_outside"] is not None and rows[0.5]["see_inside"] != rows[0.5]["see_outside"]


def test_what_is_on_disk_is_not_computed_again(done, experiment, config, monkeypatch):
    def refuse(bench, cases):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        for name in STUDIES:
            patch.setitem(studies.ROWS, name, refuse)
        assert run_studies(experiment, QUIET) == done
    for again in ("readings", "pareto", "strength", "layers"):
        path = config.folder() / "studies" / f"{again}.json"
        before = path.read_bytes()
        path.unlink()
        with monkeypatch.context() as patch:
            for name in STUDIES:
                if name != again:
                    patch.setitem(studies.ROWS, name, refuse)
            assert run_studies(experiment, QUIET) == done
        assert path.read_bytes() == before
    text = path.read_text()
    path.write_text(text[:-20])
    with pytest.raises(ConfigError, match=r"layers\.json is damaged"):
        run_studies(experiment, QUIET)
    path.write_text(text)
    fewer = dataclasses.replace(config, study_items=2, studies=("localisation", "partial"))
    found = run_studies(dataclasses.replace(experiment, config=fewer), QUIET)
    assert found["localisation"] == done["localisation"] and found["partial"] != done["partial"]


def test_a_killed_run_keeps_what_was_done(config, tmp_path, monkeypatch):
    config = dataclasses.replace(config, out=str(tmp_path / "out"), studies=("localisation", "partial"))
    experiment = prepare(config, QUIET)

    def killed(bench, cases):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(studies.ROWS, "partial", killed)
        with pytest.raises(KeyboardInterrupt):
            run_studies(experiment, QUIET)
    assert [path.name for path in (config.folder() / "studies").iterdir()] == ["localisation.json"]


def test_pooling_of_a_wide_site_is_refused_before_anything_is_run(config, experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "WIDEST", 50)
    other = dataclasses.replace(experiment, config=dataclasses.replace(config, out=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"'pooling' needs second moments of encoder\.mlp_act, 96 x 96"):
        run_studies(other, QUIET)
    assert not list(tmp_path.iterdir())


def test_further_clips_are_not_tested_ones(config, experiment):
    """A test clip among the further clips of calibration is left out."""
    folder = Path(config.calibration.dataset.path).parent
    original = (folder / "11.wav").read_bytes()
    (folder / "11.wav").write_bytes((Path(config.datasets[0].path).parent / "0.wav").read_bytes())
    try:
        clips = Bench(experiment, QUIET, clips=200).clips(200)
    finally:
        (folder / "11.wav").write_bytes(original)
    assert len(clips) == 11


def test_gsr_of_strength_one_is_that_of_the_runner(tmp_path):
    """On a trained model, whose answers noise and SEEN change."""
    config = ExperimentConfig(
        out=str(tmp_path),
        limit=2,
        calibration=CalibrationConfig(clips=8),
        noises=("white",),
        snrs=(-5.0, 10.0),
        selection=COMPLEMENT,
        studies=("strength",),
        study_items=8,
        batch_size=8,
        max_new_tokens=12,
    )
    experiment = prepare(config, QUIET)
    ledger = run(experiment, QUIET)
    cells = conditions(list(ledger.rows()))
    rows = run_studies(experiment, QUIET)["strength"]
    assert len({row["gsr"] for row in rows}) > 2
    for strength, arm in ((0.0, "none"), (1.0, "seen")):
        for snr in (None, -5.0, 10.0):
            own = [c for c in cells if (c["snr_db"], c["mitigation"]) == (snr, arm)]
            expected = sum(c["gsr"] * c["items"] for c in own) / sum(c["items"] for c in own)
            (row,) = [r for r in rows if (r["strength"], r["snr_db"]) == (strength, snr)]
            assert row["gsr"] == pytest.approx(expected)
