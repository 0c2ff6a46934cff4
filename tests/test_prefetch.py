"""Host work in threads: the order of results, how far it runs ahead, and what becomes of an error."""

from __future__ import annotations

import threading
import time
from functools import partial

import jax
import pytest

from seen_jax.prefetch import pipeline, prefetch


def test_results_come_in_the_order_of_the_calls():
    def slow(i: int) -> int:
        time.sleep(0.01 * (3 - i % 3))
        return i

    assert list(prefetch(partial(slow, i) for i in range(10))) == list(range(10))
    assert list(prefetch([])) == []


def test_only_a_few_calls_run_ahead_and_an_error_waits_for_its_turn():
    begun: list[int] = []
    lock = threading.Lock()

    def call(i: int) -> int:
        with lock:
            begun.append(i)
        if i == 2:
            raise ValueError("third")
        return i

    results = prefetch((partial(call, i) for i in range(100)), depth=3)
    assert next(results) == 0 and max(begun) <= 3
    assert next(results) == 1
    with pytest.raises(ValueError, match="third"):
        next(results)
    assert max(begun) <= 6


def test_the_context_of_jax_is_that_of_the_caller():
    read = lambda: (jax.config.jax_default_device, jax.config.jax_default_matmul_precision)
    device = jax.devices()[0]
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        assert list(prefetch([read] * 3)) == [(device, "highest")] * 3
    assert list(prefetch([read])) == [read()]


@pytest.mark.parametrize("together", [True, False])
def test_batches_come_in_order_and_run_together_only_where_they_may(together):
    own, busy, most = threading.get_ident(), 0, 0
    lock = threading.Lock()

    def run(prepared: int) -> tuple[int, bool]:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.02)
        with lock:
            busy -= 1
        return prepared, threading.get_ident() == own

    found = list(pipeline(range(8), lambda i: 10 * i, run, together))
    assert found == [(10 * i, not together) for i in range(8)]
    assert most == (2 if together else 1)
