"""What the sections of an experiment's report are made of: numbers as text, means over cells, figures in files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seen_jax.errors import ConfigError
from seen_jax.evaluate.report import MINUS, NOTHING, number
from seen_jax.evaluate.tables import BENDS, Table
from seen_jax.report import figures as plots
from seen_jax.report.blocks import Block, Grid, Link, Picture, Text

MOST_ROWS = 40  # of a table on the page; longer ones are files
Format = Callable[[Any], str]


@dataclasses.dataclass(frozen=True)
class Target:
    """The folder of a report. Figures go into its `figures`, tables are already in its `tables`."""

    folder: Path

    def picture(self, name: str, caption: str, draw: Callable[[], Any]) -> list[Block]:
        """The figure in a file, or, where its data have nothing to draw, why there is none."""
        try:
            png, _ = plots.save(draw(), self.folder / "figures", name)
        except ConfigError as error:
            return [Text(f"No figure ({caption.rstrip('.')}): {error}", note=True)]
        return [Picture(png, caption)]

    def link(self, name: str) -> list[Block]:
        """A link to a table's CSV file, if there is one."""
        path = f"tables/{name}.csv"
        return [Link(path, f"All rows: {path}")] if (self.folder / path).is_file() else []


def finite(value: Any) -> Any:
    """JSON values with None in place of NaN and infinite numbers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(own) for key, own in value.items()}
    return [finite(own) for own in value] if isinstance(value, list | tuple) else value


def share(x: float | None) -> str:
    """A share in percent, without the sign, which is in the header."""
    return NOTHING if x is None else f"{100 * x:.1f}".replace("-", MINUS)


def see(x: float | None) -> str:
    return NOTHING if x is None else f"{100 * x:.2f}"


def points(x: float | None) -> str:
    text = number(None if x is None else 100 * x, 1)
    return "0.0" if text.endswith("0.0") and len(text) == 4 else text


def plain(x: Any) -> str:
    """Anything: numbers short, None as a dash."""
    if x is None or x == []:
        return NOTHING
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, list):
        return " ".join(map(plain, x))
    return f"{x:.4g}".replace("-", MINUS) if isinstance(x, int | float) else str(x)


def level(x: float | None) -> str:
    return "clean" if x is None else f"{x:g} dB".replace("-", MINUS)


def p_value(x: float) -> str:
    return "< 0.001" if x < 0.001 else f"{x:.3f}"


def interval(low: float | None, high: float | None, form: Format) -> str:
    return NOTHING if low is None or high is None else f"{form(low)} to {form(high)}"


def place(cell: Mapping[str, Any], cells: Table) -> str:
    """The task of a cell, with its data set where several share it."""
    shared = len({c["dataset"] for c in cells if c["task"] == cell["task"]}) > 1
    return f"{cell['dataset']}: {cell['task']}" if shared else cell["task"]


def distinct(rows: Iterable[Mapping[str, Any]], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def where(rows: Table, **wanted: Any) -> Table:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of those that are there; None for none."""
    own = [x for x in values if x is not None]
    return sum(own) / len(own) if own else None


def total(values: Iterable[int | None]) -> int | None:
    own = [x for x in values if x is not None]
    return sum(own) if own else None


def pooled(cells: Table, key: str) -> float | None:
    """Mean of a score over cells, every item counting the same."""
    own = [(c[key], c["items"]) for c in cells if c[key] is not None]
    count = sum(n for _, n in own)
    return sum(x * n for x, n in own) / count if count else None


def bands(cells: Table) -> dict[str, Table]:
    """The cells of clean audio, of noisy audio up to where the paper's curves bend, and above; those that there are."""
    parts = {
        "clean": [c for c in cells if c["snr_db"] is None],
        f"≤ {BENDS:g} dB": [c for c in cells if c["snr_db"] is not None and c["snr_db"] <= BENDS],
        f"> {BENDS:g} dB": [c for c in cells if c["snr_db"] is not None and c["snr_db"] > BENDS],
    }
    return {name: own for name, own in parts.items() if own}


def folded(rows: Table, names: Sequence[str], values: Sequence[str], most: int = MOST_ROWS) -> tuple[Table, list[str]]:
    """Means over rows with the same names; the last names are given up until few enough rows are left.

    Returns the rows and the names they still have.
    """
    for n in range(len(names), 0, -1):
        kept = list(names[:n])
        groups: dict[tuple[Any, ...], Table] = {}
        for row in rows:
            groups.setdefault(tuple(row[name] for name in kept), []).append(row)
        if len(groups) <= most or n == 1:
            break
    means = [
        {**dict(zip(kept, key, strict=True)), **{v: mean(row.get(v) for row in own) for v in values}}
        for key, own in groups.items()
    ]
    ranks = {name: {value: i for i, value in enumerate(in_order(distinct(means, name)))} for name in kept}
    return sorted(means, key=lambda row: tuple(ranks[name][row[name]] for name in kept)), kept


def in_order(values: Sequence[Any]) -> list[Any]:
    """Numbers by size after None (clean audio); anything else in order of appearance."""
    if all(x is None or isinstance(x, int | float) for x in values):
        return sorted(values, key=lambda x: -math.inf if x is None else x)
    return list(values)


def grid(rows: Table, names: Mapping[str, tuple[str, Format]], values: Mapping[str, tuple[str, Format]]) -> Grid:
    """A table of rows: {key: (header, how to write it)}."""
    columns = {**names, **values}
    body = [[form(row[key]) for key, (_, form) in columns.items()] for row in rows]
    return Grid([header for header, _ in columns.values()], body, len(names))
