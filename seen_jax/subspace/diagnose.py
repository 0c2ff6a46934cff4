"""What is wrong with a calibration or the basis selected from it, named, with numbers."""

from dataclasses import dataclass
from typing import Literal

from seen_jax.subspace.basis import NoiseBasis
from seen_jax.subspace.calibration import Calibration
from seen_jax.subspace.identity import Identity

FEW_CLIPS = 10
SAME = 1e-3  # relative difference below which the two sets are one
LOW_CEILING = 0.05  # of GSR: projection along a basis is not worth more
SEMANTIC_SHARE = 0.05  # of the clean energy; the paper's clean SEE is 0.0035 to 0.013


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a calibration or a basis.

    code, severity: stable, for programs.
    message: what it means and what to do.
    layers: those that it concerns; empty: all.
    >>> subspace.Finding("too-few-clips", "warning", "3 clips per side").layers
    ()
    """

    code: str
    severity: Literal["info", "warning", "error"]
    message: str
    layers: tuple[int, ...] = ()


def diagnose(calibration: Calibration, basis: NoiseBasis) -> list[Finding]:
    """Check a basis and the calibration it was selected from. Findings come worst first; none when all is well.

    Codes: same-data, too-few-clips, repeated-clips, rank-limited, no-layer-found, empty-basis, empty-layers,
    semantic-basis, noise-not-above-clean. SEE here is that of the pooled calibration activations, over the kept layers.
    calibration, basis: one of its `select`. Raises BasisError: the basis belongs to another site, shape or model.
    >>> {finding.severity for finding in subspace.diagnose(calibration, basis)} <= {"error", "warning", "info"}
    True
    """
    depth, n, width = calibration.source.shape
    basis.check(calibration.site, depth, width, Identity.of_card(calibration.card))
    findings = []
    data = calibration.card.get("data") or {}
    clean, noise = (set(data.get(side) or ()) for side in ("clean", "noise"))
    shared, difference = len(clean & noise), calibration.source.distance()
    if shared or difference < SAME:
        numbers = f"{shared} data hashes in common, activations differ by {difference:.2g} relative"
        advice = "use clean requests on one side and pure noise on the other"
        findings.append(Finding("same-data", "error", f"clean and noise clips are the same: {numbers}; {advice}"))
    if n < FEW_CLIPS:
        message = f"{n} clips per side: use {FEW_CLIPS} at least (the paper: 50)"
        findings.append(Finding("too-few-clips", "warning", message))
    if copies := len(data.get("clean") or ()) - len(clean):
        message = f"{copies} of {n} clean clips are copies of others and add no direction: use different clips"
        findings.append(Finding("repeated-clips", "warning", message))
    if full := tuple(layer for layer in basis.layers if basis.ranks[layer] >= max(1, n - 1)):
        limit = f"the rank is limited by the {n} clips, not by the selection"
        message = f"{limit}: calibrate with more, or use a smaller delta"
        findings.append(Finding("rank-limited", "warning", message, full))
    if not calibration.localization().found:
        rule = "no layer is above the mean magnitude and below the mean direction"
        findings.append(Finding("no-layer-found", "info", f"{rule}: layers='auto' falls back to the last third"))
    empty = tuple(layer for layer in basis.layers if basis.ranks[layer] == 0)
    if len(empty) == len(basis.layers):
        effect = "no kept layer has a noise direction: SEE is 0 and SEEN does nothing"
        message = f"{effect}; raise delta or use method 'complement'"
        findings.append(Finding("empty-basis", "error", message, empty))
    else:
        if empty:
            message = f"{len(empty)} of {len(basis.layers)} kept layers have no noise direction and count as SEE 0"
            findings.append(Finding("empty-layers", "info", message, empty))
        findings += _energy_findings(calibration, basis)
    return sorted(findings, key=lambda finding: ("error", "warning", "info").index(finding.severity))


def low_ceiling(value: float, low: float, high: float) -> Finding | None:
    """The finding about a basis inside which clean activations, put back, gain little GSR: value, with the ends of its
    95 % interval. None where they gain enough, or may."""
    if not high < LOW_CEILING:
        return None
    ceiling = f"{100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    message = f"projection cannot help here: ceiling {ceiling}, with clean activations put back inside the basis"
    return Finding("low-ceiling", "warning", f"{message}; use another site or an edit outside of it (study ceiling)")


def _energy_findings(calibration: Calibration, basis: NoiseBasis) -> list[Finding]:
    kept = list(basis.layers)
    measured = calibration.source.pooled_see(basis.padded_q)  # one program for all ranks
    name = "noisy" if "noisy" in measured else "noise"
    clean_see, noise_see = (measured[key][kept] for key in ("clean", name))
    numbers = f"SEE of pooled clean activations {clean_see.mean():.2%}, of {name} ones {noise_see.mean():.2%}"
    findings = []
    if semantic := tuple(layer for layer, share in zip(kept, clean_see, strict=True) if share > SEMANTIC_SHARE):
        effect = f"up to {clean_see.max():.1%} of clean energy of a layer lies in it, so SEEN harms clean audio"
        message = f"the basis covers semantic directions: {numbers}; {effect}; lower delta or raise semantic_alpha"
        findings.append(Finding("semantic-basis", "warning", message, semantic))
    if noise_see.mean() <= clean_see.mean():
        message = f"noise does not raise SEE: {numbers}; try other layers, another site or 'complement'"
        below = tuple(layer for layer, c, x in zip(kept, clean_see, noise_see, strict=True) if x <= c)
        findings.append(Finding("noise-not-above-clean", "error", message, below))
    return findings
