"""Few shapes for many batches: every shape is compiled once, and padding costs work."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

MOST = 2  # shapes of a run, however ragged its clips are


class Room(NamedTuple):
    """What a batch is padded to at least. frames: mel frames of an encoder row; tokens: of a prompt."""

    frames: int = 0
    tokens: int = 0


NO_ROOM = Room()


def share_rooms(wanted: Sequence[Room], most: int = MOST) -> list[Room]:
    """For every batch a room no smaller than it wants: at most `most` different ones, with the fewest frames in all."""
    count = Counter(room.frames for room in wanted)
    sizes = sorted(count)
    if not sizes:
        return []
    kept = min(most, len(sizes)) - 1
    top = lambda frames, tops: next(size for size in tops if size >= frames)  # noqa: E731
    best = min(
        (sum(n * top(size, tops) for size, n in count.items()), tops)
        for chosen in itertools.combinations(sizes[:-1], kept)
        for tops in [(*chosen, sizes[-1])]
    )[1]
    longest = Counter[int]()
    for room in wanted:
        size = top(room.frames, best)
        longest[size] = max(longest[size], room.tokens)
    return [Room(size, longest[size]) for size in (top(room.frames, best) for room in wanted)]
