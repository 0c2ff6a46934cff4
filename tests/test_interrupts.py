"""Ctrl-C and SIGTERM: none is lost, nothing hidden is left, and the exit status says which it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cli_support
import pytest
from cli_support import run

from seen_jax import api, files
from seen_jax.cli import _output
from seen_jax.cli import _signals as signals
from seen_jax.errors import ConfigError

world = cli_support.world
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(autouse=True)
def passed_on() -> Iterator[list[int]]:
    """The SIGTERMs that a program gets which calls `main`."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, before)


def swallowed(number: int) -> None:
    """A signal whose KeyboardInterrupt dies, as one that comes in a callback of JAX does."""
    try:
        os.kill(os.getpid(), number)
        time.sleep(1)
    except KeyboardInterrupt:
        pass


@pytest.mark.parametrize("number", STATUS)
def test_a_lost_interrupt_ends_the_command_at_the_next_step(world, monkeypatch, number, passed_on):
    steps = []

    def score(*_, progress, **__):
        swallowed(number)
        steps.append("before")
        progress("scoring", 1, 2)
        steps.append("after")

    monkeypatch.setattr(api, "score", score)
    stopped = run("score", world.clips / "clip0.wav", "--basis", world.white, "--model", world.model)
    assert (stopped.status, stopped.out, steps) == (STATUS[number], "", ["before"])
    assert stopped.err.splitlines()[-1] == {130: "interrupted", 143: "terminated"}[stopped.status]
    assert passed_on == [number] * (number == signal.SIGTERM), "the program itself goes on after Ctrl-C alone"


@pytest.mark.parametrize("error", [None, RuntimeError("INTERNAL: callback failed: KeyboardInterrupt")])
def test_a_lost_interrupt_is_seen_at_the_end(world, monkeypatch, error):
    from seen_jax.cli import models

    whole = models.run

    def work(args):
        swallowed(signal.SIGINT)
        if error:
            raise error
        return whole(args)

    monkeypatch.setattr(models, "run", work)
    stopped = run("models", world.model)
    assert (stopped.status, stopped.out, stopped.err) == (130, "", "interrupted\n")
    assert not swallowing_again(), "the next command begins without it"


def swallowing_again() -> bool:
    with signals.caught(), _output.progress() as report:
        report("a stage", 1, 2)
    return bool(signals.status())


def test_an_interrupt_that_dies_in_a_destructor_is_not_reported(monkeypatch):
    class Dying:
        def __del__(self) -> None:
            swallowed_here(signal.SIGINT)

    def swallowed_here(number: int) -> None:
        os.kill(os.getpid(), number)
        time.sleep(1)

    reports: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)
    with pytest.raises(KeyboardInterrupt), signals.caught():
        dying = Dying()
        del dying
        assert signals.status() == 130
        signals.check()
    assert not reports


def test_the_handlers_of_a_program_that_calls_main_come_back(world):
    before = [signal.getsignal(number) for number in signals.NUMBERS]
    assert run("--version").status == 0
    assert [signal.getsignal(number) for number in signals.NUMBERS] == before


def test_what_the_caller_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with signals.caught():
            os.kill(os.getpid(), signal.SIGHUP)
        assert not signals.status()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STATUS)
def test_an_interrupted_writer_leaves_nothing_hidden(world, tmp_path, monkeypatch, number):
    share = files.share

    def interrupted(path: Path) -> None:
        os.kill(os.getpid(), number)
        time.sleep(1)
        share(path)

    monkeypatch.setattr(files, "share", interrupted)
    argv = ["calibrate", world.clips, "--noise", "white", "--clips", 2, "--model", world.model, "--out", tmp_path]
    assert run(*argv).status == STATUS[number]
    assert not list(tmp_path.iterdir())


def test_an_interrupt_while_a_writer_tidies_up_leaves_nothing_hidden(tmp_path, monkeypatch):
    remove, calls = shutil.rmtree, []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(*args, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), files.write_folder(tmp_path / "out") as fresh:
        (fresh / "half").touch()
        raise ConfigError("the work failed")
    assert [path.name[:5] for path in tmp_path.iterdir()] == [".out."]
    files.remove_unfinished()
    assert not list(tmp_path.iterdir())


def test_an_interrupt_between_two_versions_keeps_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    rename, calls = Path.rename, []

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), files.write_folder(tmp_path / "out", mine=lambda _: True) as fresh:
        (fresh / "new").touch()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["out", "out/old"]


def started(work: str) -> subprocess.Popen[str]:
    """The program with other work in place of a command's; it prints "ready" first."""
    code = f"""
import hashlib, sys, threading, time
import seen_jax.cli as cli
def work(name, argv):
    print("ready", flush=True)
{work}
cli._run = work
sys.argv = ["seen-jax", "models"]
cli.console()
"""
    reset = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], preexec_fn=reset, **pipes)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", STATUS)
def test_threads_do_not_hold_an_interrupted_program(number):
    process = started("    threading.Thread(target=time.sleep, args=(600,)).start(); time.sleep(600)")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    last = {130: "interrupted\n", 143: "terminated\n"}[STATUS[number]]
    assert (process.returncode, out, err) == (STATUS[number], "", last)


def test_a_second_ctrl_c_ends_the_program_at_once():
    """Python does not hear the first one: it computes, as XLA does while it compiles."""
    process = started("    hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**9)")
    begun = time.monotonic()
    time.sleep(0.3)  # it has begun to compute
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)  # of a launcher that passes on what the terminal has sent already
    time.sleep(2 * signals.PRESS)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - begun < 10
