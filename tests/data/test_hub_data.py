"""Data sets on a stand-in of the hub: which files are downloaded, whose columns they are, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hub_server import StandIn, point_to, stand_in

from seen_jax.data.datasets import DatasetConfig, load_dataset
from seen_jax.data.hub import place
from seen_jax.errors import AudioError, ConfigError
from seen_jax.evaluate.config import ExperimentConfig

arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
SPEECH = [{"id": f"1-{i}", "text": text, "speaker_id": 7} for i, text in enumerate(("A DOG", "TWO CATS", "THREE"))]
CHOICE = [
    {"query": "Which animal?", "options": ["Cat", "Dog"], "gold": "Dog", "split": "mini"},
    {"query": "Which key?", "options": ["G", "C"], "gold": "(B) C", "split": "mini"},
]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with stand_in(tmp_path / "cache", monkeypatch) as server:
        yield server


def wave(i: int) -> np.ndarray:
    return (np.random.default_rng(i).integers(-9000, 9000, 3200) / 32768).astype(np.float32)


def encoded(i: int, path: str | None = None) -> dict:
    content = io.BytesIO()
    soundfile.write(content, wave(i), 16_000, format="WAV", subtype="PCM_16")
    return {"bytes": content.getvalue(), "path": path}


def write(folder, rows, audio="audio", first=0, path=None):
    folder.parent.mkdir(parents=True, exist_ok=True)
    table = [{**row, audio: encoded(first + i, path)} for i, row in enumerate(rows)]
    parquet.write_table(arrow.Table.from_pylist(table), folder)


@pytest.fixture
def speech(hub: StandIn, tmp_path):
    """In the layout of openslr/librispeech_asr: subsets, splits, and several files of one."""
    root = tmp_path / "speech"
    write(root / "clean/test/0000.parquet", SPEECH[:2])
    write(root / "clean/test/0001.parquet", SPEECH[2:], first=2)
    write(root / "clean/validation/0000.parquet", SPEECH[:1], first=5)
    write(root / "other/test/0000.parquet", SPEECH[:1], first=6)
    return hub.add_data("org/speech", root)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("data/test-00000-of-00001.parquet", ("", "test")),
        ("data/test_mini-00001-of-00002-0123abcd.parquet", ("", "test_mini")),
        ("clean/test/0000.parquet", ("clean", "test")),
        ("clean/partial-train/0003.parquet", ("clean", "partial-train")),
        ("clean/train.clean.360/part-00001.parquet", ("clean", "train.clean.360")),
        ("en/dev.parquet", ("en", "dev")),
        ("0000.parquet", ("", "0000")),
    ],
)
def test_subset_and_split_by_the_name_of_a_file(file, expected):
    assert place(file) == expected


def test_transcripts_of_one_split(hub: StandIn, speech):
    entries = load_dataset(DatasetConfig(hub=speech, subset="clean", split="test"))
    assert [(e.id, e.task, e.answer, e.dataset) for e in entries] == [
        (row["id"], "transcription", row["text"], "org/speech") for row in SPEECH
    ]
    for i, entry in enumerate(entries):
        np.testing.assert_array_equal(entry.wave(), wave(i))
    assert sorted(hub.sent) == ["0000.parquet", "0001.parquet"]
    assert load_dataset(DatasetConfig(hub=speech, subset="clean", split="test", limit=1, skip=1))[0].id == "1-1"
    assert len(hub.sent) == 2


def test_choices_under_other_names(hub: StandIn, tmp_path, monkeypatch):
    write(tmp_path / "choice/data/test_mini-00000-of-00001.parquet", CHOICE, audio="context", path="same.wav")
    columns = {"question": "query", "choices": "options", "answer": "gold", "audio": "context"}
    config = DatasetConfig(hub=hub.add_data("org/choice", tmp_path / "choice"), split="test-mini", columns=columns)
    for attempt in range(2):  # the second without a hub
        entries = load_dataset(config)
        assert [(e.question, e.choices, e.letter) for e in entries] == [
            ("Which animal?", ("A. Cat", "B. Dog"), "B"),
            ("Which key?", ("A. G", "B. C"), "B"),
        ]
        assert [e.id for e in entries] == ["000000", "000001"], "all have the same file name"
        np.testing.assert_array_equal(entries[1].wave(), wave(1))
        if not attempt:
            monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *_, **__: 1 / 0)  # as where none answers
            point_to(9, monkeypatch)


def test_what_the_hub_converted_is_used(hub: StandIn, tmp_path):
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "clips.tar").write_bytes(b"")
    write(tmp_path / "converted/default/test/0000.parquet", SPEECH)
    hub.add_data("org/tar", tmp_path / "main")
    with pytest.raises(AudioError, match="org/tar has no parquet files on the hub"):
        load_dataset(DatasetConfig(hub="org/tar"))
    hub.add_data("org/tar", tmp_path / "converted", "refs/convert/parquet")
    assert [e.answer for e in load_dataset(DatasetConfig(hub="org/tar"))] == [row["text"] for row in SPEECH]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({}, ConfigError, "org/speech has more than one split: choose one of test, validation"),
        ({"split": "test"}, ConfigError, "org/speech has more than one subset: choose one of clean, other"),
        ({"split": "dev"}, ConfigError, "org/speech has no split 'dev'; it has test, validation"),
        ({"subset": "all"}, ConfigError, "org/speech has no subset 'all'; it has clean, other"),
        (
            {"subset": "other", "columns": {"text": "sentence"}},
            ConfigError,
            "no column 'sentence' to be its 'text'",
        ),
        (
            {"subset": "other", "columns": {"audio": "text"}},
            AudioError,
            "column 'text' of org/speech holds no audio",
        ),
        ({"revision": "v9"}, AudioError, "org/speech has no revision 'v9' on the hub"),
        ({"hub": "org/gone"}, AudioError, "org/gone was not found on the hub; a private data set needs"),
    ],
)
def test_what_is_refused(hub: StandIn, speech, fields, error, message):
    with pytest.raises(error, match=message):
        load_dataset(DatasetConfig(**{"hub": speech, **fields}))


def test_configurations():
    for fields, message in (
        ({}, "either a `path` or the name of one on the `hub`"),
        ({"path": "x", "hub": "org/x"}, "either a `path` or"),
        ({"path": "x", "subset": "clean"}, "`subset` is of a data set on the `hub`, but x is a path"),
        (
            {"hub": "org/x", "columns": {"sentence": "text"}},
            "'sentence' is none of our names, which are audio",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            DatasetConfig(**fields)
    twice = (DatasetConfig(hub="org/x", split="a"), DatasetConfig(hub="org/x", split="b"))
    with pytest.raises(ConfigError, match="datasets must be at least one, each only once"):
        ExperimentConfig(datasets=twice)
    assert ExperimentConfig(datasets=twice[:1]).datasets[0].label == "org/x"
