"""Sections of an experiment's report about its studies, one for each that has rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seen_jax.evaluate.report import number
from seen_jax.evaluate.tables import Table
from seen_jax.report import figures as plots
from seen_jax.report.blocks import Block, Grid, Section, Text
from seen_jax.report.format import (
    MOST_ROWS,
    Format,
    Target,
    distinct,
    folded,
    grid,
    interval,
    level,
    mean,
    plain,
    points,
    see,
    share,
    where,
)

CSV = "study_{}"  # the name of a study's table among the CSV files
BEST = 15  # readings that are shown
READING = ("site", "method", "delta", "energy", "noise_source", "center", "noise_alpha", "layers")
Drawing = tuple[str, str, Callable[[Table], Any]]  # name, caption, figure


@dataclasses.dataclass(frozen=True)
class Study:
    """title, lead: of the section. names, values: columns of its table; the last names are given up where it is long.
    drawings: its figures. chosen: the rows of the table; the figures have all."""

    title: str
    lead: str
    names: Mapping[str, tuple[str, Format]]
    values: Mapping[str, tuple[str, Format]]
    drawings: Sequence[Drawing] = ()
    chosen: Callable[[Table], Table] = lambda rows: rows


def lines(x: str, y: str, group: str = "noise") -> Callable[[Table], Any]:
    """One line per group, means over everything else."""
    return lambda rows: plots.line_sweep(folded(rows, (group, x), (y,), len(rows))[0], x, y, group)


def noisy(rows: Table) -> Table:
    """Rows of noisy audio, where some are of one SNR each."""
    return [row for row in rows if row["snr_db"] is not None] or rows


def threshold(delta: float | None) -> str:
    """δ in a table; the complement has none."""
    return "complement" if delta is None else plain(delta)


def front(rows: Table) -> Any:
    way = lambda delta: threshold(delta) if delta is None else f"δ {delta:g}"  # noqa: E731
    named = [
        {**r, "label": f"{way(r['delta'])}, {ALPHA} {r['semantic_alpha']:g}, λ {r['strength']:g}", "group": r["noise"]}
        for r in rows
    ]
    return plots.pareto(
        named, "damage: energy taken out of clean audio (%)", "suppression: energy taken out of noise (%)"
    )


def unbeaten(rows: Table) -> Table:
    """Rows that the study found on the front of their noise."""
    return [row for row in rows if row.get("front", True)]


def single(rows: Table) -> Table:
    """Rows of one layer, without those of named groups of layers."""
    return [row for row in rows if isinstance(row["layer"], int)]


ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
NOISE, PEARSON, GAIN = ("noise", plain), ("Pearson r", number), ("GSR gain (points)", points)
CLEAN, OVERLAP = ("clean GSR (%)", share), ("overlap", lambda x: number(x).removeprefix("+"))
SEES = {"see_noisy": ("SEE, noisy (%)", see), "see_clean": ("SEE, clean (%)", see)}
STUDIES = {
    "transfer": Study(
        "Study: transfer across noises",
        "Bases of one noise, used on another.",
        {"calibration": ("calibrated on", plain), "noise": ("tested on", plain)},
        {"pearson": PEARSON, "gain": GAIN},
        [
            ("transfer_pearson", "Pearson r of SEE and GSR.", lambda rows: plots.transfer_heatmap(rows, "pearson")),
            ("transfer_gain", "GSR that SEEN gains.", lambda rows: plots.transfer_heatmap(rows, "gain")),
        ],
    ),
    "calibration_size": Study(
        "Study: clips of the calibration",
        "The same reading with fewer clips.",
        {"clips": ("clips", plain), "noise": NOISE},
        {"rank": ("rank", plain), "pearson": PEARSON, "overlap": OVERLAP},
        [
            ("calibration_size_pearson", "Pearson r against the clips.", lines("clips", "pearson")),
            ("calibration_size_overlap", "Overlap of the bases against the clips.", lines("clips", "overlap")),
        ],
    ),
    "calibration_snr": Study(
        "Study: SNR of the calibration",
        "The same reading with noise at other levels in the calibration.",
        {"calibration_snr_db": ("SNR", level), "noise_source": ("noise source", plain), "noise": NOISE},
        {"rank": ("rank", plain), "pearson": PEARSON, "overlap": OVERLAP},
        [
            ("calibration_snr_pearson", "Pearson r, mean over noise sources.", lines("calibration_snr_db", "pearson")),
            ("calibration_snr_overlap", "Overlap, mean over noise sources.", lines("calibration_snr_db", "overlap")),
        ],
    ),
    "strength": Study(
        "Study: strength of SEEN",
        "λ scales what SEEN takes out; the paper sees new disturbance above 1.",
        {"strength": ("λ", plain), "noise": NOISE, "snr_db": ("SNR", level)},
        {"gsr": ("GSR (%)", share), "clean_gsr": CLEAN, "gain": GAIN},
        [
            ("strength_gain", "GSR gain of noisy audio against λ, mean over the SNRs.",
             lambda rows: lines("strength", "gain")(noisy(rows))),
            ("strength_clean", "GSR of clean audio against λ.", lines("strength", "clean_gsr")),
        ],
        noisy,
    ),
    "delta": Study(
        f"Study: threshold δ and energy share {ALPHA}",
        "How far a noise direction may lie along the semantic ones, and how many of these there are.",
        {"delta": ("δ", threshold), "semantic_alpha": (ALPHA, plain), "noise": NOISE},
        {"rank": ("rank", plain), "pearson": PEARSON, **SEES},
        [
            ("delta_pearson", f"Pearson r against δ, mean over {ALPHA}.", lines("delta", "pearson")),
            ("alpha_pearson", f"Pearson r against δ for every {ALPHA}, mean over the noises.",
             lines("delta", "pearson", "semantic_alpha")),
        ],
    ),
    "pareto": Study(
        "Study: suppression against damage",
        "Energy that SEEN takes out of the calibration's noise against what it takes out of clean test audio.",
        {"delta": ("δ", threshold), "semantic_alpha": (ALPHA, plain), "strength": ("λ", plain), "noise": NOISE},
        {"suppression": ("of noise (%)", share), "damage": ("of clean (%)", share), "gain": GAIN, "clean_gsr": CLEAN},
        [("pareto", "The points that no other one beats, of all noises together, are joined.", front)],
        unbeaten,
    ),
    "layers": Study(
        "Study: one layer at a time",
        "SEE and SEEN at a single layer, and at named groups of layers.",
        {"layer": ("layer", plain), "noise": NOISE},
        {"pearson": PEARSON, "gain": GAIN, "clean_gsr": CLEAN},
        [("layer_probe", "Pearson r and GSR gain of every layer.", lambda rows: plots.layer_probe(single(rows)))],
    ),
    "partial": Study(
        "Study: noise over part of the clip",
        "Only a share of the clip is noisy.",
        {"share": ("noisy share", plain), "noise": NOISE},
        {"see": ("SEE (%)", see), "see_inside": ("in noise (%)", see), "see_outside": ("outside (%)", see),
         "gsr": ("GSR (%)", share)},
        [
            ("partial_see", "SEE against the noisy share.", lines("share", "see")),
            ("partial_gsr", "GSR against the noisy share.", lines("share", "gsr")),
        ],
    ),
    "pooling": Study(
        "Study: pooling",
        "Bases made of the mean activation of every clip, as the paper's are, and of all frames.",
        {"noise": NOISE, "pooled": ("of clip means", plain)},
        {"pearson": PEARSON},
    ),
}  # fmt: skip


def sections(target: Target, studies: Mapping[str, Table]) -> list[Section]:
    """A section for every study that has rows; localisation is shown with the bases."""
    found = []
    if studies.get("readings"):
        found.append(Section("Study: readings of the method", readings(target, studies["readings"])))
    for name, study in STUDIES.items():
        if rows := studies.get(name):
            found.append(Section(study.title, section(target, name, study, rows)))
    return found


def section(target: Target, name: str, study: Study, rows: Table) -> list[Block]:
    names = [key for key in study.names if key in rows[0]]
    short, kept = folded(study.chosen(rows), names, list(study.values))
    blocks: list[Block] = [Text(study.lead)]
    for title, caption, draw in study.drawings:
        blocks += target.picture(title, caption, lambda draw=draw: draw(rows))  # type: ignore[misc]
    values = {key: v for key, v in study.values.items() if any(row[key] is not None for row in short)}
    blocks.append(grid(short[:MOST_ROWS], {key: study.names[key] for key in kept}, values))
    if len(kept) < len(names):
        gone = ", ".join(study.names[key][0] for key in names if key not in kept)
        blocks.append(Text(f"Means over: {gone}.", note=True))
    if len(short) > MOST_ROWS:
        blocks.append(Text(f"The first {MOST_ROWS} of {len(short)} rows.", note=True))
    return blocks + target.link(CSV.format(name))


def readings(target: Target, rows: Table) -> list[Block]:
    """The readings whose SEE falls most clearly with GSR, on the mean over the noises."""
    names = [name for name in READING if name in rows[0]]
    found = []
    for key in dict.fromkeys(tuple(plain(row[name]) for name in names) for row in rows):
        own = [row for row in rows if tuple(plain(row[name]) for name in names) == key]
        pearson = [row["pearson"] for row in own]
        spans = [rank for row in own for rank in row["ranks"]]
        found.append(
            {
                **dict(zip(names, key, strict=True)),
                "pearson": None if None in pearson else mean(pearson),
                "worst": None if None in pearson else max(pearson),
                "see_clean": mean(row["see_clean"] for row in own),
                "see_noisy": mean(row["see_noisy"] for row in own),
                "ranks": interval(min(spans), max(spans), plain) if spans else "",
            }
        )
    found.sort(key=lambda row: (row["pearson"] is None, row["pearson"]))
    undefined = sum(row["pearson"] is None for row in found)
    text = f"{len(found)} readings on {len(distinct(rows, 'noise'))} noises"
    text += f"; for {undefined} of them SEE or GSR does not vary for some noise. " if undefined else ". "
    text += "In order of the mean correlation over the noises"
    text += f"; the first {BEST} are shown." if len(found) > BEST else "."
    columns: dict[str, tuple[str, Format]] = {"pearson": ("mean r", number), "worst": ("worst r", number)}
    columns |= {**SEES, "ranks": ("ranks", plain)}
    table = grid(found[:BEST], {name: (name.replace("_", " "), str) for name in names}, columns)
    return [Text(text), by_way(rows), table, *target.link(CSV.format("readings"))]


def by_way(rows: Table) -> Grid:
    """What each choice is worth: the mean correlation over all readings that make it."""
    lines_: list[list[str]] = []
    for name in (name for name in READING if name in rows[0]):
        for value in distinct([{name: plain(row[name])} for row in rows], name):
            own = where([{**row, name: plain(row[name])} for row in rows], **{name: value})
            defined = [row["pearson"] for row in own if row["pearson"] is not None]
            lines_.append([name.replace("_", " "), value, number(mean(defined)), f"{len(defined)} of {len(own)}"])
    header = ["choice", "value", "mean r", "defined"]
    return Grid(header, lines_, 2, "Each choice by itself: mean over all readings and noises")
