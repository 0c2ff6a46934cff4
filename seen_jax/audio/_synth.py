"""The generators behind `seen_jax.audio.noise`: each draws `n` samples at 16 kHz, of any scale."""

from collections.abc import Callable, Sequence

import numpy as np

from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.audio.mix import fit_noise

Rng = np.random.Generator
# Formants of five vowels, Hz.
VOWELS = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]])


def filtered(n: int, rng: Rng, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Gaussian noise times a gain by frequency in Hz."""
    return np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * gain(np.fft.rfftfreq(n, 1 / SAMPLE_RATE)), n)


def coloured(n: int, rng: Rng, exponent: float) -> np.ndarray:
    """Gaussian noise with power 1 / f ** exponent above 20 Hz and nothing below 10 Hz."""
    return filtered(n, rng, lambda f: np.maximum(f, 20.0) ** (-exponent / 2) * (f >= 10.0))


def band(n: int, rng: Rng, low: float, high: float) -> np.ndarray:
    """Gaussian noise between two frequencies, of unit RMS, with slopes of 12 dB per octave outside."""
    power = lambda f: 1 / (1 + (f / high) ** 4) / (1 + (low / np.maximum(f, 1.0)) ** 4)
    return unit(filtered(n, rng, lambda f: np.sqrt(power(f))))


def drift(n: int, rng: Rng, rate: float) -> np.ndarray:
    """A slow random curve in [-1, 1], with about `rate` turns per second."""
    knots = rng.uniform(-1, 1, int(n / SAMPLE_RATE * rate) + 3)
    return np.interp(np.linspace(0, len(knots) - 1, n), np.arange(len(knots)), knots)


def harmonics(phase: np.ndarray, amplitudes: np.ndarray, rng: Rng) -> np.ndarray:
    """Sum of overtones of a running phase in cycles, each with its own random start."""
    out = np.zeros_like(phase)
    for k, (amplitude, start) in enumerate(zip(amplitudes, rng.uniform(0, 1, len(amplitudes)), strict=True)):
        out += amplitude * np.sin(2 * np.pi * ((k + 1) * phase + start))
    return out


def ring(n: int, rng: Rng, rate: float, low: float, high: float, seconds: float) -> np.ndarray:
    """Random strikes, `rate` per second but at least one: decaying tones of random pitch, loudness and onset."""
    from scipy.signal import fftconvolve

    out = np.zeros(n)
    t = np.arange(int(4 * seconds * SAMPLE_RATE)) / SAMPLE_RATE
    count = max(1, rng.poisson(rate * n / SAMPLE_RATE))
    groups = np.array_split(np.arange(count), min(count, 12))  # a dozen pitches per clip
    onsets, loudness = rng.integers(0, n, count), rng.lognormal(0.0, 0.8, count)
    for group in groups:
        pitch, decay = np.exp(rng.uniform(np.log(low), np.log(high))), seconds * rng.uniform(0.4, 1.0)
        tone = np.exp(-t / decay) * np.sin(2 * np.pi * pitch * t + rng.uniform(0, 2 * np.pi))
        strikes = np.zeros(n)
        np.add.at(strikes, onsets[group], loudness[group])
        out += fftconvolve(strikes, tone)[:n]
    return out


def hum(n: int, rng: Rng) -> np.ndarray:
    """Mains of 50 or 60 Hz and its overtones, even ones weaker, over faint hiss."""
    mains = rng.choice([50.0, 60.0]) + 0.05 * drift(n, rng, 0.5)
    overtones = np.arange(1, 21)
    amplitudes = rng.uniform(0.4, 1.0, 20) / overtones ** rng.uniform(0.7, 1.2) * np.where(overtones % 2, 1.0, 0.4)
    return harmonics(np.cumsum(mains) / SAMPLE_RATE, amplitudes, rng) + 0.02 * rng.standard_normal(n)


def engine(n: int, rng: Rng) -> np.ndarray:
    """A motor: firing frequency wandering about 20 to 60 Hz, overtones through two resonances, exhaust."""
    phase = np.cumsum(rng.uniform(20, 60) * (1 + 0.15 * drift(n, rng, 1.0))) / SAMPLE_RATE
    frequency = 40.0 * np.arange(1, 31)
    body = sum(1 / (1 + ((frequency - f) / (0.4 * f)) ** 2) for f in (rng.uniform(60, 150), rng.uniform(300, 700)))
    tones = unit(harmonics(phase, rng.uniform(0.3, 1.0, 30) * (body + 0.02), rng))
    firing = 0.3 + np.maximum(np.sin(2 * np.pi * phase), 0.0)
    return tones + 0.6 * firing * band(n, rng, 80.0, 1500.0)


def rain(n: int, rng: Rng) -> np.ndarray:
    """Hiss of many distant drops, swelling slowly, and near drops one by one."""
    hiss = band(n, rng, 800.0, 6000.0) * (1 + 0.3 * drift(n, rng, 2.0))
    return hiss + 0.7 * unit(ring(n, rng, rng.uniform(40, 150), 1500.0, 6000.0, 0.004))


def impulses(n: int, rng: Rng) -> np.ndarray:
    """Knocks and clicks, about six a second, with silence between them."""
    return ring(n, rng, 5.0, 200.0, 1500.0, 0.03) + ring(n, rng, 3.0, 1500.0, 5000.0, 0.004)


def alarm(n: int, rng: Rng) -> np.ndarray:
    """Beeps on one pitch, or a siren between two, with overtones."""
    t = np.arange(n) / SAMPLE_RATE
    low, cycle = rng.uniform(500, 1000), rng.uniform(0.3, 1.2)
    place = (t / cycle) % 1.0
    kind = rng.integers(3)
    if kind == 0:  # beeps
        pitch, gate = np.full(n, 1.5 * low), np.clip(np.minimum(place, 0.5 - place) * cycle / 0.005, 0.0, 1.0)
    else:  # two tones, or gliding up and down
        high = low * rng.uniform(1.2, 1.8)
        pitch = np.where(place < 0.5, low, high) if kind == 1 else low + (high - low) * np.sin(np.pi * place) ** 2
        gate = np.ones(n)
    return gate * harmonics(np.cumsum(pitch) / SAMPLE_RATE, np.array([1.0, 0.3, 0.4, 0.1, 0.15]), rng)


def talker(n: int, rng: Rng) -> np.ndarray:
    """Like one voice: pulses of wandering pitch, vowels as three formants, fricatives, pauses."""
    from scipy.signal import lfilter

    voice, size = rng.uniform(90, 240), rng.uniform(0.9, 1.2)
    phase = np.cumsum(voice * (1 + 0.15 * drift(n, rng, 3.0))) / SAMPLE_RATE
    pulses = np.diff(np.floor(phase), prepend=np.floor(phase[0])) + 0.01 * rng.standard_normal(n)
    source = lfilter([1.0], [1.0, -0.9], pulses)
    out, at = np.zeros(n), int(rng.uniform(-0.3, 0.0) * SAMPLE_RATE)
    while at < n:
        length = int(rng.uniform(0.12, 0.3) * SAMPLE_RATE)
        start, stop = max(at, 0), min(at + length, n)
        if stop > start:
            envelope = np.hanning(length)[start - at : stop - at] * rng.uniform(0.4, 1.0)
            if rng.random() < 0.2:  # a fricative
                syllable = 0.3 * band(stop - start, rng, 2500.0, 6500.0)
            else:
                syllable = source[start:stop]
                for formant in size * VOWELS[rng.integers(len(VOWELS))]:
                    radius = np.exp(-np.pi * 90.0 / SAMPLE_RATE)
                    poles = [1.0, -2 * radius * np.cos(2 * np.pi * formant / SAMPLE_RATE), radius**2]
                    syllable = lfilter([sum(poles)], poles, syllable)
                syllable = unit(syllable)
            out[start:stop] += envelope * syllable
        at += int(0.8 * length) + (int(rng.uniform(0.1, 0.5) * SAMPLE_RATE) if rng.random() < 0.15 else 0)
    return out


def babble(n: int, rng: Rng, speech: Sequence[np.ndarray]) -> np.ndarray:
    """Seven voices at once: given clips looped from random moments, or synthetic ones if none are given."""
    out = np.zeros(n)
    for _ in range(7):
        if speech:
            clip = unit(np.asarray(speech[int(rng.integers(len(speech)))], dtype=np.float64))
            voice = fit_noise(clip, n, int(rng.integers(len(clip))))
        else:
            voice = unit(talker(n, rng))
        out += rng.uniform(0.6, 1.0) * voice
    return out


def unit(wave: np.ndarray) -> np.ndarray:
    """Scaled to a root mean square of one; silence stays silence."""
    power = np.mean(np.square(wave))
    return wave / np.sqrt(power) if power > 0 else wave


GENERATORS: dict[str, Callable[[int, Rng], np.ndarray]] = {
    "white": lambda n, rng: rng.standard_normal(n),
    "pink": lambda n, rng: coloured(n, rng, 1.0),
    "brown": lambda n, rng: coloured(n, rng, 2.0),
    "hum": hum,
    "impulses": impulses,
    "engine": engine,
    "rain": rain,
    "alarm": alarm,
}
