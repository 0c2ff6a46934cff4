"""Files, folders, globs and manifests become a list of items, or one clear message."""

import json
from pathlib import Path

import pytest

from seen_jax.audio.find import AudioItem, find_audio
from seen_jax.errors import AudioError


@pytest.fixture
def tree(tmp_path) -> Path:
    """Finding does not decode, so empty files will do."""
    for name in (
        "b.wav",
        "a.FLAC",
        "sub/c.mp3",
        "sub/a.wav",
        "sub/.hidden.wav",
        "notes.txt",
        "clean/000.wav",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def ids(*inputs) -> list[str]:
    return [item.id for item in find_audio(list(inputs))]


def test_file(tree):
    assert find_audio([tree / "b.wav"]) == [AudioItem("b", tree / "b.wav")]
    assert find_audio(str(tree / "b.wav")) == find_audio([tree / "b.wav"])


def test_folder_is_recursive_and_sorted(tree):
    assert ids(tree) == ["a", "b", "clean/000", "sub/a", "sub/c"]


def test_globs(tree):
    assert ids(f"{tree}/*") == ["a", "b"]
    assert ids(f"{tree}/**/*.wav") == ["b", "000", "a"]
    with pytest.raises(AudioError, match=r"matches 1 path\(s\) but no audio"):
        find_audio([f"{tree}/*.txt"])


def test_same_names_get_longer_ids_and_same_files_are_refused(tree):
    a, b = tree / "a.FLAC", tree / "sub" / "a.wav"
    assert ids(a, b) == [a.as_posix(), b.as_posix()]
    with pytest.raises(AudioError, match=r"Two items have the id .*b\.wav"):
        find_audio([tree / "b.wav", tree / "b.wav"])


def test_a_name_with_wildcards_in_it(tree):
    (tree / "x[1].wav").touch()
    assert ids(tree / "x[1].wav") == ["x[1]"]


@pytest.mark.parametrize("column", ["path", "audio", "file", "audio_path", "filename", "file_name", "audio_id", "Path"])
def test_csv_columns(tree, column):
    manifest = write(tree / "m.csv", f"id,{column},text,question,answer", f'one,sub/c.mp3,"hi, you",why?,B')  # noqa: F541
    (item,) = find_audio([manifest])
    assert item == AudioItem("one", tree / "sub/c.mp3", "hi, you", {"question": "why?", "answer": "B"})
    assert item.prompt == "why?"


def test_bare_ids_find_their_file(tree):
    """As in tables that name no folder and no suffix."""
    manifest = write(tree / "m.csv", "id,text", "b,in the folder", "000,in clean", "sub/c,mp3")
    assert [(i.id, i.path.relative_to(tree).as_posix()) for i in find_audio([manifest])] == [
        ("b", "b.wav"),
        ("000", "clean/000.wav"),
        ("sub/c", "sub/c.mp3"),
    ]


def test_audio_id_wins_over_id_and_ids_come_from_names_without_one(tree):
    with_id = write(tree / "m.csv", "id,audio_id,text", "1272-128104-0000,000,HELLO")
    assert find_audio([with_id]) == [AudioItem("1272-128104-0000", tree / "clean/000.wav", "HELLO")]
    without = write(tree / "n.tsv", "path\ttext", "b.wav\thello, there")
    assert find_audio([without]) == [AudioItem("b", tree / "b.wav", "hello, there")]


def test_jsonl(tree):
    rows = [
        {
            "audio": str(tree / "b.wav"),
            "prompt": "Was ist das? ä",
            "choices": ["A. x", "B. y"],
            "n": 3,
            "text": None,
        },
        {"audio": "sub/c.mp3", "id": 7},
    ]
    manifest = write(tree / "m.jsonl", *(json.dumps(row) for row in rows), "")
    first, second = find_audio([manifest])
    assert first.id == "b"
    assert first.text is None
    assert first.extra == {"prompt": "Was ist das? ä", "choices": '["A. x", "B. y"]', "n": "3"}
    assert (second.id, second.prompt) == ("7", None)


def test_byte_order_mark(tree):
    (tree / "m.csv").write_bytes("\ufeffpath\r\nb.wav\r\n".encode())
    assert ids(tree / "m.csv") == ["b"]


def test_folder_with_a_manifest(tree):
    write(tree / "metadata.csv", "id,path,text", "x,b.wav,hello")
    assert [(i.id, i.text) for i in find_audio([tree])] == [("x", "hello")]
    write(tree / "metadata.csv", "id,path", "x,b.wav", "y,gone.wav")
    with pytest.warns(UserWarning, match=r"line 3: gone\.wav.* every audio file of the folder"):
        assert ids(tree) == ["a", "b", "clean/000", "sub/a", "sub/c"]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("m.csv", ["name,text", "b.wav,x"], r"no audio column .*\['name', 'text'\]"),
        ("m.csv", ["path"], "has no rows"),
        ("m.csv", [], "has no rows"),
        ("m.csv", ["path,text", "b.wav,hello, you"], "line 2: more fields than columns"),
        ("m.csv", ["path,text", 'b.wav,"open'], "line 2: not well-formed"),
        ("m.csv", ["id,path", "x,b.wav", "x,sub/c.mp3"], r"id 'x': .*line 2 and .*line 3"),
        ("m.csv", ["path,text", ",hello"], r"line 2: \(empty\)"),
        ("m.csv", ["path", "n" * 5000], "no file for 1 of 1 rows"),
        ("m.jsonl", ['{"path": "b.wav"}', "", "{path: 1}"], "line 3: not a line of JSON"),
        ("m.jsonl", ['{"path": "b.wav", "text": NaN}'], "line 1: not a line of JSON: NaN is no JSON number"),
        ("m.jsonl", ['{"path": ' + "[" * 100_000], "line 1: not a line of JSON: it is nested too deeply"),
        ("m.jsonl", ["[1, 2]"], "line 1: expected an object"),
        ("m.txt", ["b.wav"], "neither audio nor a manifest"),
    ],
)
def test_manifest_errors(tree, name, lines, message):
    with pytest.raises(AudioError, match=message):
        find_audio([write(tree / name, *lines)])


def test_missing_rows_are_listed_up_to_five(tree):
    manifest = write(tree / "m.csv", "path", "b.wav", *(f"gone{i}.wav" for i in range(7)))
    with pytest.raises(AudioError) as error:
        find_audio([manifest])
    text = str(error.value)
    assert "7 of 8 rows" in text
    assert "line 3: gone0.wav" in text
    assert "line 7: gone4.wav; ..." in text
    assert "gone5" not in text


def test_nothing_found(tree, tmp_path):
    with pytest.raises(AudioError, match="list of inputs is empty"):
        find_audio([])
    with pytest.raises(AudioError, match="no audio file, folder or manifest"):
        find_audio([tree / "gone"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="no audio file in the folder"):
        find_audio([tmp_path / "empty"])
    write(tmp_path / "empty" / "metadata.csv", "path", "gone.wav")
    with pytest.raises(AudioError, match=r"line 2: gone\.wav"):
        find_audio([tmp_path / "empty"])
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(AudioError, match="as UTF-8"):
        find_audio([tmp_path / "binary.csv"])
