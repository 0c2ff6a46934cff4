"""How long work tells that it goes on: every callback in the package has this one signature."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (stage, how much of it is done, how much there is in all; 0: unknown)


def silent(stage: str, done: int, total: int) -> None:
    """The callback that shows nothing."""


def shifted(progress: Progress, before: int, total: int) -> Progress:
    """A callback for one part of a stage: `before` was done by earlier parts, of `total` in all."""
    return lambda stage, done, _: progress(stage, before + done, total)
