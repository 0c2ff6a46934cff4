"""Ctrl-C, SIGTERM and SIGHUP end a command with its `finally` blocks run, and none of them is lost."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PRESS = 0.5  # seconds within which signals count as one: launchers pass on a Ctrl-C that the terminal sends as well

_received: list[tuple[int, float]] = []  # (signal, moment) of the command that runs
_own_process = threading.Event()  # whether the process is the program `seen-jax`, and no other that calls `main`


def status() -> int:
    """The exit status of a command that was interrupted, 130 for Ctrl-C and 143 for SIGTERM; 0 for any other."""
    return 128 + _received[0][0] if _received else 0


def check() -> None:
    """Raise KeyboardInterrupt if a signal came, again where the first one was lost, as in a callback of JAX."""
    if _received:
        raise KeyboardInterrupt


def _handle(number: int, _: object) -> None:
    repeated = bool(_received) and time.monotonic() - _received[-1][1] < PRESS
    _received.append((number, time.monotonic()))
    if not repeated:  # else it would break off what the first one has to tidy up
        raise KeyboardInterrupt


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Turn the signals into KeyboardInterrupt while the block runs, but for those that the caller ignores, as `nohup`
    does. A program that calls `main` gets SIGTERM and SIGHUP afterwards, as if nobody had caught them. Only the main
    thread can have signals."""
    _received.clear()
    before = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in NUMBERS}
        before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, _handle)
    hook = sys.unraisablehook
    # Python would report an interruption of a destructor, and go on; `check` raises it again.
    sys.unraisablehook = lambda lost: None if _received and lost.exc_type is KeyboardInterrupt else hook(lost)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
        if _received and not _own_process.is_set() and (first := _received[0][0]) != signal.SIGINT:
            os.kill(os.getpid(), first)


def end_at_second() -> None:
    """End this process at once at a second signal. A thread waits for it: Python's own handlers do not run while the
    main thread compiles or computes."""
    _own_process.set()
    incoming, outgoing = os.pipe()
    os.set_blocking(outgoing, False)
    signal.set_wakeup_fd(outgoing, warn_on_full_buffer=False)

    def watch() -> None:
        first = 0.0
        while number := os.read(incoming, 1):
            first = first or time.monotonic()
            if time.monotonic() - first > PRESS:
                os._exit(128 + number[0])

    threading.Thread(target=watch, daemon=True, name="second signal").start()
