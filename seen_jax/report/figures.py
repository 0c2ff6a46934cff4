"""Figures of an evaluation: pure functions of tidy rows that return matplotlib figures, in the style of `figures`.

A cell is a dict with dataset, task, noise, snr_db (None: clean), mitigation, items, gsr, gsr_low, gsr_high, accuracy,
wer, wer_clean, see, see_after. Shares lie between 0 and 1 and are drawn in percent; None is left out. Repeated cells,
as those of several models, are refused (ConfigError), and so are inputs with nothing to draw.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from jaxtyping import Bool, Float

from seen_jax.errors import ConfigError
from seen_jax.evaluate.figures import COLOURS, GSR_LABEL, MARKERS, SEE_LABEL, SNR_LABEL, STYLE
from seen_jax.evaluate.metrics import Estimate, correlation
from seen_jax.evaluate.table import NONE, SEEN

Row = Mapping[str, Any]
Rows = Sequence[Row]
Arguments = ParamSpec("Arguments")

PALETTE = (*COLOURS[:7], "#8a8a8a")  # yellow lines would not be seen on white
HATCHES = ("", "//", "", "..", "", "\\\\", "", "xx")
DASHES: Any = ("-", (0, (5, 1, 1, 1)), (0, (1, 1)))
CLEAN: Any = {"linestyle": (0, (6, 5)), "linewidth": 1.3, "zorder": 1}
MOST_BANDS = 4  # more of them hide each other
MOST_NUMBERS = 8  # of points that are named beside a panel
WIDE = {"loc": "outside right upper"}  # a legend beside the panels
SHARES = ("gsr", "accuracy", "wer", "wer_clean", "see", "see_after", "clean_gsr")
GAINS = ("gain",)
LABELS = {
    "gsr": GSR_LABEL,
    "clean_gsr": "GSR of clean audio (%)",
    "see": SEE_LABEL,
    "see_after": "SEE after SEEN (%)",
    "accuracy": "accuracy (%)",
    "wer": "WER (%)",
    "wer_clean": "WER against clean output (%)",
    "gain": "GSR gain (points)",
    "pearson": "Pearson r of SEE and GSR",
    "spearman": "Spearman r of SEE and GSR",
    "snr_db": SNR_LABEL,
    "strength": "strength λ",
    "delta": "threshold δ",
    "semantic_alpha": "energy share \N{GREEK SMALL LETTER ALPHA}",
    "layer": "layer",
    "rank": "rank",
    "clips": "clips of the calibration",
    "calibration_snr_db": "SNR of the calibration (dB)",
    "overlap": "overlap of the bases (0 to 1)",
    "share": "noisy share of the clip (0 to 1)",
    "cosine": "cosine similarity",
}


def _styled(draw: Callable[Arguments, Any]) -> Callable[Arguments, Any]:
    """Draw under the house style and write its sizes into the figure, which is often saved outside of it."""

    @functools.wraps(draw)
    def styled(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Any:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            for axes in figure.axes:
                axes.tick_params(labelsize=axes.xaxis.get_label().get_size() - 2)
            return figure

    return styled


def save(figure: Any, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Write a figure as PNG and as SVG (the same bytes each time); returns both paths."""
    import matplotlib

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(folder / f"{name}.png")
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return folder / f"{name}.png", folder / f"{name}.svg"


@_styled
def see_gsr_grid(cells: Rows, seed: int = 0) -> Any:
    """GSR against SEE over the SNRs without mitigation, one panel per task and noise, with the least-squares line, its
    95 % bootstrap band over the cells, and Pearson's r with its interval."""
    own = _noisy(_kept(cells, "see", "gsr"), NONE)
    places = _places(own)
    noises = _values(own, "noise")
    across = len(noises) <= max(len(places), 4)  # the shorter side runs across
    shape = (len(places), len(noises)) if across else (len(noises), len(places))
    figure = _figure(3.7 * shape[1] + 1.6, 3.6 * shape[0])
    panels = figure.subplots(*shape, sharey=True, squeeze=False)
    snrs = [c["snr_db"] for c in own]
    for i, place in enumerate(places):
        for j, noise in enumerate(noises):
            axes = panels[i, j] if across else panels[j, i]
            series = _series(own, place, noise, NONE)
            x, y = (np.array([100 * c[key] for c in series], np.float64) for key in ("see", "gsr"))
            r = correlation(x, y, seed=seed)
            if not math.isnan(r.value):
                line, low, high = _trend(x, y, seed)
                axes.fill_between(line[0], low, high, color="#888888", alpha=0.25, linewidth=0)
                axes.plot(*line, color="#444444", linewidth=2)
            points = axes.scatter(
                x, y, c=[c["snr_db"] for c in series], cmap="cividis", vmin=min(snrs), vmax=max(snrs), s=90,
                edgecolors="#333333", linewidths=0.7, zorder=3,
            )  # fmt: skip
            axes.set_title(f"{_place_label(place, places)}, {_say(noise)}\n{_r(r)}", fontsize=14)
            axes.set(xlabel=SEE_LABEL, ylim=(-4, 104))
    for axes in panels[:, 0]:
        axes.set_ylabel(GSR_LABEL)
    _hide_empty(panels)
    place_of_bar = {"fraction": 0.02, "aspect": 25, "shrink": min(1.0, 1.6 / shape[0]), "anchor": (0, 1)}
    figure.colorbar(points, ax=panels, label=SNR_LABEL, **place_of_bar)
    return figure


@_styled
def see_vs_snr(cells: Rows) -> Any:
    """SEE against SNR without mitigation, one panel per task and one line per noise; dashed: clean audio."""
    own = [c for c in _kept(cells, "see") if c["mitigation"] == NONE]
    noisy = _noisy(own, NONE)
    figure, panels = _panels(_places(noisy), 4.6)
    noises = _values(noisy, "noise")
    for place, axes in panels.items():
        for i, noise in enumerate(noises):
            series = _series(noisy, place, noise, NONE)
            axes.plot([c["snr_db"] for c in series], [100 * c["see"] for c in series], label=_say(noise), **look(i))
            for c in own:
                if c["snr_db"] is None and c["noise"] == noise and _place(c) == place:
                    axes.axhline(100 * c["see"], color=look(i)["color"], **CLEAN)
        axes.set(xlabel=SNR_LABEL, title=_place_label(place, panels))
        axes.plot([], [], color="#444444", label="clean", **CLEAN)
    axes.set_ylim(bottom=0)  # of all panels, once all are drawn
    _left(panels.values(), SEE_LABEL)
    _legend(figure, panels.values())
    return figure


@_styled
def layer_curves(curves: Rows) -> Any:
    """Distance and direction between clean and noise activations over the layers; star and dotted line: l*.

    curves: per noise a dict of noise, magnitude and direction (one number per layer), l_star (None: not found).
    """
    _need(curves)
    figure = _figure(14, 5.4)
    panels = figure.subplots(1, 2)
    labels = ("distance |S - N| (activation units)", "direction cos(S, N)")
    for axes, key, label in zip(panels, ("magnitude", "direction"), labels, strict=True):
        for i, row in enumerate(curves):
            values, style = np.asarray(row[key], np.float64), look(i)
            name = _say(row["noise"]) + ("" if row["l_star"] is not None else " (no l*)")
            axes.plot(np.arange(len(values)), values, label=name, markevery=max(1, len(values) // 8), **style)
            if row["l_star"] is not None:
                axes.axvline(row["l_star"], color=style["color"], linestyle=":", linewidth=1.8, zorder=1)
                axes.plot(
                    row["l_star"], values[row["l_star"]], marker="*", markersize=19, color=style["color"],
                    markeredgecolor="black", linestyle="none", zorder=4,
                )  # fmt: skip
        axes.set(xlabel="layer", ylabel=label)
        if max(len(row[key]) for row in curves) == 1:
            axes.set_xticks([0])
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(figure, panels)
    return figure


@_styled
def denoiser_radar(cells: Rows) -> Any:
    """GSR of noisy audio per mitigation, the mean over the SNRs, on one axis per task and noise.

    Beyond sixteen axes there is one panel per task.
    """
    own = _noisy(_kept(cells, "gsr"))
    places, noises, mitigations = _places(own), _values(own, "noise"), _mitigations(own)
    spokes = [(place, noise) for place in places for noise in noises]
    if len(spokes) <= 16:
        charts = {"": spokes}
    else:
        charts = {_place_label(p, places): [(p, noise) for noise in noises] for p in places}
    columns = min(len(charts), 2)
    figure = _figure((9.6 if columns == 1 else 7.6 * columns) + 2.5, 6.6 * -(-len(charts) // columns))
    figure.suptitle("mean GSR over the SNRs (%)", fontsize=16)
    highest = 0.0
    for k, (title, ends) in enumerate(charts.items()):
        axes = figure.add_subplot(-(-len(charts) // columns), columns, k + 1, projection="polar")
        angles = 2 * np.pi * np.arange(len(ends)) / len(ends)
        for i, mitigation in enumerate(mitigations):
            values = [_mean([100 * c["gsr"] for c in _series(own, p, n, mitigation)]) for p, n in ends]
            axes.plot([*angles, angles[0]], [*values, values[0]], label=_say(mitigation), **look(i))
            highest = max(highest, *(v for v in values if not math.isnan(v)), 0.0)
        names = [_say(n) if title or len(places) == 1 else f"{_place_label(p, places)}\n{_say(n)}" for p, n in ends]
        axes.set_xticks(angles, names, fontsize=13)
        for angle, label in zip(angles, axes.get_xticklabels(), strict=True):
            side = round(float(np.sin(angle)), 6)
            label.set_horizontalalignment("left" if side > 0 else "right" if side < 0 else "center")
        axes.set_theta_offset(np.pi / 2)
        axes.set_theta_direction(-1)
        axes.tick_params(axis="x", pad=8)
        axes.set_title(title, pad=24)
    rings = np.linspace(0, max(20, 20 * math.ceil(highest / 20)), 5)[1:]
    for axes in figure.axes:
        axes.set_ylim(0, rings[-1])
        axes.set_yticks(rings, [])
        between = np.pi / len(axes.get_xticks())
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
        for ring in rings:
            axes.text(between, ring, f"{ring:g}", fontsize=12, color="#333333", ha="center", bbox=box, zorder=6)
    _legend(figure, figure.axes)
    return figure


@_styled
def mitigation_bars(cells: Rows, groups: Mapping[str, Sequence[float | None]] | None = None) -> Any:
    """GSR per mitigation and group of SNRs with 95 % intervals, the mean over the noises, one panel per task.

    groups: name -> its SNRs (None: clean); each SNR by itself if not given. The ends of an interval are the means of
    the cells' ends: the same items are heard in all of them, so it does not narrow with the number of noises.
    """
    own = _kept(cells, "gsr", "gsr_low", "gsr_high")
    places, mitigations = _places(own), _mitigations(own)
    levels = sorted({c["snr_db"] for c in own}, key=lambda s: math.inf if s is None else s)
    groups = groups or {"clean" if s is None else _minus(f"{s:g} dB"): [s] for s in levels}
    width = 0.84 / len(mitigations)
    figure = _figure(min(18.0, 4 + 0.22 * len(groups) * (len(mitigations) + 1)) + 2, 3.9 * len(places))
    panels = figure.subplots(len(places), 1, sharex=True, squeeze=False)[:, 0]
    for place, axes in zip(places, panels, strict=True):
        for i, mitigation in enumerate(mitigations):
            chosen = [
                [c for c in own if (_place(c), c["mitigation"]) == (place, mitigation) and c["snr_db"] in snrs]
                for snrs in groups.values()
            ]
            value, low, high = (
                np.array([_mean([100 * c[key] for c in part]) for part in chosen])
                for key in ("gsr", "gsr_low", "gsr_high")
            )
            error = np.maximum([value - low, high - value], 0)
            x = np.arange(len(groups)) + (i - (len(mitigations) - 1) / 2) * width
            axes.bar(
                x, value, width, yerr=error, label=_say(mitigation), color=look(i)["color"],
                edgecolor="white", linewidth=0.8, hatch=HATCHES[(i + i // len(PALETTE)) % len(HATCHES)],
                error_kw={"ecolor": "#222222", "elinewidth": 1.3},
            )  # fmt: skip
        axes.set(ylim=(0, 104), ylabel=GSR_LABEL, title=_place_label(place, places))
        axes.grid(False, axis="x")
        axes.set_xticks(range(len(groups)), list(groups))
    panels[-1].set_xlabel("SNR")
    _legend(figure, panels)
    return figure


@_styled
def line_sweep(rows: Rows, x: str, y: str, group: str) -> Any:
    """y against x, one line per value of `group`; up to four have bands where the rows have y_low and y_high."""
    own = _kept(rows, x, y)
    figure = _figure(8.6, 4.8)
    axes = figure.subplots()
    _lines(axes, own, x, y, group, _values(own, group))
    axes.set(xlabel=LABELS.get(x, _say(x)), ylabel=LABELS.get(y, _say(y)))
    _legend(figure, [axes], LABELS.get(group, _say(group)))
    return figure


@_styled
def layer_probe(rows: Rows) -> Any:
    """One layer at a time: Pearson's r of SEE and GSR, and the GSR that SEEN gains, by layer, one line per noise.

    rows: dicts of noise, layer, pearson and gain (a share; None: not measured), all but noise and layer optionally with
    `_low` and `_high` (drawn for up to four noises).
    """
    _need(rows)
    figure = _figure(11, 7.6)
    panels = figure.subplots(2, 1, sharex=True)
    noises = _values(rows, "noise")
    for axes, key in zip(panels, ("pearson", "gain"), strict=True):
        _lines(axes, _kept(rows, "layer", key), "layer", key, "noise", noises)
        axes.axhline(0, color="#444444", linewidth=1.2, zorder=1)
    panels[0].set(ylabel="Pearson r", ylim=(-1.05, max(0.1, panels[0].get_ylim()[1])))
    panels[1].set(xlabel="layer", ylabel=LABELS["gain"])
    panels[1].xaxis.get_major_locator().set_params(integer=True)
    _legend(figure, panels)
    return figure


@_styled
def see_by_layer(rows: Rows) -> Any:
    """SEE of every layer, one line per noise, beside each other for clean audio and for noisy audio at one SNR.

    rows: dicts of noise, snr_db (None and one other value), layer and see.
    """
    own = _kept(rows, "see")
    levels = sorted(_values(own, "snr_db"), key=lambda snr: -math.inf if snr is None else snr)
    figure = _figure(6 * len(levels) + 2, 4.8)
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    noises = _values(own, "noise")
    for snr, axes in zip(levels, panels, strict=True):
        _lines(axes, [r for r in own if r["snr_db"] == snr], "layer", "see", "noise", noises)
        axes.set(xlabel="layer", title="clean" if snr is None else _minus(f"{snr:g} dB"))
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel(SEE_LABEL)
    panels[0].set_ylim(bottom=0)
    _legend(figure, panels)
    return figure


@_styled
def transfer_heatmap(rows: Rows, value: str = "gsr") -> Any:
    """A figure per noise of calibration (down) and noise of the test (across), annotated; a dash where there is none.

    rows: dicts of calibration, noise and `value`, one of gsr, see, gain, pearson, ...: gains and correlations get
    colours about zero.
    """
    own = _unique(_kept(rows, value), "calibration", "noise")
    down = _values(own, "calibration")
    across = sorted(_values(own, "noise"), key=lambda n: down.index(n) if n in down else len(down))
    grid = np.full((len(down), len(across)), np.nan)
    for r in own:
        grid[down.index(r["calibration"]), across.index(r["noise"])] = _scale(value) * r[value]
    signed = value in (*GAINS, "pearson", "spearman")
    figure = _figure(4.4 + 0.95 * len(across), max(4.4, 2.4 + 0.62 * len(down)))
    axes = figure.subplots()
    most = float(np.nanmax(np.abs(grid))) or 1.0
    span = {"vmin": -most, "vmax": most} if signed else {}
    image = axes.imshow(grid, cmap="PuOr_r" if signed else "cividis", aspect="auto", **span)
    digits = 2 if value in ("pearson", "spearman") else 1
    for (i, j), number in np.ndenumerate(grid):
        missing = bool(np.isnan(number))
        red, green, blue, _ = image.cmap(image.norm(number)) if not missing else (1.0, 1.0, 1.0, 1.0)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        # + 0.0: no negative zero
        text = "-" if missing else _minus(f"{round(number, digits) + 0.0:{'+' if signed else ''}.{digits}f}")
        axes.text(j, i, text, ha="center", va="center", color="white" if dark else "black", fontsize=13)
    axes.set_xticks(range(len(across)), [_say(n) for n in across], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(down)), [_say(n) for n in down])
    axes.grid(False)
    axes.set(xlabel="noise of the test", ylabel="noise of the calibration")
    figure.colorbar(image, ax=axes, label=LABELS.get(value, _say(value)))
    return figure


@_styled
def pareto(
    rows: Rows,
    x_label: str = "clean damage: 100 - GSR of clean audio (points)",
    y_label: str = "noise suppression: SEE taken out (%)",
) -> Any:
    """Noise suppression against clean damage, one point per row; the points that no other one beats are joined and
    numbered, at most eight of them, and named beside the panel.

    rows: dicts of damage and suppression (shares), label, and group (what the colours stand for; optional).
    """
    own = _kept(rows, "damage", "suppression")
    points = 100 * np.array([(r["damage"], r["suppression"]) for r in own], np.float64)
    figure = _figure(11.5, 5.6)
    axes = figure.subplots()
    groups = [r.get("group") for r in own]
    for i, group in enumerate(dict.fromkeys(groups)):
        chosen = np.array([g == group for g in groups])
        style = {key: look(i)[key] for key in ("color", "marker")}
        axes.scatter(*points[chosen].T, s=70, alpha=0.75, label=_say(group) if group is not None else None, **style)
    best = front(points[:, 0], points[:, 1])
    order = [int(k) for k in np.argsort(points[:, 0]) if best[k]]
    axes.step(*points[order].T, where="post", color="#222222", linewidth=2, zorder=1)
    axes.scatter(*points[order].T, s=190, facecolors="none", edgecolors="#222222", linewidths=1.8, zorder=4)
    shown = spaced(list(dict.fromkeys(tuple(points[k]) for k in order)), MOST_NUMBERS)
    for number, spot in enumerate(shown, 1):
        names = [_say(own[k]["label"]) for k in order if tuple(points[k]) == spot]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        shift = (-11, 9) if number % 2 else (11, -20)
        axes.annotate(f"{number}", spot, shift, textcoords="offset points", ha="center", fontsize=13, weight="bold")
        axes.plot([], [], " ", label=f"{number}: {names[0]}{more}")
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.margins(0.06, 0.1)
    _legend(figure, [axes], "numbered: the front")
    return figure


def spaced(spots: Sequence[tuple[float, ...]], most: int) -> list[tuple[float, ...]]:
    """At most so many points of a line in their order: its ends, and others about evenly along it."""
    if len(spots) <= most:
        return list(spots)
    at = np.array(spots) / (np.ptp(spots, axis=0) + np.finfo(float).tiny)
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(at, axis=0), axis=1))])
    return [spots[k] for k in sorted({int(np.abs(way - goal).argmin()) for goal in np.linspace(0, way[-1], most)})]


def front(
    damage: Float[np.ndarray, " points"], suppression: Float[np.ndarray, " points"]
) -> Bool[np.ndarray, " points"]:
    """The Pareto front: True where no other point has less damage and as much suppression, or the reverse."""
    less, more = damage[:, None] <= damage, suppression[:, None] >= suppression
    better = less & more & ((damage[:, None] < damage) | (suppression[:, None] > suppression))
    return np.asarray(~better.any(0))


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of a series: 24 that can be told apart, also without colour."""
    lap = index // len(PALETTE)
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKERS[(index + 3 * lap) % len(MARKERS)],
        "linestyle": DASHES[lap % len(DASHES)],
    }


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _panels(places: Sequence[tuple[str, str]], height: float) -> tuple[Any, dict[tuple[str, str], Any]]:
    columns = 2 if len(places) in (2, 4) else min(len(places), 3)
    lines = -(-len(places) // columns)
    figure = _figure((7.0 if columns == 1 else 5.2 * columns) + 2.4, height * lines)
    axes = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for spare in axes[len(places) :]:
        spare.set_visible(False)
    return figure, dict(zip(places, axes, strict=False))


def _lines(axes: Any, rows: Rows, x: str, y: str, group: str, names: Sequence[Any]) -> None:
    """A line per group, and its band if it has one and there are few."""
    scale = _scale(y)
    for i, name in enumerate(names):
        series = _unique(sorted((r for r in rows if r[group] == name), key=lambda r: r[x]), x, group)
        at = [r[x] for r in series]
        ends = [[r.get(f"{y}_{end}") for r in series] for end in ("low", "high")]
        if len(names) <= MOST_BANDS and None not in ends[0] + ends[1]:
            low, high = scale * np.array(ends, np.float64)
            axes.fill_between(at, low, high, color=look(i)["color"], alpha=0.16, linewidth=0)
        every = max(1, len(series) // 8)
        axes.plot(at, [scale * r[y] for r in series], label=_say(name), markevery=(i % every, every), **look(i))


def _left(panels: Any, label: str) -> None:
    for axes in panels:
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(label)


def _legend(figure: Any, panels: Any, title: str | None = None) -> None:
    """One legend for all panels, beside them; none for a single series without a name."""
    named = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in panels]
    entries = {label: handle for pairs in named for handle, label in pairs}
    if entries:
        figure.legend(entries.values(), entries.keys(), title=title, title_fontsize=13, **WIDE)


def _hide_empty(panels: Any) -> None:
    for axes in panels.flat:
        if not any(len(c.get_offsets()) for c in axes.collections if hasattr(c, "get_offsets")):
            axes.set_visible(False)


def _trend(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], seed: int, resamples: int = 1000
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Least-squares line and the 95 % band of the lines through resampled points."""
    at = np.linspace(x.min(), x.max(), 60)
    draws = np.vstack([np.arange(len(x)), np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))])
    xs, ys = x[draws], y[draws]
    xs0 = xs - xs.mean(1, keepdims=True)
    spread = (xs0**2).sum(1)
    slope = (xs0 * ys).sum(1) / np.where(spread > 0, spread, np.inf)
    lines = ys.mean(1)[:, None] + slope[:, None] * (at - xs.mean(1)[:, None])
    low, high = np.quantile(lines[1:][spread[1:] > 0], [0.025, 0.975], axis=0)
    return (at, lines[0]), low, high


def _need(rows: Rows) -> Rows:
    if not rows:
        raise ConfigError("there is nothing to draw: no row has the values that this figure shows")
    return rows


def _kept(rows: Rows, *keys: str) -> list[Row]:
    """The rows in which all keys have finite values."""
    for row in rows:
        if absent := [key for key in keys if key not in row]:
            raise ConfigError(f"a row has no {', '.join(absent)}, only {', '.join(row)}")
    kept = [r for r in rows if all(r[key] is not None and math.isfinite(r[key]) for key in keys)]
    return list(_need(kept))


def _noisy(cells: Rows, mitigation: str | None = None) -> list[Row]:
    return list(_need([c for c in cells if c["snr_db"] is not None and mitigation in (None, c["mitigation"])]))


def _values(rows: Rows, key: str) -> list[Any]:
    return list(dict.fromkeys(r[key] for r in rows))


def _mitigations(cells: Rows) -> list[str]:
    """In order of appearance, without mitigation first and SEEN second: their colours are the same in all figures."""
    found = _values(cells, "mitigation")
    return [m for m in (NONE, SEEN) if m in found] + [m for m in found if m not in (NONE, SEEN)]


def _place(cell: Row) -> tuple[str, str]:
    return cell["dataset"], cell["task"]


def _places(cells: Rows) -> list[tuple[str, str]]:
    return list(dict.fromkeys(_place(c) for c in cells))


def _place_label(place: tuple[str, str], places: Any) -> str:
    """The task, with its dataset where two share the task."""
    shared = sum(task == place[1] for _, task in places) > 1
    return f"{_say(place[0])}: {_say(place[1])}" if shared else _say(place[1])


def _series(cells: Rows, place: tuple[str, str], noise: str, mitigation: str) -> list[Row]:
    wanted = (place, noise, mitigation)
    own = [c for c in cells if (_place(c), c["noise"], c["mitigation"]) == wanted]
    return _unique(sorted(own, key=lambda c: c["snr_db"]), "snr_db", "noise", "mitigation", "task")


def _unique(rows: Rows, *keys: str) -> list[Row]:
    seen = set()
    for row in rows:
        name = tuple(row[key] for key in keys)
        if name in seen:
            which = ", ".join(f"{k} {v}" for k, v in zip(keys, name, strict=True))
            raise ConfigError(f"two rows for {which}: choose the rows of one model and one setting first")
        seen.add(name)
    return list(rows)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _scale(key: str) -> float:
    return 100.0 if key in (*SHARES, *GAINS) else 1.0


def _r(r: Estimate) -> str:
    if math.isnan(r.value):
        return "r undefined"
    return _minus(f"r = {r.value:.2f} [{r.low:.2f}, {r.high:.2f}]")


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def in_words(name: Any) -> str:
    """A mitigation, or another name, as it is shown."""
    words = {NONE: "nothing", SEEN: "SEEN"}
    parts = (part.strip().replace("_", " ") for part in str(name).split("+"))
    return " + ".join(words.get(part, part) for part in parts)


def _say(name: Any) -> str:
    """A name as a figure shows it; a dollar sign is no formula."""
    return in_words(name).replace("$", r"\$")
