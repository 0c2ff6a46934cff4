"""A calibration or basis in words and numbers: what `calibrate`, `merge` and `inspect` show."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from seen_jax.cli._output import note, table
from seen_jax.subspace import Calibration, NoiseBasis, diagnose

BAR = 24  # characters of the longest bar
FACTS = ("folder", "kind", "model", "fingerprint", "noise", "snr_db", "site", "clips", "width", "seed", "date")


def describe(basis: NoiseBasis, calibration: Calibration | None = None) -> dict[str, Any]:
    """Everything about a basis and the calibration that it was selected from, as JSON values."""
    entry: dict[str, Any] = {key: basis.card.get(key) for key in ("noise", "clips", "selection")}
    entry |= {"kind": "noise basis", "site": basis.site, "width": basis.q.shape[1]}
    entry |= {"layers": list(basis.layers), "ranks": list(basis.ranks)}
    if calibration is not None:
        place, curves = calibration.localization(), calibration.curves()._asdict()
        entry |= {"kind": "calibration", "first_layer": place.first, "layer_found": place.found}
        entry |= {name: np.asarray(curve).tolist() for name, curve in curves.items()}
        entry["findings"] = [asdict(finding) for finding in diagnose(calibration, basis)]
    return entry


def view(entry: dict[str, Any]) -> list[Any]:
    """A description for people: facts, layers, findings."""
    facts = [[name, entry[name]] for name in FACTS if entry.get(name) is not None]
    selection = (entry["selection"] or {}).items()
    facts.append(["selection", ", ".join(f"{name} {value}" for name, value in selection) or "unknown"])
    columns, layers = ["#layer", "kept", "#rank"], []
    for layer, rank in enumerate(entry["ranks"]):
        layers.append([layer, "yes" if layer in entry["layers"] else "", rank])
    if entry["kind"] != "calibration":
        return [table(["", ""], facts), table(columns, layers)]
    fallback = "" if entry["layer_found"] else ", the last third: no layer meets the rule"
    facts.append(["l*", f"{entry['first_layer']}{fallback}"])
    largest = max(entry["magnitude"]) or 1.0
    for row, size, cosine in zip(layers, entry["magnitude"], entry["direction"], strict=True):
        row += [f"{size:.4g}", "█" * round(BAR * size / largest), f"{cosine:.3f}", "█" * round(BAR * max(cosine, 0.0))]
    columns += ["#magnitude", "", "#direction", ""]
    return [table(["", ""], facts), table(columns, layers), *findings_text(entry["findings"])]


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
            note(f"warning: {folder} [{finding['code']}]: {finding['message']}")
