"""Kills an experiment ten times at random moments (SIGKILL), lets it end, and compares its tables with a quiet run.

    python tests/evaluate/kill_experiment.py [--config configs/paper_tiny.yaml] [options of `seen-jax evaluate`]

Prints JSON: the moments in seconds, how many units were done after each kill, and whether all tables are the same.
"""

from __future__ import annotations

import argparse
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


def units(out: Path) -> int:
    path = out / "answers.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="configs/paper_tiny.yaml")
    parser.add_argument("--seed", type=int, default=0)
    args, rest = parser.parse_known_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        start = time.monotonic()
        subprocess.run(command(args.config, whole, rest), check=True, capture_output=True)
        seconds = time.monotonic() - start
        moments = []
        while len(moments) < KILLS:
            wait = rng.uniform(0.2, 0.8) * seconds
            process = subprocess.Popen(
                command(args.config, killed, rest), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(wait)
                break  # it was done before the moment came
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                moments.append((round(wait, 1), units(killed)))
        subprocess.run(command(args.config, killed, rest), check=True, capture_output=True)
        ours = {path.name: path.read_bytes() for path in sorted((killed / "tables").iterdir())}
        theirs = {path.name: path.read_bytes() for path in sorted((whole / "tables").iterdir())}
        print(
            json.dumps(
                {
                    "seconds": round(seconds, 1),
                    "kills": moments,
                    "units": units(whole),
                    "tables": sorted(theirs),
                    "identical": ours == theirs,
                }
            )
        )


if __name__ == "__main__":
    main()
