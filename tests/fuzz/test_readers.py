"""Damaged inputs give the right result or one clear error: a sample here, 10,000 of every reader with `-m slow`."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
QUICK = {"audio": 600, "checkpoint": 20, "model": 25, "calibration": 100, "basis": 150, "config": 60, "manifest": 250}
FULL = {"model": 2_000, "checkpoint": 2_000}
READERS = [
    "audio",
    "basis",
    "calibration",
    "checkpoint",
    "config",
    "ledger",
    "manifest",
    "model",
    "released",
    "restoration",
]


def check(reader: str, first: int, count: int) -> None:
    command = [sys.executable, str(RUN), reader, "--first", str(first), "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    assert done.returncode == 0, f"{reader}, exit status {done.returncode} at {last}:\n{done.stdout}"


@pytest.mark.parametrize("reader", READERS)
def test_sample(reader: str) -> None:
    check(reader, 0, QUICK.get(reader, 500))


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_whole(reader: str) -> None:
    check(reader, 1_000_000, FULL.get(reader, 10_000))
