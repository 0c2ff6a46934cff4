"""Figures of tables in general: lines, curves over the layers, a heat map, a Pareto front, spectrograms.

Each takes a table and returns a matplotlib figure. Raises ConfigError where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.errors import ConfigError
from seen_jax.report import style
from seen_jax.report.style import complete, drawn_name, look

MOST_BANDS = 4  # more of them hide each other
MOST_NUMBERS = 8  # of points that are named beside a panel
MELS, HOP, DYNAMIC_DB = 80, 256, 80.0  # of a spectrogram


@style.styled
def line_sweep(table: pd.DataFrame, x: str, y: str, group: str) -> Any:
    """y against x, one line per value of `group`, the mean over all other columns.

    Up to four lines have bands where the table has the columns `y`_low and `y`_high.
    """
    kept = complete(table, x, y)
    columns = [name for name in (y, f"{y}_low", f"{y}_high") if name in kept]
    means = kept.groupby([group, x], sort=False)[columns].mean().reset_index()
    figure = style.new_figure(8.6, 4.8)
    axes = figure.subplots()
    _lines(axes, means, x, y, group, list(means[group].unique()))
    axes.set(xlabel=style.label(x), ylabel=style.label(y))
    style.legend(figure, style.label(group))
    return figure


def _lines(axes: Any, table: pd.DataFrame, x: str, y: str, group: str, names: Sequence[Any]) -> None:
    """A line per group, and its band if it has one and there are few."""
    ends = [f"{y}_low", f"{y}_high"]
    for i, name in enumerate(names):
        series = table[table[group] == name].sort_values(x)
        if len(names) <= MOST_BANDS and set(ends) <= set(series) and series[ends].notna().all(axis=None):
            low, high = (style.scale(y) * series[end].to_numpy(float) for end in ends)
            axes.fill_between(series[x].to_numpy(float), low, high, color=look(i)["color"], alpha=0.16, linewidth=0)
        every = max(1, len(series) // 8)
        values = style.scale(y) * series[y].to_numpy(float)
        axes.plot(series[x].to_numpy(float), values, label=drawn_name(name), markevery=(i % every, every), **look(i))


@style.styled
def layer_curves(curves: pd.DataFrame) -> Any:
    """Distance and direction between clean and noise activations over the layers; star and dotted line: l*.

    Args:
        curves: per noise: noise, magnitude and direction (one number per layer), l_star (missing: there is none).
    """
    if curves.empty:
        raise ConfigError("there is nothing to draw: there are no curves")
    figure = style.new_figure(14, 5.4)
    panels = figure.subplots(1, 2)
    labels = ("distance |S - N| (activation units)", "direction cos(S, N)")
    for axes, key, label in zip(panels, ("magnitude", "direction"), labels, strict=True):
        for i, (noise, curve, star) in enumerate(curves[["noise", key, "l_star"]].itertuples(index=False)):
            values, colour = np.asarray(curve, np.float64), look(i)["color"]
            name = drawn_name(noise) + (" (no l*)" if pd.isna(star) else "")
            axes.plot(np.arange(len(values)), values, label=name, markevery=max(1, len(values) // 8), **look(i))
            if not pd.isna(star):
                axes.axvline(star, color=colour, linestyle=":", linewidth=1.8, zorder=1)
                axes.plot(
                    star, values[int(star)], marker="*", markersize=19, color=colour, markeredgecolor="black",
                    linestyle="none", zorder=4,
                )  # fmt: skip
        axes.set(xlabel="layer", ylabel=label)
        if curves[key].map(len).max() == 1:
            axes.set_xticks([0])
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


@style.styled
def layer_probe(table: pd.DataFrame) -> Any:
    """One layer at a time: Pearson's r of SEE and GSR, and the GSR that SEEN gains, by layer, one line per noise.

    Args:
        table: noise, layer, pearson and gain (a share; missing: not measured); `_low` and `_high` of the last two are
            drawn for up to four noises.
    """
    if table.empty:
        raise ConfigError("there is nothing to draw: there are no layers")
    figure = style.new_figure(11, 7.6)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, key in zip(panels, ("pearson", "gain"), strict=True):
        _lines(axes, complete(table, "layer", key), "layer", key, "noise", list(table["noise"].unique()))
        axes.axhline(0, color="#444444", linewidth=1.2, zorder=1)
    panels[0].set(ylabel="Pearson r", ylim=(-1.05, max(0.1, panels[0].get_ylim()[1])))
    panels[1].set(xlabel="layer", ylabel=style.label("gain"))
    panels[1].xaxis.get_major_locator().set_params(integer=True)
    return figure


@style.styled
def see_by_layer(table: pd.DataFrame) -> Any:
    """SEE of every layer, one line per noise, beside each other for clean audio and for noisy audio at one SNR.

    Args:
        table: noise, snr_db (NaN and one other value), layer and see.
    """
    kept = complete(table, "see")
    levels = kept["snr_db"].sort_values(na_position="first").unique()
    figure = style.new_figure(6 * len(levels) + 2, 4.8)
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    for snr, axes in zip(levels, panels, strict=True):
        part = kept[kept["snr_db"].isna() if np.isnan(snr) else kept["snr_db"] == snr]
        _lines(axes, part, "layer", "see", "noise", list(kept["noise"].unique()))
        axes.set(xlabel="layer", title=style.level(snr))
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel(style.SEE_LABEL)
    panels[0].set_ylim(bottom=0)
    return figure


@style.styled
def transfer_heatmap(table: pd.DataFrame, value: str = "gsr") -> Any:
    """A number per noise of calibration (down) and noise of the test (across); a dash where there is none.

    Args:
        table: calibration, noise and `value`: gains and correlations get colours about zero.
    """
    kept = complete(table, value)
    grid = style.scale(value) * kept.pivot(index="calibration", columns="noise", values=value).astype(float)
    down = list(kept["calibration"].unique())
    across = sorted(kept["noise"].unique(), key=lambda n: down.index(n) if n in down else len(down))
    grid = grid.loc[down, across]
    signed = value in ("gain", "pearson", "spearman")
    figure = style.new_figure(4.4 + 0.95 * len(across), max(4.4, 2.4 + 0.62 * len(down)))
    axes = figure.subplots()
    most = float(np.nanmax(np.abs(grid.to_numpy()))) or 1.0
    span = {"vmin": -most, "vmax": most} if signed else {}
    image = axes.imshow(grid, cmap="PuOr_r" if signed else "cividis", aspect="auto", **span)
    digits = 2 if value in ("pearson", "spearman") else 1
    for (i, j), number in np.ndenumerate(grid.to_numpy()):
        missing = bool(np.isnan(number))
        red, green, blue, _ = image.cmap(image.norm(number)) if not missing else (1.0, 1.0, 1.0, 1.0)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        # + 0.0: no negative zero
        text = "-" if missing else style.minus(f"{round(number, digits) + 0.0:{'+' if signed else ''}.{digits}f}")
        axes.text(j, i, text, ha="center", va="center", color="white" if dark else "black", fontsize=13)
    axes.set_xticks(range(len(across)), map(drawn_name, across), rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(down)), map(drawn_name, down))
    axes.grid(False)
    axes.set(xlabel="noise of the test", ylabel="noise of the calibration")
    figure.colorbar(image, ax=axes, label=style.label(value))
    return figure


@style.styled
def pareto(table: pd.DataFrame, x_label: str, y_label: str) -> Any:
    """Noise suppression against clean damage, one point per row; the points that no other one beats are joined and
    numbered, at most eight of them, and named beside the panel.

    Args:
        table: damage and suppression (shares), label, and group (what the colours stand for; optional).
    """
    kept = complete(table, "damage", "suppression")
    points = 100 * kept[["damage", "suppression"]].to_numpy(float)
    figure = style.new_figure(11.5, 5.6)
    axes = figure.subplots()
    groups = kept["group"] if "group" in kept else pd.Series("", kept.index)
    for i, group in enumerate(groups.unique()):
        spots = points[(groups == group).to_numpy()].T
        points_look: Any = {key: look(i)[key] for key in ("color", "marker")}
        axes.scatter(*spots, s=70, alpha=0.75, label=drawn_name(group) if group else None, **points_look)
    best = front(points[:, 0], points[:, 1])
    order = [int(k) for k in np.argsort(points[:, 0]) if best[k]]
    axes.step(*points[order].T, where="post", color="#222222", linewidth=2, zorder=1)
    axes.scatter(*points[order].T, s=190, facecolors="none", edgecolors="#222222", linewidths=1.8, zorder=4)
    shown = spaced(list(dict.fromkeys(tuple(points[k]) for k in order)), MOST_NUMBERS)
    for number, spot in enumerate(shown, 1):
        names = [drawn_name(kept["label"].iloc[k]) for k in order if tuple(points[k]) == spot]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        shift = (-11, 9) if number % 2 else (11, -20)
        axes.annotate(f"{number}", spot, shift, textcoords="offset points", ha="center", fontsize=13, weight="bold")
        axes.plot([], [], " ", label=f"{number}: {names[0]}{more}")
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.margins(0.06, 0.1)
    style.legend(figure, "numbered: the front")
    return figure


def spaced(spots: Sequence[tuple[float, ...]], most: int) -> list[tuple[float, ...]]:
    """At most so many points of a line in their order: its ends, and others about evenly along it."""
    if len(spots) <= most:
        return list(spots)
    at = np.array(spots) / (np.ptp(spots, axis=0) + np.finfo(float).tiny)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(at, axis=0), axis=1))])
    goals = np.linspace(0, length[-1], most)
    return [spots[k] for k in sorted({int(np.abs(length - goal).argmin()) for goal in goals})]


def front(
    damage: Float[np.ndarray, " points"], suppression: Float[np.ndarray, " points"]
) -> Bool[np.ndarray, " points"]:
    """The Pareto front: True where no other point has less damage and as much suppression, or the reverse."""
    less, more = damage[:, None] <= damage, suppression[:, None] >= suppression
    better = less & more & ((damage[:, None] < damage) | (suppression[:, None] > suppression))
    return np.asarray(~better.any(0))


@style.styled
def spectrograms(waves: Mapping[str, Float[np.ndarray, " _"]], see: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Any:
    """Log-mel spectrograms beside each other on one scale of colours, with SEE over time beneath each.

    Args:
        waves: by name, at 16 kHz. see: times in seconds and SEE from 0 to 1, by the same names; some may be missing.
    """
    import librosa

    frequencies = librosa.mel_frequencies(MELS + 2, fmax=SAMPLE_RATE / 2)[1:-1]
    mel: Any = {"sr": SAMPLE_RATE, "n_mels": MELS, "hop_length": HOP}
    powers = {name: librosa.feature.melspectrogram(y=np.asarray(w, np.float32), **mel) for name, w in waves.items()}
    loudest = max(float(power.max()) for power in powers.values()) or 1.0
    figure = style.new_figure(4.3 * len(waves) + 1.4, 5.6)
    shape = {"sharex": "col", "sharey": "row", "height_ratios": [1.7, 1], "squeeze": False}
    panels = figure.subplots(2, len(waves), **shape)
    ticks = (500, 1000, 2000, 4000)
    for (name, power), (top, bottom) in zip(powers.items(), panels.T, strict=True):
        seconds = len(waves[name]) / SAMPLE_RATE
        decibels = librosa.power_to_db(power, ref=loudest, top_db=None)
        image = top.imshow(
            decibels, origin="lower", aspect="auto", extent=(0, seconds, -0.5, MELS - 0.5), cmap="magma",
            vmin=-DYNAMIC_DB, vmax=0,
        )  # fmt: skip
        top.set_yticks(np.interp(ticks, frequencies, np.arange(MELS)), [f"{hertz / 1000:g}" for hertz in ticks])
        top.set_title(drawn_name(name))
        top.grid(False)
        if name in see:
            times, values = see[name]
            bottom.plot(times, 100 * np.asarray(values, np.float64), color=look(0)["color"])
        bottom.set(xlabel="time (s)", xlim=(0, seconds))
    panels[0, 0].set_ylabel("frequency (kHz)")
    panels[1, 0].set_ylabel(style.SEE_LABEL)
    panels[1, 0].set_ylim(bottom=0)
    figure.colorbar(image, ax=panels[0], label="power (dB)", aspect=14, pad=0.01)
    figure.get_layout_engine().set(wspace=0.06)
    return figure
