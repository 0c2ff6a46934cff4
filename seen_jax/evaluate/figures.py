"""Figures of a sweep, as matplotlib figures: Okabe-Ito colours, one marker per noise, legible at half size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.evaluate.table import ALL, NONE, SEEN
from seen_jax.subspace import Calibration, NoiseBasis

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*"
STYLE: Any = {
    "font.size": 15,
    "axes.titlesize": 15,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 2.5,
    "lines.markersize": 8,
    "legend.frameon": False,
    "legend.fontsize": 13,
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
}
SEE_LABEL, GSR_LABEL, SNR_LABEL = "SEE (%)", "GSR (%)", "SNR (dB)"
Table = Sequence[Mapping[str, Any]]


def look(index: int) -> dict[str, Any]:
    """Colour and marker of the noise with this index."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def grid(panels: int, height: float = 4.0) -> tuple[Any, list[Any]]:
    """A figure with up to three panels per row, alike in scale; without pyplot, hence without global state."""
    from matplotlib.figure import Figure

    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(7.5 if columns == 1 else 4.4 * columns, height * rows))
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.set_visible(False)
    return figure, axes[:panels]


def pick(table: Table, noise: str, mitigation: str = NONE) -> list[Mapping[str, Any]]:
    """The noisy cells of one noise over all tasks, by rising SNR."""
    wanted = (noise, mitigation, ALL)
    rows = [c for c in table if (c["noise"], c["mitigation"], c["task"]) == wanted and c["snr_db"] is not None]
    return sorted(rows, key=lambda c: c["snr_db"])


def clean_cell(table: Table, noise: str, mitigation: str = NONE) -> Mapping[str, Any]:
    wanted = (noise, None, mitigation, ALL)
    return next(c for c in table if (c["noise"], c["snr_db"], c["mitigation"], c["task"]) == wanted)


def see_by_snr(table: Table, noises: Sequence[str], labels: Mapping[str, str]) -> Any:
    """SEE against SNR, one line per noise; dashed: clean audio under the same basis."""
    figure, (axes,) = grid(1, 4.6)
    for i, noise in enumerate(noises):
        cells = pick(table, noise)
        axes.plot([c["snr_db"] for c in cells], [100 * c["see"] for c in cells], label=labels[noise], **look(i))
        axes.axhline(
            100 * clean_cell(table, noise)["see"], color=look(i)["color"], linestyle=(0, (4, 3)), linewidth=1.5
        )
    axes.set(xlabel=SNR_LABEL, ylabel=SEE_LABEL, title="SEE of noisy audio (dashed: clean)")
    highest = max(c["see"] for noise in noises for c in [*pick(table, noise), clean_cell(table, noise)])
    axes.set_ylim(0, 108 * highest or 1)
    axes.legend()
    return figure


def gsr_by_snr(table: Table, noises: Sequence[str], labels: Mapping[str, str]) -> Any:
    """GSR against SNR with 95 % Wilson bands, without anything and with SEEN, one panel per noise."""
    figure, panels = grid(len(noises))
    for axes, noise in zip(panels, noises, strict=True):
        for i, (mitigation, label) in enumerate(((NONE, "nothing"), (SEEN, "SEEN"))):
            cells = pick(table, noise, mitigation)
            x = [c["snr_db"] for c in cells]
            low, high = ([100 * c[f"gsr_{end}"] for c in cells] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=COLOURS[i], alpha=0.18, linewidth=0)
            line = "-" if mitigation == NONE else (0, (3, 1.5))
            axes.plot(x, [100 * c["gsr"] for c in cells], label=label, linestyle=line, **look(i))
        axes.set(xlabel=SNR_LABEL, title=labels[noise], ylim=(-3, 103))
    for axes in panels[::3]:
        axes.set_ylabel(GSR_LABEL)
    panels[0].legend(loc="upper left")
    return figure


def see_by_layer(
    layers: Sequence[Mapping[str, Any]],
    bases: Mapping[str, NoiseBasis],
    snr_db: float,
    labels: Mapping[str, str],
) -> Any:
    """SEE of every layer, clean and at one SNR, one panel per noise; kept layers are shaded."""
    figure, panels = grid(len(bases))
    see = {(row["noise"], row["snr_db"]): row["see"] for row in layers}
    highest = max(max(see[noise, snr]) for noise in bases for snr in (None, snr_db))
    for axes, (noise, basis) in zip(panels, bases.items(), strict=True):
        for layer in basis.layers:
            axes.axvspan(layer - 0.5, layer + 0.5, color="#eeeeee", zorder=0, linewidth=0)
        for i, (snr, label) in enumerate(((None, "clean"), (snr_db, f"{snr_db:g} dB"))):
            values = 100 * np.asarray(see[noise, snr])
            axes.plot(np.arange(len(values)), values, label=label, **look(i))
        depth = len(basis.ranks)
        axes.set(xlabel="layer", title=f"{labels[noise]}, rank {ranks(basis)}")
        axes.set(xlim=(-0.5, depth - 0.5), ylim=(0, 108 * highest or 1))
        axes.set_xticks(range(0, depth, max(1, depth // 8)))
    for axes in panels[::3]:
        axes.set_ylabel(SEE_LABEL)
    panels[0].legend()
    return figure


def ranks(basis: NoiseBasis) -> str:
    """Ranks of the kept layers, in words: one number, or the span."""
    own = [basis.ranks[layer] for layer in basis.layers]
    return f"{own[0]}" if len(set(own)) == 1 else f"{min(own)} to {max(own)}"


def localisation(calibrations: Mapping[str, Calibration], labels: Mapping[str, str]) -> Any:
    """Distance and direction between clean and noise activations over the layers; dotted: l*, the first layer kept."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.4))
    panels = figure.subplots(1, 2)
    depth = 1
    for i, (noise, calibration) in enumerate(calibrations.items()):
        curves, place = calibration.curves(), calibration.localization()
        depth = len(np.asarray(curves.magnitude))
        for axes, curve in zip(panels, curves, strict=True):
            axes.plot(
                range(depth), np.asarray(curve), label=labels[noise] + ("" if place.found else " (no l*)"), **look(i)
            )
            if place.found:
                axes.axvline(place.first + 0.06 * i, color=look(i)["color"], linestyle=":", linewidth=2)
    for axes, label in zip(panels, ("distance |S - N| (activation units)", "direction cos(S, N)"), strict=True):
        axes.set(xlabel="layer", ylabel=label)
        axes.set_xticks(range(0, depth, max(1, depth // 8)))
    panels[0].legend()
    return figure


def see_against_gsr(table: Table, noises: Sequence[str], labels: Mapping[str, str], r: float | None) -> Any:
    """GSR against SEE of every noisy cell without SEEN, with the least-squares line and Pearson's r."""
    figure, (axes,) = grid(1, 4.8)
    points = []
    for i, noise in enumerate(noises):
        cells = [(100 * c["see"], 100 * c["gsr"]) for c in pick(table, noise)]
        points += cells
        axes.scatter(*zip(*cells, strict=True), label=labels[noise], s=80, zorder=3, **look(i))
    x, y = np.array(points).T
    if r is not None:
        slope, start = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, start + slope * ends, color="#444444", linewidth=2, zorder=2)
    title = "no correlation: SEE or GSR does not vary" if r is None else f"Pearson r = {r:.2f} over {len(x)} cells"
    axes.set(xlabel=SEE_LABEL, ylabel=GSR_LABEL, title=title, ylim=(-3, 103))
    axes.legend()
    return figure


def draw(
    table: Table,
    layers: Sequence[Mapping[str, Any]],
    correlations: Sequence[Mapping[str, Any]],
    calibrations: Mapping[str, Calibration],
    bases: Mapping[str, NoiseBasis],
    snr_db: float,
    labels: Mapping[str, str],
    folder: Path,
) -> dict[str, Path]:
    """Write all figures as PNG; returns {name: file}. labels: how a noise is called in figures."""
    import matplotlib

    noises = list(bases)
    r = next(c["pearson"] for c in correlations if c["noise"] == ALL)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    with matplotlib.rc_context(STYLE):
        figures = {
            "see_by_snr": see_by_snr(table, noises, labels),
            "gsr_by_snr": gsr_by_snr(table, noises, labels),
            "see_by_layer": see_by_layer(layers, bases, snr_db, labels),
            "localisation": localisation(calibrations, labels),
            "see_against_gsr": see_against_gsr(table, noises, labels, r),
        }
        for name, figure in figures.items():
            paths[name] = folder / f"{name}.png"
            figure.savefig(paths[name])
    return paths
