"""Items in parts that are answered together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from seen_jax.audio.io import audio_seconds
from seen_jax.data.items import Entry
from seen_jax.errors import AudioError


class Part(NamedTuple):
    """Items of a data set that are answered together, of similar length.

    number: in the data set. places: of the items there. seconds: of each, 0 where only reading would tell.
    """

    dataset: str
    number: int
    places: list[int]
    seconds: list[float]


def make_parts(entries: Mapping[str, Sequence[Entry]], size: int) -> list[Part]:
    """All items in parts of at most `size`, data set by data set, from the shortest to the longest.

    A unit's key names a part by its number, so this order decides whether a folder can be resumed: two versions of it
    must not read one ledger. The manifest holds a digest of the parts, and `claim` refuses another one.
    """
    parts = []
    for name, items in entries.items():
        seconds = [seconds_of(entry) for entry in items]
        order = sorted(range(len(items)), key=lambda i: (seconds[i], i))
        for start in range(0, len(order), size):
            places = order[start : start + size]
            parts.append(Part(name, start // size, places, [seconds[i] for i in places]))
    return parts


def seconds_of(entry: Entry) -> float:
    """Length of an entry without reading its audio; 0 where only reading would tell."""
    if entry.seconds is not None:
        return entry.seconds
    try:
        return 0.0 if entry.parquet_row is not None else audio_seconds(entry.path)
    except AudioError:
        return 0.0
