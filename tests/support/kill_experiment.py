"""Kills an experiment ten times at random moments (SIGKILL), lets it end, and compares what it left with a quiet run.

    python tests/support/kill_experiment.py [--config FILE] [options of `seen-jax evaluate`]

The moments are spread over the work itself: each is drawn from its own tenth of the files and lines that the quiet run
wrote, and falls at a random instant before the next one is written. Prints JSON: what was there at each kill, and
whether all tables and studies are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KILLS = 10


def command(config: str, out: Path, rest: list[str]) -> list[str]:
    return [sys.executable, "-m", "seen_jax.cli", "evaluate", config, "--out", str(out), *rest]


def written(out: Path) -> int:
    """Files in the folder and lines of answers: grows with every piece of work that is kept."""
    answers = out / "answers.jsonl"
    lines = answers.read_bytes().count(b"\n") if answers.exists() else 0
    return lines + sum(path.is_file() for path in out.rglob("*"))


def left(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for part in ("tables", "studies") for p in (out / part).iterdir()}


def start_of(argv: list[str]) -> subprocess.Popen:
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_at(process: subprocess.Popen, out: Path, goal: int, delay: float) -> bool:
    """SIGKILL once so much is written and a moment has passed. False if the process ended before."""
    while written(out) < goal:
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default=str(Path(__file__).with_suffix(".yaml")))
    parser.add_argument("--seed", type=int, default=0)
    args, rest = parser.parse_known_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        start = time.monotonic()
        subprocess.run(command(args.config, whole, rest), check=True, capture_output=True)
        seconds = time.monotonic() - start
        most, kills = written(whole), []
        for i in range(KILLS):
            goal, delay = round((i + rng.random()) / KILLS * most), rng.random() * seconds / most
            while not kill_at(start_of(command(args.config, killed, rest)), killed, goal, delay):
                delay /= 2  # it ended before: the last files come quickly, one after the other
            kills.append(written(killed))
        subprocess.run(command(args.config, killed, rest), check=True, capture_output=True)
        resumed, undisturbed = left(killed), left(whole)
        summary = {"seconds": round(seconds, 1), "written": most, "kills": kills, "compared": sorted(undisturbed)}
        print(json.dumps(summary | {"identical": resumed == undisturbed}))


if __name__ == "__main__":
    main()
