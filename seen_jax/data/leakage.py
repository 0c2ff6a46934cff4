"""The split guard: audio that a basis was calibrated on is never tested on.

A clip is identified by a hash of its samples and by fingerprints: hashes of all stretches of `WINDOW` samples, of which
those divisible by `KEPT` are kept. A stretch has the same hash wherever it is cut out, so clips that overlap share
fingerprints. This finds audio that is the same sample by sample, even if cut, padded or joined, but not audio that was
scaled, mixed or encoded again.
"""

import functools
import hashlib

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


class SplitGuard:
    """Remembers the clips of a calibration, and refuses clips that share audio with them."""

    def __init__(self) -> None:
        self._clips: dict[str, tuple[str, Fingerprints]] = {}  # (name, fingerprints) by digest
        self._table: tuple[Fingerprints, np.ndarray] | None = None  # all fingerprints, sorted, and the clip of each

    def add(self, name: str, wave: Float[np.ndarray, " samples"]) -> None:
        """Remember a calibration clip (16 kHz mono)."""
        digest = _digest(wave)
        if digest not in self._clips:
            self._clips[digest] = (name, fingerprints(wave))
            self._table = None

    def check(self, name: str, wave: Float[np.ndarray, " samples"]) -> None:
        """Raise ConfigError, naming both, if a clip shares audio with one that was added. Silence never does."""
        if not _pcm(wave).any():
            return
        if known := self._clips.get(_digest(wave)):
            raise _refusal(name, known[0], "is")
        names, marks = [name for name, _ in self._clips.values()], [marks for _, marks in self._clips.values()]
        if self._table is None:
            together = np.concatenate([*marks, np.zeros(0, np.uint64)])
            order = np.argsort(together)
            self._table = together[order], np.repeat(np.arange(len(marks)), [len(m) for m in marks])[order]
        table, owners = self._table
        first, last = (np.searchsorted(table, fingerprints(wave), side) for side in ("left", "right"))
        hits = [owners[a:b] for a, b in zip(first, last, strict=True) if a < b]
        shared = np.bincount(np.concatenate([*hits, np.zeros(0, np.int64)]), minlength=1)
        if shared.max() >= SHARED:
            raise _refusal(name, names[int(shared.argmax())], "shares audio with")


def _refusal(name: str, known: str, how: str) -> ConfigError:
    problem = f"the test clip {name} {how} the calibration clip {known}"
    return ConfigError(f"{problem}: what is tested must not be in the calibration. Take other clips for one of them.")


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
