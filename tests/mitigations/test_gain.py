"""The Wiener gain inside a subspace: its properties, its edit, and a fit to noisy clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluate_models import random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from seen_jax.audio import NoiseSource, mix_at_snr
from seen_jax.calibrating import calibrate
from seen_jax.data.items import load_clips
from seen_jax.errors import ConfigError
from seen_jax.mitigations.base import Fitting
from seen_jax.mitigations.gain import Along, Gain, complement, gain_edit, noise_level, wiener_gain
from seen_jax.models.edits import visit
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_RESID, Taps
from seen_jax.progress import silent
from seen_jax.subspace import Selection

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**16)
variances = st.floats(0, 1e30)


def orthonormal(rng, layers=2, width=6, rank=3):
    return np.stack([np.linalg.qr(rng.standard_normal((width, rank)))[0] for _ in range(layers)]).astype(np.float32)


@quick
@given(variances, variances)
def test_a_gain_is_between_0_and_1_and_1_without_noise(signal, noise):
    less, more, none = wiener_gain(np.full(3, signal), np.array([noise, 2 * noise, 0]))
    assert 0 <= more <= less <= 1 and none == 1


@quick
@given(seeds)
def test_the_gain_has_the_least_squared_error_of_all(seed):
    rng = np.random.default_rng(seed)
    clean, noise = rng.standard_normal(2000) * rng.uniform(0.5, 2), rng.standard_normal(2000) * rng.uniform(0.1, 2)
    noise -= clean * (noise @ clean) / (clean @ clean)  # uncorrelated in this sample
    gain = wiener_gain(*(np.array([np.square(x).mean()]) for x in (clean, noise)))
    error = lambda g: np.square(g * (clean + noise) - clean).sum()
    assert error(gain) <= min(error(gain - 0.01), error(gain + 0.01))


@quick
@given(seeds, st.floats(0, 100))
def test_the_level_of_a_clip_is_what_was_put_in(seed, level):
    rng = np.random.default_rng(seed)
    signal, noise = rng.uniform(0.1, 2, (2, 3)), rng.uniform(0, 2, (2, 3))
    np.testing.assert_allclose(noise_level(signal + level * noise, signal, noise), level, atol=1e-8)
    assert not noise_level(0.5 * signal, signal, noise).any()  # less than clean: no noise
    assert not noise_level(2 * signal, signal, 0 * noise).any()


@quick
@given(seeds, st.booleans())
def test_the_edit_shrinks_coordinates_to_their_mean_and_nothing_else(seed, noisy):
    rng = np.random.default_rng(seed)
    q, mean = orthonormal(rng), rng.standard_normal((2, 3))
    along = Along(q, mean, rng.uniform(0.1, 1, (2, 3)), rng.uniform(0.1, 1, (2, 3)) * noisy)
    observed = along.signal + np.array([0.5, 4.0])[:, None, None] * rng.uniform(0.1, 1, (2, 3))
    a, valid = rng.standard_normal((2, 5, 6)).astype(np.float32), jnp.ones((2, 5), bool)
    edit = gain_edit(along, observed, (1,), strength=1.0)
    run = lambda k: np.asarray(visit("s", jnp.asarray(a), {"s": jax.tree.map(lambda x: x[k], edit)}, Taps(), valid)[0])
    np.testing.assert_array_equal(run(0), a)
    if not noisy:
        np.testing.assert_array_equal(run(1), a)
        return
    gain = wiener_gain(along.signal, noise_level(observed, along.signal, along.noise) * along.noise)[:, 1]
    z, edited = a @ q[1], run(1) @ q[1]
    np.testing.assert_allclose(edited, mean[1] + gain[:, None] * (z - mean[1]), atol=1e-5)
    outside = np.eye(6) - q[1] @ q[1].T
    np.testing.assert_allclose(run(1) @ outside, a @ outside, atol=1e-5)


@quick
@given(seeds)
def test_a_complement_and_its_basis_are_the_whole_space(seed):
    q = orthonormal(np.random.default_rng(seed))
    q[0, :, 2] = 0
    rest = complement(q, (2, 3))
    assert rest.shape == (2, 6, 4) and not rest[1, :, 3].any()
    for x, y in zip(q, rest, strict=True):
        np.testing.assert_allclose(x @ x.T + y @ y.T, np.eye(6), atol=1e-5)


@pytest.fixture(scope="module")
def fitting(tmp_path_factory):
    model, waves = random_model(), [item.wave for item in load_clips("calibration")[:6]]
    noises = {name: NoiseSource(name) for name in ("white", "pink")}

    def calibration(noise, site):
        drawn = [noises[noise].clip(i, len(wave), 0, "calibration") for i, wave in enumerate(waves)]
        return calibrate(model, waves, drawn, site, 0.0, batch_size=4)

    return Fitting(
        model, waves, noises, ("white",), calibration, lambda *_: waves, ENCODER_MLP_ACT,
        Selection(method="complement", noise_source="difference", layers="all"), 1.0, 0, 4,
        tmp_path_factory.mktemp("gain"), lambda *_: None, silent,
    )  # fmt: skip


@pytest.mark.parametrize("directions", ["basis", "complement"])
def test_statistics_are_those_of_the_frames_and_padding_changes_nothing(fitting, directions):
    model, fitted = fitting.model, Gain(directions).fit(fitting)
    along, frames, changes = fitted.statistics["white"], [], []
    for i, wave in enumerate(fitting.clips):
        drawn = fitting.noises["white"].clip(i, len(wave), 0, "calibration")
        states = [frames_of(model, x) for x in (wave, mix_at_snr(wave, drawn, 0.0).audio)]
        frames.append(states[0] @ along.directions[1])
        changes.append((states[1] - states[0]) @ along.directions[1])
    frames, changes = np.concatenate(frames), np.concatenate(changes)
    np.testing.assert_allclose(along.mean[1], frames.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(along.signal[1], frames.var(axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(along.noise[1], np.square(changes).mean(axis=0), rtol=1e-3, atol=1e-4)
    waves = [item.wave for item in load_clips("validation")[:3]]
    waves[1] = np.tile(waves[1], 2)
    together = edit_of(fitted, waves)
    assert together.u.shape[:2] == (3, 3) and np.asarray(together.u).any()
    for i, wave in enumerate(waves):
        np.testing.assert_allclose(edit_of(fitted, [wave]).u[:, 0], together.u[:, i], atol=1e-4)
    assert fitted.edits(model.processor.audio(waves)[0], ["pink"])["pink"][ENCODER_RESID].scale.tolist() == [1, 1, 1]


def edit_of(fitted, waves):
    return fitted.edits(fitted.model.processor.audio(waves)[0], ["white"])["white"][ENCODER_RESID]


def frames_of(model, wave):
    from seen_jax.models.encoder import within
    from seen_jax.models.model import encode

    audio, _ = model.processor.audio([wave])
    a = encode(model.tapped(Taps((ENCODER_RESID,), "full")), model.variables, audio, {}).records[ENCODER_RESID]["tap"]
    return np.asarray(a)[1, 0][within(model.config.encoder, np.asarray(audio.frames), audio.features.shape[1])[0]]


@pytest.mark.parametrize(
    ("options", "message"), [({"strength": np.inf}, "finite number"), ({"snr": 1e4}, "dB either way")]
)
def test_wrong_gains_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Gain(**options)
