"""Two sides of one piece of work, timed in turns."""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

RUNS = 5
Times = dict[str, list[float]]  # seconds of every side, per turn


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times one side takes what another takes.

    median, low, high: over the turns, one by one. best: the fastest turn of one side over that of the other, which a
    noisy machine disturbs least.
    """

    median: float
    low: float
    high: float
    best: float


def alternate(
    sides: Mapping[str, Callable[[], Any]],
    runs: int = RUNS,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Times:
    """Seconds of every side, each `runs` times, in turns, after one turn that does not count.

    A side must wait for its own results. Whose turn is first changes every time.
    """
    times: Times = {name: [] for name in sides}
    names = list(sides)
    for turn in range(runs + 1):
        for name in names if turn % 2 else names[::-1]:
            gc.collect()
            start = time.perf_counter()
            sides[name]()
            if turn:
                times[name].append(time.perf_counter() - start)
        tick(turn + 1, runs + 1)
    return times


def ratio(over: list[float], under: list[float]) -> Ratio:
    """Of two sides that took turns: what disturbs the machine for a while disturbs both sides of a turn."""
    each = [a / b for a, b in zip(over, under, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each), min(over) / min(under))
