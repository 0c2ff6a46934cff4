"""Denoisers: what all of them promise, and the arithmetic of our own ones."""

import importlib.util
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from outside import install

from seen_jax.audio import find_audio, mix_at_snr, read_audio, synthetic_noise
from seen_jax.audio.denoisers import base
from seen_jax.audio.denoisers.base import denoiser
from seen_jax.audio.denoisers.native import RNNoise
from seen_jax.audio.denoisers.spectral import noise_power
from seen_jax.errors import AudioError, ConfigError
from seen_jax.registry import DENOISERS

RUNNABLE = [name for name, kind in DENOISERS.items() if kind.package is None or importlib.util.find_spec(kind.package)]
# SI-SDR of denoised clean speech in dB: a floor for each, well below what the recordings give.
CLEAN_FLOOR = {
    "spectral_gating": 5,
    "spectral_subtraction": 25,
    "wiener": 25,
    "wavelet": 10,
    "rnnoise": 12,
    "webrtc": 1,  # its high-pass filter turns the phase of low voices
    "deepfilternet": 8,
}


def si_sdr(reference, estimate):
    """Scale-invariant signal-to-distortion ratio, dB."""
    target = np.dot(reference, estimate) / np.dot(reference, reference) * reference
    return 10 * np.log10(np.sum(target**2) / np.sum((estimate - target) ** 2))


def bursts(seconds=4, on=0.5):
    """Voice-like bursts with pauses between them: harmonics of a gliding pitch, and where they sound."""
    t = np.arange(int(16000 * seconds)) / 16000
    sounding = (t % (2 * on)) < on
    tone = sum(np.sin(2 * np.pi * k * (150 * t + 10 * np.sin(3 * t))) / k for k in range(1, 12))
    return (0.1 * tone * sounding).astype(np.float32), sounding


@pytest.fixture(scope="module")
def noisy():
    clean, sounding = bursts()
    noise = synthetic_noise("white", len(clean), 1)
    return mix_at_snr(clean, noise, 5.0).audio, sounding


@pytest.mark.parametrize("name", RUNNABLE)
def test_stationary_noise_is_reduced_in_pauses_and_not_the_signal(name, noisy):
    wave, sounding = noisy
    out = denoiser(name)(wave)
    pauses = ~sounding
    pauses[:16000] = False  # streaming ones need a while to learn the noise
    drop = 10 * np.log10(np.mean(wave[pauses] ** 2) / np.mean(out[pauses] ** 2))
    assert drop > {"wavelet": 3}.get(name, 6)
    if name not in ("rnnoise", "deepfilternet"):  # synthetic bursts are not speech
        assert np.mean(out[sounding] ** 2) > 0.05 * np.mean(wave[sounding] ** 2)


@pytest.mark.parametrize("name", RUNNABLE)
def test_speech_survives_and_stays_in_step(name, recordings):
    for item in find_audio([recordings / "librispeech"])[:3]:
        clean = read_audio(item.path)[: 6 * 16000]
        out = denoiser(name)(clean)
        assert si_sdr(clean, out) > CLEAN_FLOOR[name]
        lags = scipy.signal.correlate(out, clean, "full")
        assert abs(np.argmax(lags) - (len(clean) - 1)) <= 2


@pytest.mark.parametrize("name", RUNNABLE)
def test_silence_stays_silence_and_partial_silence_is_no_trouble(name):
    run = denoiser(name)
    assert not run(np.zeros(3001, np.float32)).any()
    wave = np.zeros(20000, np.float32)
    wave[18000:] = 0.1 * np.random.default_rng(0).normal(size=2000)
    assert np.isfinite(run(wave)).all()
    assert np.isfinite(run(np.full(5000, 0.1, np.float32))).all()


@pytest.mark.parametrize("name", RUNNABLE)
@settings(max_examples=12, deadline=None)
@given(n=st.one_of(st.integers(1, 40), st.integers(150, 1100), st.integers(4000, 9000)), loud=st.booleans())
def test_any_length_gives_that_length(name, n, loud):
    wave = np.random.default_rng(n).normal(size=n).astype(np.float32) * (3.0 if loud else 1e-3)
    before = wave.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = denoiser(name)(wave)
    assert out.shape == (n,) and out.dtype == np.float32 and np.isfinite(out).all()
    assert np.abs(out).max() < 4 * np.abs(wave).max() + 1e-3
    np.testing.assert_array_equal(wave, before)


@pytest.mark.parametrize("name", RUNNABLE)
def test_results_do_not_depend_on_order(name):
    waves = [0.1 * synthetic_noise(kind, 6000 + 77 * i, i) for i, kind in enumerate(("white", "engine", "babble"))]
    run = denoiser(name)
    forwards = [run(wave) for wave in waves]
    backwards = [denoiser(name)(wave) for wave in reversed(waves)]
    for a, b in zip(forwards, reversed(backwards), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [n for n in RUNNABLE if n not in ("rnnoise", "webrtc", "deepfilternet")])
def test_loudness_does_not_matter(name, noisy):
    wave = noisy[0][:16000]
    run = denoiser(name)
    np.testing.assert_allclose(run(wave / 8), run(wave) / 8, atol=2e-5)


@pytest.mark.parametrize("name", RUNNABLE)
def test_loud_clips_are_not_clipped(name, noisy):
    wave = noisy[0][:32000] / np.abs(noisy[0]).max() * 0.9
    quiet, loud = denoiser(name)(wave), denoiser(name)(8 * wave)
    assert np.abs(loud).max() > 2 * np.abs(quiet).max()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("spectral_gating", {"strength": 0.0}),
        ("wiener", {"floor": 1.0}),
        ("wavelet", {"scale": 0.0}),
    ],
)
def test_without_strength_nothing_changes(name, options, noisy):
    if name not in RUNNABLE:
        pytest.skip(f"{name} is not installed")
    wave = noisy[0][:20000]
    np.testing.assert_allclose(denoiser(name, **options)(wave), wave, atol=1e-5)


STRONGER = (("wavelet", "scale", 0.2, 2), ("webrtc", "level", 1, 4), ("deepfilternet", "limit_db", 3, 30))


def test_options_change_the_result(noisy):
    wave = noisy[0][:32000]
    power = lambda name, **options: np.mean(denoiser(name, **options)(wave) ** 2)
    assert power("spectral_subtraction", over_subtraction=8.0) < power("spectral_subtraction", over_subtraction=1.0)
    assert power("spectral_subtraction", floor=0.5) > power("spectral_subtraction")
    assert power("wiener", floor=0.01) < power("wiener", floor=0.5)
    for name, option, low, high in STRONGER:
        if name in RUNNABLE:
            assert power(name, **{option: high}) < power(name, **{option: low})


def test_noise_power_of_the_quietest_frames_by_hand():
    power = np.full((3, 20), 100.0)
    power[:, 6:8] = np.array([[1], [4], [9]])
    power[:, 0] = 0  # beyond the clip: left out
    np.testing.assert_allclose(noise_power(power, 2 / 16), [[1], [4], [9]])
    np.testing.assert_allclose(noise_power(power, 0.0), [[1], [4], [9]])  # one frame at least
    np.testing.assert_allclose(noise_power(power[:, :4], 0.25), np.zeros((3, 1)))


def test_spectral_subtraction_of_a_steady_tone_in_two_levels():
    """A loud second half is left with the power of its frames less that of the quiet ones."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000).astype(np.float32)
    wave = tone * np.where(np.arange(32000) < 16000, 0.1, 0.3).astype(np.float32)
    out = denoiser("spectral_subtraction", over_subtraction=1.0, floor=0.0)(wave)
    assert np.mean(out[1000:15000] ** 2) < 1e-8
    assert np.mean(out[17000:31000] ** 2) == pytest.approx((0.3**2 - 0.1**2) / 2, rel=1e-3)


def test_errors_say_what_to_do(monkeypatch):
    with pytest.raises(ConfigError, match=r"no denoiser 'wavlet'\. Did you mean 'wavelet'"):
        denoiser("wavlet")
    with pytest.raises(ConfigError, match="no option 'strenght'"):
        denoiser("spectral_gating", strenght=1)
    with pytest.raises(ConfigError, match=r"must be float from 0\.0 to 1\.0, not 2"):
        denoiser("wiener", floor=2)
    with pytest.raises(ConfigError, match="must be bool, not 1"):
        denoiser("spectral_gating", stationary=1)
    with pytest.raises(ConfigError, match="must be int from 1 to 4, not True"):
        denoiser("webrtc", level=True)
    with pytest.raises(ConfigError, match="must be one of db1, "):
        denoiser("wavelet", wavelet="x")
    with pytest.raises(AudioError, match="audio for wiener"):
        denoiser("wiener")(np.array([1.0, np.nan]))
    monkeypatch.setitem(sys.modules, "pyrnnoise", None)
    with pytest.raises(ConfigError, match=r'pyrnnoise: pip install "seen-jax\[denoise\]"'):
        denoiser("rnnoise")


def test_a_native_library_that_does_not_load_is_named(monkeypatch):
    def broken(module):
        raise OSError("wrong ELF class")

    run = RNNoise()
    monkeypatch.setattr(base.importlib, "import_module", broken)
    with pytest.raises(ConfigError, match="rnnoise cannot run here: wrong ELF class"):
        run(np.ones(100, np.float32) * 0.1)


def test_denoisers_are_values():
    assert {*DENOISERS} >= {*CLEAN_FLOOR}
    assert denoiser("wiener") == denoiser("wiener", floor=0.1) != denoiser("wiener", floor=0.2)
    assert len({denoiser("wiener"), denoiser("wiener")}) == 1


OUTSIDE = """
from dataclasses import dataclass
from seen_jax.audio.denoisers.base import Denoiser, option

@dataclass(frozen=True)
class Halve(Denoiser):
    name = "halve"
    factor: float = option(0.5, 0.0, 1.0)

    def denoise(self, wave):
        return self.factor * wave

@dataclass(frozen=True)
class Lost(Denoiser):
    name, package, install = "lost", "no_such_module", "no-such-package"
"""


def test_another_package_adds_a_denoiser(tmp_path):
    entries = {"seen_jax.denoisers": {"halve": "halve:Halve", "lost": "halve:Lost"}}
    install(tmp_path, entries, {"halve": OUTSIDE})
    script = """
import numpy as np
from seen_jax.audio import DENOISERS, denoiser
from seen_jax.errors import SeenError
wave = np.ones(3, np.float32)
print(denoiser("halve")(wave), denoiser("halve", factor=0.25)(wave), "wiener" in DENOISERS)
for name, options in (("halve", {"factor": 2}), ("halve", {"share": 1}), ("lost", {}), ("halv", {})):
    try:
        denoiser(name, **options)
    except SeenError as error:
        print(error)
"""
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), os.getcwd()])
    environment = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    waves, limit, option, package, name = run.stdout.splitlines()
    assert waves == "[0.5 0.5 0.5] [0.25 0.25 0.25] True"
    assert limit == "Option factor of the denoiser halve must be float from 0.0 to 1.0, not 2."
    assert option == "The denoiser halve has no option 'share'. Its options: factor."
    assert package == 'The denoiser lost needs the package no_such_module: pip install "no-such-package"'
    assert "Did you mean 'halve'?" in name
