"""Host work done ahead of the device: reading, mixing and denoising run in threads while the model answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
THREADS = 2


def ahead(calls: Iterable[Callable[[], T]], depth: int = 2 * THREADS) -> Iterator[T]:
    """The results of `calls` in their order; up to `depth` of them are under way or waiting while one is used.

    What a call raises is raised when its turn comes; the calls that have not begun by then are dropped.
    """
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ahead")
    waiting: deque[Future[T]] = deque()
    try:
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
