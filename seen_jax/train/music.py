"""Short melodies: eight instruments with distinct spectra and envelopes, four ways in which they can move."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Float
from scipy.signal import lfilter

from seen_jax.train.sounds import SAMPLE_RATE, Rng, Wave, band_noise, fade, harmonics, time, tone

CONTOURS = ("falling", "rising", "steady", "wave")
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9))  # major, minor, pentatonic, in semitones

Notes = Iterable[tuple[float, float]]  # hertz and seconds of each


def _struck(hz: float, seconds: float, amplitudes: list[float], decay: float, brightness_decay: float) -> Wave:
    """Harmonics that start together; harmonic k decays at the rate decay + k * brightness_decay, per second."""
    t = time(seconds)
    turn = np.exp((2j * np.pi * hz - brightness_decay) * t).astype(np.complex64)
    return harmonics(turn, amplitudes, hz) * np.exp(-decay * t)


def _vibrato(hz: float, t: Wave, speed: float, depth: float) -> Float[np.ndarray, " samples"]:
    onset = np.minimum(t / 0.15, 1.0)
    return hz * (1 + depth * onset * np.sin(2 * np.pi * speed * t))


def _piano(rng: Rng, notes: Notes) -> Iterator[Wave]:
    slope, decay, bright = rng.uniform(1.0, 1.4), rng.uniform(1.5, 3.0), rng.uniform(0.6, 1.2)
    amplitudes = [k**-slope for k in range(1, 17)]
    for hz, seconds in notes:
        wave = _struck(hz, seconds * 1.2, amplitudes, decay, bright)
        thump = band_noise(rng, len(wave), 100.0, 1200.0) * np.exp(-time(seconds * 1.2) / 0.008)
        yield fade(wave + 0.2 * thump, 0.003, 0.06)


def _guitar(rng: Rng, notes: Notes) -> Iterator[Wave]:
    """Plucked string after Karplus and Strong (1983), plucked at a tenth to a fifth of its length."""
    damping, pluck = rng.uniform(0.988, 0.995), rng.uniform(0.1, 0.2)
    for hz, seconds in notes:
        period = max(round(SAMPLE_RATE / hz - 0.5), 4)
        excitation = np.zeros(len(time(seconds * 1.1)))
        excitation[:period] = rng.uniform(-1, 1, period)
        shift = max(int(pluck * period), 1)
        excitation[shift:] -= excitation[:-shift].copy()
        loop = np.zeros(period + 2)
        loop[0], loop[period], loop[period + 1] = 1.0, -0.5 * damping, -0.5 * damping
        yield fade(lfilter([1.0], loop, excitation), 0.001, 0.03)


def _organ(rng: Rng, notes: Notes) -> Iterator[Wave]:
    bars = rng.uniform(0.5, 1.0, 6)
    amplitudes = np.zeros(16)  # the oscillator runs an octave below the note: its pipes are 1/2, 1, 2, 3, 4, 6 and 8
    amplitudes[[0, 1, 3, 5, 7, 11]] = bars
    amplitudes[15] = bars[-1] * 0.7
    for hz, seconds in notes:
        yield fade(tone(np.full(len(time(seconds)), hz / 2), amplitudes), 0.012, 0.02)


def _flute(rng: Rng, notes: Notes) -> Iterator[Wave]:
    second, breath, speed = rng.uniform(0.1, 0.25), rng.uniform(0.03, 0.07), rng.uniform(4.5, 5.5)
    for hz, seconds in notes:
        t = time(seconds)
        air = band_noise(rng, len(t), 1000.0, 6000.0) * breath
        yield fade(tone(_vibrato(hz, t, speed, 0.005), (1.0, second, 0.04)) + air, 0.06, 0.05)


def _violin(rng: Rng, notes: Notes) -> Iterator[Wave]:
    speed, depth = rng.uniform(5.5, 7.0), rng.uniform(0.010, 0.016)
    resonances = rng.uniform((450, 1100, 2500), (550, 1400, 3200))
    k = np.arange(1, 25)
    for hz, seconds in notes:
        body = 0.3 + sum(np.exp(-((np.log2(k * hz / r) / 0.35) ** 2)) for r in resonances)
        t = time(seconds * 1.05)
        yield fade(tone(_vibrato(hz, t, speed, depth), body / k), 0.08, 0.06)


def _trumpet(rng: Rng, notes: Notes) -> Iterator[Wave]:
    peak, scoop = rng.uniform(1200, 1700), rng.uniform(0.02, 0.04)
    k = np.arange(1, 21)
    for hz, seconds in notes:
        t = time(seconds * 0.92)
        bend = hz * (1 - scoop * np.exp(-t / 0.02))
        brass = np.exp(-((np.log2(k * hz / peak) / 1.1) ** 2))
        swell = np.minimum(t / 0.06, 1.0)  # the brightness comes after the attack
        yield fade(swell * tone(bend, brass) + (1 - swell) * tone(bend, brass / k), 0.02, 0.04)


def _marimba(rng: Rng, notes: Notes) -> Iterator[Wave]:
    decay, third = rng.uniform(7, 11), rng.uniform(9.2, 10.2)
    partials = ((1.0, 1.0, 1.0), (3.95, 0.5, 3.0), (third, 0.25, 7.0))
    for hz, seconds in notes:
        t = time(seconds)
        audible = [p for p in partials if p[0] * hz < 7600]
        wave = sum(a * np.sin(2 * np.pi * hz * r * t) * np.exp(-decay * d * t) for r, a, d in audible)
        yield fade(np.asarray(wave), 0.001, 0.02)


def _bass(rng: Rng, notes: Notes) -> Iterator[Wave]:
    decay, bright = rng.uniform(1.0, 2.0), rng.uniform(1.5, 2.5)
    amplitudes = [k**-1.3 for k in range(1, 13)]
    for hz, seconds in notes:
        yield fade(_struck(hz, seconds, amplitudes, decay, bright), 0.008, 0.04)


Timbre = Callable[[Rng, Notes], Iterator[Wave]]  # the character is drawn once, then every note is played
INSTRUMENTS: dict[str, tuple[Timbre, int, int]] = {  # timbre, lowest and highest MIDI note
    "bass": (_bass, 28, 52), "flute": (_flute, 67, 93), "guitar": (_guitar, 45, 72), "marimba": (_marimba, 55, 86),
    "organ": (_organ, 50, 81), "piano": (_piano, 48, 81), "trumpet": (_trumpet, 55, 81), "violin": (_violin, 57, 88),
}  # fmt: skip


def melody(contour: str, rng: Rng) -> list[int]:
    """Four to seven notes of this contour, in semitones from the first one; they span at most two octaves. "rising" and
    "falling" keep one direction, "steady" repeats one note, "wave" changes direction at every note."""
    count = int(rng.integers(4, 8))
    sizes = rng.integers(1, 3 if count <= 5 else 2, count - 1, endpoint=contour == "wave")
    signs = {"rising": np.ones(count - 1), "falling": -np.ones(count - 1), "steady": np.zeros(count - 1)}
    zigzag = (-1.0) ** (np.arange(count - 1) + rng.integers(2))
    degrees = np.concatenate([[0], np.cumsum(sizes * signs.get(contour, zigzag))]).astype(int)
    scale = SCALES[int(rng.integers(len(SCALES)))]
    return [12 * (d // len(scale)) + scale[d % len(scale)] for d in degrees.tolist()]


def clip(instrument: str, contour: str, rng: Rng) -> Wave:
    """One melody on one instrument: 1.3 to 2.1 s, peak 1, float32, 16 kHz; key, tempo and scale are random."""
    timbre, low, high = INSTRUMENTS[instrument]
    steps = melody(contour, rng)
    first = int(rng.integers(low - min(steps), high - max(steps) + 1))
    total = rng.uniform(1.3, 2.1)
    shares = rng.uniform(0.85, 1.15, len(steps))
    lengths = total * shares / shares.sum()
    begins = (np.concatenate([[0.0], np.cumsum(lengths)[:-1]]) * SAMPLE_RATE).astype(int)
    hertz = [440.0 * 2 ** ((first + step - 69) / 12) for step in steps]
    wave = np.zeros(int(total * SAMPLE_RATE), np.float64)
    for begin, played in zip(begins, timbre(rng, zip(hertz, lengths, strict=True)), strict=True):
        played = played[: len(wave) - begin]
        wave[begin : begin + len(played)] += played / np.abs(played).max()
    wave = fade(wave, 0.0, 0.02)
    return (wave / np.abs(wave).max()).astype(np.float32)
