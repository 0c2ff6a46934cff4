"""Careless inputs through the real command line: each ends with one `error:` line that names the culprit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cli_support
import numpy as np
import pytest
import soundfile
from cli_support import SIZE, Outcome, make_model, run

from seen_jax.subspace import Calibration, save_released

world = cli_support.world
TEMPORARY, CLIPS, MODEL, BASIS = "{tmp}", "{clips}", "{model}", "{basis}"


@pytest.fixture(scope="module")
def bad(world, tmp_path_factory) -> Path:
    """A folder of broken things."""
    folder = tmp_path_factory.mktemp("bad")
    good = (world.clips / "clip0.wav").read_bytes()
    (folder / "empty_folder").mkdir()
    (folder / "corrupt.wav").write_bytes(b"RIFF" + bytes(range(200)))
    (folder / "truncated.wav").write_bytes(good[: len(good) // 2])
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "no_samples.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(folder / "nan.wav", np.array([0.1, np.nan, 0.2], np.float32), 16_000, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", np.zeros(8000, np.float32), 16_000)
    soundfile.write(folder / "short.wav", np.full(2000, 0.1, np.float32), 16_000)
    soundfile.write(folder / "long.wav", np.full(16_000 * 301, 0.1, np.float32), 16_000)
    (folder / "notes.txt").write_text("no audio")
    (folder / "no_audio_column.csv").write_text("name,text\nclip0,hello\n")
    (folder / "missing_file.csv").write_text("path\ngone.wav\n")
    (folder / "not.jsonl").write_text("{path: clip0.wav}\n")
    (folder / "misspelt.yaml").write_text("joint: {stepz: 3}\n")
    (folder / "wrong_type.yaml").write_text("joint: {steps: many}\n")
    (folder / "broken.yaml").write_text("seed: 1\njoint: {steps: 3\n")
    (folder / "list.yaml").write_text("- seed\n")
    (folder / "fine.yaml").write_text(f"out: {folder / 'run'}\ndata: {{folder: {folder / 'data'}}}\n")
    _break_models(folder, world)
    _break_calibrations(folder, world)
    return folder


def _break_models(folder: Path, world) -> None:
    copy = lambda name: Path(shutil.copytree(world.model, folder / name))
    (copy("no_weights") / "model.safetensors").unlink()
    weights = copy("truncated_model") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for file in copy("no_tokenizer").glob("tokenizer*"):
        file.unlink()
    (copy("no_config") / "config.json").unlink()
    (copy("not_json") / "config.json").write_text("{")
    config = copy("other_family") / "config.json"
    config.write_text(config.read_text().replace('"qwen2_5_omni_thinker"', '"llama"'))
    make_model(folder / "other_model", seed=1)
    make_model(folder / "wider_model", size=replace(SIZE, encoder_width=64))


def _break_calibrations(folder: Path, world) -> None:
    copy = lambda name: Path(shutil.copytree(world.white, folder / name))
    (copy("no_statistics") / "statistics.safetensors").unlink()
    tensors = copy("truncated_calibration") / "statistics.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    (copy("no_card") / "card.json").unlink()
    (copy("broken_card") / "card.json").write_text("{")
    basis = Calibration.load(world.white).select()
    basis.save(folder / "saved_basis")
    (folder / "damaged.pt").write_bytes(save_released(basis.with_layers("all"), folder / "good.pt").read_bytes()[:300])
    for name in ("several/white", "several/pink"):
        copy(name)
    (folder / "in_use" / "white").mkdir(parents=True)
    (folder / "in_use" / "white" / "thesis.txt").write_text("precious")


SCORE = ("score", CLIPS, "--basis", BASIS, "--model", MODEL)
GENERATE = ("generate", CLIPS, "--model", MODEL)
CALIBRATE = ("calibrate", CLIPS, "--noise", "white", "--out", f"{TEMPORARY}/out", "--model", MODEL)


def clean(what: str) -> tuple[str, ...]:
    return ("calibrate", what, *CALIBRATE[2:])


def noise(spec: str) -> tuple[str, ...]:
    return (*CALIBRATE[:3], spec, *CALIBRATE[4:])


# Arguments, exit status, and what the error line must name. {bad} is the folder of broken things.
CASES: list[tuple[tuple[str, ...], int, tuple[str, ...]]] = [
    # tasks
    ((*GENERATE, "--task", "poetry"), 2, ("--task", "transcription")),
    ((*GENERATE, "--task", "multiple_choice"), 1, ("needs a question",)),
    ((*GENERATE, "--task", "transcription", "--prompt", "what?"), 1, ("leave out --prompt",)),
    # audio
    (clean("{bad}/gone.wav"), 1, ("{bad}/gone.wav",)),
    (clean("{bad}/empty_folder"), 1, ("no audio file", "{bad}/empty_folder")),
    (clean("{bad}/*.mp3"), 1, ("{bad}/*.mp3",)),
    (clean("{bad}/corrupt.wav"), 1, ("Cannot decode", "{bad}/corrupt.wav")),
    (clean("{bad}/truncated.wav"), 1, ("truncated", "{bad}/truncated.wav")),
    (clean("{bad}/empty.wav"), 1, ("{bad}/empty.wav",)),
    (clean("{bad}/no_samples.wav"), 1, ("no samples", "{bad}/no_samples.wav")),
    (clean("{bad}/nan.wav"), 1, ("NaN", "{bad}/nan.wav")),
    (clean("{bad}/silent.wav"), 1, ("digital silence", "{bad}/silent.wav")),
    (clean("{bad}/notes.txt"), 1, ("neither audio nor a manifest", "{bad}/notes.txt")),
    (clean("{bad}/no_audio_column.csv"), 1, ("no audio column", "{bad}/no_audio_column.csv")),
    (clean("{bad}/missing_file.csv"), 1, ("{bad}/missing_file.csv", "line 2: gone.wav")),
    (clean("{bad}/not.jsonl"), 1, ("{bad}/not.jsonl line 1",)),
    (("score", "{bad}/long.wav", *SCORE[2:]), 1, ("{bad}/long.wav", "301.0 s", "at most 300 s")),
    # noises and levels
    (noise("pinc"), 1, ("'pinc'", "did you mean 'pink'?")),
    (noise("{bad}/gone.wav"), 1, ("{bad}/gone.wav",)),
    (noise("{bad}/silent.wav"), 1, ("{bad}/silent.wav", "digital silence")),
    (noise("{bad}/short.wav"), 1, ("{bad}/short.wav", "too short")),
    (noise("{bad}/empty_folder#rain"), 1, ("{bad}/empty_folder",)),
    (noise("{bad}/empty_folder"), 1, ("no audio file", "{bad}/empty_folder")),
    ((*CALIBRATE, "--noise", "pink", "white"), 1, ("two noises are called white",)),
    ((*CALIBRATE, "--snr", "loud"), 2, ("--snr", "'loud'")),
    ((*CALIBRATE, "--snr", "nan"), 2, ("--snr", "'nan'")),
    ((*CALIBRATE, "--snr", "-500"), 1, ("SNR", "-500")),
    ((*SCORE, "--noise", "white", "--snr", "-10,high"), 2, ("--snr", "-10,high")),
    ((*SCORE, "--noise", "white", "--snr", "0,nan"), 2, ("--snr is '0,nan'",)),
    ((*SCORE, "--noise", "white", "--snr", "0,500"), 1, ("SNR", "500")),
    ((*GENERATE, "--snr", "3"), 1, ("--snr needs a --noise",)),
    # places and counts
    ((*CALIBRATE, "--site", "encoder.mlp_akt"), 1, ("'encoder.mlp_akt'", "Did you mean 'encoder.mlp_act'?")),
    ((*CALIBRATE, "--clips", "-3"), 2, ("--clips", "-3")),
    ((*CALIBRATE, "--seed", "-1"), 2, ("--seed", "-1")),
    ((*GENERATE, "--seed", "9223372036854775808"), 2, ("--seed is 9223372036854775808", "9223372036854775807")),
    ((*CALIBRATE, "--batch-size", "0"), 2, ("--batch-size", "0")),
    ((*CALIBRATE, "--batchsize", "4"), 2, ("--batchsize", "Did you mean --batch-size?")),
    # models
    ((*CALIBRATE, "--model", "{bad}/gone"), 1, ("{bad}/gone",)),
    ((*CALIBRATE, "--model", "{bad}/notes.txt"), 1, ("{bad}/notes.txt", "is a file")),
    ((*CALIBRATE, "--model", "{bad}/no_weights"), 1, ("{bad}/no_weights", "model.safetensors")),
    ((*CALIBRATE, "--model", "{bad}/truncated_model"), 1, ("{bad}/truncated_model", "damaged")),
    ((*GENERATE, "--model", "{bad}/no_tokenizer"), 1, ("{bad}/no_tokenizer", "tokenizer")),
    ((*CALIBRATE, "--model", "{bad}/no_config"), 1, ("{bad}/no_config/config.json",)),
    ((*CALIBRATE, "--model", "{bad}/not_json"), 1, ("{bad}/not_json/config.json", "JSON")),
    ((*CALIBRATE, "--model", "{bad}/other_family"), 1, ("llama", "Supported: audioflamingo3")),
    ((*CALIBRATE, "--dtype", "int8"), 2, ("--dtype", "int8", "bfloat16")),
    ((*CALIBRATE, "--mesh.tensor", "64"), 1, ("mesh", "data 1 x tensor 64 needs 64 devices; there")),
    ((*CALIBRATE, "--mesh.data", "0"), 1, ("mesh", "0 x 1")),
    ((*CALIBRATE, "--mesh.tensor", "four"), 2, ("--mesh.tensor", "'four'")),
    ((*CALIBRATE, "--mesh.tensors", "4"), 2, ("--mesh.tensors", "Did you mean --mesh.tensor?")),
    (("models", "{bad}/gone"), 1, ("{bad}/gone",)),
    # outputs
    ((*CALIBRATE, "--out", "{bad}/in_use"), 1, ("{bad}/in_use/white", "card.json")),
    ((*CALIBRATE, "--out", "{bad}/in_use", "--overwrite"), 1, ("{bad}/in_use/white", "card.json")),
    ((*CALIBRATE, "--out", BASIS), 1, (BASIS, "is a calibration or basis itself")),
    ((*CALIBRATE, "--out", "{bad}/notes.txt"), 1, ("{bad}/notes.txt", "is a file")),
    ((*CALIBRATE, "--out", "{bad}/notes.txt/below"), 1, ("{bad}/notes.txt", "is a file")),
    ((*SCORE, "--out", "{bad}/notes.txt/a.csv"), 1, ("{bad}/notes.txt", "is a file")),
    ((*SCORE, "--out", "{bad}/missing_file.csv"), 1, ("{bad}/missing_file.csv exists", "--overwrite")),
    ((*GENERATE, "--out", "a.xlsx"), 1, ("a.xlsx", ".csv or .json")),
    ((*SCORE, "--out", "a.xlsx"), 1, ("a.xlsx", ".csv or .json")),
    (("inspect", BASIS, "--figure", "curves.bmp"), 1, ("curves.bmp", ".png")),
    (("inspect", "{bad}/saved_basis", "--figure", "{bad}/a.png"), 1, ("{bad}/saved_basis", "only a calibration")),
    # calibrations and bases
    ((*SCORE, "--basis", "{bad}/gone"), 1, ("{bad}/gone",)),
    ((*SCORE, "--basis", "{bad}/notes.txt"), 1, ("{bad}/notes.txt is a file",)),
    ((*SCORE, "--basis", "{bad}/gone.pt"), 1, ("{bad}/gone.pt",)),
    ((*SCORE, "--basis", "{bad}/damaged.pt"), 1, ("{bad}/damaged.pt", "damaged")),
    (
        (*SCORE, "--basis", "{bad}/good.pt", "--model", "{bad}/wider_model"),
        1,
        ("good.pt", "width 128 (the model: 256)"),
    ),
    ((*SCORE, "--basis", "{bad}/good.pt", "--delta", "0.2"), 1, ("{bad}/good.pt", "--delta")),
    ((*SCORE, "--basis", "{bad}/good.pt"), 1, ("good.pt", "--of-model NAME")),
    (
        (*SCORE, "--basis", "{bad}/good.pt", "--of-model", "org/other"),
        1,
        ("good.pt", "made for org/other", "--any-model"),
    ),
    ((*SCORE, "--basis", "{bad}/no_card"), 1, ("{bad}/no_card", "card.json")),
    ((*SCORE, "--basis", "{bad}/broken_card"), 1, ("{bad}/broken_card/card.json",)),
    ((*SCORE, "--basis", "{bad}/no_statistics"), 1, ("{bad}/no_statistics/statistics.safetensors is missing",)),
    (
        (*SCORE, "--basis", "{bad}/truncated_calibration"),
        1,
        ("{bad}/truncated_calibration/statistics.safetensors is damaged",),
    ),
    (
        (*SCORE, "--basis", "{bad}/several"),
        1,
        ("{bad}/several holds several calibrations (pink, white)", "{bad}/several/pink"),
    ),
    ((*SCORE, "--model", "{bad}/other_model"), 1, (BASIS, "model fingerprint")),
    ((*SCORE, "--model", "{bad}/wider_model"), 1, (BASIS, "width 128 (the model: 256)")),
    ((*SCORE, "--basis", "{bad}/saved_basis", "--delta", "0.2"), 1, ("{bad}/saved_basis", "--delta")),
    # selections
    ((*SCORE, "--layers", "0,7"), 1, ("layers [7] do not exist",)),
    ((*SCORE, "--layers", "last_thrid"), 2, ("--layers", "'last_thrid'", "last_third")),
    ((*SCORE, "--delta", "1.5"), 1, ("delta", "1.5")),
    ((*SCORE, "--delta", "small"), 2, ("--delta", "'small'")),
    ((*SCORE, "--semantic-alpha", "95"), 1, ("semantic_alpha", "95.0")),
    ((*SCORE, "--remainder", "0"), 1, ("remainder", "0.0")),
    ((*SCORE, "--method", "both"), 2, ("--method", "'both'", "complement")),
    ((*SCORE, "--energy", "sigma3"), 2, ("--energy", "'sigma3'", "sigma2")),
    ((*GENERATE, "--delta", "0.2"), 1, ("--delta", "--basis")),
    # generation
    ((*GENERATE, "--basis", BASIS, "--strength", "inf"), 2, ("--strength", "'inf'")),
    ((*GENERATE, "--temperature", "-1"), 1, ("temperature", "-1.0")),
    ((*GENERATE, "--top-p", "0"), 1, ("top_p", "0.0")),
    ((*GENERATE, "--top-k", "-2"), 1, ("top_k", "-2")),
    ((*GENERATE, "--max-new-tokens", "0"), 1, ("max_new_tokens", "0")),
    ((*GENERATE, "--as-published", "--top-k", "2"), 1, ("--as-published", "--top-k", "leave out one")),
    ((*GENERATE, "--prompt", "  "), 1, ("--prompt is empty",)),
    ((*GENERATE, "--prompt", "<|AUDIO|>"), 1, ("2 audio places", "1 clips")),
    # configurations
    (("train", "{bad}/gone.yaml"), 1, ("{bad}/gone.yaml",)),
    (("train", "{bad}/misspelt.yaml"), 1, ("{bad}/misspelt.yaml", "'joint.stepz'", "Did you mean 'joint.steps'?")),
    (("train", "{bad}/wrong_type.yaml"), 1, ("{bad}/wrong_type.yaml", "joint.steps is 'many'", "expected int")),
    (("train", "{bad}/broken.yaml"), 1, ("{bad}/broken.yaml, line 3", "not valid YAML")),
    (("train", "{bad}/list.yaml"), 1, ("{bad}/list.yaml", "not a list")),
    (("train", "{bad}/fine.yaml", "--join.steps", "3"), 1, ("--join.steps", "Did you mean 'joint'?")),
    (("train", "{bad}/fine.yaml", "--joint.steps", "3.5"), 1, ("joint.steps is '3.5'", "expected int")),
    (("train", "{bad}/fine.yaml", "--out", "{bad}/notes.txt/run"), 1, ("{bad}/notes.txt is a file",)),
    (("demo", "--config", "{bad}/gone.yaml"), 1, ("{bad}/gone.yaml",)),
    (("demo", "--config", "{bad}/fine.yaml"), 1, ("{bad}/fine.yaml", "unknown key 'data'")),
]


def check(outcome: Outcome, status: int, parts: tuple[str, ...]) -> None:
    assert outcome.status == status, outcome.err
    errors = [line for line in outcome.err.splitlines() if "error:" in line]
    assert len(errors) == 1, outcome.err
    assert errors[0].startswith("error: ")
    for part in parts:
        assert part in errors[0]
    assert "Traceback" not in outcome.err + outcome.out
    assert "unexpected" not in errors[0]
    assert not outcome.out


@pytest.fixture
def fill(world, bad, tmp_path) -> Callable[[str], str]:
    """Put the folders into an argument or message."""
    places = {"tmp": tmp_path, "bad": bad, "clips": world.clips / "clip0.wav", "model": world.model}
    places["basis"] = world.white

    def put(text: str) -> str:
        for name, path in places.items():
            text = text.replace(f"{{{name}}}", str(path))
        return text

    return put


@pytest.mark.parametrize(("argv", "status", "parts"), CASES, ids=[" ".join(c[0]) for c in CASES])
def test_one_line_names_the_culprit(argv, status, parts, fill, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check(run(*map(fill, argv)), status, tuple(map(fill, parts)))
    assert not list(tmp_path.iterdir()), "nothing was left behind"


def test_nothing_that_was_there_is_touched(fill, bad):
    run(*map(fill, (*CALIBRATE, "--out", "{bad}/in_use", "--overwrite")))
    assert [p.name for p in (bad / "in_use" / "white").iterdir()] == ["thesis.txt"]


def test_a_damaged_calibration_in_the_way_can_be_replaced(fill, tmp_path, bad):
    shutil.copytree(bad / "truncated_calibration", tmp_path / "out" / "white")
    argv = [fill(a) for a in CALIBRATE]
    check(run(*argv), 1, (str(tmp_path / "out" / "white"), "--overwrite replaces it"))
    assert run(*argv, "--overwrite").status == 0
    assert Calibration.load(tmp_path / "out" / "white").statistics.clean.shape[1] == 1


def test_training_without_its_extra_says_how_to_install_it(fill, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    check(run("train", fill("{bad}/fine.yaml")), 1, ('pip install "seen-jax[train]"',))


def test_a_folder_without_permission(fill, monkeypatch):
    """Root may write everywhere, so the refusal itself is simulated."""
    monkeypatch.setattr("seen_jax.cli._output.os.access", lambda *_: False)
    check(run(*map(fill, CALIBRATE)), 1, ("no permission to write in",))


def test_a_full_disk(fill, monkeypatch):
    def full(self: Path, _: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    check(run(*map(fill, ("inspect", BASIS, "--figure", "{tmp}/a.png"))), 1, ("a.png", "No space left on device"))


def test_out_of_memory_says_what_helps(fill, monkeypatch):
    def explode(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12345 bytes")

    monkeypatch.setattr("seen_jax.api.score", explode)
    check(run(*map(fill, SCORE)), 1, ("out of memory", "--batch-size"))


def test_a_fault_of_ours_is_one_line_too(fill, monkeypatch):
    def explode(*_, **__):
        raise ZeroDivisionError("division by zero\nand more")

    monkeypatch.setattr("seen_jax.api.score", explode)
    argv = [fill(a) for a in SCORE]
    broken = run(*argv)
    assert broken.status == 1
    expected = "error: unexpected ZeroDivisionError: division by zero; run again with --debug for the traceback"
    assert broken.err.splitlines()[-1] == expected
    assert "Traceback" not in broken.err
    assert "Traceback" in run(*argv, "--debug").err


def test_debug_shows_the_traceback(fill):
    shown = run(*map(fill, ("inspect", "{bad}/gone", "--debug")))
    assert shown.status == 1
    assert "Traceback (most recent call last)" in shown.err
    assert [line for line in shown.err.splitlines() if line.startswith("error: ")] == [shown.err.splitlines()[-1]]


def test_json_errors_leave_stdout_empty(fill):
    check(run(*map(fill, (*SCORE, "--basis", "{bad}/gone", "--json"))), 1, (fill("{bad}/gone"),))


@pytest.mark.parametrize("index", [0, 19, 50])
def test_the_same_in_a_process_of_its_own(index, fill):
    argv, status, parts = CASES[index]
    command = [sys.executable, "-m", "seen_jax.cli", *map(fill, argv)]
    done = subprocess.run(command, capture_output=True, text=True)
    check(Outcome(done.returncode, done.stdout, done.stderr), status, tuple(map(fill, parts)))


def test_a_clip_of_digital_silence_can_be_scored(world, bad):
    """It has no SNR, but it is audio."""
    argv = ["score", bad / "silent.wav", "--basis", world.white, "--model", world.model, "--json"]
    assert json.loads(run(*argv).out)["clips"][0]["see"] >= 0
