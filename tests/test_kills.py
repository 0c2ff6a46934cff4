"""Commands that write, killed at random moments and on a full disk: nothing that was written is lost or damaged, the
same command goes on or says why not, and in the end there is what an undisturbed run gives."""

from __future__ import annotations

import functools
import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cli_support
import pytest
from cli_support import run
from compilation_cache import CACHE
from forked import Launcher

import seen_jax
from seen_jax.audio import read_audio
from seen_jax.evaluate.ledger import LOCK
from seen_jax.subspace import Calibration, Selection

world = cli_support.world
COMMANDS = ("calibrate", "stream", "merge", "score", "generate", "inspect", "evaluate")
SIGNALS = {"SIGKILL": {-9}, "SIGTERM": {143, -15}, "SIGINT": {130}}
STAMPS = {"date", "digest", "created", "seconds"}  # of the moment; a digest covers the date


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    launcher = Launcher(CACHE)
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def command(world, tmp_path_factory) -> Callable[[str, Path], list[Any]]:
    """The arguments of a command that writes into a folder."""
    folder = tmp_path_factory.mktemp("kills")
    clips = sorted(world.clips.iterdir())
    for part in (1, 2):
        argv = ["calibrate", *clips[part::2], "--noise", "white", "--model", world.model, "--out", folder / f"{part}"]
        assert run(*argv).status == 0
    settings = {
        "model": str(world.model), "datasets": [{"path": str(world.clips), "name": "clips"}], "limit": 4,
        "calibration": {"dataset": {"path": "seen-tiny/calibration"}, "clips": 4},
        "noises": ["white", "pink"], "snrs": [0], "mitigations": ["none", "seen"],
        "selection": {"method": "complement", "layers": "all"}, "batch_size": 2, "max_new_tokens": 4,
    }  # fmt: skip
    (folder / "experiment.yaml").write_text(json.dumps(settings))

    def argv(name: str, out: Path) -> list[Any]:
        model, seen = ["--model", world.model], ["--basis", world.white, "--method", "complement"]
        calibrate = ["calibrate", world.clips, "--noise", "white", "pink", *model, "--batch-size", 4, "--out", out]
        return {
            "calibrate": calibrate,
            "stream": [*calibrate, "--stream"],
            "merge": ["merge", folder / "1", folder / "2", "--out", out / "merged"],
            "score": ["score", world.clips, *model, *seen, "--noise", "pink", "--out", out / "score.json"],
            "generate": ["generate", world.clips, *model, *seen, "--out", out / "answers.csv"],
            "inspect": ["inspect", world.white, "--figure", out / "curves.png"],
            "evaluate": ["evaluate", folder / "experiment.yaml", "--out", out],
        }[name]

    return argv


@pytest.fixture(scope="module")
def quiet(launcher, command, tmp_path_factory) -> Callable[[str], tuple[dict[str, Any], float]]:
    """What an undisturbed run of a command leaves, and its seconds."""
    runs: dict[str, tuple[dict[str, Any], float]] = {}

    def once(name: str) -> tuple[dict[str, Any], float]:
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            for out in (folder / "first", folder / "second"):  # the first one compiles
                begun = time.monotonic()
                status = launcher.run(command(name, out), folder / "log")
                assert status == 0, (folder / "log").read_text()
                runs[name] = contents(out), time.monotonic() - begun
        return runs[name]

    return once


def contents(out: Path) -> dict[str, Any]:
    """{file: what it holds}, but for the moment that it was written at."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "report.md" and not hidden(path, out))
    held = {str(path.relative_to(out)): path.read_bytes() for path in files if path.suffix != ".html"}
    for name in held:
        if name.endswith(("card.json", "manifest.json", "summary.json")):
            stamped = json.loads(held[name])
            held[name] = {
                key: value for key, value in stamped.items() if key not in {*STAMPS, "out", "command", "digest"}
            }
    return held


def hidden(path: Path, out: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(out).parts)


def left_behind(out: Path) -> list[Path]:
    return [path for path in out.rglob(".*") if path.name != LOCK]


def complete(launcher: Launcher, argv: list[Any], log: Path) -> None:
    """Run it again: it goes on, or says in one sentence that the result is there."""
    status = launcher.run(argv, log)
    errors = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert status == 0 or (status == 1 and len(errors) == 1 and " exists: " in errors[0]), log.read_text()


def kill(launcher: Launcher, argv: list[Any], out: Path, name: str, moment: float) -> int:
    """The exit status of a command that gets a signal after so many seconds. Checks what it leaves."""
    log = out.with_suffix(".log")
    launcher.start(argv, log)
    time.sleep(moment)
    launcher.signal(getattr(signal, name))
    status = launcher.wait()
    assert status in {0, *SIGNALS[name]}, (status, log.read_text())
    assert "Traceback" not in log.read_text() and "error:" not in log.read_text()
    if name != "SIGKILL":
        assert not left_behind(out)
    return status


def check(
    launcher: Launcher,
    argv_for: Callable[[Path], list[Any]],
    wanted: dict[str, Any],
    folder: Path,
    name: str,
    moments: list[float],
) -> int:
    """Kill a command at some moments of one run after the other, let it end, and compare. A run that ends before its
    moment is compared too, and the next one begins anew. Returns the kills."""
    killed, kept, out = 0, {}, folder / "out"
    for i, moment in enumerate(moments):
        if kill(launcher, argv_for(out), out, name, moment) == 0:
            assert contents(out) == wanted
            kept, out = {}, folder / f"out{i}"
            continue
        killed += 1
        now = contents(out)
        if now == wanted:  # the signal came after the last file
            kept, out = {}, folder / f"out{i}"
            continue
        for file, held in kept.items():
            lines = file.endswith(".jsonl")  # a file of lines grows
            assert now[file].startswith(held) if lines else now[file] == held, f"{file} was lost or changed"
        kept = {
            file: held
            for file, held in now.items()
            if file in wanted and (file.endswith(".jsonl") or held == wanted[file])
        }
    complete(launcher, argv_for(out), out.with_suffix(".log"))
    assert contents(out) == wanted
    return killed


@pytest.mark.parametrize(("name", "number"), [("calibrate", "SIGTERM"), ("score", "SIGINT"), ("evaluate", "SIGKILL")])
def test_a_killed_command_goes_on(launcher, command, quiet, tmp_path, name, number):
    wanted, seconds = quiet(name)
    moments = [random.Random(name).uniform(0.5, 0.9) * seconds]
    assert check(launcher, functools.partial(command, name), wanted, tmp_path, number, moments) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("name", COMMANDS)
def test_ten_kills(launcher, command, quiet, tmp_path, name, number):
    wanted, seconds = quiet(name)
    rng = random.Random(f"{name} {number}")
    moments = [(i + rng.random()) / 10 * seconds for i in range(10)]
    killed = check(launcher, functools.partial(command, name), wanted, tmp_path, number, moments)
    print(f"{name} {number}: {killed} of 10 before the end of the command")
    assert killed >= 1


@pytest.mark.parametrize(
    "name", ["merge", *(pytest.param(n, marks=pytest.mark.slow) for n in COMMANDS if n != "merge")]
)
def test_a_full_disk(launcher, command, quiet, tmp_path, name):
    """No file may have more than 1,000 bytes: the command says so, leaves nothing hidden, and goes on when it can."""
    argv, log, out = command(name, tmp_path / "out"), tmp_path / "log", tmp_path / "out"
    status = launcher.run(argv, log, 1000)
    assert status == 1 and not left_behind(out)
    errors = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "cannot write" in errors[0] and "File too large" in errors[0], log.read_text()
    complete(launcher, argv, log)
    assert contents(out) == quiet(name)[0]


def test_the_same_command_twice_gives_the_same_bytes(world, tmp_path):
    for kind in (".json", ".csv"):
        for command in ("score", "generate"):
            argv = [command, world.clips, "--model", world.model, "--basis", world.white, "--noise", "pink"]
            files = [tmp_path / f"{command}{i}{kind}" for i in range(2)]
            assert all(run(*argv, "--out", file).status == 0 for file in files)
            assert files[0].read_bytes() == files[1].read_bytes()
    for kind in (".png", ".pdf", ".svg"):
        files = [tmp_path / f"{i}{kind}" for i in range(2)]
        for file in files:
            assert run("inspect", world.white, "--figure", file).status == 0
            time.sleep(1.1 * (kind == ".pdf"))  # it could hold the time to the second
        assert files[0].read_bytes() == files[1].read_bytes()


def test_threads_get_what_one_gets(world):
    model = seen_jax.load(world.model)
    basis = Calibration.load(world.white).select(Selection(method="complement", layers="all"))
    clips = [read_audio(path) for path in sorted(world.clips.iterdir())]
    sampled = seen_jax.Decoding(6, temperature=1.0)

    def work(_: int) -> list[Any]:
        scores = seen_jax.score(model, clips, basis, batch_size=4)
        answers = seen_jax.generate(model, clips, "what is it?", basis=basis, batch_size=4, decoding=sampled, seed=3)
        return [*scores, *((a.text, a.tokens, a.see, a.see_after) for a in answers)]

    alone = work(0)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [alone] * 8
