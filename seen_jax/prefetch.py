"""Host work ahead of the device: reading, mixing and denoising run in threads while the model answers."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import jax

J = TypeVar("J")
P = TypeVar("P")
T = TypeVar("T")
THREADS = 2
CONTEXT = ("default_device", "default_matmul_precision", "debug_nans")  # of jax, each thread's own


def prefetch(calls: Iterable[Callable[[], T]], depth: int = 2 * THREADS) -> Iterator[T]:
    """The results of `calls` in order; up to `depth` of them are computed in threads ahead of the one in use.
    An exception is raised when its call's turn comes; calls that have not begun by then are dropped. Threads inherit
    jax's context (`jax.default_device` and the like) from the caller."""
    context = {name: getattr(jax.config, f"jax_{name}") for name in CONTEXT}
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="prefetch")
    waiting: deque[Future[T]] = deque()
    try:
        for call in calls:
            waiting.append(pool.submit(_in_context, context, call))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_context(context: dict[str, object], call: Callable[[], T]) -> T:
    with contextlib.ExitStack() as stack:
        for name, value in context.items():
            stack.enter_context(getattr(jax, name)(value))
        return call()


def pipeline(jobs: Iterable[J], prepare: Callable[[J], P], run: Callable[[P], T], concurrent: bool) -> Iterator[T]:
    """run(prepare(job)) of each job, in order; `prepare` runs in threads ahead of `run`. concurrent: two jobs at once,
    so that one uses what the other leaves of the device."""
    if concurrent:
        return prefetch(partial(lambda job: run(prepare(job)), job) for job in jobs)
    return map(run, prefetch(partial(prepare, job) for job in jobs))
