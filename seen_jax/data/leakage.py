"""The split guard: audio that a basis was calibrated on is never tested on.

A clip is known by a hash of its samples and by fingerprints: hashes of all stretches of `WINDOW` samples, of which
those that happen to be divisible by `KEPT` are kept. A stretch has the same hash wherever it is cut out, so clips that
overlap share fingerprints. Found is audio that is the same sample by sample: cut, padded or joined, not scaled, mixed
or coded anew.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int16, UInt64

from seen_jax.errors import ConfigError

LEVELS = 8192  # steps of full scale: rounding in two resamplings of one recording must not change them often
WINDOW = 800  # samples, 50 ms at 16 kHz
KEPT = 200  # one in so many stretches
SHARED = 2  # common fingerprints that prove common audio
CHANGES = WINDOW // 10  # a stretch with fewer changes is silence, a constant or a lone click, which clips may share
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2**64
_BLOCK = 1 << 17

Fingerprints = UInt64[np.ndarray, " _"]


@dataclass(frozen=True)
class _Clip:
    name: str
    digest: str
    fingerprints: Fingerprints


class SplitGuard:
    """Remembers the clips of a calibration, and refuses clips that share audio with them."""

    def __init__(self) -> None:
        self._clips: dict[str, _Clip] = {}  # by digest
        self._table: tuple[Fingerprints, np.ndarray, list[_Clip]] | None = None

    def add(self, name: str, wave: Float[np.ndarray, " samples"]) -> None:
        """Remember a calibration clip (16 kHz mono)."""
        digest = _digest(wave)
        if digest not in self._clips:
            self._clips[digest] = _Clip(name, digest, fingerprints(wave))
            self._table = None

    def check(self, name: str, wave: Float[np.ndarray, " samples"]) -> None:
        """Raise ConfigError, naming both, if a clip shares audio with one that was added. Silence never does."""
        if not _pcm(wave).any():
            return
        if known := self._clips.get(_digest(wave)):
            raise ConfigError(_refusal(name, known.name, "is"))
        if self._table is None:
            clips = list(self._clips.values())
            marks = np.concatenate([c.fingerprints for c in clips] or [np.zeros(0, np.uint64)])
            order = np.argsort(marks)
            self._table = (
                marks[order],
                np.repeat(np.arange(len(clips)), [len(c.fingerprints) for c in clips])[order],
                clips,
            )
        marks, owners, clips = self._table
        own = fingerprints(wave)
        first, last = (np.searchsorted(marks, own, side) for side in ("left", "right"))
        hits = np.concatenate([owners[a:b] for a, b in zip(first, last, strict=True) if a < b] or [np.zeros(0, int)])
        shared = np.bincount(hits, minlength=1)
        if shared.max() >= SHARED:
            raise ConfigError(_refusal(name, clips[int(shared.argmax())].name, "shares audio with"))

    def to_json(self) -> dict[str, Any]:
        """JSON values from which `from_json` makes the same guard."""
        encode = lambda marks: base64.b64encode(marks.astype("<u8").tobytes()).decode()  # noqa: E731
        clips = {c.digest: {"name": c.name, "fingerprints": encode(c.fingerprints)} for c in self._clips.values()}
        return {"window": WINDOW, "kept": KEPT, "levels": LEVELS, "clips": clips}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SplitGuard:
        """The guard that `to_json` described. ConfigError if that was damaged or made with other constants."""
        guard = cls()
        try:
            if (values["window"], values["kept"], values["levels"]) != (WINDOW, KEPT, LEVELS):
                raise ConfigError("the saved split guard is of another version: start the evaluation anew")
            for digest, clip in values["clips"].items():
                marks = np.frombuffer(base64.b64decode(clip["fingerprints"], validate=True), "<u8").astype(np.uint64)
                guard._clips[digest] = _Clip(clip["name"], digest, marks)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"the saved split guard is damaged ({error}): start the evaluation anew") from error
        return guard


def _refusal(name: str, known: str, how: str) -> str:
    return (
        f"the test clip {name} {how} the calibration clip {known}: what is tested must not be in the calibration. "
        "Take other clips for one of them."
    )


def _pcm(wave: Float[np.ndarray, " samples"]) -> Int16[np.ndarray, " samples"]:
    return np.clip(np.rint(wave.astype(np.float64) * 32768), -32768, 32767).astype("<i2")


def _digest(wave: Float[np.ndarray, " samples"]) -> str:
    return hashlib.sha256(_pcm(wave).tobytes()).hexdigest()


def fingerprints(wave: Float[np.ndarray, " samples"]) -> Fingerprints:
    """Sorted fingerprints of a clip: about one in `KEPT` samples; none of silence."""
    steps = np.rint(wave.astype(np.float64) * LEVELS).astype(np.int64).astype(np.uint64)
    blocks = [steps[i : i + _BLOCK + WINDOW - 1] for i in range(0, max(0, len(steps) - WINDOW + 1), _BLOCK)]
    return np.unique(np.concatenate([_kept(block) for block in blocks] or [np.zeros(0, np.uint64)]))


def _kept(steps: Fingerprints) -> Fingerprints:
    """sum_j x[i + j] b^j for every start i, as (P[i + k] - P[i]) / b^i with prefix sums P, all modulo 2**64."""
    powers, inverses = _powers()
    prefix = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mix(steps) * powers[: len(steps)], dtype=np.uint64)])
    starts = len(steps) - WINDOW + 1
    hashes = _mix((prefix[WINDOW:] - prefix[:-WINDOW]) * inverses[:starts])
    changes = np.concatenate([np.zeros(1, np.int64), np.cumsum(steps[1:] != steps[:-1])])
    lively = changes[WINDOW - 1 :] - changes[:starts] >= CHANGES
    return hashes[lively & (hashes % np.uint64(KEPT) == 0)]


@functools.lru_cache(maxsize=1)
def _powers() -> tuple[Fingerprints, Fingerprints]:
    """b^i and b^-i modulo 2**64 for every place in a block."""
    bases = np.array([_BASE, pow(_BASE, -1, 1 << 64)], np.uint64)
    both = np.repeat(bases[:, None], _BLOCK + WINDOW - 1, axis=1)
    both[:, 0] = 1
    powers, inverses = np.cumprod(both, axis=1, dtype=np.uint64)
    return powers, inverses


def _mix(x: Fingerprints) -> Fingerprints:
    """The finaliser of splitmix64: a polynomial with an odd base alone has weak low bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
