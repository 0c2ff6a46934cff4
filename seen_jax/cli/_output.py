"""What a command shows: its result on stdout, everything else on stderr."""

import contextlib
import csv
import io
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seen_jax.cli import _signals as signals
from seen_jax.errors import ConfigError, one_line
from seen_jax.files import csv_quoting, write_file
from seen_jax.progress import PATIENCE, Progress

PIPE_WIDTH = 200  # columns of a table that is not read on a terminal
OUT = (".csv", ".json")  # suffixes of --out


class Verbatim(str):
    """A text that is shown as it is: a file, whose long lines are not wrapped."""


@dataclass(frozen=True)
class Result:
    """data: what --json prints. view: rich renderables or strings for people."""

    data: Any
    view: Sequence[Any] = field(default_factory=list)

    def text(self, as_json: bool, encoding: str = "utf-8") -> str:
        """What an output of this encoding shows; characters that it does not have are escaped."""
        if as_json:
            dumped = json.dumps(self.data, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
            return re.sub(r"[^\n -~]", lambda c: _json_character(c[0], encoding), dumped)
        from rich.console import Console

        terminal, buffer = sys.stdout.isatty(), io.StringIO()
        plain: Any = {"markup": False, "emoji": False, "highlight": False}  # a clip named [red] keeps its name
        console = Console(file=buffer, force_terminal=terminal, width=None if terminal else PIPE_WIDTH, **plain)
        for part in self.view:
            if isinstance(part, Verbatim):
                buffer.write(part)
                continue
            console.print("\n".join(map(one_line, part.split("\n"))) if isinstance(part, str) else part)
        shown = "\n".join(line.rstrip() for line in buffer.getvalue().split("\n"))
        return shown.encode(encoding, "backslashreplace").decode(encoding)


def _json_character(c: str, encoding: str) -> str:
    """A character of JSON text, escaped unless the encoding has it and it can be printed."""
    encoded = c.encode(encoding, "ignore") if c.isprintable() else b""
    return c if encoded else json.dumps(c)[1:-1]


def note(*lines: str) -> None:
    """A remark on stderr. Work does not end because nobody can read it."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(*map(one_line, lines), sep="\n", file=sys.stderr)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """A rich table; columns that start with '#' hold numbers and are aligned on the right."""
    from rich import box
    from rich.table import Table

    out = Table(box=box.SIMPLE_HEAD if any(columns) else None, show_header=any(columns))
    for name in columns:
        out.add_column(name.lstrip("#"), justify="right" if name.startswith("#") else "left", overflow="fold")
    for row in rows:
        out.add_row(*("-" if cell is None else one_line(cell) for cell in row))
    return out


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.2f} %"


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Yields the callback that shows on stderr how the stages of a command advance, once it has run for two seconds:
    bars on a terminal; elsewhere a line for each stage."""
    begun, stages = time.monotonic(), dict[str, Any]()
    if not sys.stderr.isatty():

        def mention(stage: str, done: int, total: int) -> None:
            signals.check()
            if stage not in stages and time.monotonic() - begun >= PATIENCE:
                note(f"{stage} ({total})" if total else stage)
                stages[stage] = True

        yield mention
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.MofNCompleteColumn())
    bars = rich.Progress(*columns, rich.TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    timer = threading.Timer(PATIENCE, bars.start)
    timer.daemon = True
    timer.start()

    def update(stage: str, done: int, total: int) -> None:
        signals.check()
        if stage not in stages:
            stages[stage] = bars.add_task(stage, total=None)
        bars.update(stages[stage], completed=done, total=total or None)

    try:
        yield update
    finally:
        timer.cancel()
        timer.join()
        bars.stop()


def check_writable(folder: Path) -> None:
    """ConfigError unless files can be written to the folder, or it can be made."""
    ancestor = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not ancestor.is_dir():
        raise ConfigError(f"cannot write {folder}: {ancestor} is a file, not a folder.")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write {folder}: no permission to write in {ancestor}.")
    try:  # some file systems refuse what their permissions promise
        tempfile.TemporaryFile(dir=ancestor).close()
    except OSError as e:
        raise ConfigError(f"cannot write {folder}: {e.strerror or e} in {ancestor}.") from None


def check_file(name: str | None, suffixes: Sequence[str], overwrite: bool) -> Path | None:
    """The path of a result file, if there is to be one, checked before the work whose result it will hold."""
    if name is None:
        return None
    path = Path(os.path.expanduser(name))
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{path}: the suffix must be {' or '.join(suffixes)}.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise ConfigError(f"{path} exists: choose another name or pass --overwrite.")
    check_writable(path.parent)
    return path


def write_out(path: Path | None, result: Result, rows: Sequence[Mapping[str, Any]]) -> Result:
    """The result, after writing it or its rows, which have the same keys, into the file of --out, if there is one."""
    if path is None:
        return result
    if path.suffix.lower() == ".json":
        text = result.text(True)
    else:
        lines, quoting = io.StringIO(), csv_quoting(cell for row in rows for cell in row.values())
        writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n", quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
        text = lines.getvalue()
    write_file(path, text.encode("utf-8", "backslashreplace"))
    note(f"written: {path}")
    return result
