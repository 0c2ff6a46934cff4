"""Readings of the method: which are tried, how they are ranked, and which one is taken."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.errors import ConfigError
from seen_jax.models.model import Model
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_RESID
from seen_jax.subspace import Selection

CLEAN_FLOOR = 0.95  # GSR of clean audio with SEEN that a reading must keep
TIE = 0.02  # correlations this close are not told apart by seven SNRs and a few dozen clips
CHOICE = Path(__file__).parent.parent / "assets" / "choice.json"  # what `choose` found for the embedded model


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One reading: where to look and how to select the basis."""

    site: str
    selection: Selection


@dataclasses.dataclass(frozen=True)
class Scored:
    """A candidate and its figures on the validation clips. pearson: SEE against GSR over the SNRs, one per noise (NaN
    where the basis is empty). see: mean over noisy cells and of clean audio. clean_gsr: with SEEN, lowest over the
    noises; None where it was not needed. ranks: per noise, of all layers; layers: kept, per noise."""

    candidate: Candidate
    pearson: dict[str, float]
    see_noisy: float
    see_clean: float
    ranks: dict[str, tuple[int, ...]]
    layers: dict[str, tuple[int, ...]]
    clean_gsr: float | None = None

    @property
    def mean(self) -> float:
        """Mean correlation over the noises; NaN if any is undefined."""
        return float(np.mean(list(self.pearson.values())))

    @property
    def passes(self) -> bool:
        """Whether SEEN is known to leave clean audio alone, and the correlation is defined."""
        return self.clean_gsr is not None and self.clean_gsr >= CLEAN_FLOOR and not math.isnan(self.mean)


def candidates(sites: Sequence[str] = (ENCODER_MLP_ACT, ENCODER_RESID)) -> list[Candidate]:
    """All combinations of site, method, energy, noise source and layers, and of delta where it matters."""
    ways = [("threshold", delta) for delta in (0.05, 0.1, 0.2)] + [("complement", 0.1)]
    rest = itertools.product(ways, ("sigma2", "sigma"), ("pure", "difference"), ("auto", "all", "last_third"))
    return [
        Candidate(site, Selection(method=method, delta=delta, energy=energy, noise_source=source, layers=layers))  # type: ignore[arg-type]
        for site, ((method, delta), energy, source, layers) in itertools.product(sites, list(rest))
    ]


def rank(table: Sequence[Scored]) -> list[Scored]:
    """Those whose SEE falls most clearly as GSR rises first; undefined correlations last."""
    return sorted(table, key=lambda scored: (math.isnan(scored.mean), scored.mean))


def pick(ranked: Sequence[Scored]) -> Scored:
    """Of those that keep clean audio and whose correlation is within `TIE` of the best such one, that in which noise
    stands out most: the largest ratio of SEE, noisy to clean. If none keeps clean audio, the first with a defined
    correlation.

    Raises ConfigError where no correlation is defined.
    """
    defined = [scored for scored in ranked if not math.isnan(scored.mean)]
    if not defined:
        raise ConfigError(
            "SEE or GSR does not vary over the SNRs for any candidate: use a trained model, more items or sites"
        )
    if not (passing := [scored for scored in defined if scored.passes]):
        return defined[0]
    close = [scored for scored in passing if scored.mean <= passing[0].mean + TIE]
    return max(close, key=lambda scored: scored.see_noisy / (scored.see_clean + 1e-9))  # the first among equals


def to_json(model: Model, chosen: Scored, ranked: Sequence[Scored], items: int) -> dict[str, Any]:
    """JSON values of a choice: what was chosen and why, and the whole table."""

    def entry(scored: Scored) -> dict[str, Any]:
        plain = lambda x: None if isinstance(x, float) and math.isnan(x) else x  # noqa: E731
        values = dataclasses.asdict(scored)
        values["pearson"] = {name: plain(r) for name, r in scored.pearson.items()}
        return {**values.pop("candidate"), "mean_pearson": plain(scored.mean), "passes": scored.passes, **values}

    origin: dict[str, Any] = {"model": model.name, "fingerprint": model.fingerprint, "validation_items": items}
    rules = {"clean_floor": CLEAN_FLOOR, "tie": TIE}
    return {**origin, **rules, "chosen": entry(chosen), "table": [entry(scored) for scored in ranked]}


def explain(model: Model, site: str, selection: Selection, choice: Path = CHOICE) -> dict[str, str]:
    """The reading in words ("text") and where it comes from ("why"): the shipped choice, if it is that one."""
    method = f"{selection.method} (delta {selection.delta:g})" if selection.method == "threshold" else selection.method
    text = (
        f"{method}, {selection.energy} energy, noise directions from {selection.noise_source} noise, "
        f"layers {selection.layers}, semantic alpha {selection.semantic_alpha:g}"
    )
    why = "It is the one that the configuration names"
    found = json.loads(choice.read_text("utf-8")) if choice.is_file() else None
    if found and found["fingerprint"] == model.fingerprint:
        best = found["chosen"]
        own = json.loads(json.dumps(dataclasses.asdict(selection)))
        if (best["site"], best["selection"]) == (site, own):
            floor, tie = f"{found['clean_floor']:.0%}", f"{found['tie']:g}"
            if best["passes"]:
                held = f"of those that keep a clean GSR of {floor} and correlate best (within {tie}), noise stands out"
                held += f" most in it (SEE {best['see_clean']:.1%} clean, {best['see_noisy']:.1%} noisy)"
            else:
                held = f"it correlates best, but none kept a clean GSR of {floor}"
            why = (
                f"It was chosen among {len(found['table'])} readings on {found['validation_items']} validation clips, "
                f"which are not used here: {held}; mean Pearson r of SEE and GSR there {best['mean_pearson']:+.2f}, "
                f"clean GSR {best['clean_gsr']:.1%}"
            )
        else:
            why += f"; `choose` took another one: {best['site']}, {best['selection']}"
    return {"text": text, "why": why + "."}
