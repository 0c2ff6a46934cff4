"""Denoisers that weigh a transform: spectral gating, spectral subtraction, the Wiener filter, wavelets."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from seen_jax.audio.denoisers.base import Denoiser, Wave, option
from seen_jax.audio.features import SAMPLE_RATE

WINDOW, HOP = 512, 128  # 32 and 8 ms at 16 kHz
WAVELETS = (*(f"db{i}" for i in range(1, 21)), *(f"sym{i}" for i in range(2, 21)), "haar")

Power = Float[np.ndarray, "bins frames"]


@dataclass(frozen=True)
class SpectralGating(Denoiser):
    """Spectral gating (noisereduce; Sainburg et al. 2020): a smoothed mask on the spectrogram.
    stationary: one threshold per frequency over the whole clip, else one that follows the last two seconds.
    strength: the share of the noise to remove."""

    name = "spectral_gating"
    package = "noisereduce"
    stationary: bool = option(False)
    strength: float = option(1.0, 0.0, 1.0)

    def denoise(self, wave: Wave) -> Wave:
        padded = np.pad(wave, (0, max(0, 1024 - len(wave))))  # its window
        # One chunk per clip: a chunk of digital silence would be divided by its own zero noise floor.
        return self.import_package().reduce_noise(
            padded, SAMPLE_RATE, stationary=self.stationary, prop_decrease=self.strength, chunk_size=len(padded)
        )[: len(wave)]


@dataclass(frozen=True)
class _Masking(Denoiser):
    """A denoiser that multiplies the spectrum by a gain, from its power and that of the noise (`noise_power`)."""

    quiet: float = option(0.1, 0.0, 1.0)

    def denoise(self, wave: Wave) -> Wave:
        from scipy.signal import istft, stft  # one call for all frames; ShortTimeFFT makes several for each

        padded = np.pad(wave.astype(np.float64), (0, max(0, WINDOW - len(wave))))
        spectrum = stft(padded, SAMPLE_RATE, "hann", WINDOW, WINDOW - HOP)[2]  # frames around every HOP samples
        power = np.abs(spectrum) ** 2
        masked = spectrum * self.gain(power, noise_power(power, self.quiet))
        return istft(masked, SAMPLE_RATE, "hann", WINDOW, WINDOW - HOP)[1][: len(wave)]

    def gain(self, power: Power, noise: Float[np.ndarray, "bins 1"]) -> Power:
        raise NotImplementedError


@dataclass(frozen=True)
class SpectralSubtraction(_Masking):
    """Spectral subtraction (Boll 1979) in power, with over-subtraction and spectral floor (Berouti et al. 1979).
    over_subtraction: how many times the noise power is subtracted from a frame at 0 dB; falls linearly to 1 at 20 dB.
    floor: the share of the noise power that always stays."""

    name = "spectral_subtraction"
    over_subtraction: float = option(4.0, 1.0, 20.0)
    floor: float = option(0.01, 0.0, 1.0)

    def gain(self, power: Power, noise: Float[np.ndarray, "bins 1"]) -> Power:
        snr_db = 10 * np.log10(_ratio(power.sum(0), noise.sum()))
        factor = self.over_subtraction - (self.over_subtraction - 1) * np.clip(snr_db, -5, 20) / 20
        kept = np.maximum(power - factor * noise, np.minimum(self.floor * noise, power))
        return np.sqrt(_ratio(kept, power))


@dataclass(frozen=True)
class Wiener(_Masking):
    """Wiener filter per frame and frequency with the decision-directed a-priori SNR (Ephraim and Malah 1984; Scalart
    and Vieira Filho 1996).
    smoothing: weight of the previous frame in the a-priori SNR. floor: smallest gain."""

    name = "wiener"
    smoothing: float = option(0.98, 0.0, 1.0)
    floor: float = option(0.1, 0.0, 1.0)

    def gain(self, power: Power, noise: Float[np.ndarray, "bins 1"]) -> Power:
        posterior = np.minimum(_ratio(power, noise), 1e6)
        gain = np.empty_like(posterior)
        previous = np.maximum(posterior[:, 0] - 1, 0)
        for t in range(posterior.shape[1]):
            prior = self.smoothing * previous + (1 - self.smoothing) * np.maximum(posterior[:, t] - 1, 0)
            gain[:, t] = np.maximum(prior / (1 + prior), self.floor)
            previous = gain[:, t] ** 2 * posterior[:, t]
        return gain


@dataclass(frozen=True)
class Wavelet(Denoiser):
    """Soft thresholding of wavelet details (PyWavelets; Donoho 1995), sigma = MAD of the finest details / 0.6745.
    level: octaves of detail, as far as the length allows. scale: of the threshold sigma sqrt(2 ln n)."""

    name = "wavelet"
    package = "pywt"
    wavelet: str = option("db8", *WAVELETS)
    level: int = option(5, 1, 20)
    scale: float = option(1.0, 0.0, 10.0)

    def denoise(self, wave: Wave) -> Wave:
        pywt = self.import_package()
        level = min(self.level, pywt.dwt_max_level(len(wave), self.wavelet))
        if level < 1:
            return wave
        approximation, *details = pywt.wavedec(wave.astype(np.float64), self.wavelet, level=level)
        sigma = np.median(np.abs(details[-1])) / 0.6745
        threshold = self.scale * sigma * np.sqrt(2 * np.log(len(wave)))
        kept = [np.sign(d) * np.maximum(np.abs(d) - threshold, 0) for d in details]
        return pywt.waverec([approximation, *kept], self.wavelet)[: len(wave)]


def noise_power(power: Power, quiet: float) -> Float[np.ndarray, "bins 1"]:
    """Noise power per frequency: the mean over the quietest frames of a clip, a share `quiet` of all but at least one.
    Frames that reach beyond the clip are left out unless there are no others."""
    edge = WINDOW // HOP // 2
    inner = power[:, edge:-edge] if power.shape[1] > 2 * edge else power
    order = np.argsort(inner.sum(0), kind="stable")
    count = max(1, round(quiet * inner.shape[1]))
    return inner[:, order[:count]].mean(1, keepdims=True)


def _ratio(a: np.ndarray, b: Any) -> np.ndarray:
    """a / b for powers, where digital silence may make both zero."""
    return (a + 1e-30) / (b + 1e-30)
