"""What a study is: bases whose SEE is measured, rows that are made of the measurements, and a section of the report.

It needs `lab.calibrated` (noises with a basis), `lab.basis(noise)`, `lab.subjects` (`subject.item.wave`: mono float32
at 16 kHz) and `lab.levels`; `measured.see[case]` is [levels, items], row 0 clean audio, then `measured.snrs`; and for
correlations with intervals `seen_jax.evaluate.metrics.correlation`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from seen_jax.report.blocks import Block, Text
from seen_jax.report.figures import line_sweep
from seen_jax.report.format import MOST_ROWS, Format, Target, grid, number, plain, points, see, share
from seen_jax.report.style import label, level
from seen_jax.studies.lab import Lab
from seen_jax.studies.measure import Case, Measurements
from seen_jax.subspace import Finding

Column = tuple[str, Format]  # its header, and how a value is written
Figure = tuple[str, str, Callable[[], Any]]  # the name of its file, its caption, and what draws it
ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
COLUMNS: Mapping[str, Column] = {
    "pearson": ("Pearson r of SEE", number),
    "pearson_snr": ("of the SNR", number),
    "see_noisy": ("SEE, noisy (%)", see),
    "see_clean": ("SEE, clean (%)", see),
    "gsr": ("GSR (%)", share),
    "clean_gsr": ("clean GSR (%)", share),
    "gain": ("GSR gain (points)", points),
    "snr_db": ("SNR", level),
    "delta": ("δ", lambda delta: "complement" if pd.isna(delta) else plain(delta)),
    "semantic_alpha": (ALPHA, plain),
    "strength": ("λ", plain),
}


class Study:
    """One study. All studies of a run share one measuring pass, so all `cases` are made before any `rows`."""

    name: str
    title: str  # of its section
    lead: str
    names: Sequence[str] = ("noise",)  # columns of its table that tell rows apart; a long one has means over the last
    values: Sequence[str] = ("rank", "pearson", "pearson_snr", "see_noisy", "see_clean")  # its numbers
    # Headers and formats beside COLUMNS; they name axes and captions too. Annotate it as Mapping[str, Column].
    columns: Mapping[str, Column] = {}
    # (x, y, group): a figure each, one line per group; up to four have bands where the rows have y_low and y_high.
    # A y whose header ends with (%) or (points) is drawn times 100.
    sweeps: Sequence[tuple[str, str, str]] = ()
    sites: Sequence[str] = ()  # where it needs calibrations, beside the experiment's site
    clips: int = 0  # that it asks for; 0: as usual
    measures: bool = True  # whether it needs the measuring pass

    def check(self, experiment: Any) -> None:
        """Raise ConfigError, before anything is run, for an experiment that it cannot study."""

    def cases(self, lab: Lab) -> Iterable[Case]:
        """Bases whose SEE is measured; the same ones each time."""
        return ()

    def rows(self, lab: Lab, cases: Sequence[Case], measured: Measurements) -> pd.DataFrame:
        """Its table; values are missing where they are not defined. By default one row per case, with the mean rank of
        its kept layers."""
        rank = lambda basis: float(np.mean([basis.ranks[layer] for layer in basis.layers]))
        rows = [{**c.fields, "rank": rank(c.basis), **measured.correlations(c), **measured.means(c)} for c in cases]
        return pd.DataFrame(rows)

    def findings(self, rows: pd.DataFrame) -> Iterable[tuple[str, str, Finding]]:
        """(noise, site, finding) that the diagnosis of the bases names too."""
        return ()

    def headline(self, rows: pd.DataFrame) -> Iterable[tuple[str, str]]:
        """Numbers for the first screen of the report, each with what it says."""
        return ()

    def shown(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows that the section's table shows."""
        return rows

    def figures(self, rows: pd.DataFrame) -> Iterable[Figure]:
        """The section's figures."""
        for x, y, group in self.sweeps:
            labels = [label(self.columns[name][0] if name in self.columns else name) for name in (x, y, group)]
            caption = f"{labels[1]} against {labels[0]}, for every {labels[2]}."
            caption = caption[0].upper() + caption[1:]
            yield f"{self.name}_{y}_{group}", caption, partial(line_sweep, rows, x, y, group, labels)

    def section(self, rows: pd.DataFrame, target: Target) -> list[Block]:
        """The lead, figures, a table, and a link to all rows."""
        pictures = [block for figure in self.figures(rows) for block in target.picture(*figure)]
        return [Text(self.lead), *pictures, *self.table(self.shown(rows)), *target.link(f"study_{self.name}")]

    def table(self, rows: pd.DataFrame) -> list[Block]:
        """A table of the rows, and what was left out of it to keep it short."""
        numbers, kept = rows.astype(dict.fromkeys(self.values, float)), list(self.names)
        means = lambda: numbers.groupby(kept, dropna=False)[list(self.values)].mean().reset_index()
        while len(short := means()) > MOST_ROWS and len(kept) > 1:
            kept.pop()
        values = [name for name in self.values if short[name].notna().any()]
        blocks: list[Block] = [grid(short.head(MOST_ROWS), self.headed([*kept, *values]), len(kept))]
        if gone := self.headed(self.names[len(kept) :]).values():
            blocks.append(Text(f"Means over: {', '.join(header for header, _ in gone)}.", note=True))
        if len(short) > MOST_ROWS:
            blocks.append(Text(f"The first {MOST_ROWS} of {len(short)} rows.", note=True))
        return blocks

    def headed(self, names: Iterable[str]) -> dict[str, Column]:
        """Some columns with their headers and formats."""
        known = {**COLUMNS, **self.columns}
        return {name: known.get(name, (name.replace("_", " "), plain)) for name in names}
