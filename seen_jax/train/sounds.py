"""Fourteen kinds of sound event, synthesised with random parameters, and clips of one to four of them.
None of them resembles the background noises that are mixed in elsewhere (rain, wind, engines, hum, babble)."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

SAMPLE_RATE = 16_000
MAX_SECONDS = 2.1  # of a clip, which may get a silent lead-in of 0.3

Wave = Float[np.ndarray, " samples"]
Rng = np.random.Generator


def harmonics(turn: np.ndarray, amplitudes: Sequence[float] | np.ndarray, highest_hz: float) -> Wave:
    """Sum of the powers of a complex oscillator (much faster than sines); those that would pass 7.6 kHz are left out.
    highest_hz: of the fundamental."""
    wave, power = np.zeros(len(turn), np.float32), np.ones_like(turn)
    for amplitude in amplitudes[: max(int(7600 / highest_hz), 1)]:
        power *= turn
        wave += np.float32(amplitude) * power.imag
    return wave


def tone(hz: Float[np.ndarray, " samples"], amplitudes: Sequence[float] | np.ndarray) -> Wave:
    """Harmonic tone: `hz` is the fundamental at each sample; amplitude k belongs to harmonic k + 1."""
    cycles = np.cumsum(hz) / SAMPLE_RATE
    turn = np.exp(2j * np.pi * (cycles - np.floor(cycles))).astype(np.complex64)
    return harmonics(turn, amplitudes, hz.max())


def time(seconds: float) -> Wave:
    """Sample times of a sound of this length, in seconds."""
    return np.arange(max(int(seconds * SAMPLE_RATE), 64)) / SAMPLE_RATE


def fade(wave: Wave, attack: float, release: float) -> Wave:
    """Linear ramps of `attack` and `release` seconds at the two ends."""
    index = np.arange(len(wave))
    rise = (index + 1) / max(attack * SAMPLE_RATE, 1)
    fall = (len(wave) - index) / max(release * SAMPLE_RATE, 1)
    return wave * np.minimum(np.minimum(rise, fall), 1.0)


def band_noise(rng: Rng, samples: int, low: float, high: float) -> Wave:
    """White noise limited to `low`..`high` Hz, standard deviation 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hz = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    wave = np.fft.irfft(spectrum * ((hz >= low) & (hz <= high)), samples)
    return wave / (wave.std() + 1e-9)


def _bell(rng: Rng, longest: float) -> Wave:
    t = time(longest * rng.uniform(0.8, 1.0))
    hz, decay = rng.uniform(500, 1000), rng.uniform(3, 6)
    partials = ((0.5, 0.4), (1.0, 1.0), (1.19, 0.6), (1.5, 0.3), (2.0, 0.7), (2.74, 0.5), (3.76, 0.3), (5.4, 0.2))
    ring = sum(a * np.sin(2 * np.pi * hz * r * t) * np.exp(-decay * r**0.6 * t) for r, a in partials)
    return fade(np.asarray(ring), 0.002, 0.03)


def _siren(rng: Rng, longest: float) -> Wave:
    t = time(longest * rng.uniform(0.85, 1.0))
    low, ratio, speed = rng.uniform(450, 650), rng.uniform(1.9, 2.4), rng.uniform(2.5, 4.0)
    hz = low * ratio ** (0.5 - 0.5 * np.cos(2 * np.pi * speed * t + rng.uniform(0, 2 * np.pi)))
    return fade(tone(hz, (1.0, 0.35, 0.2, 0.1)), 0.02, 0.03)


def _horn(rng: Rng, longest: float) -> Wave:
    t = time(longest * rng.uniform(0.55, 0.9))
    hz, brightness = rng.uniform(300, 420), rng.uniform(0.8, 1.1)
    amplitudes = [k**-brightness for k in range(1, 16)]
    return fade(tone(np.full_like(t, hz), amplitudes) + tone(np.full_like(t, 1.26 * hz), amplitudes), 0.03, 0.05)


def _whistle(rng: Rng, longest: float) -> Wave:
    """A referee's whistle: one high tone with a fast trill and some breath."""
    t = time(longest * rng.uniform(0.55, 0.9))
    hz = rng.uniform(2200, 3000) * (1 + 0.03 * np.sin(2 * np.pi * rng.uniform(28, 45) * t))
    trill = 0.75 + 0.25 * np.sin(2 * np.pi * rng.uniform(28, 45) * t)
    return fade(tone(hz, (1.0, 0.1)) * trill + 0.05 * band_noise(rng, len(t), 1500.0, 5000.0), 0.02, 0.04)


def _click(rng: Rng, longest: float) -> Wave:
    t = time(0.05)
    snap = band_noise(rng, len(t), rng.uniform(2500, 3500), 7800.0)
    return fade(snap * np.exp(-rng.uniform(250, 500) * t), 0.0005, 0.005)


def _knock(rng: Rng, longest: float) -> Wave:
    """Two hits on wood."""
    t = time(0.1)
    hz, decay = rng.uniform(280, 420), rng.uniform(45, 80)
    hit = sum(np.sin(2 * np.pi * hz * r * t) * np.exp(-decay * r**0.5 * t) / r for r in (1.0, 1.7, 2.6))
    hit = fade(np.asarray(hit) + 0.3 * band_noise(rng, len(t), 300.0, 2000.0) * np.exp(-200 * t), 0.001, 0.01)
    wave = np.zeros(len(t) + int(min(rng.uniform(0.13, 0.18), longest - 0.1) * SAMPLE_RATE))
    wave[: len(t)] += hit
    wave[-len(t) :] += hit * rng.uniform(0.7, 1.0)
    return wave


def _drum(rng: Rng, longest: float) -> Wave:
    t = time(min(rng.uniform(0.3, 0.45), longest))
    hz = rng.uniform(55, 80) * (1 + rng.uniform(1.2, 2.0) * np.exp(-t / 0.03))
    beat = tone(hz, (1.0, 0.3)) * np.exp(-rng.uniform(7, 12) * t)
    return fade(beat + 0.15 * band_noise(rng, len(t), 200.0, 3000.0) * np.exp(-90 * t), 0.002, 0.03)


def _beep(rng: Rng, longest: float) -> Wave:
    t = time(min(rng.uniform(0.12, 0.3), longest))
    return fade(tone(np.full_like(t, rng.uniform(900, 1600)), (1.0, 0.0, 0.04)), 0.004, 0.004)


def _buzz(rng: Rng, longest: float) -> Wave:
    t = time(longest * rng.uniform(0.5, 0.9))
    hz = rng.uniform(110, 170) * (1 + 0.03 * np.sin(2 * np.pi * rng.uniform(3, 7) * t))
    return fade(tone(hz, [np.exp(-(((k - 12) / 9) ** 2)) for k in range(1, 40)]), 0.02, 0.03)


def _chirp(rng: Rng, longest: float) -> Wave:
    """A bird: two to four quick upward sweeps, high up."""
    count, base = int(rng.integers(2, 5)), rng.uniform(3200, 4200)
    length = min(rng.uniform(0.07, 0.11), longest / count)
    samples = int(length * SAMPLE_RATE)
    sweep = fade(tone(np.geomspace(base, base * rng.uniform(1.3, 1.7), int(0.7 * samples)), (1.0,)), 0.01, 0.015)
    return np.tile(np.pad(sweep, (0, samples - len(sweep))), count)


def _bark(rng: Rng, longest: float) -> Wave:
    t = time(min(rng.uniform(0.16, 0.26), longest))
    rise = np.sin(np.pi * np.linspace(0.1, 1, len(t)))
    hz = rng.uniform(260, 420) * (0.7 + 0.5 * rise)
    throat = tone(hz, [np.exp(-(((k - 2.5) / 2.2) ** 2)) for k in range(1, 10)])
    return fade((throat + 0.25 * band_noise(rng, len(t), 500.0, 2500.0)) * rise**0.5, 0.015, 0.05)


def _laser(rng: Rng, longest: float) -> Wave:
    t = time(min(rng.uniform(0.22, 0.38), longest))
    hz = np.geomspace(rng.uniform(3500, 5000), rng.uniform(180, 300), len(t))
    return fade(tone(hz, (1.0, 0.3, 0.15)), 0.002, 0.05)


def _bubble(rng: Rng, longest: float) -> Wave:
    """Five to eight drops that rise in pitch."""
    count = int(rng.integers(5, 9))
    step = min(rng.uniform(0.06, 0.08), longest / (count + 1))
    wave = np.zeros(int((count + 1) * step * SAMPLE_RATE))
    for index in range(count):
        t = time(step)
        hz = rng.uniform(400, 1000) * (1 + rng.uniform(8, 14) * t)
        start = int((index + rng.uniform(0, 0.5)) * step * SAMPLE_RATE)
        wave[start : start + len(t)] += fade(tone(hz, (1.0,)) * np.exp(-t / 0.025), 0.003, 0.005) * rng.uniform(0.5, 1)
    return wave


def _clap(rng: Rng, longest: float) -> Wave:
    t = time(min(rng.uniform(0.16, 0.24), longest))
    low = rng.uniform(700, 1000)
    bursts = sum(np.where(t >= s, np.exp(-(t - s) / 0.006), 0) for s in (0.0, 0.011, 0.022))
    tail = np.where(t >= 0.03, np.exp(-(t - 0.03) / rng.uniform(0.025, 0.04)), 0)
    return fade(band_noise(rng, len(t), low, 2.6 * low) * (bursts + tail), 0.001, 0.02)


_ALL = (_bark, _beep, _bell, _bubble, _buzz, _chirp, _clap, _click, _drum, _horn, _knock, _laser, _siren, _whistle)
EVENTS: dict[str, Callable[[Rng, float], Wave]] = {event.__name__[1:]: event for event in _ALL}


def event(name: str, rng: Rng, longest: float) -> Wave:
    """One of the `EVENTS`: mono 16 kHz, peak 1, at most `longest` (0.4..0.9) seconds."""
    wave = EVENTS[name](rng, longest)
    return (wave / np.abs(wave).max()).astype(np.float32)


def clip(names: Sequence[str], rng: Rng) -> tuple[Wave, tuple[tuple[float, float], ...]]:
    """One to four events in order, at levels up to 8 dB apart: 0.8 to 2.1 s, peak 1, 16 kHz; and their (start, end) in
    seconds. The 0.2 to 0.3 s between them are longer than any pause inside an event, so that events can be counted."""
    gaps = rng.uniform(0.2, 0.3, len(names) - 1)
    longest = min(0.9, (MAX_SECONDS - gaps.sum()) / len(names))
    parts: list[np.ndarray] = []
    spans: list[tuple[float, float]] = []
    for index, name in enumerate(names):
        start = sum(map(len, parts))
        parts.append(event(name, rng, longest) * np.float32(10 ** rng.uniform(-0.4, 0)))
        spans.append((start / SAMPLE_RATE, (start + len(parts[-1])) / SAMPLE_RATE))
        if index < len(gaps):
            parts.append(np.zeros(int(gaps[index] * SAMPLE_RATE), np.float32))
    wave = np.concatenate(parts)
    wave = np.pad(wave, (0, max(int(0.8 * SAMPLE_RATE) - len(wave), 0)))
    return wave / np.abs(wave).max(), tuple(spans)
