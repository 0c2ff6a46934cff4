"""Figures of tables in general: each returns a matplotlib figure; ConfigError where there is nothing to draw."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.errors import ConfigError
from seen_jax.report import style
from seen_jax.report.style import DASHES, complete, drawn_name, look

MOST_BANDS = 4  # more of them hide each other
MOST_NUMBERS = 8  # of points that are named beside a panel
MELS, HOP, DYNAMIC_DB = 80, 256, 80.0  # of a spectrogram
KHZ_LABEL = "frequency (kHz)"


@style.styled
def line_sweep(table: pd.DataFrame, x: str, y: str, group: str, labels: Sequence[str] = ()) -> Any:
    """y against x, one line per value of `group`, the mean over all other columns; up to four lines have bands where
    the table has the columns `y`_low and `y`_high. labels: of the three, if `style.label` does not say them."""
    kept, (x_label, y_label, title) = complete(table, x, y), labels or map(style.label, (x, y, group))
    columns = [name for name in (y, f"{y}_low", f"{y}_high") if name in kept]
    means = kept.groupby([group, x], sort=False)[columns].mean().reset_index()
    figure = style.new_figure(8.6, 4.8)
    axes = figure.subplots()
    _lines(axes, means, x, y, group, means[group].unique(), style.scale(y_label))
    axes.set(xlabel=x_label, ylabel=y_label)
    style.legend(figure, title)
    return figure


def _lines(axes: Any, table: pd.DataFrame, x: str, y: str, group: str, names: Any, scale: float) -> None:
    """A line per group, and its band if it has one and there are few; layers are whole numbers."""
    ends = [f"{y}_low", f"{y}_high"]
    for i, name in enumerate(names):
        series = table[table[group] == name].sort_values(x)
        at, values = series[x].to_numpy(float), scale * series[y].to_numpy(float)
        if len(names) <= MOST_BANDS and set(ends) <= set(series) and series[ends].notna().all(axis=None):
            low, high = (scale * series[end].to_numpy(float) for end in ends)
            axes.fill_between(at, low, high, color=look(i)["color"], alpha=0.16, linewidth=0)
        every = max(1, len(series) // 8)
        axes.plot(at, values, label=drawn_name(name), markevery=(i % every, every), **look(i))
    if x == "layer":
        axes.xaxis.get_major_locator().set_params(integer=True)


@style.styled
def layer_curves(curves: pd.DataFrame) -> Any:
    """Distance and direction between clean and noise activations over the layers; star and dotted line: l*. curves:
    per noise: noise, magnitude and direction (one number per layer), l_star (missing: there is none). Of a single
    noise the means over the layers are drawn too and, where there are "ranks" and kept "layers", bars."""
    if curves.empty:
        raise ConfigError("there is nothing to draw: there are no curves")
    names = ["magnitude", "direction", *(["ranks"] if "ranks" in curves else [])]
    figure = style.new_figure(7 * len(names), 5.4)
    panels = figure.subplots(1, len(names))
    labels = ("distance |S - N| (activation units)", "direction cos(S, N)")
    for axes, key, label in zip(panels, names, labels, strict=False):
        for i, (noise, curve, star) in enumerate(curves[["noise", key, "l_star"]].itertuples(index=False)):
            values, colour = np.asarray(curve, np.float64), look(i)["color"]
            name = drawn_name(noise) + (" (no l*)" if pd.isna(star) else "")
            axes.plot(np.arange(len(values)), values, label=name, markevery=max(1, len(values) // 8), **look(i))
            if not pd.isna(star):
                axes.axvline(star, color=colour, linestyle=":", linewidth=1.8, zorder=1)
                star_look: Any = {"marker": "*", "markersize": 19, "color": colour, "markeredgecolor": "black"}
                axes.plot(star, values[int(star)], linestyle="none", zorder=4, **star_look)
        if len(curves) == 1:
            axes.axhline(values.mean(), color=colour, linestyle="--", linewidth=1.3, label="mean over layers")
        axes.set(xlabel="layer", ylabel=label)
    for ranks, kept in zip(curves["ranks"], curves["layers"], strict=True) if "ranks" in curves else ():
        colours = [look(2 if layer in kept else -1)["color"] for layer in range(len(ranks))]
        panels[2].bar(range(len(ranks)), ranks, color=colours)
        panels[2].set(xlabel="layer", ylabel="rank (kept layers in green)")
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)
        if curves["magnitude"].map(len).max() == 1:
            axes.set_xticks([0])
    return figure


@style.styled
def layer_probe(table: pd.DataFrame) -> Any:
    """One layer at a time: Pearson's r of SEE and GSR, and the GSR that SEEN gains, by layer, one line per noise.
    table: noise, layer, pearson and gain (a share; missing: not measured); `_low` and `_high` of the last two are
    drawn for up to four noises."""
    figure = style.new_figure(11, 7.6)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, key in zip(panels, ("pearson", "gain"), strict=True):
        names, scale = table["noise"].unique(), style.scale(style.label(key))
        _lines(axes, complete(table, "layer", key), "layer", key, "noise", names, scale)
        axes.axhline(0, color="#444444", linewidth=1.2, zorder=1)
    panels[0].set(ylabel="Pearson r", ylim=(-1.05, max(0.1, panels[0].get_ylim()[1])))
    panels[1].set(xlabel="layer", ylabel=style.label("gain"))
    return figure


@style.styled
def see_by_layer(table: pd.DataFrame) -> Any:
    """SEE of every layer, one line per noise, beside each other for clean audio and for noisy audio at one SNR. table:
    noise, snr_db (NaN and one other value), layer and see."""
    kept = complete(table, "see")
    levels = kept["snr_db"].sort_values(na_position="first").unique()
    figure = style.new_figure(6 * len(levels) + 2, 4.8)
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    for snr, axes in zip(levels, panels, strict=True):
        part = kept[kept["snr_db"].isna() if np.isnan(snr) else kept["snr_db"] == snr]
        _lines(axes, part, "layer", "see", "noise", kept["noise"].unique(), 100.0)
        axes.set(xlabel="layer", title=style.level(snr))
    panels[0].set_ylabel(style.SEE_LABEL)
    panels[0].set_ylim(bottom=0)
    return figure


@style.styled
def transfer_heatmap(table: pd.DataFrame, value: str) -> Any:
    """A number per noise of calibration (down) and noise of the test (across), coloured about zero; a dash where there
    is none. table: calibration, noise and `value`, a gain or a correlation."""
    kept = complete(table, value)
    label = style.label(value)
    grid = style.scale(label) * kept.pivot(index="calibration", columns="noise", values=value).astype(float)
    down = list(kept["calibration"].unique())
    across = sorted(kept["noise"].unique(), key=lambda n: down.index(n) if n in down else len(down))
    grid = grid.loc[down, across]
    figure = style.new_figure(4.4 + 0.95 * len(across), max(4.4, 2.4 + 0.62 * len(down)))
    axes = figure.subplots()
    most = float(np.nanmax(np.abs(grid.to_numpy()))) or 1.0
    image = axes.imshow(grid, cmap="PuOr_r", aspect="auto", vmin=-most, vmax=most)
    digits = 1 if value == "gain" else 2
    for (i, j), number in np.ndenumerate(grid.to_numpy()):
        text, dark = "-", False
        if not np.isnan(number):
            text = style.minus(f"{round(number, digits) + 0.0:+.{digits}f}")  # + 0.0: no negative zero
            dark = np.dot(image.cmap(image.norm(number))[:3], (0.299, 0.587, 0.114)) < 0.5
        axes.text(j, i, text, ha="center", va="center", color="white" if dark else "black", fontsize=13)
    axes.set_xticks(range(len(across)), map(drawn_name, across), rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(down)), map(drawn_name, down))
    axes.grid(False)
    axes.set(xlabel="noise of the test", ylabel="noise of the calibration")
    figure.colorbar(image, ax=axes, label=label)
    return figure


@style.styled
def pareto(table: pd.DataFrame, x_label: str, y_label: str) -> Any:
    """Noise suppression against clean damage, one point per row; the points that no other one beats are joined and
    numbered, at most eight of them, and named beside the panel. table: damage and suppression (shares), label, and
    group (what the colours stand for)."""
    kept = complete(table, "damage", "suppression")
    points = 100 * kept[["damage", "suppression"]].to_numpy(float)
    figure = style.new_figure(11.5, 5.6)
    axes = figure.subplots()
    for i, group in enumerate(kept["group"].unique()):
        spots = points[(kept["group"] == group).to_numpy()].T
        points_look: Any = {key: look(i)[key] for key in ("color", "marker")}
        axes.scatter(*spots, s=70, alpha=0.75, label=drawn_name(group), **points_look)
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


def front(damage: Float[np.ndarray, " n"], suppression: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """The Pareto front: True where no other point has less damage and as much suppression, or the reverse."""
    less, more = damage[:, None] <= damage, suppression[:, None] >= suppression
    better = less & more & ((damage[:, None] < damage) | (suppression[:, None] > suppression))
    return np.asarray(~better.any(0))


@style.styled
def spectrograms(waves: Mapping[str, Float[np.ndarray, " _"]], see: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Any:
    """Log-mel spectrograms beside each other on one scale of colours, with SEE over time beneath each. waves: by name,
    at 16 kHz. see: times in seconds and SEE from 0 to 1, by the same names; some may be missing."""
    powers = {name: _mel_power(wave) for name, wave in waves.items()}
    loudest = max(float(power.max()) for power in powers.values()) or 1.0
    figure = style.new_figure(4.3 * len(waves) + 1.4, 5.6)
    shape = {"sharex": "col", "sharey": "row", "height_ratios": [1.7, 1], "squeeze": False}
    panels = figure.subplots(2, len(waves), **shape)
    for (name, power), (top, bottom) in zip(powers.items(), panels.T, strict=True):
        seconds = len(waves[name]) / SAMPLE_RATE
        image = _draw_log_mel(top, power, seconds, loudest)
        top.set_title(drawn_name(name))
        if name in see:
            times, values = see[name]
            bottom.plot(times, 100 * np.asarray(values, np.float64), color=look(0)["color"])
        bottom.set(xlabel="time (s)", xlim=(0, seconds))
    panels[0, 0].set_ylabel(KHZ_LABEL)
    panels[1, 0].set_ylabel(style.SEE_LABEL)
    panels[1, 0].set_ylim(bottom=0)
    figure.colorbar(image, ax=panels[0], label="power (dB)", aspect=14, pad=0.01)
    figure.get_layout_engine().set(wspace=0.06)
    return figure


@style.styled
def meter(
    title: str,
    wave: Float[np.ndarray, " samples"],
    see: Mapping[str, tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]],
    per_layer: Float[np.ndarray, "layers positions"],
    kept: Sequence[int],
) -> Any:
    """A clip with SEE over time beneath it: waveform, log-mel, SEE (a line per name), and SEE of every layer, those
    that are not kept in white. title: of the clip. wave: 16 kHz. see: times in seconds and SEE from 0 to 1. per_layer:
    from 0 to 1."""
    figure, seconds = style.new_figure(5.6, 8.6), len(wave) / SAMPLE_RATE
    panels = figure.subplots(4, 1, sharex=True, height_ratios=[0.8, 1.5, 1.2, 1.2])
    panels[0].plot(np.arange(len(wave)) / SAMPLE_RATE, wave, color="#444444", linewidth=0.5)
    panels[0].set(title=drawn_name(title), ylabel="wave", xlim=(0, seconds))
    power = _mel_power(wave)
    image = _draw_log_mel(panels[1], power, seconds, float(power.max()) or 1.0)
    panels[1].set_ylabel(KHZ_LABEL)
    figure.colorbar(image, ax=panels[1], label="dB", aspect=10, pad=0.01)
    for i, (name, (times, values)) in enumerate(see.items()):
        panels[2].plot(times, 100 * values, label=drawn_name(name), color=look(i)["color"], linestyle=DASHES[i % 3])
    panels[2].set(ylabel=style.SEE_LABEL)
    panels[2].set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3)
    shown = np.full(per_layer.shape, np.nan)
    shown[list(kept)] = 100 * per_layer[list(kept)]
    extent = (0, seconds, -0.5, len(shown) - 0.5)
    heat = panels[3].imshow(shown, cmap="viridis", vmin=0, origin="lower", aspect="auto", extent=extent)
    panels[3].yaxis.get_major_locator().set_params(integer=True)
    panels[3].grid(False)
    panels[3].set(xlabel="time (s)", ylabel="layer")
    figure.colorbar(heat, ax=panels[3], label=style.SEE_LABEL, aspect=8, pad=0.01)
    return figure


def _mel_power(wave: Float[np.ndarray, " samples"]) -> Float[np.ndarray, "mels frames"]:
    import librosa

    wave = np.asarray(wave, np.float32)
    return librosa.feature.melspectrogram(y=wave, sr=SAMPLE_RATE, n_mels=MELS, hop_length=HOP)


def _draw_log_mel(axes: Any, power: Float[np.ndarray, "mels frames"], seconds: float, loudest: float) -> Any:
    """The image of a spectrogram, in dB below the loudest power."""
    import librosa

    frequencies, ticks = librosa.mel_frequencies(MELS + 2, fmax=SAMPLE_RATE / 2)[1:-1], (500, 1000, 2000, 4000)
    decibels = librosa.power_to_db(power, ref=loudest, top_db=None)
    extent, shades = (0, seconds, -0.5, MELS - 0.5), {"cmap": "magma", "vmin": -DYNAMIC_DB, "vmax": 0}
    image = axes.imshow(decibels, origin="lower", aspect="auto", extent=extent, **shades)
    axes.set_yticks(np.interp(ticks, frequencies, np.arange(MELS)), [f"{hertz / 1000:g}" for hertz in ticks])
    axes.grid(False)
    return image
