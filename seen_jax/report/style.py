"""How figures look: Okabe-Ito colours, a marker and a dash for every series, legible at half size."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
import pandas as pd

from seen_jax.errors import ConfigError
from seen_jax.mitigations.base import NONE, SEEN

Arguments = ParamSpec("Arguments")
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8a8a8a")
MARKERS = "osD^vPX*"
HATCHES = ("", "//", "", "..", "", "\\\\", "", "xx")
DASHES: Any = ("-", (0, (5, 1, 1, 1)), (0, (1, 1)))
CLEAN_LINE: Any = {"linestyle": (0, (6, 5)), "linewidth": 1.3, "zorder": 1}
STYLE = Path(__file__).with_name("seen.mplstyle")
SEE_LABEL, GSR_LABEL, SNR_LABEL = "SEE (%)", "GSR (%)", "SNR (dB)"
LABELS = {
    "gsr": GSR_LABEL,
    "clean_gsr": "GSR of clean audio (%)",
    "see": SEE_LABEL,
    "accuracy": "accuracy (%)",
    "wer": "WER (%)",
    "wer_clean": "WER against clean output (%)",
    "gain": "GSR gain (points)",
    "pearson": "Pearson r of SEE and GSR",
    "snr_db": SNR_LABEL,
    "strength": "strength λ",
    "delta": "threshold δ",
    "semantic_alpha": "energy share \N{GREEK SMALL LETTER ALPHA}",
    "cosine": "cosine similarity",
}
PERCENT = ("(%)", "(points)")  # ends of labels whose shares are drawn times 100


def styled(draw: Callable[Arguments, Any]) -> Callable[Arguments, Any]:
    """Draw under our style, with a legend; sizes go into the figure, which is often saved outside of the style."""

    @functools.wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Any:
        import matplotlib

        with matplotlib.rc_context(fname=STYLE):
            figure = draw(*args, **kwargs)
            if not figure.legends:
                legend(figure)
            for axes in figure.axes:
                axes.tick_params(labelsize=axes.xaxis.get_label().get_size() - 2)
            return figure

    return drawn


def new_figure(width: float, height: float) -> Any:
    """An empty figure of a size in inches, without pyplot and hence without global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def save(figure: Any, folder: Path, name: str) -> Path:
    """Write a figure as SVG (the same bytes each time) and as PNG; returns the path of the latter."""
    import matplotlib

    path = folder / f"{name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": name}, STYLE):
        figure.savefig(path)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return path


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of a series: 24 that can be told apart, also without colour."""
    lap = index // len(PALETTE)
    colour, marker = PALETTE[index % len(PALETTE)], MARKERS[(index + 3 * lap) % len(MARKERS)]
    return {"color": colour, "marker": marker, "linestyle": DASHES[lap % len(DASHES)]}


def legend(figure: Any, title: str | None = None) -> None:
    """One legend for all panels, beside them; none for a single series without a name."""
    pairs = (pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True))
    entries = {label: handle for handle, label in pairs}
    if entries:
        figure.legend(entries.values(), entries.keys(), title=title, loc="outside right upper")


def complete(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows in which all columns have finite values. Raises ConfigError if there are none."""
    if absent := [name for name in columns if name not in table]:
        raise ConfigError(f"a table has no {', '.join(absent)}, only {', '.join(map(str, table))}")
    kept = table[np.isfinite(table[list(columns)].apply(pd.to_numeric, errors="coerce").astype(float)).all(axis=1)]
    if kept.empty:
        raise ConfigError("there is nothing to draw: no row has the values that this figure shows")
    return kept


def places(cells: pd.DataFrame) -> pd.Series:
    """The task of every cell, with its data set where several share the task."""
    shared = cells.groupby("task")["dataset"].transform("nunique") > 1
    return cells["task"].where(~shared, cells["dataset"] + ": " + cells["task"])


def scale(text: str) -> float:
    """That values are multiplied with under a label."""
    return 100.0 if text.endswith(PERCENT) else 1.0


def label(column: str) -> str:
    return LABELS.get(column, drawn_name(column))


def minus(text: str) -> str:
    """With minus signs for hyphens."""
    return text.replace("-", "\N{MINUS SIGN}")


def level(snr_db: float | None) -> str:
    """An SNR as text; None and NaN are clean audio."""
    return "clean" if pd.isna(snr_db) else minus(f"{snr_db:g} dB")


def in_words(name: Any) -> str:
    """A mitigation, or another name, as it is shown."""
    parts = (part.strip().replace("_", " ") for part in str(name).split("+"))
    return " + ".join({NONE: "nothing", SEEN: "SEEN"}.get(part, part) for part in parts)


def drawn_name(name: Any) -> str:
    """A name as a figure shows it; a dollar sign is no formula."""
    return in_words(name).replace("$", r"\$")
