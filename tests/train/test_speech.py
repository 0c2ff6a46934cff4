"""Speech synthesis: pure, trimmed, and with voices that are split by speaker."""

import re
import sys

import numpy as np
import pytest

from seen_jax.errors import AudioError, ConfigError
from seen_jax.train import sentences, speech

pytest.importorskip("espeakng_loader", reason="needs the train extra")


def say(*args, **options):
    return speech.say_words(*args, **options)[0]


def test_the_same_utterance_gives_the_same_samples_whatever_was_said_before():
    first = say("the small dog sleeps", "en-us+f1")
    say("seventeen cats", "en+m2", rate=200, pitch=20)
    np.testing.assert_array_equal(first, say("the small dog sleeps", "en-us+f1"))


def test_wave_is_normalised_and_trimmed():
    wave = say("on monday we visit the castle", "en-us+m1")
    assert wave.dtype == np.float32 and np.abs(wave).max() == pytest.approx(1.0)
    assert 1.0 < len(wave) / speech.SAMPLE_RATE < 2.5
    assert np.abs(wave[:800]).max() > 0.005 and np.abs(wave[-800:]).max() > 0.005


def test_sounding_keeps_the_sound():
    burst = np.sin(np.arange(4096.0))
    padded = np.concatenate([np.zeros(5120), burst, np.zeros(5120)])
    first, last = speech.sounding(padded)
    trimmed = padded[first:last]
    assert len(burst) <= len(trimmed) <= len(burst) + 3 * 256
    assert np.square(trimmed).sum() == pytest.approx(np.square(burst).sum())


def test_words_begin_where_they_are_heard():
    wave, onsets = speech.say_words("seven bananas fly", "en-us+m1")
    assert len(onsets) == 3 and onsets[0] < 0.1 and list(onsets) == sorted(onsets)
    alone = [len(say(word, "en-us+m1")) / speech.SAMPLE_RATE for word in ("seven", "bananas")]
    np.testing.assert_allclose(np.diff(onsets), alone, atol=0.2)
    assert onsets[-1] < len(wave) / speech.SAMPLE_RATE - 0.2


def test_rate_and_pitch_take_effect():
    slow, fast = (say("the turtle sleeps", "en-us+m1", rate=rate) for rate in (150, 210))
    assert len(fast) < 0.9 * len(slow)
    low, high = (say("eleven", "en-us+m1", pitch=pitch, pitch_range=0) for pitch in (10, 90))
    assert _fundamental(high) > 1.3 * _fundamental(low)


def test_a_stretched_recording_is_slower_and_lower():
    """Words keep their place in it."""
    text = "the turtle sleeps"
    (plain, onsets), (long, later) = (speech.say_words(text, "en-us+m1", stretch=by) for by in (1.0, 1.14))
    assert len(long) / len(plain) == pytest.approx(1.14, abs=0.01)
    np.testing.assert_allclose(np.array(later), 1.14 * np.array(onsets), atol=1e-3)
    normal, low = (say("eleven", "en-us+m1", pitch_range=0, stretch=by) for by in (1.0, 1.14))
    assert _fundamental(normal) / _fundamental(low) == pytest.approx(1.14, abs=0.06)


def _fundamental(wave):
    middle = wave[len(wave) // 4 : len(wave) // 2]
    correlation = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    return speech.SAMPLE_RATE / (40 + correlation[40:320].argmax())


def test_every_speaker_and_accent_has_a_voice_of_its_own():
    speakers = [speaker for split in speech.SPEAKERS.values() for speaker in split]
    voices = [f"en-us+{speaker}" for speaker in speakers] + [f"{accent}+m1" for accent in speech.ACCENTS[1:]]
    waves = {say("the doctor rests", voice).tobytes() for voice in [*voices, "en-us"]}
    assert len(waves) == len(voices) + 1


def test_speakers_are_split():
    speakers = [{voice.split("+")[1] for voice in speech.voices(split)} for split in speech.SPEAKERS]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) >= 30
    assert 0.75 < len(speakers[0]) / len(set.union(*speakers)) < 0.85
    assert set(speech.voices("test")).isdisjoint(speech.voices("train"))


def test_no_two_words_sound_alike():
    words = sentences.spoken_words()
    assert len({say(word, "en-us+m1").tobytes() for word in words}) == len(words)


def test_errors():
    for voice in ("nowhere+m1", "en-us+nobody"):
        with pytest.raises(ConfigError, match=f"no voice '{re.escape(voice)}'"):
            say("hello", voice)
    with pytest.raises(AudioError, match="no sound"):
        say(" ", "en-us+m1")


def test_missing_espeak_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ConfigError, match=r'pip install "seen-jax\[train\]"'):
        say("hello", "en-us+m1")
