"""A calibration or basis in words, numbers and a figure: what `calibrate`, `merge` and `inspect` show."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from seen_jax.cli._output import table, warn
from seen_jax.subspace import Calibration, NoiseBasis, diagnose

BAR = 24  # characters of the longest bar
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#BBBBBB"  # of Okabe and Ito: safe for the colour-blind
FACTS = ("folder", "kind", "model", "fingerprint", "noise", "snr_db", "site", "clips", "width", "seed", "date")


def describe(basis: NoiseBasis, calibration: Calibration | None = None) -> dict[str, Any]:
    """Everything about a basis and the calibration that it was selected from, as JSON values."""
    entry: dict[str, Any] = {
        "kind": "noise basis",
        "noise": basis.card.get("noise"),
        "site": basis.site,
        "clips": basis.card.get("clips"),
        "width": basis.q.shape[1],
        "layers": list(basis.layers),
        "ranks": list(basis.ranks),
        "selection": basis.card.get("selection"),
    }
    if calibration is not None:
        localization, curves = calibration.localization(), calibration.curves()
        entry |= {
            "kind": "calibration",
            "first_layer": localization.first,
            "layer_found": localization.found,
            "magnitude": np.asarray(curves.magnitude).tolist(),
            "direction": np.asarray(curves.direction).tolist(),
            "findings": [asdict(finding) for finding in diagnose(calibration, basis)],
        }
    return entry


def view(entry: dict[str, Any]) -> list[Any]:
    """A description for people: facts, layers, findings."""
    facts = [[name, entry[name]] for name in FACTS if entry.get(name) is not None]
    selection = (entry["selection"] or {}).items()
    facts.append(["selection", ", ".join(f"{name} {value}" for name, value in selection) or "unknown"])
    layers = [
        [layer, "yes" if layer in entry["layers"] else "", rank, *_curves(entry, layer)]
        for layer, rank in enumerate(entry["ranks"])
    ]
    if entry["kind"] != "calibration":
        return [table(["", ""], facts), table(["#layer", "kept", "#rank"], layers)]
    fallback = "" if entry["layer_found"] else ", the last third: no layer meets the rule"
    facts.append(["l*", f"{entry['first_layer']}{fallback}"])
    columns = ["#layer", "kept", "#rank", "#magnitude", "", "#direction", ""]
    return [table(["", ""], facts), table(columns, layers), *findings_text(entry["findings"])]


def _curves(entry: dict[str, Any], layer: int) -> list[str]:
    if entry["kind"] != "calibration":
        return []
    size, cosine, largest = entry["magnitude"][layer], entry["direction"][layer], max(entry["magnitude"]) or 1.0
    return [f"{size:.4g}", "█" * round(BAR * size / largest), f"{cosine:.3f}", "█" * round(BAR * max(cosine, 0.0))]


def layer_text(layers: Sequence[int]) -> str:
    """2..5 for consecutive layers, else 2,4,5."""
    run = len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}..{layers[-1]}" if run else ",".join(map(str, layers))


def findings_text(findings: Sequence[dict[str, Any]], prefix: str = "") -> list[str]:
    """One line per finding, and one that says so if there are none."""
    where = lambda f: f" (layers {layer_text(f['layers'])})" if f["layers"] else ""
    lines = [f"{prefix}{f['severity']} [{f['code']}] {f['message']}{where(f)}" for f in findings]
    return lines or [f"{prefix}nothing to warn of."]


def warn_of(folder: str, findings: Sequence[dict[str, Any]]) -> None:
    """The findings that are worse than a remark, on stderr."""
    for finding in findings:
        if finding["severity"] != "info":
            warn(f"{folder} [{finding['code']}]: {finding['message']}")


def figure(entry: dict[str, Any], suffix: str) -> bytes:
    """The localisation curves and ranks of a calibration over the layers, as the bytes of an image file."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawing = Figure(figsize=(6.4, 6.4), layout="constrained")
    *upper, bottom = drawing.subplots(3, 1, sharex=True)
    curves = (("magnitude", "activation units", BLUE, "o"), ("direction", "cosine", ORANGE, "s"))
    for axes, (name, unit, colour, marker) in zip(upper, curves, strict=True):
        axes.plot(entry[name], color=colour, marker=marker, label=name)
        axes.axhline(float(np.mean(entry[name])), color=colour, linestyle=":", label="mean over layers")
        axes.set_ylabel(f"{name}\n({unit})")
    layers = range(len(entry["ranks"]))
    bottom.bar(layers, entry["ranks"], color=[GREEN if i in entry["layers"] else GREY for i in layers])
    bottom.set(xlabel="layer", ylabel="rank\n(kept layers in green)")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    start = "l*" if entry["layer_found"] else "last third (no l*)"
    for axes in (*upper, bottom):
        axes.axvline(entry["first_layer"] - 0.5, color="black", linestyle="--", linewidth=1, label=start)
    for axes in upper:
        axes.legend(fontsize="small")
    drawing.suptitle(f"{entry['noise']} at {entry['site']}")
    image = io.BytesIO()
    drawing.savefig(image, format=suffix.lstrip("."), dpi=150)
    return image.getvalue()
