"""The command line as a user meets it: calibrate, inspect, score, generate on a tiny random model."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cli_support
import numpy as np
import pytest
from cli_support import make_clips, run

from seen_jax import __version__
from seen_jax.audio import find_audio, mix_at_snr, noise_source, read_audio
from seen_jax.cli import COMMANDS
from seen_jax.subspace import Calibration, Selection

world = cli_support.world
SEEN = ["--method", "complement"]  # a reading whose basis is not empty on a random model


def program(*argv, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "seen_jax.cli", *map(str, argv)], capture_output=True, text=True, **options
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name):
    shown = run(name, "--help")
    assert shown.status == 0
    module = importlib.import_module(f"seen_jax.cli.{name}")
    assert module.__doc__.splitlines()[0] in shown.out
    for line in module.EXAMPLES.strip().splitlines():
        assert line in shown.out
    assert {"--json", "--debug"} <= set(re.findall(r"--\w+", shown.out))
    assert "function" not in shown.out
    assert not shown.err


def test_help_and_version():
    shown = run("--help")
    assert all(f"  {name} " in shown.out for name in COMMANDS)
    assert run("--version").out == f"seen-jax {__version__}\n"


def test_start_up_is_quick_because_nothing_heavy_is_imported():
    heavy = "jax", "transformers", "scipy", "librosa", "matplotlib", "rich", "flax"
    code = f"import sys, seen_jax.cli as c; c.main(sys.argv[1:]); print([m for m in {heavy} if m in sys.modules])"
    for argv in (["--help"], ["calibrate", "--help"], ["train", "--help"], ["demo", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", argv
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])  # CPU time: others use it too
    start = used()
    assert program("--help").returncode == 0
    assert used() - start < 1.0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["scoer"], "unknown command 'scoer': did you mean score?"),
        (["--debug", "score"], "unknown option --debug"),
        (["generate", "x", "--basi", "y"], "Did you mean --basis?"),
        (["score", "x"], "one of the arguments --basis --blind is required"),
        (["inspect"], "required: folder"),
    ],
)
def test_wrong_usage_exits_with_2(argv, message):
    wrong = run(*argv)
    assert wrong.status == 2
    assert message in wrong.err
    assert not wrong.out


def test_every_field_of_a_selection_is_an_option():
    from seen_jax.cli._parser import Parser, selection_fields

    parser = Parser("seen-jax x", "", "")
    parser.add_selection()
    given = shlex.split(
        "--method complement --delta 0.2 --semantic-alpha 0.9 --noise-alpha 0.8 --energy sigma --center "
        "--noise-source difference --remainder 0.2 --absolute false --layers 1,2"
    )
    assert Selection(**selection_fields(parser.parse_args(given))) == Selection(
        0.9, 0.8, 0.2, "complement", "sigma", True, "difference", 0.2, False, (1, 2)
    )
    assert selection_fields(parser.parse_args([])) == {}
    assert selection_fields(parser.parse_args(["--layers", "all"])) == {"layers": "all"}
    shown = " ".join(run("score", "--help").out.split())
    assert "--noise-source pure|difference" in shown and "(default 0.95)" in shown
    assert "remains, 0.001 to 1 (default 0.3)" in shown, "the docstring of Selection, over two lines"


def test_calibrate_writes_one_folder_per_noise(world, tmp_path):
    folder = tmp_path / "noises"
    make_clips(folder, 3)
    argv = ["calibrate", world.clips, "--noise", "pink", world.crowd, "--noise", folder, "--out", tmp_path / "out"]
    argv += ["--model", world.model, "--clips", 11, "--snr", "-5", "--json"]
    entries = run(*argv).data["calibrations"]
    assert [e["noise"] for e in entries] == ["pink", "crowd", "noises"]
    for entry in entries:
        calibration = Calibration.load(entry["folder"])
        assert (calibration.card["snr_db"], entry["clips"], entry["kept"]) == (-5.0, 11, False)
        assert calibration.statistics.clean.shape == (2, 11, 128)
        assert entry["ranks"] == list(calibration.select().ranks)
        assert entry["first_layer"] == calibration.localization().first
        assert {f["code"] for f in entry["findings"]} <= {"empty-basis", "no-layer-found", "noise-not-above-clean",
                                                          "rank-limited", "semantic-basis", "empty-layers"}  # fmt: skip


def test_calibrating_again_keeps_what_is_complete(world, tmp_path):
    argv = ["calibrate", world.clips, "--noise", "white", "--out", tmp_path, "--model", world.model, "--clips", 4]
    first = run(*argv)
    assert "too-few-clips" in first.out, "findings are part of the table"
    written = (tmp_path / "white" / "statistics.safetensors").stat().st_mtime_ns
    again = run(*argv, "--json")
    assert again.data["calibrations"][0]["kept"]
    assert "made from the same data: kept" in again.err
    assert "warning: " in again.err and "too-few-clips" in again.err
    assert (tmp_path / "white" / "statistics.safetensors").stat().st_mtime_ns == written
    other = run(*argv, "--seed", 1)
    assert other.status == 1
    assert "was made with another noise" in other.err
    replaced = run(*argv, "--seed", 1, "--overwrite", "--json")
    assert not replaced.data["calibrations"][0]["kept"]
    assert Calibration.load(tmp_path / "white").card["seed"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["white"]


def test_an_interrupted_calibration_goes_on(world, tmp_path, monkeypatch):
    from seen_jax import api

    whole, calls = api.calibrate, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    argv = ["calibrate", world.clips, "--noise", "white", "pink", "--out", tmp_path, "--model", world.model]
    monkeypatch.setattr(api, "calibrate", interrupted)
    stopped = run(*argv, "--clips", 3)
    assert (stopped.status, stopped.err.splitlines()[-1]) == (130, "interrupted")
    entries = run(*argv, "--clips", 3, "--json").data["calibrations"]
    assert [entry["kept"] for entry in entries] == [True, False]


def test_shards_that_are_streamed_and_merged_are_the_whole(world, tmp_path):
    argv = ["calibrate", world.clips, "--noise", "white", "--model", world.model, "--stream", "--json"]
    for k in (1, 2):
        entry = run(*argv, "--shard", f"{k}/2", "--out", tmp_path / f"{k}").data["calibrations"][0]
        assert entry["clips"] == 6
    merge = ["merge", tmp_path / "1" / "white", tmp_path / "2", "--out", tmp_path / "both"]
    entry = run(*merge, "--json").data
    whole, own = Calibration.load(world.white), Calibration.load(tmp_path / "both")
    assert (entry["clips"], entry["noise"]) == (12, "white")
    assert sorted(own.card["data"]["noise"]) == sorted(whole.card["data"]["noise"]), "noise goes with the clip's index"
    selection = Selection(method="complement", noise_source="difference", layers="all")
    assert own.select(selection).ranks == whole.select(selection).ranks
    assert run("score", world.clips / "clip0.wav", "--basis", tmp_path / "both", *SEEN, "--model", world.model).out
    assert "exists" in run(*merge).err and run(*merge, "--overwrite").status == 0
    again = run("merge", tmp_path / "both", tmp_path / "1", "--out", tmp_path / "twice")
    assert (
        again.status == 1 and "6 clean clips are in more than one" in again.err and f"{tmp_path}/1/white" in again.err
    )
    assert run(*argv, "--out", tmp_path / "1").status == 1, "the whole is not kept as a shard"
    for wrong in (("--shard", "3/2"), ("--shard", "x")):
        assert run(*argv, *wrong, "--out", tmp_path / "x").status == 2
    assert "--shard needs --stream" in run(*argv[:-2], "--shard", "1/2", "--out", tmp_path / "x").err
    assert "holds none" in run(*argv, "--shard", "13/13", "--out", tmp_path / "x").err


def test_an_interrupted_stream_goes_on(world, tmp_path, monkeypatch):
    from seen_jax import api, calibrating
    from seen_jax.cli import _inputs

    whole, read, asked = api.calibrate_stream, _inputs.read_clip, []

    def stopping(item, *args):
        asked.append(item.id)
        if len(asked) > 8:
            raise KeyboardInterrupt
        return read(item, *args)

    argv = ["calibrate", world.clips, "--noise", "white", "--model", world.model, "--stream", "--batch-size", 3]
    argv += ["--out", tmp_path / "out"]
    monkeypatch.setattr(api, "calibrate_stream", lambda *args, **options: whole(*args, **options, seconds=0))
    monkeypatch.setattr(calibrating, "SAVE_SHARE", 0)
    monkeypatch.setattr(_inputs, "read_clip", stopping)
    assert run(*argv).status == 130
    assert Calibration.load(tmp_path / "out" / "white.partial").source.shape[1] == 6
    other = run(*argv, "--seed", 1)
    assert other.status == 1 and "white.partial exists and was made with another noise" in other.err
    asked.clear()
    monkeypatch.setattr(_inputs, "read_clip", lambda item, *args: asked.append(item.id) or read(item, *args))
    done = run(*argv, "--json")
    assert done.data["calibrations"][0]["clips"] == 12 and "6 of 12 clips are done" in done.err
    assert len(asked) == 6, "the first six are not read again"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["white"]
    assert run(*argv, "--json").data["calibrations"][0]["kept"]
    known, resumed = Calibration.load(world.white), Calibration.load(tmp_path / "out" / "white")
    assert resumed.card["data"] == known.card["data"]


def test_inspect_shows_what_the_library_says(world, tmp_path):
    calibration = Calibration.load(world.white)
    data = run("inspect", world.white, *SEEN, "--layers", "0,1", "--json").data
    basis = calibration.select(Selection(method="complement", layers=(0, 1)))
    assert (data["ranks"], data["layers"]) == (list(basis.ranks), [0, 1])
    np.testing.assert_allclose(data["magnitude"], calibration.curves().magnitude, rtol=1e-6)
    assert data["selection"]["method"] == "complement"
    shown = run("inspect", world.calibrations, "--figure", tmp_path / "curves.png")
    assert shown.status == 0, "the only calibration in a folder needs no name"
    assert calibration.card["fingerprint"] in shown.out
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    basis.save(tmp_path / "basis")
    again = run("inspect", tmp_path / "basis", "--layers", "0", "--json").data
    assert (again["kind"], again["ranks"], again["layers"]) == ("noise basis", list(basis.ranks), [0])


def test_score_equals_the_library(world, tmp_path):
    import seen_jax

    model = seen_jax.load(world.model)
    basis = Calibration.load(world.white).select(Selection(method="complement"))
    items = find_audio([world.clips])
    expected = [s.see for s in seen_jax.score(model, [read_audio(i.path) for i in items], basis)]
    argv = ["score", world.clips, "--model", world.model, "--out", tmp_path / "a.json"]
    data = run(*argv, "--basis", world.white, *SEEN, "--json").data
    assert [row["id"] for row in data["clips"]] == [item.id for item in items]
    np.testing.assert_allclose([row["see"] for row in data["clips"]], expected, rtol=1e-5)
    assert data["means"] == [{"snr_db": None, "see": pytest.approx(np.mean(expected), rel=1e-5)}]
    assert data["trend"] is None
    assert json.loads((tmp_path / "a.json").read_text()) == data
    basis.save(tmp_path / "basis")
    saved = run("score", world.clips, "--model", world.model, "--basis", tmp_path / "basis", "--json").data
    assert [row["see"] for row in saved["clips"]] == [row["see"] for row in data["clips"]]


def test_score_over_snrs(world, tmp_path):
    argv = ["score", world.clips / "clip0.wav", world.clips / "clip1.wav", "--basis", world.white, *SEEN]
    argv += ["--noise", "pink", "--model", world.model]
    out = tmp_path / "new" / "a.csv"
    data = run(*argv, "--snr", "-10,0,10,30", "--out", out, "--json").data
    assert [m["snr_db"] for m in data["means"]] == [None, -10.0, 0.0, 10.0, 30.0]
    assert len(data["clips"]) == 10
    by_snr = {row["snr_db"]: row["see"] for row in data["clips"] if row["id"] == "clip0"}
    assert abs(by_snr[30.0] - by_snr[None]) < 0.1 * abs(by_snr[-10.0] - by_snr[None]), "30 dB is nearly clean"
    lines = out.read_text().splitlines()
    assert lines[0].startswith("id,path,snr_db,see,see_layer_0,see_layer_1,energy_layer_0")
    assert len(lines) == 11
    table = run(*argv, "--snr", "-10,0,10,30")
    assert data["trend"]["words"] in table.out


def test_the_trend_in_words():
    from seen_jax.cli.score import trend

    snrs = [-10.0, 0.0, 10.0, 20.0]
    assert trend(snrs, [0.4, 0.3, 0.2, 0.1])["words"].startswith("SEE rises with noise (")
    assert trend(snrs, [0.1, 0.2, 0.3, 0.4])["words"].startswith("SEE falls with noise")
    assert trend(snrs, [0.2, 0.1, 0.3, 0.15])["words"].startswith("SEE neither")
    assert trend(snrs, [0.4, 0.1, 0.2, 0.3])["spearman"] == pytest.approx(-0.2)
    assert trend(snrs, [0.0] * 4) == {"spearman": None, "words": trend(snrs, [0.0] * 4)["words"]}
    assert "at least three" in trend(snrs[:2], [0.1, 0.2])["words"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_calibration_and_a_measurement_use_different_recordings(world, tmp_path, kind, monkeypatch):
    """Two halves of a file, and different files of a folder: the noise of a test is never that of its calibration."""
    from seen_jax.audio import NoiseSource

    parts, clip = set(), NoiseSource.clip
    monkeypatch.setattr(
        NoiseSource, "clip", lambda self, i, n, seed, part="test": parts.add(part) or clip(self, i, n, seed, part)
    )
    noise = world.crowd if kind == "file" else make_clips(tmp_path / "crowds", 4)
    argv = [world.clips / "clip0.wav", world.clips / "clip1.wav", "--noise", noise, "--model", world.model]
    assert run("calibrate", *argv, "--out", tmp_path / "out").status == 0
    assert parts == {"calibration"}
    parts.clear()
    assert run("score", *argv, "--basis", tmp_path / "out", *SEEN, "--snr", "0").status == 0
    assert parts == {"test"}


def test_a_corpus_with_parts_is_a_noise(world, tmp_path):
    folder = make_clips(tmp_path / "street", 4)
    argv = ["calibrate", world.clips, "--noise", f"{folder}#clip0,clip1", "--model", world.model, "--clips", 2]
    (entry,) = run(*argv, "--out", tmp_path / "out", "--json").data["calibrations"]
    assert entry["noise"] == "street-clip0-clip1"
    assert Calibration.load(entry["folder"]).card["noise"] == entry["noise"]
    assert run(*argv, "--out", tmp_path / "out", "--json").data["calibrations"][0]["kept"]


def test_generate_with_and_without_seen(world, tmp_path):
    import seen_jax

    (tmp_path / "m.csv").write_text(
        f"path,question\n{world.clips / 'clip0.wav'},which bird\n{world.clips / 'clip1.wav'},\n"
    )
    argv = ["generate", tmp_path / "m.csv", "--model", world.model, "--max-new-tokens", 4, "--prompt", "name it"]
    argv += ["--noise", "white", "--snr", "5", "--json"]
    data = run(*argv, "--basis", world.white, *SEEN).data
    assert [row["prompt"] for row in data["clips"]] == ["which bird", "name it"], "a manifest's prompt wins"
    model, basis = seen_jax.load(world.model), Calibration.load(world.white).select(Selection(method="complement"))
    clips = [read_audio(world.clips / f"clip{i}.wav") for i in range(2)]
    noisy = [mix_at_snr(c, noise_source("white").clip(i, len(c), 0), 5.0).audio for i, c in enumerate(clips)]
    decoding = seen_jax.Decoding(max_new_tokens=4)
    plain = seen_jax.generate(model, noisy, ["which bird", "name it"], decoding=decoding)
    edited = seen_jax.generate(model, noisy, ["which bird", "name it"], basis, decoding=decoding)
    assert [row["answer"] for row in data["clips"]] == [a.text for a in plain]
    assert [row["answer_seen"] for row in data["clips"]] == [a.text for a in edited]
    for row in data["clips"]:
        assert 0 <= row["see_after"] < row["see"] <= 1
    plain_only = run(*argv).data
    assert [set(row) for row in plain_only["clips"]] == [{"id", "path", "prompt", "answer", "finished"}] * 2
    saved = run(*argv[:-1], "--basis", world.white, *SEEN, "--out", tmp_path / "new" / "answers.csv")
    assert f"written: {tmp_path}/new/answers.csv" in saved.err
    with (tmp_path / "new" / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["answer_seen"] for row in rows] == [row["answer_seen"] for row in data["clips"]]
    assert [float(row["see"]) for row in rows] == [row["see"] for row in data["clips"]]
    assert run(*argv, "--out", tmp_path / "a.json").data == json.loads((tmp_path / "a.json").read_text())
    off = run(*argv, "--basis", world.white, *SEEN, "--strength", 0).data["clips"]
    assert [row["answer_seen"] for row in off] == [row["answer"] for row in off]


def test_generate_in_the_words_of_a_task(world, tmp_path, monkeypatch):
    import seen_jax.api

    (tmp_path / "m.csv").write_text(
        f"path,question,choices\n{world.clips / 'clip0.wav'},which bird,\"['A. red', 'B. blue']\"\n"
    )
    asked = []
    answer = seen_jax.api.generate
    monkeypatch.setattr(
        "seen_jax.api.generate", lambda model, audio, *a, **k: asked.extend(audio) or answer(model, audio, *a, **k)
    )
    argv = ["generate", tmp_path / "m.csv", "--model", world.model, "--max-new-tokens", 4, "--json"]
    data = run(*argv, "--task", "multiple_choice").data
    assert (
        data["task"] == "multiple_choice" and data["clips"][0]["prompt"] == "which bird" and data["clips"][0]["answer"]
    )
    assert "which bird['A. red', 'B. blue']" in str(asked[-1].chat()) and "ONLY one letter" in str(asked[-1].chat())
    run("generate", world.clips / "clip0.wav", "--model", world.model, "--task", "transcription", "--json")
    assert "automatic speech recognition" in str(asked[-1].chat())


def test_sampling_follows_the_seed(world):
    argv = ["generate", world.clips / "clip0.wav", "--model", world.model, "--temperature", 2, "--top-k", 50, "--json"]
    texts = [run(*argv, "--top-p", 0.9, "--seed", seed).data["clips"][0]["answer"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_an_answer_that_is_cut_says_so(world):
    argv = ["generate", world.clips / "clip0.wav", "--model", world.model, "--json"]
    cut = run(*argv, "--max-new-tokens", 1)
    assert [row["finished"] for row in cut.data["clips"]] == [False]
    assert "1 of 1 answers were cut at --max-new-tokens 1." in cut.err
    whole = run(*argv)
    long = not whole.data["clips"][0]["finished"]
    assert ("cut at --max-new-tokens 256." in whole.err) == long


def test_sampling_as_published(world, tmp_path):
    model = Path(shutil.copytree(world.model, tmp_path / "model"))
    argv = ["generate", world.clips / "clip0.wav", "--model", model, "--max-new-tokens", 8, "--json"]
    texts = lambda *more: [run(*argv, *more, "--seed", seed).data["clips"][0]["answer"] for seed in (1, 2)]
    greedy = texts()
    assert greedy[0] == greedy[1] == texts("--as-published")[0]
    path = model / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_sample": True, "temperature": 2.0}))
    drawn = texts("--as-published")
    assert drawn[0] != drawn[1] and texts() == greedy
    assert drawn == texts("--temperature", 2, "--top-k", 50)


def test_models(world):
    families = run("models", "--json").data
    shapes = {f["name"]: (f["layers"]["encoder.mlp_act"], f["widths"]["encoder.mlp_act"]) for f in families}
    paper = {"qwen2_5_omni": (32, 5120), "minicpm_o": (24, 4096), "step_audio_2": (32, 5120)}
    assert paper.items() <= shapes.items()
    for family in families:
        assert set(family["sites"]) == set(family["layers"])
        assert "transformers" in family["verified"]
    (tiny,) = run("models", world.model, "--json").data
    assert (tiny["layers"]["encoder.mlp_act"], tiny["widths"]["encoder.resid"]) == (2, 32)
    from safetensors.numpy import load_file

    used = {k: v for k, v in load_file(world.model / "model.safetensors").items() if not k.startswith("visual.")}
    assert tiny["parameters"] == sum(v.size for k, v in used.items() if "audio_bos_eos" not in k)
    assert "encoder.mlp_act" in run("models", world.model).out


def test_train_passes_the_configuration_on(tmp_path, monkeypatch):
    from seen_jax.train import trainer

    seen = []
    monkeypatch.setattr(trainer, "train", lambda config, report: seen.append(config) or Path(config.out) / "model")
    (tmp_path / "c.yaml").write_text("seed: 3\njoint: {lr: 0.5}")
    argv = ["train", tmp_path / "c.yaml", "--joint.steps", "7", "--json", "--out", tmp_path / "run"]
    assert run(*argv).data == {"model": str(tmp_path / "run" / "model"), "out": str(tmp_path / "run")}
    (config,) = seen
    assert (config.seed, config.joint.lr, config.joint.steps) == (3, 0.5, 7)
    assert "--joint.steps" in run("train", "--help").out


def test_the_demo_is_an_experiment(tmp_path, monkeypatch):
    from seen_jax.evaluate.config import ExperimentConfig

    calls = []
    arm = {"name": "seen", "gsr_clean": 0.5, "gain": 0.1, "low": 0.0, "high": 0.2}
    summary = {"model": "seen-tiny", "answers": 9, "failed": 0, "mitigations": [arm], "page": "p.html", "out": "x"}
    fake = lambda config, progress, hosts, overwrite: calls.append((config, hosts.count, overwrite)) or summary
    monkeypatch.setattr("seen_jax.experiment.evaluate", fake)
    (tmp_path / "c.yaml").write_text(f"out: {tmp_path / 'run'}\nseed: 3")
    file = ["--config", tmp_path / "c.yaml"]
    shown = run("demo", *file, "--quick", "--overwrite", "--snrs", "-5,5")
    assert "open p.html" in shown.out and "+10.0 (+0.0 to +20.0)" in shown.out
    assert run("evaluate", tmp_path / "c.yaml", "--limit", 3, "--noises", "white", "--json").data == summary
    (config, count, overwrite), (other, _, kept) = calls
    assert (config.seed, config.snrs, config.limit, config.calibration.clips) == (3, (-5.0, 5.0), 3, 12)
    assert (count, overwrite, kept) == (1, True, False)
    assert other == ExperimentConfig(seed=3, limit=3, noises=("white",), out=str(tmp_path / "run"))
    assert "Did you mean 'strength'?" in run("demo", *file, "--strenght", "1").err


def test_the_demo_has_a_configuration(monkeypatch):
    configs = []
    monkeypatch.setattr("seen_jax.experiment.evaluate", lambda config, *_, **__: configs.append(config) or {})
    for extra in ([], ["--quick"]):
        run("demo", "--out", "seen-demo", *extra)
    whole, quick = configs
    assert len(quick.snrs) * len(quick.noises) < len(whole.snrs) * len(whole.noises)


def test_the_examples_in_the_help_work(world, tmp_path, monkeypatch):
    """In order, beside clips/ and noise/crowd.wav; `demo` and `train` take long and have tests of their own."""
    from seen_jax.models import folders

    (tmp_path / "clips").symlink_to(world.clips)
    (tmp_path / "noise").symlink_to(world.crowd.parent)
    monkeypatch.chdir(tmp_path)
    for name in ("calibrate", "merge", "inspect", "score", "generate", "models"):
        for line in importlib.import_module(f"seen_jax.cli.{name}").EXAMPLES.strip().splitlines():
            with monkeypatch.context() as smaller:
                if "--blind" not in line:  # which is of seen-tiny itself
                    smaller.setitem(folders.EMBEDDED, "seen-tiny", world.model)
                done = run(*shlex.split(line)[1:])
            assert done.status == 0, (line, done.err)
            assert done.out


def test_stdout_holds_nothing_but_the_result(world, monkeypatch):
    """Whatever a library prints goes to stderr."""
    from seen_jax import api

    whole = api.score
    monkeypatch.setattr(api, "score", lambda *a, **k: print("chatter") or whole(*a, **k))
    done = run("score", world.clips / "clip0.wav", "--basis", world.white, *SEEN, "--model", world.model, "--json")
    assert "chatter" in done.err
    assert done.data["clips"]


def test_text_that_looks_like_markup_stays_as_it_is(world, tmp_path):
    clip = tmp_path / "[red]x.wav"
    clip.write_bytes((world.clips / "clip0.wav").read_bytes())
    done = run("score", clip, "--basis", world.white, *SEEN, "--model", world.model)
    assert "[red]x" in done.out


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_after_a_while(terminal, monkeypatch):
    import io

    from seen_jax.cli import _output

    def shown(patience: float) -> str:
        stream = io.StringIO()
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(_output, "PATIENCE", patience)
        with _output.progress() as report:
            report("reading", 1, 1)
            time.sleep(0.3)
            for done in (1, 2):
                report("counting", done, 20)
            report("listening", 1, 0)
            time.sleep(0.3 * terminal)  # bars are drawn ten times a second
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    if terminal:
        assert all(part in shown(0.05) for part in ("counting", "2/20", "listening", "1/?"))
    else:
        assert shown(0.05) == "counting (20)\nlistening\n"
    assert shown(5.0) == ""


def test_a_reader_that_leaves_is_no_error(world):
    """`seen-jax models --json | true`"""
    script = f"{shlex.quote(sys.executable)} -m seen_jax.cli --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() in ("0", "141")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        argv = [sys.executable, "-m", "seen_jax.cli", "inspect", str(world.white), "--json"]
        done = subprocess.run(argv, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_installed_program(world):
    done = program("models", world.model, "--json", cwd=world.root)
    assert json.loads(done.stdout)[0]["family"] == "qwen2_5_omni"
    assert done.stderr == ""


def test_a_released_list_is_a_basis(world, tmp_path):
    """The file that is written for the authors' scripts gives the SEE of the basis that it was made of."""
    from seen_jax.subspace import Calibration, Selection, save_released

    basis = Calibration.load(world.white).select(Selection(method="complement", layers=(1,)))
    assert basis.ranks[1] > 0
    folder, file = basis.save(tmp_path / "basis"), save_released(basis, tmp_path / "v_list_white_0.1_0.pt")
    named = ("--model", world.model, "--of-model", world.model)
    scores = [run("score", world.clips, "--basis", name, *named, "--json").data["clips"] for name in (folder, file)]
    assert [row["see"] for row in scores[0]] == [row["see"] for row in scores[1]]
    shown = run("inspect", file, "--json").data
    assert shown["ranks"] == [basis.ranks[1]] and shown["kind"] == "noise basis"
