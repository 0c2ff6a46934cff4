"""Sound events and melodies: lengths, levels, countable events, true contours, and classes that can be told
apart."""

import itertools

import numpy as np
import pytest

from seen_jax.train import music, sounds

RATE = sounds.SAMPLE_RATE


def rng(*seed):
    return np.random.default_rng(seed)


def features(wave):
    """Log energy in 24 log-spaced bands, of the mean and of the variation over time, and the log length."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave, (0, 512)), 512)[::256]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(512))))
    edges = np.geomspace(2, 257, 25).astype(int)
    bands = np.stack([power[:, a : max(b, a + 1)].sum(1) for a, b in itertools.pairwise(edges)])
    flux = np.abs(np.diff(np.log(bands + 1e-3), axis=1)).mean(1)
    return np.concatenate([np.log(bands.mean(1) + 1e-4), 2 * flux, [2 * np.log(len(wave))]])


def nearest_neighbour_accuracy(make, names, known=20, asked=6):
    known_set = [(features(make(n, rng(i))), n) for n in names for i in range(known)]
    table, labels = np.stack([f for f, _ in known_set]), [n for _, n in known_set]
    hits = [
        labels[np.square(table - features(make(n, rng(1000 + i)))).sum(1).argmin()] == n
        for n in names
        for i in range(asked)
    ]
    return np.mean(hits)


@pytest.mark.parametrize("name", sounds.EVENTS)
def test_event_length_and_level(name):
    for seed in range(8):
        for longest in (0.4, 0.9):
            wave = sounds.event(name, rng(seed), longest)
            assert 0.04 * RATE <= len(wave) <= longest * RATE + 1
            assert np.isfinite(wave).all() and np.abs(wave).max() == pytest.approx(1.0, abs=1e-6)
    assert not np.array_equal(sounds.event(name, rng(1), 0.9), sounds.event(name, rng(2), 0.9))
    np.testing.assert_array_equal(sounds.event(name, rng(1), 0.9), sounds.event(name, rng(1), 0.9))


def test_events_can_be_told_apart():
    make = lambda name, generator: sounds.event(name, generator, 0.9)
    assert nearest_neighbour_accuracy(make, list(sounds.EVENTS)) > 0.9


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_events_of_a_clip_can_be_counted(count):
    for seed in range(40):
        names = rng(seed).choice(list(sounds.EVENTS), count)
        wave, spans = sounds.clip([str(n) for n in names], rng(seed))
        assert 0.8 * RATE <= len(wave) <= 2.1 * RATE + count
        sounding = np.flatnonzero(np.abs(wave) > 1e-4)
        inside = [(start <= sounding / RATE) & (sounding / RATE < end) for start, end in spans]
        assert len(spans) == count and np.sum(inside, axis=0).all(), "every sound lies in the span of its event"
        assert 1 + (np.diff(sounding) > 0.15 * RATE).sum() == count, names


def test_contours():
    for seed in range(200):
        moves = {contour: np.diff(music.melody(contour, rng(seed))) for contour in music.CONTOURS}
        assert all(3 <= len(m) <= 6 for m in moves.values())
        assert (moves["rising"] > 0).all() and (moves["falling"] < 0).all() and (moves["steady"] == 0).all()
        assert (moves["wave"][1:] * moves["wave"][:-1] < 0).all()
        assert all(np.ptp(np.concatenate([[0], np.cumsum(m)])) <= 24 for m in moves.values())


@pytest.mark.parametrize("name", music.INSTRUMENTS)
def test_notes_are_in_tune(name):
    timbre, low, high = music.INSTRUMENTS[name]
    hz = 440 * 2 ** (((low + high) // 2 - 69) / 12)
    for seed in range(5):
        wave = next(timbre(rng(seed), [(hz, 0.8)]))
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 8 * len(wave)))
        strongest = spectrum.argmax() * RATE / (8 * len(wave)) / hz
        harmonic = round(2 * strongest) / 2  # an organ also has a pipe an octave below
        assert harmonic > 0 and abs(strongest / harmonic - 1) < 0.03, strongest


@pytest.mark.parametrize("name", music.INSTRUMENTS)
def test_music_clip_length_and_level(name):
    for seed, contour in enumerate(music.CONTOURS):
        wave = music.clip(name, contour, rng(seed))
        assert wave.dtype == np.float32 and 1.3 * RATE - 1 <= len(wave) <= 2.1 * RATE
        assert np.isfinite(wave).all() and np.abs(wave).max() == pytest.approx(1.0)
        np.testing.assert_array_equal(wave, music.clip(name, contour, rng(seed)))


def test_a_rising_melody_rises_in_the_audio():
    for seed in range(10):
        halves = np.array_split(music.clip("flute", "rising", rng(seed)), 5)
        first, last = (np.abs(np.fft.rfft(part, RATE)).argmax() for part in (halves[0], halves[-1]))
        assert last > 1.1 * first


def test_instruments_can_be_told_apart():
    def make(name, generator):
        return music.clip(name, music.CONTOURS[int(generator.integers(4))], generator)

    assert nearest_neighbour_accuracy(make, list(music.INSTRUMENTS), known=12) > 0.85
