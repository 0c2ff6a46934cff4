"""What the machine can do at best: operations and bytes per second, measured, and how near a program comes."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

SIZE = 2048  # of the square matrices
BYTES = 1 << 28  # of the vector
REPEATS = 5
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "sve": "SVE"}


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """operations: per second, of a large product of matrices. bytes: per second, read and written by a large sum."""

    operations: float
    bytes: float


def ceilings(dtype: Any = jnp.float32) -> Ceilings:
    """The best of some tries, on the default device."""
    a = jnp.ones((SIZE, SIZE), dtype)
    x = jnp.ones(BYTES // jnp.dtype(dtype).itemsize, dtype)
    product = _best(jax.jit(lambda a: a @ a), a)
    scaled = _best(jax.jit(lambda x: 2 * x), x)
    return Ceilings(2 * SIZE**3 / product, 2 * x.nbytes / scaled)


def _best(program: Callable[[Any], Any], x: Any) -> float:
    program(x).block_until_ready()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        program(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)


@dataclasses.dataclass(frozen=True)
class Roofline:
    """A program's work, the least time it could take here, and the share of that limit which it reaches."""

    operations: float
    bytes: float
    seconds: float
    least: float
    share: float


def roofline(operations: float, moved: float, seconds: float, top: Ceilings) -> Roofline:
    """operations, moved: of the work itself, bytes that must be moved at least once; seconds: what it took."""
    least = max(operations / top.operations, moved / top.bytes)
    return Roofline(operations, moved, seconds, least, least / seconds)


def machine() -> str:
    """The machine in words."""
    device = jax.devices()[0]
    kind = device.device_kind if jax.default_backend() != "cpu" else _processor()
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
