"""How long work tells that it goes on: every callback in the package has this one signature."""

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

Progress = Callable[[str, int, int], None]  # (stage, how much of it is done, how much there is in all; 0: unknown)
PATIENCE = 2.0  # seconds of work before progress is shown
_stages: dict[str, tuple[float, Any]] = {}  # {stage: (when it was first told of, its bar if it has one)}


def silent(stage: str, done: int, total: int) -> None:
    """The callback that shows nothing."""


def automatic(stage: str, done: int, total: int) -> None:
    """The callback that shows a bar (tqdm) for a stage that takes more than two seconds in a notebook, and nothing
    elsewhere: a program says itself what it wants to show."""
    if not in_notebook():
        return
    begun, bar = _stages.pop(stage, (time.monotonic(), None))
    if bar is None and time.monotonic() - begun >= PATIENCE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where ipywidgets is missing, the bar is one of text
            from tqdm.auto import tqdm

            bar = tqdm(desc=stage, total=total or None)
    if bar is not None:
        bar.total, bar.n = total or None, done
        bar.refresh()
    if not total or done < total:
        _stages[stage] = begun, bar
    elif bar is not None:
        bar.close()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def shifted(progress: Progress, before: int, total: int) -> Progress:
    """A callback for one part of a stage: `before` was done by earlier parts, of `total` in all."""
    return lambda stage, done, _: progress(stage, before + done, total)
