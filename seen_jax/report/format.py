"""What sections are made of: numbers as text, tables, and figures in files."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seen_jax.errors import ConfigError
from seen_jax.evaluate.tables import ABOVE, BENDS, CLEAN, UP_TO
from seen_jax.report import style
from seen_jax.report.blocks import Block, Grid, Link, Picture, Text
from seen_jax.report.style import minus

NOTHING = "\N{EN DASH}"
MOST_ROWS = 40  # of a table on the page; longer ones are files
BANDS = {CLEAN: "clean", UP_TO: f"≤ {BENDS:g} dB", ABOVE: f"> {BENDS:g} dB"}
Format = Callable[[Any], str]


@dataclasses.dataclass(frozen=True)
class Target:
    """The folder of a report. Figures go into its `figures`, tables are already in its `tables`."""

    folder: Path

    def picture(self, name: str, caption: str, draw: Callable[..., Any], *data: Any) -> list[Block]:
        """The figure draw(*data) in a file, or, where its data have nothing to draw, why there is none."""
        try:
            return [Picture(style.save(draw(*data), self.folder / "figures", name), caption)]
        except ConfigError as error:
            return [Text(f"No figure ({caption.rstrip('.')}): {error}", note=True)]

    def link(self, name: str) -> list[Block]:
        """A link to a table's CSV file, if there is one."""
        path = f"tables/{name}.csv"
        return [Link(path, f"All rows: {path}")] if (self.folder / path).is_file() else []


def _or_dash(form: Callable[..., str]) -> Callable[..., str]:
    """A missing value (None, NaN, NA) is a dash."""
    return lambda x, *rest: NOTHING if x is None or x is pd.NA or x != x else form(x, *rest)


number = _or_dash(lambda x, digits=2: minus(f"{x:+.{digits}f}"))  # with its sign
percent = _or_dash(lambda x, digits=1: f"{100 * x:.{digits}f} %")
share = _or_dash(lambda x: minus(f"{100 * x:.1f}"))  # in percent, which the header says
see = _or_dash(lambda x: f"{100 * x:.2f}")  # likewise
points = _or_dash(lambda x: number(100 * x, 1) if abs(x) >= 0.0005 else "0.0")
p_value = _or_dash(lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}")


def plain(x: Any) -> str:
    """Anything: numbers short, missing values as a dash."""
    if isinstance(x, list | tuple):
        return " ".join(map(plain, x)) or NOTHING
    if isinstance(x, bool | np.bool_):
        return "yes" if x else "no"
    return _or_dash(lambda y: minus(f"{y:.4g}") if isinstance(y, int | float | np.number) else str(y))(x)


def interval(low: float | None, high: float | None, form: Format = number) -> str:
    ends = form(low), form(high)
    return NOTHING if NOTHING in ends else " to ".join(ends)


def pooled(cells: pd.DataFrame, column: str) -> float:
    """Mean of a score over cells, every item counting the same; NaN for none."""
    kept = cells[cells[column].notna()]
    return float(np.average(kept[column].astype(float), weights=kept["items"])) if len(kept) else float("nan")


def pooled_by(cells: pd.DataFrame, column: str, by: list[str]) -> pd.Series:
    """`pooled` for every combination of some columns, in order of appearance."""
    return cells.groupby(by, sort=False)[[column, "items"]].apply(pooled, column)


def see_ends(cells: pd.DataFrame) -> tuple[float, list[float]]:
    """The lowest SNR (NaN without noisy audio), and the mean SEE of clean audio and there."""
    lowest = float(cells["snr_db"].min())
    return lowest, [pooled(cells[cells["snr_db"].isna()], "see"), pooled(cells[cells["snr_db"] == lowest], "see")]


def crossed(values: pd.Series, form: Format, name: Format = str, title: str = "") -> Grid:
    """A series with two levels as a table: the first level runs down (written by `name`), the second across."""
    wide = values.unstack(sort=False)
    rows = [[name(key), *map(form, row)] for key, row in zip(wide.index, wide.to_numpy(), strict=True)]
    return Grid([str(wide.index.name), *map(str, wide.columns)], rows, title=title)


def grid(table: pd.DataFrame, columns: Mapping[str, tuple[str, Format]], names: int = 1, title: str = "") -> Grid:
    """The rows of a table: {column: (header, how to write it)}; the first `names` columns are names, not numbers."""
    texts = [map(form, table[key]) for key, (_, form) in columns.items()]
    rows = [list(row) for row in zip(*texts, strict=True)]
    return Grid([header for header, _ in columns.values()], rows, names, title)
