"""Answers and scores clips of 5, 10 and 20 minutes with a tiny random model, and prints for each, as JSON, the peak of
resident memory beyond that before the clip, and the seconds.

    python tests/support/long_audio.py FAMILY [MINUTES ...]        (a folder of tests/support/golden; Linux)

Each clip has a process of its own, in which a first round compiles the programs: the second one is measured.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

MINUTES = ("5", "10", "20")


def resident(peak: bool) -> float:
    """Resident memory of this process in MiB, now or at its peak since `forget_peak`."""
    name = "VmHWM" if peak else "VmRSS"
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Give free memory back to the system, and begin a new peak."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def measure(family: str, minutes: float) -> dict[str, float]:
    from golden_cases import FOLDER
    from tiny_omni import random_basis, wave

    import seen_jax
    from seen_jax.models.sites import DECODER_RESID

    model = seen_jax.load(FOLDER / family)
    layers = model.config.site_shape(DECODER_RESID)[0]
    basis = random_basis(model.config, DECODER_RESID, [2] * layers, fingerprint=model.fingerprint)
    clip = wave(round(minutes * 60 * 16_000))
    for _ in range(2):
        forget_peak()
        idle, start = resident(peak=False), time.perf_counter()
        answer = seen_jax.generate(model, clip, "which color ?", basis, 0.0, seen_jax.Decoding(4))
        score = seen_jax.score(model, clip, basis, "which color ?")
        assert answer.tokens and abs(answer.see - score.see) < 1e-5
        used, seconds = resident(peak=True) - idle, time.perf_counter() - start
    return {"minutes": minutes, "MiB": round(used), "seconds": round(seconds, 1)}


def main() -> None:
    family, *minutes = sys.argv[1:]
    if len(minutes) == 1:
        print(json.dumps(measure(family, float(minutes[0]))))
        return
    for each in minutes or MINUTES:
        command = [sys.executable, __file__, family, each]
        print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
