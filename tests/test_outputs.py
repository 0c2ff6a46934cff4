"""What the command line writes, whatever the output can take and whatever files are called."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cli_support
import numpy as np
import pytest
import soundfile
from cli_support import run

from seen_jax.audio import write_audio
from seen_jax.cli import main

world = cli_support.world
SEEN = ["--method", "complement"]
NAMES = ["new\nline", "-dash", os.fsdecode(b"\xff\xfe"), "x" * 240, "\x1b[2Jescape", "[red]", "a  b ", "鳥😀", "\x9b1m"]
RAW = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # that no terminal may get


@pytest.fixture(scope="module")
def odd(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "clips"
    folder.mkdir()
    for name, clip in zip(NAMES, sorted(world.clips.iterdir()), strict=False):
        shutil.copy(clip, folder / f"{name}.wav")
    return folder


class Stream(io.TextIOWrapper):
    """An output of some encoding, kept after it is closed."""

    def __init__(self, encoding: str) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_names_and_answers_reach_any_output(odd, world, encoding, form, monkeypatch, capsys):
    stream = Stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    clips = [path for path in odd.iterdir() if form or len(path.name) < 100]  # a long name makes narrow columns
    argv = ["generate", *clips, "--model", world.model, "--basis", world.white, "--max-new-tokens", 4, *form]
    assert main(list(map(str, argv))) == 0
    text = stream.bytes.getvalue().decode(encoding)
    assert not RAW.search(text)
    if form:
        assert {row["id"] for row in json.loads(text)["clips"]} == set(NAMES)
    else:
        assert "\\x1b[2Jescape" in text and "[red]" in text and "new line" in text and "\\udcff" in text
        assert ("鳥" in text) == (encoding == "utf-8") and (encoding == "utf-8" or "\\u9ce5" in text)


def test_files_hold_every_name(odd, world, tmp_path):
    argv = ["score", odd, "--basis", world.white, "--model", world.model]
    assert run(*argv, "--out", tmp_path / "a.json").status == 0
    rows = json.loads((tmp_path / "a.json").read_text())["clips"]
    assert {row["id"] for row in rows} == set(NAMES)
    assert run(*argv, "--out", tmp_path / "a.csv").status == 0
    with (tmp_path / "a.csv").open(newline="") as file:
        ids = {row["id"] for row in csv.DictReader(file)}
    assert ids == {name.encode("utf-8", "backslashreplace").decode() for name in NAMES}


def test_names_with_a_dash_and_long_names(odd, world, tmp_path, monkeypatch):
    monkeypatch.chdir(odd)
    given = ["--basis", world.white, "--model", world.model, "--json"]
    assert run("score", *given, "--", "-dash.wav").data["clips"][0]["id"] == "-dash"
    assert run("score", "./-dash.wav", *given).data["clips"][0]["id"] == "-dash"
    for argv in (
        ["score", "y" * 300 + ".wav", *given],
        ["score", "-dash.wav", "--basis", "y" * 300],
        ["score", "./-dash.wav", *given, "--out", tmp_path / ("y" * 300 + ".csv")],
        ["calibrate", "./-dash.wav", "--noise", "white", "--out", "~nobody-is-called-so/" + "y" * 300],
        ["generate", "./-dash.wav", "--model", "y" * 300],
        ["evaluate", "y" * 300],
        ["inspect", "y" * 300],
        ["inspect", "~nobody-is-called-so/x"],
    ):
        wrong = run(*argv)
        assert wrong.status in (1, 2) and "unexpected" not in wrong.err, wrong.err
        assert len([line for line in wrong.err.splitlines() if line.startswith("error: ")]) == 1, wrong.err


def test_a_noise_whose_name_no_folder_may_have(odd, world, tmp_path):
    argv = ["calibrate", world.clips, "--model", world.model, "--out", tmp_path, "--noise"]
    for name in ("\x1b[2Jescape", os.fsdecode(b"\xff\xfe"), "x" * 240):
        wrong = run(*argv, odd / f"{name}.wav")
        assert wrong.status == 1 and "cannot name a file" in wrong.err and not RAW.search(wrong.err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-", ">/dev/full", "2>/dev/full", "2> >(true)"])
def test_closed_and_full_outputs(world, closed):
    argv = [sys.executable, "-m", "seen_jax.cli", "inspect", str(world.white), "--json"]
    done = subprocess.run(["bash", "-c", f'"$@" {closed}', "bash", *argv], capture_output=True, text=True)
    if closed == ">/dev/full":
        assert done.returncode == 1
        assert (
            done.stderr
            == "error: cannot write the result to stdout: No space left on device; free space, or give --out\n"
        )
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert closed.startswith(">&-") or json.loads(done.stdout)["kind"] == "calibration"


def test_without_home_terminal_or_locale(world, tmp_path):
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[1]), "LC_ALL": "C", "TERM": "dumb"}
    env |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HOME": "/nonexistent"}
    argv = [sys.executable, "-m", "seen_jax.cli", "inspect", str(world.white), "--figure", str(tmp_path / "a.png")]
    done = subprocess.run(argv, capture_output=True, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
    assert done.returncode == 0, done.stderr
    assert b"\\u2588" in done.stdout and (tmp_path / "a.png").is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file system of its own")
def test_a_read_only_folder(world, tmp_path):
    """Refused before the work."""
    argv = ["score", world.clips / "clip0.wav", "--basis", world.white, "--model", world.model, "--out"]
    wrong = run(*argv, "/proc/seen-jax/a.csv")
    assert wrong.status == 1 and wrong.err.startswith("error: cannot write /proc/seen-jax: "), wrong.err


def test_a_clip_that_is_damaged_among_many_is_left_out(world, tmp_path):
    shutil.copytree(world.clips, tmp_path / "clips")
    (tmp_path / "clips" / "clip1.wav").write_bytes(b"RIFF" + bytes(range(200)))
    write_audio(tmp_path / "clips" / "clip2.wav", np.zeros(9000))
    argv = [tmp_path / "clips", "--model", world.model, "--json"]
    score = ["score", *argv, "--basis", world.white, "--noise", "pink", "--snr", "0"]
    for command, gone in (
        (score, {"clip1", "clip2"}),
        (["generate", *argv, "--max-new-tokens", 2], {"clip1"}),
        (["calibrate", *argv, "--noise", "white", "--out", tmp_path / "memory"], {"clip1", "clip2"}),
        (["calibrate", *argv, "--noise", "white", "--stream", "--out", tmp_path / "stream"], {"clip1", "clip2"}),
    ):
        done = run(*command)
        assert {Path(one["path"]).stem for one in done.data["left_out"]} == gone
        assert all(str(tmp_path / "clips" / f"{name}.wav") in done.err for name in gone)
        assert done.err.count("warning: left out: ") == len(gone)
        rows = done.data.get("clips")
        if rows is not None:
            assert {row["id"] for row in rows} == {f"clip{i}" for i in range(12)} - gone
        strict = run(*command, "--strict", *(["--overwrite"] if command[0] == "calibrate" else []))
        assert strict.status == 1 and "clip1.wav" in strict.err.splitlines()[-1] and not strict.out
    for kept in ("memory", "stream"):
        from seen_jax.subspace import Calibration

        made = Calibration.load(tmp_path / kept / "white")
        whole = dict(
            zip(*(Calibration.load(world.white).card["data"][side] for side in ("clean", "noise")), strict=True)
        )
        assert len(made.card["data"]["clean"]) == 10
        assert all(whole[c] == n for c, n in zip(*made.card["data"].values(), strict=True)), "each keeps its noise"
    for path in (tmp_path / "clips").iterdir():
        path.write_bytes(b"")
    for command in (score, ["calibrate", *argv, "--noise", "white", "--stream", "--out", tmp_path / "none"]):
        none = run(*command)
        assert none.status == 1 and "none of the 12 clips can be used; the first: " in none.err.splitlines()[-1]


def long_clip(path: Path, hours: float = 3.0) -> Path:
    """A WAV file of some hours of silence, which takes no space on the disk."""
    samples = round(hours * 3600 * 16_000)
    soundfile.write(path, np.zeros(0), 16_000, subtype="PCM_16")
    head = bytearray(path.read_bytes())
    head[4:8] = (len(head) - 8 + 2 * samples).to_bytes(4, "little")
    head[-4:] = (2 * samples).to_bytes(4, "little")
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(len(head) + 2 * samples)
    return path


def test_a_clip_of_three_hours_is_refused_by_its_header(world, tmp_path, monkeypatch):
    from seen_jax.cli import _inputs

    clips = Path(shutil.copytree(world.clips, tmp_path / "clips"))
    path, read = long_clip(clips / "long.wav"), []
    whole = _inputs.read_audio
    monkeypatch.setattr(_inputs, "read_audio", lambda path: read.append(path.stem) or whole(path))
    words = "long.wav: the clip lasts 10800.0 s; qwen2_5_omni takes at most 300 s: cut it."
    for argv in (
        ["score", "--basis", world.white],
        ["generate", "--max-new-tokens", 2],
        ["calibrate", "--noise", "white", "--out", tmp_path / "a"],
        ["calibrate", "--noise", "white", "--stream", "--out", tmp_path / "b"],
    ):
        alone, among = ([argv[0], clip, *argv[1:], "--model", world.model, "--json"] for clip in (path, clips))
        refused = run(*alone)
        assert refused.status == 1 and words in refused.err.splitlines()[-1]
        (one,) = run(*among).data["left_out"]
        assert one["path"] == str(path) and words in one["reason"]
    assert "clip0" in read and "long" not in read


def test_copies_of_one_clip_are_a_finding(world, tmp_path):
    for i in range(12):
        shutil.copy(world.clips / "clip0.wav", tmp_path / f"{i}.wav")
    argv = ["calibrate", tmp_path, "--noise", "white", "--model", world.model, "--out", tmp_path / "out", "--json"]
    done = run(*argv)
    found = {one["code"]: one for one in done.data["calibrations"][0]["findings"]}
    assert found["repeated-clips"]["severity"] == "warning"
    assert "11 of 12 clean clips are copies" in found["repeated-clips"]["message"] and "repeated-clips" in done.err
