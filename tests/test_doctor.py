"""What helps a user along: the first things to do, `doctor`, completion, pages about errors, bars in notebooks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_support import run
from subspace_arrays import basis

from seen_jax import progress
from seen_jax.cli import COMMANDS, doctor
from seen_jax.errors import PAGES, AudioError, BasisError, ConfigError, SeenError, page_of

ROOT = Path(__file__).parents[1]


def test_without_a_command_the_first_things_to_do_are_shown():
    shown = run()
    lines = re.findall(r"^  seen-jax (\w+) .*  (\S.*)$", shown.out, re.MULTILINE)
    assert (shown.status, shown.err, len(lines)) == (0, "", 3)
    assert {name for name, _ in lines} <= set(COMMANDS)


def test_the_doctor_says_what_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("SEEN_JAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "program").write_bytes(bytes(5000))
    data = run("doctor", "--json").data
    assert data["versions"]["jax"] != "unknown" and data["versions"]["python"].startswith("3.")
    assert data["devices"][0]["platform"] == "cpu" and data["devices"][0]["memory"] > 1 << 28
    assert data["folders"][0]["folder"] == str(tmp_path / "cache") and data["folders"][0]["size"] == 5000
    assert not (tmp_path / "cache" / "probe").exists() and len(list((tmp_path / "cache").iterdir())) == 1
    shown = run("doctor")
    assert shown.status == 0 and "jaxlib" in shown.out and str(tmp_path / "cache") in shown.out


def test_the_doctor_names_what_is_missing_and_what_is_wrong(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEEN_JAX_CACHE", str(tmp_path / "file"))
    gone = doctor.Extra("gone", ("no_such_module", "json"), "nothing")
    monkeypatch.setattr(doctor, "EXTRAS", (gone,))
    data = run("doctor", "--json").data
    assert data["extras"] == [
        {"name": "gone", "modules": [*gone.modules], "serves": "nothing", "missing": ["no_such_module"]}
    ]
    assert any("is a file, not a folder" in line for line in data["trouble"])
    shown = run("doctor").out
    assert 'pip install "seen-jax[gone]"' in shown and "trouble: cannot write" in shown
    monkeypatch.setenv("SEEN_JAX_CACHE", "")
    assert "SEEN_JAX_CACHE is empty" in run("doctor").out


def test_the_doctor_knows_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra.name for extra in doctor.EXTRAS} == set(extras) - {"test", "docs", "dev"}


def test_completion_of_a_shell(tmp_path):
    pytest.importorskip("shtab")
    script = tmp_path / "seen-jax"
    script.write_text(run("completion", "bash").out)
    if shutil.which("bash"):
        ask = f"source {script}; COMP_WORDS=(seen-jax %s); COMP_CWORD=%d; _shtab_seen_jax; echo ${{COMPREPLY[@]}}"
        complete = lambda words, place: subprocess.run(
            ["bash", "-c", ask % (words, place)], capture_output=True, text=True, check=True
        ).stdout.split()
        assert complete("ca", 1) == ["calibrate", "card"]
        assert {"--strict", "--stream"} <= set(complete("calibrate --st", 2))
        assert complete("score --dtype bf", 3) == ["bfloat16"]
    assert "#compdef seen-jax" in run("completion", "zsh").out
    assert run("completion", "fish").status == 2


def test_completion_without_shtab(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    wrong = run("completion", "bash")
    assert wrong.status == 1 and 'pip install "seen-jax[completion]"' in wrong.err


@pytest.mark.parametrize("page", sorted({page for _, _, page in PAGES}))
def test_every_page_that_an_error_names_is_there(page):
    file, _, anchor = page.partition("#")
    heads = re.findall(r"^#+ (.*)$", (ROOT / file).read_text(), re.MULTILINE)
    assert anchor in [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]


def test_errors_name_the_page_that_explains_them(tmp_path):
    gone = run("card", tmp_path / "gone")
    assert gone.err == f"error: there is no calibration or noise basis {tmp_path}/gone.\n", "no page explains that"
    changed = basis(0, (2,)).save(tmp_path / "changed")
    (changed / "card.json").write_text((changed / "card.json").read_text().replace('"s"', '"t"'))
    assert run("card", changed).err.endswith("make it again (see docs/howto.md#share-a-basis)\n")
    assert page_of(BasisError("this noise basis was made for x: width 3")).startswith("docs/howto.md#use-a-basis-with")
    assert page_of(AudioError("org/x has no parquet files on the hub")) == "docs/howto.md#use-data-from-the-hub"
    assert page_of(ConfigError("batch_size must be 1 or more")) is None and page_of(SeenError("x")) is None


def bars(monkeypatch, notebook: bool, seconds: float) -> list:
    """What a stage of four steps shows."""
    shown, clock = [], iter(range(100))
    shell = SimpleNamespace(kernel=object()) if notebook else SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds * next(clock))

    class Bar:
        def __init__(self, desc, total):
            self.desc = desc

        def refresh(self):
            shown.append((self.desc, self.n, self.total))

        def close(self):
            shown.append("closed")

    monkeypatch.setitem(sys.modules, "tqdm.auto", SimpleNamespace(tqdm=Bar))
    for done in range(1, 5):
        progress.automatic("scoring", done, 4)
    assert not progress._stages
    return shown


def test_a_notebook_shows_bars_of_long_work_alone(monkeypatch):
    assert bars(monkeypatch, True, 1.0) == [("scoring", 2, 4), ("scoring", 3, 4), ("scoring", 4, 4), "closed"]
    assert bars(monkeypatch, True, 0.01) == []
    assert bars(monkeypatch, False, 1.0) == []
