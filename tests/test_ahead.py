"""Host work in threads: the order of results, how far it runs ahead, and what becomes of an error."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from seen_jax.ahead import ahead


def test_results_come_in_the_order_of_the_calls():
    def slow(i: int) -> int:
        time.sleep(0.01 * (3 - i % 3))
        return i

    assert list(ahead(partial(slow, i) for i in range(10))) == list(range(10))
    assert list(ahead([])) == []


def test_only_a_few_calls_run_ahead_and_an_error_waits_for_its_turn():
    begun: list[int] = []
    lock = threading.Lock()

    def call(i: int) -> int:
        with lock:
            begun.append(i)
        if i == 2:
            raise ValueError("third")
        return i

    results = ahead((partial(call, i) for i in range(100)), depth=3)
    assert next(results) == 0 and max(begun) <= 3
    assert next(results) == 1
    with pytest.raises(ValueError, match="third"):
        next(results)
    assert max(begun) <= 6
