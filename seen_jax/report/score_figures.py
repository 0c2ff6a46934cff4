"""Figures of the conditions of an experiment (`seen_jax.evaluate.tables`); as in `seen_jax.report.figures`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from seen_jax.evaluate.metrics import correlation
from seen_jax.mitigations.base import NONE
from seen_jax.report import style
from seen_jax.report.style import complete, drawn_name, look

MOST_SPOKES = 16  # of one radar
RESAMPLES = 1000  # of the points of a trend


def _cells(cells: pd.DataFrame, *columns: str, mitigation: str | None = None, clean: bool = False) -> pd.DataFrame:
    """The cells that have these columns, with their `place`; all mitigations and only noisy audio unless asked."""
    kept = complete(cells, *columns)
    wanted = (kept["mitigation"] == mitigation) | (mitigation is None)
    kept = complete(kept[wanted & (kept["snr_db"].notna() | clean)], *columns)
    return kept.assign(place=style.places(kept))


@style.styled
def see_gsr_grid(cells: pd.DataFrame) -> Any:
    """GSR against SEE over the SNRs without mitigation, one panel per task and noise, with the least-squares line, its
    95 % bootstrap band over the cells, and Pearson's r with its interval."""
    kept = _cells(cells, "see", "gsr", mitigation=NONE)
    tasks, noises = kept["place"].unique(), kept["noise"].unique()
    across = len(noises) <= max(len(tasks), 4)  # the shorter side runs across
    shape = (len(tasks), len(noises)) if across else (len(noises), len(tasks))
    figure = style.new_figure(3.7 * shape[1] + 1.6, 3.6 * shape[0])
    panels = figure.subplots(*shape, sharey=True, squeeze=False)
    snrs = {"vmin": kept["snr_db"].min(), "vmax": kept["snr_db"].max()}
    for (i, task), (j, noise) in ((a, b) for a in enumerate(tasks) for b in enumerate(noises)):
        axes = panels[i, j] if across else panels[j, i]
        series = kept[(kept["place"] == task) & (kept["noise"] == noise)]
        axes.set_visible(not series.empty)
        if series.empty:
            continue
        x, y = (100 * series[column].to_numpy(float) for column in ("see", "gsr"))
        r = correlation(x, y)
        title = "r undefined"
        if not math.isnan(r):
            title = style.minus(f"r = {r:.2f}")
            at, line, low, high = _trend(x, y)
            axes.fill_between(at, low, high, color="#888888", alpha=0.25, linewidth=0)
            axes.plot(at, line, color="#444444", linewidth=2)
        look_of_points: Any = {"s": 90, "edgecolors": "#333333", "linewidths": 0.7, "zorder": 3}
        points = axes.scatter(x, y, c=series["snr_db"], cmap="cividis", **snrs, **look_of_points)
        axes.set_title(f"{drawn_name(task)}, {drawn_name(noise)}\n{title}", fontsize=14)
        axes.set(xlabel=style.SEE_LABEL, ylim=(-4, 104))
    for axes in panels[:, 0]:
        axes.set_ylabel(style.GSR_LABEL)
    place_of_bar = {"fraction": 0.02, "aspect": 25, "shrink": min(1.0, 1.6 / shape[0]), "anchor": (0, 1)}
    figure.colorbar(points, ax=panels, label=style.SNR_LABEL, **place_of_bar)
    return figure


def _trend(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> list[np.ndarray]:
    """Places along x, the least-squares line there, and the ends of the 95 % band of lines through resampled points."""
    at = np.linspace(x.min(), x.max(), 60)
    draws = np.vstack([np.arange(len(x)), np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))])
    xs, ys = x[draws], y[draws]
    xs0 = xs - xs.mean(1, keepdims=True)
    spread = (xs0**2).sum(1)
    slope = (xs0 * ys).sum(1) / np.where(spread > 0, spread, np.inf)
    lines = ys.mean(1)[:, None] + slope[:, None] * (at - xs.mean(1)[:, None])
    return [at, lines[0], *np.quantile(lines[1:][spread[1:] > 0], [0.025, 0.975], axis=0)]


@style.styled
def see_vs_snr(cells: pd.DataFrame) -> Any:
    """SEE against SNR without mitigation, one panel per task and one line per noise; dashed: clean audio."""
    every = _cells(cells, "see", mitigation=NONE, clean=True)
    kept = _cells(cells, "see", mitigation=NONE)
    tasks, noises = kept["place"].unique(), kept["noise"].unique()
    columns = 2 if len(tasks) in (2, 4) else min(len(tasks), 3)
    lines = -(-len(tasks) // columns)
    figure = style.new_figure((7.0 if columns == 1 else 5.2 * columns) + 2.4, 4.6 * lines)
    panels = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for spare in panels[len(tasks) :]:
        spare.set_visible(False)
    for task, axes in zip(tasks, panels, strict=False):
        for i, noise in enumerate(noises):
            series = every[(every["place"] == task) & (every["noise"] == noise)]
            noisy, clean = series[series["snr_db"].notna()].sort_values("snr_db"), series[series["snr_db"].isna()]
            axes.plot(noisy["snr_db"], 100 * noisy["see"], label=drawn_name(noise), **look(i))
            for level in 100 * clean["see"]:
                axes.axhline(level, color=look(i)["color"], **style.CLEAN_LINE)
        axes.set(xlabel=style.SNR_LABEL, title=drawn_name(task))
        axes.plot([], [], color="#444444", label="clean", **style.CLEAN_LINE)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(style.SEE_LABEL)
    axes.set_ylim(bottom=0)  # of all panels, once all are drawn
    return figure


@style.styled
def denoiser_radar(cells: pd.DataFrame) -> Any:
    """GSR of noisy audio per mitigation, mean over SNRs, an axis per task and noise; beyond 16, a panel per task."""
    kept = _cells(cells, "gsr")
    tasks, noises, names = (kept[key].unique() for key in ("place", "noise", "mitigation"))
    means = 100 * kept.groupby(["mitigation", "place", "noise"], sort=False)["gsr"].mean()
    spokes = [(task, noise) for task in tasks for noise in noises]
    charts = {drawn_name(task): [(task, noise) for noise in noises] for task in tasks}
    charts = charts if len(spokes) > MOST_SPOKES else {"": spokes}
    columns = min(len(charts), 2)
    rows = -(-len(charts) // columns)
    figure = style.new_figure((9.6 if columns == 1 else 7.6 * columns) + 2.5, 6.6 * rows)
    figure.suptitle("mean GSR over the SNRs (%)", fontsize=16)
    for k, (title, ends) in enumerate(charts.items()):
        axes = figure.add_subplot(rows, columns, k + 1, projection="polar")
        angles = 2 * np.pi * np.arange(len(ends)) / len(ends)
        for i, mitigation in enumerate(names):
            values = [means.get((mitigation, *end), math.nan) for end in ends]
            axes.plot([*angles, angles[0]], [*values, values[0]], label=drawn_name(mitigation), **look(i))
        short = bool(title) or len(tasks) == 1
        labels = [drawn_name(noise) if short else f"{drawn_name(task)}\n{drawn_name(noise)}" for task, noise in ends]
        axes.set_xticks(angles, labels, fontsize=13)
        for angle, label in zip(angles, axes.get_xticklabels(), strict=True):
            side = round(float(np.sin(angle)), 6)
            label.set_horizontalalignment("left" if side > 0 else "right" if side < 0 else "center")
        axes.set_theta_offset(np.pi / 2)
        axes.set_theta_direction(-1)
        axes.tick_params(axis="x", pad=8)
        axes.set_title(title, pad=24)
    rings = np.linspace(0, max(20, 20 * math.ceil(means.max() / 20)), 5)[1:]  # the same in all charts
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
    for axes in figure.axes:
        axes.set_ylim(0, rings[-1])
        axes.set_yticks(rings, [])
        between = np.pi / len(axes.get_xticks())
        for ring in rings:
            axes.text(between, ring, f"{ring:g}", fontsize=12, color="#333333", ha="center", bbox=box, zorder=6)
    return figure


@style.styled
def mitigation_bars(cells: pd.DataFrame, groups: Mapping[str, Sequence[float]]) -> Any:
    """GSR per mitigation and group of SNRs (NaN: clean) with 95 % intervals, the mean over the noises, one panel per
    task. The ends of an interval are the means of the cells' ends: the same items are used in all of them, so it does
    not narrow with the number of noises."""
    columns = ["gsr", "gsr_low", "gsr_high"]
    kept = _cells(cells, *columns, clean=True)
    tasks, names = kept["place"].unique(), kept["mitigation"].unique()
    width = 0.84 / len(names)
    figure = style.new_figure(min(18.0, 4 + 0.22 * len(groups) * (len(names) + 1)) + 2, 3.9 * len(tasks))
    panels = figure.subplots(len(tasks), 1, sharex=True, squeeze=False)[:, 0]
    for task, axes in zip(tasks, panels, strict=True):
        for i, mitigation in enumerate(names):
            bar = kept[(kept["place"] == task) & (kept["mitigation"] == mitigation)]
            means = [bar.loc[bar["snr_db"].isin(snrs), columns].mean() for snrs in groups.values()]
            value, low, high = 100 * np.array(means, np.float64).T
            at, whiskers = np.arange(len(groups)) + (i - (len(names) - 1) / 2) * width, [value - low, high - value]
            hatch = style.HATCHES[(i + i // len(style.PALETTE)) % len(style.HATCHES)]  # bars of one colour differ
            bar_look: Any = {"color": look(i)["color"], "hatch": hatch, "edgecolor": "white", "linewidth": 0.8}
            whisker_look = {"yerr": np.maximum(whiskers, 0), "error_kw": {"ecolor": "#222222", "elinewidth": 1.3}}
            axes.bar(at, value, width, label=drawn_name(mitigation), **bar_look, **whisker_look)
        axes.set(ylim=(0, 104), ylabel=style.GSR_LABEL, title=drawn_name(task))
        axes.grid(False, axis="x")
        axes.set_xticks(range(len(groups)), list(groups))
    panels[-1].set_xlabel("SNR")
    return figure
