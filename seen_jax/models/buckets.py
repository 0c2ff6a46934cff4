"""Few shapes for many batches: every shape is compiled once, and padding costs work."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

MOST = 2  # shapes of a run, however ragged its clips are


class Bucket(NamedTuple):
    """The least that a batch is padded to. frames: mel frames of an encoder row; tokens: of a prompt."""

    frames: int = 0
    tokens: int = 0


NO_BUCKET = Bucket()


def share_buckets(wanted: Sequence[Bucket], most: int = MOST) -> list[Bucket]:
    """A bucket for every batch, no smaller than it wants: at most `most` different ones, with the fewest frames."""
    count = Counter(bucket.frames for bucket in wanted)
    sizes = sorted(count)
    if not sizes:
        return []
    kept = min(most, len(sizes)) - 1

    def top(frames: int, tops: Sequence[int]) -> int:
        return next(size for size in tops if size >= frames)

    best = min(
        (sum(n * top(size, tops) for size, n in count.items()), tops)
        for chosen in itertools.combinations(sizes[:-1], kept)
        for tops in [(*chosen, sizes[-1])]
    )[1]
    longest = Counter[int]()
    for bucket in wanted:
        size = top(bucket.frames, best)
        longest[size] = max(longest[size], bucket.tokens)
    return [Bucket(size, longest[size]) for size in (top(bucket.frames, best) for bucket in wanted)]
