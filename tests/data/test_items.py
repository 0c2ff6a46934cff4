"""The clips that ship with the package, and manifests of users."""

import json

import numpy as np
import pytest

from seen_jax.audio.io import write_audio
from seen_jax.data.datasets import DatasetConfig, load_dataset
from seen_jax.data.items import CLIPS, SUBSETS, load_clips
from seen_jax.errors import AudioError, ConfigError
from seen_jax.train.clips import content_hash
from seen_jax.train.sentences import split_of
from seen_jax.train.speech import voices
from seen_jax.train.tasks import MAX_SAMPLES, TASKS, vocabulary

PER_TASK = {"calibration": 12, "validation": 8, "demo": 12}


def rows():
    return [json.loads(line) for line in (CLIPS / "manifest.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("subset", SUBSETS)
def test_shipped_clips_are_whole(subset):
    items = load_clips(subset)
    assert [sum(item.task == task for item in items) for task in TASKS] == [PER_TASK[subset]] * 4
    own = {row["id"]: row for row in rows()}
    for item in items:
        assert 8000 < len(item.wave) <= MAX_SAMPLES
        assert content_hash(item.wave) == own[item.id]["hash"]
        assert set(item.prompt.split()) <= set(vocabulary())
        if item.task == "transcription":
            assert (item.letter, item.choices) == ("", ())
        else:
            assert item.choices["ABCD".index(item.letter)] == item.answer.split()[0]


def test_shipped_clips_are_held_out_and_disjoint():
    table = rows()
    subsets: dict[str, set[str]] = {}
    for row in table:
        split = "validation" if row["subset"] == "validation" else "test"
        assert row["split"] == split
        sentence = [" ".join(row["words"])] if row["task"] in ("transcription", "speech") else []
        for key in (row["hash"], *sentence):
            subsets.setdefault(key, set()).add(row["subset"])
        if row["task"] in ("transcription", "speech"):
            assert split_of(" ".join(row["words"])) == split
            assert row["voice"] in voices(split)
    assert all(len(names) == 1 for names in subsets.values())
    assert sum(path.stat().st_size for path in CLIPS.rglob("*") if path.is_file()) < 5_000_000, "a larger package"


def test_an_unknown_subset_is_refused():
    with pytest.raises(ConfigError, match="no clips 'seen-tiny/test'"):
        load_clips("test")


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c", "d"):
        write_audio(tmp_path / f"{name}.wav", np.full(1600, 0.1, np.float32))
    return tmp_path


def manifest(folder, *lines):
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def load_items(path):
    return [entry.item() for entry in load_dataset(DatasetConfig(str(path)))]


def test_manifest_of_a_user(folder):
    path = manifest(
        folder,
        {"path": "a.wav", "question": "Which?", "choices": ["cat", "dog"], "answer": "dog", "task": "sound"},
        {"path": "b.wav", "question": "Which?", "choices": "['A. x', 'B. y']", "answer": "A"},
        {"path": "c.wav", "text": "HELLO THERE"},
        {"path": "d.wav", "prompt": "What is this? "},
    )
    a, b, c, d = load_items(path)
    assert (a.question, a.choices, b.choices) == ("Which?", ("A. cat", "B. dog"), ("A. x", "B. y"))
    assert (a.task, a.prompt, a.letter) == ("sound", "Which?\nA. cat\nB. dog", "B")
    assert (b.task, b.prompt, b.letter) == ("choice", "Which?\nA. x\nB. y", "A")
    assert (c.task, c.prompt, c.answer, c.letter) == ("transcription", "transcribe the speech", "HELLO THERE", "")
    assert (d.task, d.prompt, d.answer) == ("question", "What is this?", "")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["x", "y"], "answer": "z"}, "neither a letter"),
        ({"choices": ["x", "y"], "answer": "AB"}, "neither a letter"),
        ({"choices": ["x", "y"], "answer": "C"}, "neither a letter"),
        ({"choices": "x or y", "answer": "A"}, "must be a list"),
        ({"choices": [f"c{i}" for i in range(27)], "answer": "c1"}, "at most 26"),
    ],
)
def test_answers_that_are_no_choice_are_refused(folder, row, message):
    with pytest.raises(AudioError, match=message):
        load_items(manifest(folder, {"path": "a.wav", "question": "Which?", **row}))
