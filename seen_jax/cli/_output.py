"""What a command shows: results on stdout, everything else on stderr, files written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seen_jax.errors import ConfigError

PIPE_WIDTH = 200  # columns of a table that is not read on a terminal
PATIENCE = 2.0  # seconds of work before a progress bar appears


@dataclass(frozen=True)
class Result:
    """data: what --json prints. view: rich renderables or strings for people."""

    data: Any
    view: Sequence[Any] = field(default_factory=list)

    def text(self, as_json: bool) -> str:
        if as_json:
            return json.dumps(self.data, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        from rich.console import Console

        terminal, buffer = sys.stdout.isatty(), io.StringIO()
        width = None if terminal else PIPE_WIDTH
        console = Console(
            file=buffer,
            force_terminal=terminal,
            width=width,
            markup=False,  # a clip named [red] keeps its name
            emoji=False,
            highlight=False,
        )
        for part in self.view:
            console.print(part)
        return "\n".join(line.rstrip() for line in buffer.getvalue().split("\n"))


def note(text: str) -> None:
    """A remark for people, on stderr."""
    print(text, file=sys.stderr)


def warn(text: str) -> None:
    note(f"warning: {text}")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """A rich table; columns that start with '#' hold numbers and are aligned on the right."""
    from rich import box
    from rich.table import Table

    out = Table(box=box.SIMPLE_HEAD if any(columns) else None, show_header=any(columns))
    for name in columns:
        out.add_column(name.lstrip("#"), justify="right" if name.startswith("#") else "left", overflow="fold")
    for row in rows:
        out.add_row(*("-" if cell is None else str(cell) for cell in row))
    return out


def one_line(text: str) -> str:
    """A model's text without line breaks and control characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.2f} %"


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr once the work has taken two seconds, if a person is watching; yields f(done, total)."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(title, total=None)
    timer = threading.Timer(PATIENCE, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda done, total: bar.update(task, completed=done, total=total)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr, one per stage of a long work, with speed and time left; yields f(stage, done, total). Without a
    person watching, a stage says once that it has begun."""
    started: dict[str, Any] = {}
    if not sys.stderr.isatty():

        def say(stage: str, done: int, total: int) -> None:
            if stage not in started:
                started[stage] = True
                note(f"{stage} ({total})")

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:

        def tick(stage: str, done: int, total: int) -> None:
            if stage not in started:
                started[stage] = bar.add_task(stage, total=total)
            bar.update(started[stage], completed=done, total=total)

        yield tick


def check_writable(path: Path) -> None:
    """ConfigError unless `path` could be created: its nearest existing ancestor is a folder that can be written."""
    ancestor = path.absolute()
    while not ancestor.exists():
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise ConfigError(f"cannot write {path}: {ancestor} is a file, not a folder.")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write {path}: no permission to write in {ancestor}.")


def check_file(name: str, suffixes: Sequence[str], overwrite: bool) -> Path:
    """The path of a result file, checked before the work whose result it will hold."""
    path = Path(name).expanduser()
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{path}: the suffix must be {' or '.join(suffixes)}.")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, not a file.")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists: choose another name or pass --overwrite.")
    check_writable(path.parent)
    return path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it appears complete or not at all."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    except OSError as e:
        raise ConfigError(f"cannot write {path}: {e.strerror or e}.") from e
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
