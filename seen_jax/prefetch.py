"""Host work done ahead of the device: reading, mixing and denoising run in threads while the model answers."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import jax

B = TypeVar("B")
P = TypeVar("P")
T = TypeVar("T")
THREADS = 2
CONTEXT = ("default_device", "default_matmul_precision", "debug_nans")  # of jax, each thread's own


def ahead(calls: Iterable[Callable[[], T]], depth: int = 2 * THREADS) -> Iterator[T]:
    """The results of `calls` in their order; up to `depth` of them are under way or waiting while one is used.

    What a call raises is raised when its turn comes; the calls that have not begun by then are dropped. jax's context
    (`jax.default_device` and the like) is that of the caller.
    """
    context = {name: getattr(jax.config, f"jax_{name}") for name in CONTEXT}
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ahead")
    waiting: deque[Future[T]] = deque()
    try:
        for call in calls:
            waiting.append(pool.submit(_under, context, call))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _under(context: dict[str, object], call: Callable[[], T]) -> T:
    with contextlib.ExitStack() as stack:
        for name, value in context.items():
            stack.enter_context(getattr(jax, name)(value))
        return call()


def overlapped(batches: Iterable[B], prepare: Callable[[B], P], run: Callable[[P], T], together: bool) -> Iterator[T]:
    """run(prepare(batch)) of each batch, in order, with the host's share of the work ahead of the device's.

    together: two batches also run at a time, each on what the other leaves of the device.
    """
    if together:
        return ahead(partial(lambda batch: run(prepare(batch)), batch) for batch in batches)
    return map(run, ahead(partial(prepare, batch) for batch in batches))
