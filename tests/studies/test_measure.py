"""SEE of the measuring pass against `score`, and GSR with SEEN against `generate`."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import seen_jax
from seen_jax.evaluate import metrics
from seen_jax.evaluate.config import CalibrationConfig, ExperimentConfig
from seen_jax.evaluate.prepare import prepare
from seen_jax.models.generate import Decoding
from seen_jax.progress import silent
from seen_jax.registry import STUDIES
from seen_jax.studies.lab import open_lab
from seen_jax.studies.measure import Case, measure, mitigate, pearson, see_by_direction
from seen_jax.subspace import Selection, see

COMPLEMENT = Selection(method="complement", energy="sigma", layers="all")


def test_pearson_is_defined_where_both_sides_vary():
    assert pearson([1, 2, 4], [0.5, 0.5, 0.0]) == pytest.approx(np.corrcoef([1, 2, 4], [0.5, 0.5, 0])[0, 1])
    assert pearson([0.1, 0.1, 0.1], [1, 2, 3]) is None
    assert pearson([1, 2, 3], [1.0, 1.0, 1.0]) is None
    assert pearson([1, 2], [2, 1]) is None


def test_see_by_direction_adds_up():
    rng = np.random.default_rng(0)
    a, mask = rng.normal(size=(2, 3, 6, 4)).astype(np.float32), rng.random((3, 6)) < 0.7
    q = np.stack([np.linalg.qr(rng.normal(size=(4, 3)))[0] for _ in range(2)]).astype(np.float32)
    a[:, ~mask] = np.nan
    each = see_by_direction(jnp.asarray(a), jnp.asarray(q), jnp.asarray(mask))
    for layer in range(2):
        whole = see(jnp.asarray(a[layer]), jnp.asarray(q[layer]), jnp.asarray(mask))
        np.testing.assert_allclose(each[layer].sum(-1), whole, rtol=1e-5)


def test_see_of_every_kind_of_basis_is_that_of_score(experiment):
    # the data's own prompts follow the audio, so they have no influence at the audio's positions
    plain = dataclasses.replace(experiment.config, task_prompts=False, studies=())
    sites = ["encoder.resid", "projector", "decoder.resid"]
    lab = open_lab(dataclasses.replace(experiment, config=plain), sites, 12)
    cases = []
    for study in STUDIES.values():
        possible = [case for case in study.cases(lab) if any(case.basis.ranks)]
        cases += possible[:: max(1, len(possible) // 3)]
    cases.append(Case({}, "white", lab.calibrations["white", "projector"].select(COMPLEMENT)))
    cases.append(Case({}, "pink", lab.calibrations["pink", "decoder.resid"].select(COMPLEMENT)))
    measured = measure(lab, cases)
    for case in cases:
        for level, snr in enumerate(lab.levels):
            waves = [subject.wave(case.noise, snr) for subject in lab.subjects]
            expected = [score.see for score in seen_jax.score(experiment.model, waves, case.basis)]
            np.testing.assert_allclose(measured.see[case][level], expected, atol=2e-6, err_msg=str(case.fields))


def test_gsr_with_seen_is_that_of_generate(tmp_path):
    """On a trained model, whose answers noise and SEEN change."""
    config = ExperimentConfig(
        out=str(tmp_path),
        limit=2,
        calibration=CalibrationConfig(clips=8),
        noises=("white",),
        snrs=(-5.0, 10.0),
        selection=COMPLEMENT,
        study_items=8,
        batch_size=8,
        max_new_tokens=12,
    )
    lab = open_lab(prepare(config, silent), [], 0)
    basis, measured = lab.basis("white"), measure(lab, [])
    variants = [(basis, strength) for strength in (0.0, 0.5, 1.0)]
    seen = mitigate(lab, measured, "white", variants, lab.levels, "seen")
    values = {}
    for strength in (0.0, 0.5, 1.0):
        for snr in lab.levels:
            asked = [subject.request.with_audio([subject.wave("white", snr)]) for subject in lab.subjects]
            options = {"basis": basis, "strength": strength, "decoding": Decoding(12)}
            answers = lab.answers([a.text for a in seen_jax.generate(lab.model, asked, **options)])
            values[strength, snr] = metrics.gsr(measured.answers["white", None], answers)
            assert seen.gsr(snr, basis, strength) == values[strength, snr]
    assert len(set(values.values())) > 2
    gains = [values[1.0, snr] - values[0.0, snr] for snr in config.snrs]
    assert seen.gain(basis) == pytest.approx(np.mean(gains))
