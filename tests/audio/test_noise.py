"""Synthetic and recorded noises: seeded, of unit RMS, with the spectra and rhythms their names promise."""

import numpy as np
import pytest
import soundfile

from seen_jax.audio.noise import NOISES, noise_for_clip, synthetic_noise
from seen_jax.errors import AudioError, ConfigError


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def spectrum(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.signal import welch

    return welch(wave, 16000, nperseg=2048)


def share(wave: np.ndarray, low: float, high: float) -> float:
    """Part of the power between two frequencies."""
    frequency, power = spectrum(wave)
    return float(power[(frequency >= low) & (frequency < high)].sum() / power.sum())


def envelope(wave: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(wave[: len(wave) // 160 * 160]).reshape(-1, 160).mean(axis=1))


@pytest.mark.parametrize("name", [*NOISES, "gauss"])
def test_seeded_and_of_unit_rms(name):
    one = synthetic_noise(name, 24000, seed=1)
    assert one.shape == (24000,)
    assert one.dtype == np.float32
    assert np.isfinite(one).all()
    assert rms(one) == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_array_equal(one, synthetic_noise(name, 24000, seed=1))
    other = synthetic_noise(name, 24000, seed=2)
    assert np.abs(np.corrcoef(one, other)[0, 1]) < 0.5


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("n_samples", [1, 7, 800])
def test_short_noises(name, n_samples):
    wave = synthetic_noise(name, n_samples, seed=3)
    assert wave.shape == (n_samples,)
    assert rms(wave) == pytest.approx(1.0, abs=1e-4)


def test_noises_of_one_seed_differ():
    waves = [synthetic_noise(name, 16000, seed=0) for name in NOISES]
    assert np.abs(np.corrcoef(waves) - np.eye(len(NOISES))).max() < 0.5
    np.testing.assert_array_equal(synthetic_noise("gauss", 100, 5), synthetic_noise("white", 100, 5))


@pytest.mark.parametrize(("name", "slope"), [("white", 0.0), ("pink", -1.0), ("brown", -2.0)])
def test_spectral_slopes(name, slope):
    frequency, power = spectrum(synthetic_noise(name, 160000, seed=0))
    inside = (frequency > 60) & (frequency < (3000 if name == "brown" else 7000))
    fitted = np.polyfit(np.log10(frequency[inside]), np.log10(power[inside]), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_each_noise_sounds_like_its_name(seed):
    noises = {name: synthetic_noise(name, 64000, seed) for name in NOISES}
    variation = {name: envelope(w).std() / envelope(w).mean() for name, w in noises.items()}
    assert max(share(noises["hum"], f - 12, f + 12) for f in (50, 60)) > 0.4
    assert share(noises["babble"], 100, 4000) > 0.9
    assert share(noises["engine"], 0, 1500) > 0.8
    assert share(noises["rain"], 700, 8000) > 0.9
    assert share(noises["alarm"], 450, 8000) > 0.95
    assert variation["white"] < 0.1 < 0.2 < variation["babble"]
    assert variation["impulses"] > 1.0
    assert np.abs(noises["impulses"]).max() > 8  # peaks far above the RMS


def test_babble_of_given_speech():
    rng = np.random.default_rng(0)
    t = np.arange(20000) / 16000
    voices = [np.sin(2 * np.pi * 700 * t), 0.01 * np.sin(2 * np.pi * 1900 * t), np.zeros(500)]
    babble = synthetic_noise("babble", 32000, 0, speech=voices)
    assert rms(babble) == pytest.approx(1.0, abs=1e-4)
    assert share(babble, 650, 750) > 0.05  # both are there, the faint one brought to the loud one's level
    assert share(babble, 1850, 1950) > 0.05
    assert share(babble, 650, 750) + share(babble, 1850, 1950) > 0.95
    with pytest.raises(AudioError, match="speech given for babble is digital silence"):
        synthetic_noise("babble", 100, 0, speech=[np.zeros(100)])
    with pytest.raises(AudioError, match=r"speech clip 1: .*NaN"):
        synthetic_noise("babble", 100, 0, speech=[rng.standard_normal(5), np.array([np.nan])])


def test_unknown_noise_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'pnik': did you mean 'pink'.*white, pink, brown"):
        synthetic_noise("pnik", 10, 0)
    with pytest.raises(ConfigError, match="'enginee': did you mean 'engine'"):
        noise_for_clip("enginee", 10, 0)
    with pytest.raises(ConfigError, match="'Gauss': did you mean 'gauss'"):
        noise_for_clip("Gauss", 10, 0)


def test_bad_arguments(tmp_path):
    with pytest.raises(ConfigError, match="at least one sample"):
        synthetic_noise("pink", 0, 0)
    with pytest.raises(ConfigError, match="must not be negative"):
        synthetic_noise("pink", 10, -1)
    with pytest.raises(ConfigError, match=r"no noise or file .*crowd\.wav"):
        noise_for_clip(tmp_path / "crowd.wav", 10, 0)
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), 16000)
    with pytest.raises(AudioError, match=r"silent\.wav is digital silence at 16"):
        noise_for_clip(tmp_path / "silent.wav", 10, 0)


def test_noise_for_clip_is_drawn_or_cut_by_seed(tmp_path):
    np.testing.assert_array_equal(noise_for_clip("rain", 900, 2), synthetic_noise("rain", 900, 2))
    recorded = np.random.default_rng(0).uniform(-0.5, 0.5, 300).astype(np.float32)
    path = tmp_path / "n.wav"
    soundfile.write(path, recorded, 16000, subtype="FLOAT")
    cut = noise_for_clip(path, 1000, 0)
    start = int(np.flatnonzero(recorded == cut[0])[0])
    np.testing.assert_array_equal(cut, np.tile(recorded, 5)[start : start + 1000])
    np.testing.assert_array_equal(cut, noise_for_clip(path, 1000, 0))
    assert len({float(noise_for_clip(path, 1, seed)[0]) for seed in range(20)}) > 5
    cut[:] = 0  # a copy: the file's samples stay what they are
    assert noise_for_clip(path, 1000, 0).any()
    soundfile.write(path, np.full(300, 0.25), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(noise_for_clip(path, 4, 0), [0.25] * 4)  # a changed file is read again
