"""Log-mel against transformers' Whisper feature extractor, and padding that must not change the features."""

from functools import lru_cache

import jax
import numpy as np
import pytest

from seen_jax.audio.features import log_mel, mel_filterbank, pad_waves
from seen_jax.errors import AudioError

LENGTHS = (800, 16080, 32000, 196800, 479840, 480000)  # 0.05 s to 30 s


def clip(n_samples: int, seed: int = 0) -> np.ndarray:
    """A gliding tone with silence in it, over faint noise: loud, quiet and empty bins in one clip."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_samples) / 16000
    tone = 0.4 * np.sin(2 * np.pi * (150 + 40 * seed + 60 * t) * t) * (np.sin(3 * t) > -0.5)
    return (tone + 0.003 * rng.standard_normal(n_samples)).astype(np.float32)


@lru_cache
def extractor(n_mels: int):
    return pytest.importorskip("transformers").WhisperFeatureExtractor(feature_size=n_mels)


def reference(waves: np.ndarray, n_mels: int) -> np.ndarray:
    """The original's features of already padded waves [B, N] -> [B, N // 160, mels].

    Of its NumPy path, whose spectra are float64. Where PyTorch is installed it takes float32 spectra instead, which are
    off by 8e-5 from these; ours are off by 5e-5.
    """
    return extractor(n_mels)._np_extract_fbank_features(waves, "cpu").transpose(0, 2, 1)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_filterbank_equals_librosa(n_mels):
    import librosa

    expected = librosa.filters.mel(sr=16000, n_fft=400, n_mels=n_mels).T
    np.testing.assert_allclose(mel_filterbank(n_mels), expected, atol=1e-8)


def test_filterbank_is_shared_and_read_only():
    assert mel_filterbank(80) is mel_filterbank(80)
    with pytest.raises(ValueError, match="read-only"):
        mel_filterbank(80)[0, 0] = 1.0


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("n_samples", LENGTHS)
def test_log_mel_equals_transformers(n_mels, n_samples):
    waves = pad_waves([clip(n_samples), clip(n_samples // 2, seed=1)])
    ours = np.asarray(log_mel(waves, n_mels))
    assert ours.shape == (2, waves.shape[1] // 160, n_mels)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, reference(waves, n_mels), atol=1e-4, rtol=0)


def test_log_mel_equals_transformers_on_noise_and_silence():
    rng = np.random.default_rng(3)
    waves = np.stack([rng.standard_normal(16000) * 0.2, np.zeros(16000), rng.uniform(-1, 1, 16000)])
    waves = waves.astype(np.float32)
    np.testing.assert_allclose(np.asarray(log_mel(waves, 80)), reference(waves, 80), atol=1e-4, rtol=0)
    assert np.asarray(log_mel(waves, 80))[1] == pytest.approx(-1.5)  # (log10(1e-10) + 4) / 4


@pytest.mark.parametrize("n_samples", LENGTHS[:2])
def test_valid_frames_equal_the_original_padding_to_thirty_seconds(n_samples):
    """Also the last valid frame, which under padding to the longest would see a reflection."""
    wave = clip(n_samples)
    full = np.zeros((1, 480000), dtype=np.float32)
    full[0, :n_samples] = wave
    ours = np.asarray(log_mel(pad_waves([wave]), 128))[0]
    valid = -(-n_samples // 160)
    np.testing.assert_allclose(ours[:valid], reference(full, 128)[0, :valid], atol=1e-4, rtol=0)


def test_reflection_would_change_the_last_frame():
    """Why zeros follow a wave: without them the bucket ends at the clip's end and the last frame differs."""
    wave = clip(32000)
    tight = np.asarray(log_mel(wave[None], 80))[0]
    padded = np.asarray(log_mel(pad_waves([wave]), 80))[0, : len(tight)]
    assert np.abs(tight[-1] - padded[-1]).max() > 1e-3
    np.testing.assert_allclose(tight[:-2], padded[:-2], atol=1e-5)


@pytest.mark.parametrize("n_samples", [800, 31999])
@pytest.mark.parametrize("multiple", [160, 8000, 48000])
def test_bucket_does_not_change_valid_frames(n_samples, multiple):
    wave = clip(n_samples, seed=2)
    valid = -(-n_samples // 160)
    one = np.asarray(log_mel(pad_waves([wave]), 80))[0, :valid]
    other = np.asarray(log_mel(pad_waves([wave], multiple=multiple), 80))[0, :valid]
    np.testing.assert_allclose(other, one, atol=1e-5, rtol=0)


def test_clips_of_a_batch_are_independent():
    waves = [clip(16080), clip(40000, seed=4) * 30.0, np.zeros(5000, np.float32)]
    together = np.asarray(log_mel(pad_waves(waves), 80))
    for row, wave in zip(together, waves, strict=True):
        alone = np.asarray(log_mel(pad_waves([wave]), 80))[0]
        valid = -(-len(wave) // 160)
        np.testing.assert_allclose(row[:valid], alone[:valid], atol=1e-5, rtol=0)


def test_each_clip_is_limited_to_eight_decades():
    features = np.asarray(log_mel(pad_waves([clip(16000), clip(16000, seed=5) * 0.1]), 80))
    spread = features.max(axis=(1, 2)) - features.min(axis=(1, 2))
    np.testing.assert_allclose(spread, 2.0, atol=1e-5)  # eight decades over four


def test_log_mel_is_differentiable():
    grad = jax.grad(lambda w: log_mel(w, 80).sum())(clip(1600)[None])
    assert np.isfinite(np.asarray(grad)).all()
    assert np.abs(np.asarray(grad)).max() > 0


@pytest.mark.parametrize("samples", [161, 160, 0, 16001])
def test_log_mel_refuses_odd_lengths(samples):
    with pytest.raises(AudioError, match="multiple of 160"):
        log_mel(np.zeros((1, samples), np.float32), 80)


def test_pad_waves_keeps_samples_and_adds_zeros():
    padded = pad_waves([np.ones(15600), np.full(3, 2.0)])
    assert padded.shape == (2, 16000)
    assert padded.dtype == np.float32
    assert padded.sum(axis=1).tolist() == [15600.0, 6.0]
    assert padded[0, 15599] == 1.0
    assert padded[0, 15600] == 0.0
    assert pad_waves([np.ones(15601)]).shape == (1, 32000)  # 400 zeros no longer fit in one second
