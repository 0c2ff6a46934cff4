"""The suite `tpu`: what it says of programs compiled for chips that are not here, and how it goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from cli_support import run

from seen_jax.bench import tpu
from seen_jax.bench.tpu import NEW, Row, goals, largest, saved
from seen_jax.models.devices import DEVICES
from seen_jax.models.memory import Work, fits

OMNI = tpu.configuration("qwen2_5_omni")
ROW = Row("qwen2_5_omni", "v4-8", "bfloat16", "generate", 16, 4, 1, True, 1e9, 3e10, 1.0)


def rows(**fields) -> list[Row]:
    """A model that reaches every goal, but for what fields of its answers change."""
    answer = dataclasses.replace(ROW, seconds=1.0 + (NEW - 1) * 0.02, loop=0.02, bandwidth=0.7, matrix=0.5)
    plain = dataclasses.replace(ROW, program="encode", seconds=0.5)
    four = dataclasses.replace(ROW, program="four answers", seconds=2.0)
    seen = dataclasses.replace(plain, program="encode with SEEN", seconds=0.52)
    return [plain, seen, dataclasses.replace(answer, **fields), four]


@pytest.mark.parametrize(
    "fields, missed",
    [
        ({}, []),
        ({"copies": ("copy.1",)}, ["copies"]),
        ({"gathers": ("all-gather.1",)}, ["gathers"]),
        ({"gathers": ("all-gather.1",), "data": 1, "tensor": 4}, ["gathers"]),  # not shown
        ({"bandwidth": 0.59}, ["decoding"]),
        ({"matrix": 0.39}, ["prompt"]),
        ({"seconds": 0.6 + (NEW - 1) * 0.02}, ["SEEN"]),
        ({"seconds": 0.5 + (NEW - 1) * 0.001, "loop": 0.001}, ["SEEN", "four"]),
        ({"fits": False}, ["gathers", "decoding", "prompt", "SEEN", "four"]),
    ],
)
def test_goals(fields, missed):
    assert [goal.name.split()[0].rstrip(":") for goal in goals(rows(**fields)) if not goal.reached] == missed


def test_batches_are_the_largest_that_fit():
    for machine, device in DEVICES.items():
        if device.topology:
            work = largest(OMNI, Work(dtype="bfloat16"), device)
            assert work.data * work.tensor == device.chips
            assert work.clips == 1 or fits(OMNI, work, device.memory, surely=True), machine


def test_finished_rows_are_not_made_again(tmp_path, monkeypatch):
    made: list[tuple[str, ...]] = []

    def compiled(key, *_):
        made.append(key)
        return dataclasses.replace(ROW, model=key[0], machine=key[1], precision=key[2], program=key[3])

    monkeypatch.setattr(tpu, "compiled", compiled)
    monkeypatch.setattr(tpu, "_programs", lambda *_: dict.fromkeys(("encode", "generate"), (None, None, None)))
    out = tmp_path / "rows.json"
    first = tpu.tpu(["voxtral"], ["v5e-1"], ["bfloat16"], out=out)
    assert saved(out) == first and len(made) == 2
    again = tpu.tpu(["voxtral"], ["v5e-1", "v6e-1"], ["bfloat16"], ["generate"], out=out)
    assert [row.key[1:] for row in again] == [(name, "bfloat16", "generate") for name in ("v5e-1", "v6e-1")]
    assert len(made) == 3 and len(json.loads(out.read_text())["rows"]) == 3


def test_wrong_options_of_the_suite(tmp_path):
    for argv, words in (
        (("--suite", "tpu", "import"), "runs alone"),
        (("--suite", "tpu", "--models", "gpt"), "unknown 'gpt'"),
        (("--suite", "tpu", "--machines", "v9"), "unknown 'v9'"),
    ):
        done = run("bench", *argv)
        assert done.status == 1 and words in done.err
    (tmp_path / "other.json").write_text('{"ratios": {}}')
    done = run("bench", "--suite", "tpu", "--out", tmp_path / "other.json")
    assert done.status == 1 and "holds no rows of the suite tpu" in done.err


@pytest.mark.skipif(find_spec("libtpu") is None, reason='needs XLA\'s TPU compiler: pip install "seen-jax[tpu]"')
def test_programs_of_both_sizes_compile_for_a_v5e_and_hold_their_ratios(tmp_path):
    """In a process of its own: the compiler wants an environment that tests of other things do not."""
    out = tmp_path / "rows.json"
    argv = ["--models", "seen-tiny", "qwen2_5_omni", "--machines", "v5e-4", "--precisions", "bfloat16"]
    argv += ["--programs", "score", "generate"]
    command = [sys.executable, "-m", "seen_jax.cli", "bench", "--suite", "tpu", *argv, "--out", str(out)]
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    made = {(row.model, row.program): row for row in saved(out)}
    assert len(made) == 4 and all(row.fits and row.bytes < row.available for row in made.values())
    assert not any(row.copies for row in made.values())
    assert all(row.seconds > 0 for row in made.values())
    answer = made["qwen2_5_omni", "generate"]
    assert answer.tensor > 1 and answer.bandwidth > tpu.DECODE and answer.matrix > 0.2
