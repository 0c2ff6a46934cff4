"""Examples: deterministic, consistent, split without leaks, and not answerable from the prompt alone."""

import re
from collections import Counter

import numpy as np
import pytest

from seen_jax.data.letters import answer_letter
from seen_jax.train import music, sentences, sounds, speech, tasks

pytest.importorskip("espeakng_loader", reason="needs the train extra")

CHOICE_TASKS = tasks.TASKS[1:]


@pytest.fixture
def without_audio(monkeypatch):
    """Statistics of prompts and answers need many examples, and no sound."""
    wave = np.ones(100, np.float32)
    monkeypatch.setattr(speech, "say_words", lambda text, *args: (wave, tuple(np.linspace(0, 0.5, len(text.split())))))
    monkeypatch.setattr(sounds, "clip", lambda names, *args: (wave, ((0.0, 0.5),) * len(names)))
    monkeypatch.setattr(music, "clip", lambda *args: wave)


def many(task, count, split="train"):
    return [tasks.make_example(task, split, seed) for seed in range(count)]


@pytest.mark.parametrize("task", tasks.TASKS)
def test_examples_are_well_formed(task):
    words, audible = set(tasks.vocabulary()), set(tasks.audible_words())
    longest = shortest = 0
    for split in speech.SPEAKERS:
        for example in many(task, 15, split):
            peak = np.abs(example.audio).max()
            assert example.audio.dtype == np.float32 and 0.099 < peak < 0.701
            assert np.sqrt(np.square(example.audio).mean()) > 0.005 * peak
            assert 0.5 * tasks.SAMPLE_RATE < len(example.audio) <= tasks.MAX_SAMPLES
            longest, shortest = max(longest, len(example.audio)), min(shortest, len(example.audio))
            assert {*example.prompt.split(), *example.answer.split()} <= words
            assert set(example.words) <= audible and len(example.spans) == len(example.words)
            assert all(0 <= start < end <= len(example.audio) / 16_000 + 1e-6 for start, end in example.spans)
            assert (example.voice != "") == (task in ("transcription", "speech"))
    assert longest > shortest


@pytest.mark.parametrize("task", tasks.TASKS)
def test_examples_are_a_function_of_task_split_and_seed(task):
    one, same = (tasks.make_example(task, "train", 7) for _ in range(2))
    np.testing.assert_array_equal(one.audio, same.audio)
    assert (one.prompt, one.answer, one.words, one.voice) == (
        same.prompt,
        same.answer,
        same.words,
        same.voice,
    )
    for split, seed in (("train", 8), ("test", 7)):
        other = tasks.make_example(task, split, seed)
        assert len(other.audio) != len(one.audio) or not np.array_equal(other.audio, one.audio)


def test_transcription(without_audio):
    for example in many("transcription", 200):
        assert example.prompt == tasks.TRANSCRIBE and example.answer == " ".join(example.words)
        assert 3 <= len(example.words) <= 6 and (example.choices, example.letter) == ((), "")


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_choices(task, without_audio):
    for example in many(task, 500):
        right = example.choices[tasks.LETTERS.index(example.letter)]
        assert len(set(example.choices)) == 4 and example.answer == f"{right} {example.letter}"
        assert answer_letter(example.answer, example.choices) == example.letter
        offered = " ".join(f"{w} {m}" for w, m in zip(example.choices, "ABCD", strict=True))
        assert example.prompt.endswith(f" options {offered}")


def test_right_answers_follow_from_the_clip(without_audio):
    questions = set()
    for example in many("sound", 500):
        right = example.answer.split()[0]
        question, offered = example.prompt.split(" options")[0], set(example.choices)
        questions.add(question)
        if question == tasks.SOUND_QUESTIONS["single"]:
            assert example.words == (right,) and right in offered
        elif question == tasks.SOUND_QUESTIONS["count"]:
            assert right == tasks.COUNTS[len(example.words) - 1]
        else:
            assert right == example.words[0 if "first" in question else -1]
            assert len(offered & set(example.words)) >= 2 and example.words.count(right) == 1
    assert questions == set(tasks.SOUND_QUESTIONS.values())
    for example in many("music", 200):
        kind = "instrument" if "instrument" in example.prompt.split(" options")[0] else "contour"
        assert example.answer.split()[0] == example.words[kind == "contour"]
    for example in many("speech", 500):
        right = example.answer.split()[0]
        (category,) = [name for name, words in sentences.WORDS.items() if right in words]
        assert category in example.prompt.split(" options")[0].split()
        assert set(example.choices) <= set(sentences.WORDS[category])
        assert set(example.choices) & set(example.words) == {right}


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_the_prompt_does_not_give_the_answer_away(task, without_audio):
    examples = many(task, 3000)
    letters = Counter(example.letter for example in examples)
    assert all(abs(letters[mark] / 3000 - 0.25) < 4.5 * (0.1875 / 3000) ** 0.5 for mark in "ABCD")
    # a guesser who knows how often each word was right when the question offered it
    offered, right = Counter(), Counter()
    for example in examples:
        question = example.prompt.split(" options")[0]
        offered.update((question, word) for word in example.choices)
        right[question, example.answer.split()[0]] += 1
    for key, count in offered.items():
        if count >= 40:
            assert abs(right[key] / count - 0.25) < 5 * (0.1875 / count) ** 0.5, key


def test_sentences_are_split(without_audio):
    spoken = {split: {e.words for task in tasks.TASKS[:2] for e in many(task, 400, split)} for split in speech.SPEAKERS}
    assert spoken["train"].isdisjoint(spoken["test"]) and spoken["train"].isdisjoint(spoken["validation"])
    assert spoken["validation"].isdisjoint(spoken["test"])
    for split, drawn_sentences in spoken.items():
        assert {sentences.split_of(" ".join(words)) for words in drawn_sentences} == {split}
    generator = np.random.default_rng(0)
    drawn = Counter(sentences.split_of(f"sentence {generator.random()}") for _ in range(3000))
    assert abs(drawn["train"] / 3000 - 0.8) < 0.04 and abs(drawn["test"] / 3000 - 0.1) < 0.03


def test_held_out_voices_are_never_used_in_training(without_audio):
    used = {split: {e.voice.split("+")[1] for e in many("speech", 300, split)} for split in speech.SPEAKERS}
    assert all(speakers == set(speech.SPEAKERS[split]) for split, speakers in used.items())
    assert len(set.union(*used.values())) == sum(map(len, used.values()))


def test_speech_that_is_too_long_is_redrawn(monkeypatch):
    asked = []

    def say(text, voice, rate, pitch, pitch_range, stretch):
        assert 0.88 <= stretch <= 1.14, "training speakers vary"
        asked.append(rate)
        onsets = tuple(np.linspace(0, 1, len(text.split())))
        return np.ones(tasks.MAX_SAMPLES + (1 if len(asked) < 4 else 0), np.float32), onsets

    monkeypatch.setattr(speech, "say_words", say)
    example = tasks.make_example("transcription", "train", 0)
    assert len(asked) == 4 and asked[1] == asked[3] == 210
    assert len(example.audio) == tasks.MAX_SAMPLES


def test_vocabulary():
    words = tasks.vocabulary()
    assert list(words) == sorted(set(words)) and set(tasks.audible_words()) <= set(words) and set("ABCD") <= set(words)
    content = [word for group in sentences.WORDS.values() for word in group]
    assert len(content) == len(set(content)) >= 110 and len(sentences.TEMPLATES) >= 24
    assert all(word.isascii() and word.isalpha() and word.islower() for word in tasks.audible_words())
    assert set(content).isdisjoint({*sounds.EVENTS, *music.INSTRUMENTS, *music.CONTOURS})
    fixed = {w for t in sentences.TEMPLATES for w in t.split() if not w.startswith("{")}
    assert fixed.isdisjoint(content)
    for template in sentences.TEMPLATES:
        slots = re.findall(r"{(\w+)}", template)
        assert 3 <= len(template.split()) <= 6 and slots
        assert len(slots) == template.count("{") == len(set(slots))
