"""Damage to bytes: flipped bits, cuts, splices, and values that programs stumble over."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

Rng = np.random.Generator
NUMBERS = [str(x).encode() for x in (-1, 0, 2**31, 2**63, 2**64, 10**40, 0.5, 1e308, "1e999", "NaN", "Infinity")]
VALUES = [*NUMBERS, b"null", b"true", b"[]", b"{}", b'""', b'"x"', b"[[[[1]]]]", b'{"a": {"a": {}}}']
DEEP = b"[" * 100_000
HOSTILE = [
    b"\x00" * 64,
    b"\xff" * 64,
    "\u202e\ud7ff".encode(),
    b"\xc3\x28",
    b"../../../etc/passwd",
    b"%s%n",
    b"\r\n\r\n",
    DEEP,
]


def flip_bits(data: bytes, rng: Rng) -> bytes:
    out = bytearray(data)
    for place in rng.integers(len(out), size=int(rng.integers(1, 9))):
        out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def cut(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data)))]


def remove(data: bytes, rng: Rng) -> bytes:
    start, stop = sorted(rng.integers(len(data) + 1, size=2))
    return data[:start] + data[stop:]


def repeat(data: bytes, rng: Rng) -> bytes:
    start, stop = sorted(rng.integers(len(data) + 1, size=2))
    return data[:stop] + data[start:]


def overwrite(data: bytes, rng: Rng) -> bytes:
    """A word of four or eight bytes, as sizes and offsets are stored."""
    size = int(rng.choice([4, 8]))
    start = int(rng.integers(max(1, min(len(data), 4096) - size)))
    value = (
        int(rng.choice([0, 1, 255, 2**31 - 1, 2**31, 2**32 - 1])) if rng.random() < 0.7 else int(rng.integers(2**32))
    )
    return data[:start] + value.to_bytes(size, rng.choice(["little", "big"])) + data[start + size :]


def replace_value(data: bytes, rng: Rng) -> bytes:
    """A number or a quoted text of a text format."""
    places = list(re.finditer(rb'"[^"\n]*"|-?\d+(\.\d+)?([eE][+-]?\d+)?|true|false|null', data[:200_000]))
    if not places:
        return flip_bits(data, rng)
    match = places[int(rng.integers(len(places)))]
    return data[: match.start()] + VALUES[int(rng.integers(len(VALUES)))] + data[match.end() :]


def insert_hostile(data: bytes, rng: Rng) -> bytes:
    start = int(rng.integers(len(data) + 1))
    return data[:start] + HOSTILE[int(rng.integers(len(HOSTILE)))] + data[start:]


def empty(data: bytes, rng: Rng) -> bytes:
    return b""


def noise(data: bytes, rng: Rng) -> bytes:
    return rng.bytes(int(rng.integers(1, 4096)))


MUTATIONS: list[Callable[[bytes, Rng], bytes]] = [
    *(flip_bits, flip_bits, cut, cut, remove, repeat, overwrite, overwrite, overwrite),
    *(replace_value, replace_value, replace_value, insert_hostile, empty, noise),
]


def mutated(data: bytes, rng: Rng) -> bytes:
    """One to three kinds of damage."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        if data:
            data = MUTATIONS[int(rng.integers(len(MUTATIONS)))](data, rng)
    return data
