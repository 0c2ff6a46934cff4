"""Two sides of one piece of work, timed in turns; how much work it is, and how near to its limit the machine comes."""

import dataclasses
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seen_jax.models.config import ConformerConfig, DecoderConfig, EncoderConfig, LalmConfig

SIZE, BYTES = 2048, 1 << 28  # of the square matrices, of the vector
LARGE_SIZE, LARGE_BYTES = 8192, 1 << 31  # on accelerators, where starting a program takes as long as those
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "sve": "SVE"}
Times = dict[str, list[float]]  # seconds of every side, per turn


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times one side takes what another takes."""

    median: float  # over the turns, one by one; low and high too
    low: float
    high: float
    best: float  # the fastest turn of one side over that of the other, which a noisy machine disturbs least


def alternate(sides: Mapping[str, Callable[[], Any]], runs: int, tick: Any = lambda done, total: None) -> Times:
    """Seconds of every side, each `runs` times, in turns, after one turn that does not count. A side must wait for its
    own results. Whose turn is first changes every time. tick: called as tick(turns done, turns in all)."""
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


@dataclasses.dataclass(frozen=True)
class Ceilings:
    operations: float  # per second, of a large product of matrices
    bytes: float  # per second, read and written by a large sum


def ceilings(dtype: Any = jnp.float32) -> Ceilings:
    """The best of some tries, on the default device."""
    size, count = (SIZE, BYTES) if jax.default_backend() == "cpu" else (LARGE_SIZE, LARGE_BYTES)
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    x = jnp.ones(count // jnp.dtype(dtype).itemsize, dtype)
    product, scaled = jax.jit(lambda a: a @ a), jax.jit(lambda x: 2 * x)
    sides = {"product": lambda: product(a).block_until_ready(), "scaled": lambda: scaled(x).block_until_ready()}
    times = alternate(sides, 5)
    return Ceilings(2 * size**3 / min(times["product"]), 2 * x.nbytes / min(times["scaled"]))


@dataclasses.dataclass(frozen=True)
class Roofline:
    operations: float
    bytes: float
    seconds: float
    least: float  # seconds that this work could take here
    share: float  # of this limit, which is reached


def roofline(operations: float, moved: float, seconds: float, top: Ceilings) -> Roofline:
    """operations, moved: of the work itself, bytes that must be moved at least once; seconds: what it took."""
    least = max(operations / top.operations, moved / top.bytes)
    return Roofline(operations, moved, seconds, least, least / seconds)


def encoder_work(config: EncoderConfig | ConformerConfig, frames: int) -> tuple[int, int]:
    """Multiplications for one clip: of the convolutions, and of each layer."""
    positions = int(config.position_count(frames))
    window = min(positions, int(config.position_count(config.chunk(frames))))
    stem = 3 * (frames * config.n_mels * config.width + positions * config.width**2)
    return stem, positions * (4 * config.width**2 + 2 * config.width * config.ffn + 2 * window * config.width)


def decoder_work(config: DecoderConfig) -> tuple[int, int]:
    """Multiplications for one position of one layer: of keys and values, and of all weights."""
    keys = 2 * config.width * config.head_dim * config.kv_heads
    return keys, keys + 2 * config.width * config.head_dim * config.heads + 3 * config.width * config.ffn


def four_answers(config: LalmConfig, frames: int, tokens: int, new: int, first: int) -> float:
    """Multiplications and additions of the four answers about one clip, without what need not be computed twice: the
    encoder up to the first edited layer, and the last layer of the prompt but for keys, values and one position."""
    e, d = config.encoder, config.decoder
    stem, layer = encoder_work(e, frames)
    shared = min(first + 1, e.layers)
    encoder = 2 * (stem + shared * layer) + 4 * (e.layers - shared) * layer
    keys, block = decoder_work(d)
    positions = (d.layers - 1) * tokens + d.layers * new
    decoder = 4 * (positions * block + tokens * keys + positions * (tokens + new) * d.heads * d.head_dim)
    return 2.0 * (encoder + decoder + 4 * (1 + new) * d.width * d.vocab)


def machine() -> str:
    """The machine in words."""
    kind = jax.devices()[0].device_kind if jax.default_backend() != "cpu" else _processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {kind}, jax {jax.__version__}"


def _processor() -> str:
    """The CPU and its widest vectors, on which the ratios depend."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in info.read_text().splitlines())
    about = {key.strip(): value.strip() for key, _, value in pairs}
    flags = about.get("flags", "").split()
    widest = next((f" with {name}" for flag, name in VECTORS.items() if flag in flags), "")
    return about.get("model name", platform.machine()) + widest
