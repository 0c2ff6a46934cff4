"""Mixing: the SNR asked for is the SNR measured, and the clean clip stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seen_jax.audio.mix import fit_noise, mix_at_snr, mix_batch
from seen_jax.errors import AudioError, ConfigError


def wave(n: int, seed: int, scale: float = 0.1) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def snr(clean: np.ndarray, noisy: np.ndarray) -> float:
    clean = clean.astype(np.float64)
    return 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2))


@settings(max_examples=60, deadline=None)
@given(
    n_clean=st.integers(1, 4000),
    n_noise=st.integers(1, 4000),
    snr_db=st.floats(-40, 60),
    offset=st.integers(0, 10_000),
    loudness=st.floats(-4, 1),
    seed=st.integers(0, 1000),
)
def test_achieved_snr(n_clean, n_noise, snr_db, offset, loudness, seed):
    clean, noise = wave(n_clean, seed), wave(n_noise, seed + 1, 10.0**loudness)
    mixture = mix_at_snr(clean, noise, snr_db, offset)
    assert mixture.snr_db == pytest.approx(snr_db, abs=1e-3)
    assert snr(clean, mixture.audio) == pytest.approx(snr_db, abs=1e-3)
    assert mixture.audio.shape == clean.shape
    assert mixture.audio.dtype == np.float32


def test_noise_is_looped_and_cut_and_keeps_its_shape():
    clean, noise = wave(1000, 0), wave(300, 1)
    added = mix_at_snr(clean, noise, 0.0, offset=250).audio - clean
    expected = np.concatenate([noise[250:], np.tile(noise, 4)])[:1000]
    assert np.corrcoef(added, expected)[0, 1] == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_array_equal(fit_noise(noise, 5, offset=298), noise[[298, 299, 0, 1, 2]])
    np.testing.assert_array_equal(fit_noise(noise, 3, offset=600), noise[:3])


def test_no_clipping_and_no_normalisation():
    clean = wave(4000, 0, 0.5)
    loud = mix_at_snr(clean, wave(4000, 1), -10.0)
    assert np.abs(loud.audio).max() > 1
    faint = mix_at_snr(clean, wave(4000, 1), 100.0)
    np.testing.assert_allclose(faint.audio, clean, atol=1e-4)


@pytest.mark.parametrize(
    ("clean", "noise", "message"),
    [
        (np.zeros(10), np.ones(10), "clean audio is digital silence"),
        (np.ones(10), np.zeros(3), "noise is digital silence"),
        (np.ones(10), np.concatenate([np.zeros(10), np.ones(5)]), "over the 10 samples used"),
        (np.array([np.nan, 1.0]), np.ones(2), "clean audio: 1 of 2 samples are NaN"),
        (np.ones(2), np.array([np.inf, 1.0]), "noise: 1 of 2 samples are NaN or inf"),
        (np.ones(2), np.ones((2, 2)), "noise: one dimension"),
        (np.ones(0), np.ones(2), "clean audio: the wave has no samples"),
    ],
)
def test_bad_waves(clean, noise, message):
    with pytest.raises(AudioError, match=message):
        mix_at_snr(clean, noise, 0.0)


@pytest.mark.parametrize("snr_db", [float("nan"), float("inf"), -float("inf"), 500.0])
def test_bad_snr(snr_db):
    with pytest.raises(ConfigError, match="SNR must be"):
        mix_at_snr(np.ones(4), np.ones(4), snr_db)


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    clean, noise = (
        np.stack([wave(2000, i) for i in range(3)]),
        np.stack([wave(2000, 9 + i, 3.0) for i in range(3)]),
    )
    lengths = np.array([2000, 700, 1], np.int32)
    for row, length in zip(clean, lengths, strict=True):
        row[length:] = 0
    return clean, noise, np.array([-10.0, 5.0, 30.0], np.float32), lengths


def test_mix_batch_equals_mixing_one_by_one():
    clean, noise, snr_db, lengths = batch()
    mixed = np.asarray(mix_batch(*map(jnp.asarray, (clean, noise, snr_db, lengths))))
    for i, n in enumerate(lengths):
        expected = mix_at_snr(clean[i, :n], noise[i, :n], float(snr_db[i])).audio
        np.testing.assert_allclose(mixed[i, :n], expected, rtol=1e-5, atol=1e-6)
        assert not mixed[i, n:].any()


def test_mix_batch_with_silent_parts_and_infinite_snr():
    clean, noise, snr_db, lengths = map(jnp.asarray, batch())
    quiet = mix_batch(clean, noise.at[0].set(0.0), snr_db.at[1].set(jnp.inf), lengths)
    np.testing.assert_array_equal(quiet[:2], clean[:2])
    np.testing.assert_array_equal(mix_batch(clean * 0, noise, snr_db, lengths), clean * 0)


def test_mix_batch_can_be_swept_over_snrs():
    clean, noise, _, lengths = map(jnp.asarray, batch())
    levels = jnp.array([-10.0, 0.0, 20.0])
    swept = jax.vmap(lambda level: mix_batch(clean, noise, jnp.full(3, level), lengths))(levels)
    for level, mixed in zip(levels, swept, strict=True):
        assert snr(np.asarray(clean[0]), np.asarray(mixed[0])) == pytest.approx(float(level), abs=1e-3)
