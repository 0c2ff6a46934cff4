"""A calibration or basis in words, numbers and a figure: what `calibrate` and `inspect` show."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from seen_jax.cli._output import warn
from seen_jax.subspace import Calibration, NoiseBasis, diagnose

BAR = 24  # characters of the longest bar
# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"


def describe(calibration: Calibration, basis: NoiseBasis) -> dict[str, Any]:
    """Everything about a calibration and the basis selected from it, as JSON values."""
    localization, curves = calibration.localization(), calibration.curves()
    return {
        "kind": "calibration",
        "noise": calibration.card.get("noise"),
        "site": calibration.site,
        "clips": calibration.source.shape[1],
        "width": calibration.source.shape[2],
        "first_layer": localization.first,
        "layer_found": localization.found,
        "layers": list(basis.layers),
        "ranks": list(basis.ranks),
        "magnitude": np.asarray(curves.magnitude).tolist(),
        "direction": np.asarray(curves.direction).tolist(),
        "selection": basis.card["selection"],
        "findings": [asdict(finding) for finding in diagnose(calibration, basis)],
    }


def describe_basis(basis: NoiseBasis) -> dict[str, Any]:
    return {
        "kind": "noise basis",
        "noise": basis.card.get("noise"),
        "site": basis.site,
        "clips": basis.card.get("clips"),
        "width": basis.q.shape[1],
        "layers": list(basis.layers),
        "ranks": list(basis.ranks),
        "selection": basis.card.get("selection"),
    }


def layer_text(layers: Sequence[int]) -> str:
    """2..5 for consecutive layers, else 2,4,5."""
    run = len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}..{layers[-1]}" if run else ",".join(map(str, layers))


def findings_text(findings: Sequence[dict[str, Any]], prefix: str = "") -> list[str]:
    """One line per finding; that nothing was found is worth a line too."""
    if not findings:
        return [f"{prefix}nothing to warn of."]
    where = lambda f: f" (layers {layer_text(f['layers'])})" if f["layers"] else ""  # noqa: E731
    return [f"{prefix}{f['severity']} [{f['code']}] {f['message']}{where(f)}" for f in findings]


def warn_of(folder: str, findings: Sequence[dict[str, Any]]) -> None:
    """The findings that are worse than a remark, on stderr."""
    for finding in findings:
        if finding["severity"] != "info":
            warn(f"{folder} [{finding['code']}]: {finding['message']}")


def bar(value: float, largest: float) -> str:
    return "█" * round(BAR * value / largest) if largest > 0 else ""


def figure(entry: dict[str, Any], suffix: str) -> bytes:
    """The localisation curves and ranks over the layers, as the bytes of an image file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    layers = np.arange(len(entry["ranks"]))
    drawing = Figure(figsize=(6.4, 6.4), layout="constrained")
    FigureCanvasAgg(drawing)
    top, middle, bottom = drawing.subplots(3, 1, sharex=True)
    curves = (
        (top, "magnitude", BLUE, "o", "magnitude\n(activation units)"),
        (middle, "direction", ORANGE, "s", "direction\n(cosine)"),
    )
    for axes, name, colour, marker, label in curves:
        axes.plot(layers, entry[name], color=colour, marker=marker, label=name)
        axes.axhline(float(np.mean(entry[name])), color=colour, linestyle=":", label="mean over layers")
        axes.set_ylabel(label)
    bottom.bar(layers, entry["ranks"], color=[GREEN if i in entry["layers"] else "#BBBBBB" for i in layers])
    bottom.set_ylabel("rank\n(kept layers in green)")
    bottom.set_xlabel("layer")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (top, middle, bottom):
        found = "l*" if entry["layer_found"] else "last third (no l*)"
        axes.axvline(entry["first_layer"] - 0.5, color="black", linestyle="--", linewidth=1, label=found)
    for axes in (top, middle):
        axes.legend(fontsize="small")
    drawing.suptitle(f"{entry['noise']} at {entry['site']}")
    out = io.BytesIO()
    drawing.savefig(out, format=suffix.lstrip("."), dpi=150)
    return out.getvalue()
