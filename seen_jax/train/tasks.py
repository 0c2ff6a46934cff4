"""The four tasks of the tiny audio language model: an endless stream of examples, each determined by its seed.
Transcription, and four-way multiple choice about speech, sound events and music, all on clean audio.
Prompts and answers are lower-case words and the letters A to D, separated by blanks."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from seen_jax.train import music, sentences, sounds, speech
from seen_jax.train.sounds import SAMPLE_RATE

TASKS = ("transcription", "speech", "sound", "music")
LETTERS = ("A", "B", "C", "D")
COUNTS = ("one", "two", "three", "four")
MAX_SAMPLES = 12 * SAMPLE_RATE // 5

TRANSCRIBE = "transcribe the speech"
SPEECH_QUESTIONS = (
    "which {} is said", "which {} is named", "which {} is mentioned", "what {} is said", "what is the {}",
    "name the {}",
)  # fmt: skip
SOUND_QUESTIONS = {
    "single": "which sound is heard", "first": "which sound comes first", "last": "which sound comes last",
    "count": "how many sounds are heard",
}  # fmt: skip
MUSIC_QUESTIONS = {"instrument": "which instrument is playing", "contour": "how does the melody move"}

Spans = tuple[tuple[float, float], ...]
Question = tuple[str, str, tuple[str, ...], str]  # prompt, answer, choices and letter of an `Example`


@dataclass(frozen=True, eq=False)
class Example:
    """One clip with a question and its answer."""

    task: str
    audio: Float[np.ndarray, " samples"]  # mono 16 kHz, at most 2.4 s, with a peak of 0.1 to 0.7
    prompt: str
    answer: str
    choices: tuple[str, ...]  # the four words offered as A to D; empty for transcription
    letter: str  # of the right one
    words: tuple[str, ...]  # what the encoder should spell: spoken words, sound events, or (instrument, contour)
    spans: Spans  # (start, end) of each of these in seconds; of instrument and contour: the two halves of the clip
    voice: str  # "" without speech
    seed: int


def audible_words() -> tuple[str, ...]:
    """All words that can occur in `Example.words`, sorted."""
    return tuple(sorted({*sentences.spoken_words(), *sounds.EVENTS, *music.INSTRUMENTS, *music.CONTOURS}))


def vocabulary() -> tuple[str, ...]:
    """All words that can occur in a prompt or an answer, and the letters A to D, sorted."""
    questions = (TRANSCRIBE, "options", *SPEECH_QUESTIONS, *SOUND_QUESTIONS.values(), *MUSIC_QUESTIONS.values())
    asked = {word for question in questions for word in question.split() if word != "{}"}
    return tuple(sorted({*asked, *sentences.WORDS, *COUNTS, *LETTERS, *audible_words()}))


def make_example(task: str, split: str, seed: int) -> Example:
    """The example of a task in a split with this seed (0 or more): the same arguments always give the same example.
    Sentences and speakers of one split never occur in another; clips of sounds and music come from separate random
    streams. Raises ConfigError where espeak-ng is missing."""
    rng = np.random.default_rng([zlib.crc32(f"{task}/{split}".encode()), seed])
    voice = ""
    if task in ("transcription", "speech"):
        sentence, filling, voice, wave, spans = _spoken(split, rng)
        words = tuple(sentence.split())
        question: Question = (TRANSCRIBE, sentence, (), "")
        if task == "speech":
            category = _pick(tuple(filling), rng)
            text = _pick(SPEECH_QUESTIONS, rng).format(category)
            question = _choice(text, filling[category], sentences.WORDS[category], rng)
    elif task == "sound":
        words, question = _draw_sounds(rng)
        wave, spans = sounds.clip(words, rng)
    else:
        words = (_pick(tuple(music.INSTRUMENTS), rng), _pick(music.CONTOURS, rng))
        wave = music.clip(words[0], words[1], rng)
        end = len(wave) / SAMPLE_RATE
        spans = ((0.0, end / 2), (end / 2, end))
        kind = _pick(tuple(MUSIC_QUESTIONS), rng)
        right, others = (words[0], tuple(music.INSTRUMENTS)) if kind == "instrument" else (words[1], music.CONTOURS)
        question = _choice(MUSIC_QUESTIONS[kind], right, others, rng)
    audio, lead = _place(wave, rng)
    spans = tuple((start + lead, end + lead) for start, end in spans)
    return Example(task, audio, *question, words, spans, voice, seed)


def _pick(items: Sequence[str], rng: sounds.Rng) -> str:
    return items[int(rng.integers(len(items)))]


def _draw(items: Sequence[str], count: int, rng: sounds.Rng) -> list[str]:
    return [items[int(i)] for i in rng.choice(len(items), count, replace=False)]


def _choice(question: str, right: str, others: Sequence[str], rng: sounds.Rng) -> Question:
    """A four-way question; the three wrong options are drawn from `others`."""
    wrong = _draw([word for word in others if word != right], 3, rng)
    choices = tuple(_draw([right, *wrong], 4, rng))
    letter = LETTERS[choices.index(right)]
    options = " ".join(f"{word} {mark}" for word, mark in zip(choices, LETTERS, strict=True))
    return f"{question} options {options}", f"{right} {letter}", choices, letter


def _spoken(split: str, rng: sounds.Rng) -> tuple[str, dict[str, str], str, np.ndarray, Spans]:
    """(sentence, its content words, voice, wave, spans), of this split and short enough for a clip. Training speakers
    also get vocal tracts of other lengths, so that 30 of them are enough for new voices."""
    voice = _pick(speech.voices(split), rng)
    while True:
        sentence, filling = sentences.draw_sentence(split, rng)
        rate, pitch, pitch_range = (int(rng.integers(*span)) for span in ((150, 211), (30, 71), (30, 81)))
        stretch = rng.uniform(0.88, 1.14) if split == "train" else 1.0
        for faster in (rate, 210):
            wave, onsets = speech.say_words(sentence, voice, faster, pitch, pitch_range, stretch)
            if len(wave) <= MAX_SAMPLES and len(onsets) == len(sentence.split()):
                ends = (*onsets[1:], len(wave) / SAMPLE_RATE)
                return sentence, filling, voice, wave, tuple(zip(onsets, ends, strict=True))


def _draw_sounds(rng: sounds.Rng) -> tuple[tuple[str, ...], Question]:
    kind = _pick(tuple(SOUND_QUESTIONS), rng)
    question = SOUND_QUESTIONS[kind]
    # "Which of these four is among the sounds" is not asked: decoders of this size stay at 60 % on it.
    count = 1 if kind == "single" else int(rng.integers(1 if kind == "count" else 2, 5))
    names = tuple(sounds.EVENTS)
    events = _draw(names, count, rng)
    if kind == "count":
        if count > 1 and rng.random() < 0.25:  # a repeat, so that the number of kinds is not always the answer
            events[1] = events[0]
        return tuple(events), _choice(question, COUNTS[count - 1], COUNTS, rng)
    absent = [name for name in names if name not in events]
    if kind == "single":
        return tuple(events), _choice(question, events[0], absent, rng)
    right = events[0 if kind == "first" else -1]
    present = [name for name in events if name != right]  # at least one of the others is offered as well
    kept = _draw(present, int(rng.integers(1, len(present) + 1)), rng)
    return tuple(events), _choice(question, right, kept + _draw(absent, 3 - len(kept), rng), rng)


def _place(wave: np.ndarray, rng: sounds.Rng) -> tuple[np.ndarray, float]:
    """(audio, lead-in in seconds): up to 0.3 s, a tilt of up to 5 dB from low to high, and a random level."""
    lead = int(min(rng.uniform(0, 0.3) * SAMPLE_RATE, MAX_SAMPLES - len(wave)))
    tilt = rng.uniform(-0.3, 0.3)
    tilted = wave.astype(np.float32)
    tilted[1:] += np.float32(tilt) * wave[:-1].astype(np.float32)
    peak = 0.1 * 7 ** rng.uniform(0, 1)
    return np.pad(tilted * np.float32(peak / np.abs(tilted).max()), (lead, 0)), lead / SAMPLE_RATE
