"""Data sets in the layouts in which they are published, and what is wrong with others."""

import csv
import io
import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
from outside import install

from seen_jax.audio.io import read_audio, write_audio
from seen_jax.data.datasets import DatasetConfig, load_dataset
from seen_jax.data.items import CLIPS, load_clips
from seen_jax.errors import AudioError, ConfigError

ROWS = [
    {"id": "q1", "question": "Which animal?", "choices": ["Cat", "Dog"], "answer": "Dog", "task": "sound"},
    {"id": "q2", "question": "Which key?", "choices": ["G", "C", "A", "D", "E", "F"], "answer": "F", "task": "music"},
    {"id": "q3", "question": "Who?", "choices": ["Man", "Woman", "Child"], "answer": "Man", "task": "speech"},
]
EXPECTED = [
    ("q1", "sound", ("A. Cat", "B. Dog"), "B"),
    ("q2", "music", ("A. G", "B. C", "C. A", "D. D", "E. E", "F. F"), "F"),
    ("q3", "speech", ("A. Man", "B. Woman", "C. Child"), "A"),
]


def wave(i: int) -> np.ndarray:
    return (np.random.default_rng(i).integers(-9000, 9000, 3200) / 32768).astype(np.float32)


def load(path, **fields):
    return load_dataset(DatasetConfig(str(path), **fields))


def found(entries):
    return [(e.id, e.task, e.choices, e.letter) for e in entries]


def with_files(folder, rows=ROWS):
    """The rows of the official JSON, their audio in ./test-mini-audios."""
    full = []
    for i, row in enumerate(rows):
        audio = f"./test-mini-audios/{row['id']}.wav"
        write_audio(folder / audio, wave(i))
        split = "test" if row["id"] == "q3" else "test-mini"
        full.append({**row, "audio_id": audio, "dataset": "AudioSet", "split": split, "category": "Reasoning"})
    return full


@pytest.fixture
def mmau(tmp_path):
    path = tmp_path / "mmau-test-mini.json"
    path.write_text(json.dumps(with_files(tmp_path)))
    return path


def check_audio(entries):
    for i, entry in enumerate(entries):
        np.testing.assert_array_equal(entry.wave(), wave(i))
        item = entry.item()
        np.testing.assert_array_equal(item.wave, wave(i))
        assert item.prompt == "\n".join([ROWS[i]["question"], *entry.choices])
        assert (item.question, item.choices, item.letter) == (ROWS[i]["question"], entry.choices, entry.letter)
        assert item.answer == ROWS[i]["answer"]


@pytest.mark.parametrize("kind", ["auto", "mmau"])
def test_official_json(mmau, kind):
    for path in (mmau, mmau.parent):
        entries = load(path, kind=kind)
        assert found(entries) == EXPECTED
        check_audio(entries)
    assert {e.dataset for e in load(mmau)} == {"mmau-test-mini"}
    assert {e.dataset for e in load(mmau, name="MMAU")} == {"MMAU"}


def test_audio_in_the_folder_above_or_beside_the_table(mmau):
    for name in ("data/t.json", "test-mini-audios/t.json"):
        other = mmau.parent / name
        other.parent.mkdir(exist_ok=True)
        mmau.rename(other)
        check_audio(load(other))
        other.rename(mmau)


def test_the_authors_csv(tmp_path):
    """Choices as a list is printed, with letters; the answer is a letter."""
    rows = with_files(tmp_path)
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["id", "audio_id", "question", "choices", "answer", "task", "split"])
        table.writeheader()
        for row, (_, _, choices, letter) in zip(rows, EXPECTED, strict=True):
            row = {**row, "choices": str(list(choices)), "answer": letter}
            table.writerow({key: row[key] for key in table.fieldnames})
    for path in (tmp_path, tmp_path / "metadata.csv"):
        for kind in ("auto", "mmau", "manifest"):
            entries = load(path, kind=kind)
            assert found(entries) == EXPECTED
            np.testing.assert_array_equal(entries[2].wave(), wave(2))


def encoded(i: int) -> bytes:
    data = io.BytesIO()
    soundfile.write(data, wave(i), 16000, format="FLAC")
    return data.getvalue()


@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize("group", [1, 2, 3])
def test_parquet_with_the_audio_inside(tmp_path, printed, group):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {**row, "audio": {"bytes": encoded(i), "path": f"{row['id']}.flac"}, "choices": str(row["choices"])}
        if printed
        else {**row, "audio": {"bytes": encoded(i), "path": None}}
        for i, row in enumerate(ROWS)
    ]
    (tmp_path / "data").mkdir()
    for name, part in (("test_mini-00000-of-00002", rows[:2]), ("test_mini-00001-of-00002", rows[2:])):
        parquet.write_table(arrow.Table.from_pylist(part), tmp_path / f"data/{name}.parquet", row_group_size=group)
    for split in (None, "test-mini", "test_mini"):
        entries = load(tmp_path, split=split)
        assert found(entries) == EXPECTED
        check_audio(entries)
    assert [entry.wave().shape for entry in reversed(entries)] == [(3200,)] * 3
    with pytest.raises(ConfigError, match=r"no split 'test'; it has test_mini"):
        load(tmp_path, split="test")


def test_parquet_of_files(mmau):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = mmau.parent / "x.parquet"
    rows = json.loads(mmau.read_text())
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    assert found(load(path)) == EXPECTED
    check_audio(load(path))
    rows[0]["audio"] = {"bytes": None, "path": rows[0]["audio_id"]}
    rows[1]["audio"] = {"bytes": None, "path": "gone.wav"}
    parquet.write_table(arrow.Table.from_pylist(rows[:2]), path)
    a, b = load(path)
    np.testing.assert_array_equal(a.wave(), wave(0))
    with pytest.raises(AudioError, match=r"item q2: .*row 1 holds neither"):
        b.wave()


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"seen-jax\[parquet\]"):
        load(tmp_path / "x.parquet")


def test_nothing_heavy_is_imported_for_other_kinds():
    code = "import sys, seen_jax.data.datasets; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture
def librispeech(tmp_path):
    root = tmp_path / "LibriSpeech"
    for i, (split, name) in enumerate([("dev-clean", "8-2-0000"), ("test-clean", "61-70968-0001")]):
        speaker, chapter, _ = name.split("-")
        folder = root / split / speaker / chapter
        write_audio(folder / f"{name}.flac", wave(i))
        (folder / f"{speaker}-{chapter}.trans.txt").write_text(f"{name} HELLO WORLD {i}\n")
    return root


@pytest.mark.parametrize("kind", ["auto", "librispeech"])
def test_librispeech_tree(librispeech, kind):
    entries = load(librispeech, kind=kind)
    assert [(e.id, e.task, e.answer, e.choices, e.letter) for e in entries] == [
        ("8-2-0000", "transcription", "HELLO WORLD 0", (), ""),
        ("61-70968-0001", "transcription", "HELLO WORLD 1", (), ""),
    ]
    np.testing.assert_array_equal(entries[1].wave(), wave(1))
    assert entries[0].item().prompt == "transcribe the speech"
    assert load(librispeech, split="test-clean") == entries[1:] == load(librispeech / "test-clean", name="LibriSpeech")
    assert [e.id for e in load(librispeech / "test-clean/61", split="test-clean")] == ["61-70968-0001"]


def test_librispeech_that_is_not_whole(librispeech):
    table = librispeech / "dev-clean/8/2/8-2.trans.txt"
    for line, message in (("8-2-0007 HELLO", "line 1: no audio file 8-2-0007"), ("8-2-0000", "no transcript")):
        table.write_text(line + "\n")
        with pytest.raises(AudioError, match=message):
            load(librispeech)


def test_csv_of_transcripts(tmp_path):
    write_audio(tmp_path / "clean/000.wav", wave(0))
    (tmp_path / "metadata.csv").write_text("id,audio_id,text\n1-2-3,clean/000.wav,HELLO THERE\n")
    for kind in ("auto", "librispeech", "manifest"):
        (entry,) = load(tmp_path, kind=kind)
        assert (entry.id, entry.task, entry.answer) == ("1-2-3", "transcription", "HELLO THERE")


@pytest.mark.parametrize("subset", ["demo", "validation", "calibration"])
def test_clips_that_ship(subset):
    entries = load(f"seen-tiny/{subset}")
    items = load_clips(subset)
    assert {e.dataset for e in entries} == {f"seen-tiny/{subset}"}
    for entry, item in list(zip(entries, items, strict=True))[::7]:
        own = entry.item()
        np.testing.assert_array_equal(own.wave, item.wave)
        assert [own.id, own.task, own.prompt, own.answer, own.choices, own.letter] == [
            item.id,
            item.task,
            item.prompt,
            item.answer,
            item.choices,
            item.letter,
        ]
    assert len(load(f"seen-tiny/{subset}", task="music", limit=5)) == 5


def test_segments_of_one_recording(tmp_path):
    write_audio(tmp_path / "long.wav", wave(0))
    rows = [{"path": "long.wav", "id": f"s{i}", "text": "x", "start": i * 0.05, "seconds": 0.05} for i in range(4)]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = load(path)
    np.testing.assert_array_equal(np.concatenate([e.wave() for e in entries]), wave(0))
    np.testing.assert_array_equal(entries[2].item().wave, wave(0)[1600:2400])
    path.write_text(json.dumps({**rows[0], "seconds": "soon"}))
    with pytest.raises(AudioError, match="item s0: could not convert"):
        load(path)
    path.write_text(json.dumps({**rows[0], "start": 3}))
    with pytest.raises(AudioError, match=r"item s0: .*lasts 0.200 s: there is no segment"):
        load(path)[0].wave()


def test_task_split_limit_and_order(mmau):
    assert [e.id for e in load(mmau, task="music")] == ["q2"]
    assert [e.id for e in load(mmau, split="test_mini")] == ["q1", "q2"]
    assert [e.id for e in load(mmau, limit=2)] == ["q1", "q2"]
    assert [e.id for e in load(mmau, limit=9)] == ["q1", "q2", "q3"]
    orders = {tuple(e.id for e in load(mmau, shuffle_seed=seed)) for seed in range(8)}
    assert len(orders) > 1 and all(sorted(order) == ["q1", "q2", "q3"] for order in orders)
    assert load(mmau, shuffle_seed=3, limit=2) == load(mmau, shuffle_seed=3)[:2]
    assert {e.task for e in load(CLIPS / "demo", task="own")} == {"own"}  # plain files name no task
    with pytest.raises(ConfigError, match="no items of task 'noise'; it has music, sound, speech"):
        load(mmau, task="noise")
    with pytest.raises(ConfigError, match="no split 'train'; it has test, test-mini"):
        load(mmau, split="train")


def test_entries_hold_no_audio(tmp_path):
    write_audio(tmp_path / "a.wav", np.full(16000 * 60, 0.1, np.float32))
    rows = "".join(f"r{i},a.wav,hello\n" for i in range(300))
    (tmp_path / "m.csv").write_text("id,path,text\n" + rows)
    tracemalloc.start()
    entries = load(tmp_path / "m.csv")
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(entries) == 300 and size < 2_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "Bird"}, "item q1: the answer 'Bird' is neither"),
        ({"choices": [f"c{i}" for i in range(27)]}, "item q1: 27 choices; at most 26"),
        ({"choices": "cat or dog"}, "item q1: choices must be a list"),
        ({"id": "q2"}, "two items have the id 'q2'"),
        ({"audio_id": "./gone.wav"}, r"no file for 1 of 3 rows.*row 1: \./gone\.wav"),
    ],
)
def test_bad_rows(mmau, change, message):
    rows = json.loads(mmau.read_text())
    mmau.write_text(json.dumps([{**rows[0], **change}, *rows[1:]]))
    with pytest.raises(AudioError, match=message):
        load(mmau)


def test_paths_that_are_no_data_set(tmp_path, mmau):
    looked_for = r"Looked for seen-tiny/demo.*MMAU.*LibriSpeech.*manifest"
    with pytest.raises(AudioError, match=rf"no data set .*gone\. {looked_for}"):
        load(tmp_path / "gone")
    (tmp_path / "odd.json").write_text('{"a": 1}')
    with pytest.raises(AudioError, match=rf"can be recognised\. {looked_for}"):
        load(tmp_path / "odd.json")
    with pytest.raises(AudioError, match=r"of kind librispeech that can be recognised\. Looked for LibriSpeech"):
        load(mmau, kind="librispeech")
    (tmp_path / "odd.json").write_text("{")
    with pytest.raises(AudioError, match=r"odd\.json as JSON"):
        load(tmp_path / "odd.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="no audio file in the folder"):
        load(tmp_path / "empty")
    with pytest.raises(ConfigError, match="no clips 'seen-tiny/test': choose one of seen-tiny/calibration"):
        load("seen-tiny/test")
    for fields, message in (
        ({"limit": 0}, "limit of a data set must be 1 or more"),
        ({"shuffle_seed": -1}, "shuffle seed of a data set must not be negative"),
        ({"kind": "mmsu"}, "no kind of data set 'mmsu'. Did you mean 'mmau'"),
    ):
        with pytest.raises(ConfigError, match=message):
            DatasetConfig("x", **fields)


@pytest.mark.parametrize(("name", "count", "tasks"), [("music", 8, {"music"}), ("librispeech", 40, {"transcription"})])
def test_real_recordings(recordings, name, count, tasks):
    entries = load(recordings / name)
    assert len(entries) == count
    assert {entry.task for entry in entries} == tasks
    for entry in entries[::5]:
        np.testing.assert_array_equal(entry.wave(), read_audio(entry.path))
    if name == "music":
        assert all(e.letter and e.choices["ABCD".index(e.letter)].startswith(f"{e.letter}. ") for e in entries)


def test_new_clips_of_the_recipe_are_synthesised_once(tmp_path, monkeypatch, capsys):
    pytest.importorskip("espeakng_loader", reason="speech needs the `train` extra")
    monkeypatch.setenv("SEEN_JAX_CACHE", str(tmp_path))
    first = load_dataset(DatasetConfig("seen-tiny/test-1"))
    assert [entry.task for entry in first] == ["transcription", "speech", "sound", "music"]
    assert "synthesising" in capsys.readouterr().err
    again = load_dataset(DatasetConfig("seen-tiny/test-1"))
    assert again == first and capsys.readouterr().err == ""
    shipped = {(e.answer, e.task) for e in load_dataset(DatasetConfig("seen-tiny/demo"))}
    assert all(e.path.is_relative_to(tmp_path) for e in first)
    assert not {(e.answer, e.task) for e in first if e.task == "transcription"} & shipped
    with pytest.raises(ConfigError, match="one clip of each task or more"):
        load_dataset(DatasetConfig("seen-tiny/test-0"))


def test_one_data_set_can_serve_calibration_and_test():
    whole = [entry.id for entry in load_dataset(DatasetConfig("seen-tiny/demo", shuffle_seed=3))]
    first = [entry.id for entry in load_dataset(DatasetConfig("seen-tiny/demo", shuffle_seed=3, limit=10))]
    rest = [entry.id for entry in load_dataset(DatasetConfig("seen-tiny/demo", shuffle_seed=3, skip=10))]
    assert first + rest == whole
    with pytest.raises(ConfigError, match="skipping 48 leaves none"):
        load_dataset(DatasetConfig("seen-tiny/demo", skip=48))
    with pytest.raises(ConfigError, match="cannot skip -1"):
        DatasetConfig("seen-tiny/demo", skip=-1)


OUTSIDE = """
from pathlib import Path
from seen_jax.audio import AudioItem
from seen_jax.data.base import Dataset, Row
from seen_jax.errors import AudioError

class Pairs(Dataset):
    name = "pairs"
    looks_for = "pairs: a folder with pairs.txt"

    def rows(self, path):
        table = Path(path, "pairs.txt")
        if not table.is_file():
            return None
        split = lambda line: line.split("|")
        return [Row(AudioItem(i, Path(path, f), t), s) for s, i, f, t in map(split, table.read_text().splitlines())]

    def check(self, entries, path):
        if any(entry.answer == "?" for entry in entries):
            raise AudioError(f"{path}: not yet transcribed")

KIND = Pairs()
"""


def test_another_package_adds_a_kind_of_data_set(tmp_path):
    """Recognised by itself, before manifests, and by its name; its splits and its own check work; messages name it."""
    for folder, text in (("data", "HELLO"), ("bad", "?")):
        write_audio(tmp_path / folder / "x.wav", wave(0))
        (tmp_path / folder / "pairs.txt").write_text(f"train|a|x.wav|HELLO\ntest|b|x.wav|{text}\n")
    (tmp_path / "package").mkdir()
    install(tmp_path / "package", {"seen_jax.datasets": {"pairs": "pairs:KIND"}}, {"pairs": OUTSIDE})
    script = """
import json, sys
from seen_jax.data.datasets import DatasetConfig, load_dataset
from seen_jax.errors import SeenError
for path, fields in json.loads(sys.argv[1]):
    try:
        print([(e.id, e.task, e.answer, e.dataset, len(e.wave())) for e in load_dataset(DatasetConfig(path, **fields))])
    except SeenError as error:
        print(error)
"""
    data, bad, gone = (str(tmp_path / name) for name in ("data", "bad", "gone"))
    cases = [(data, {}), (data, {"kind": "pairs", "split": "test"}), (bad, {}), (gone, {}), (gone, {"kind": "pears"})]
    path = os.pathsep.join([str(tmp_path / "package"), os.environ.get("PYTHONPATH", ""), os.getcwd()])
    command = [sys.executable, "-c", script, json.dumps(cases)]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    whole, part, refused, unknown, misspelt = run.stdout.splitlines()
    rows = [(name, "transcription", "HELLO", "data", 3200) for name in "ab"]
    assert [whole, part] == [str(rows), str(rows[1:])]
    assert "not yet transcribed" in refused
    assert "LibriSpeech: a folder with *.trans.txt below it; pairs: a folder with pairs.txt; a manifest" in unknown
    assert "Did you mean 'pairs'" in misspelt
