"""The threshold delta and the energy share alpha of a selection."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from seen_jax.studies.base import ALPHA, Case, Lab, Study
from seen_jax.subspace import Selection

DELTAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
ALPHAS = (0.8, 0.9, 0.95, 0.99)


class Delta(Study):
    name = "delta"
    title = f"Study: threshold δ and energy share {ALPHA}"
    lead = "How far a noise direction may lie along the semantic ones, and how many of these there are."
    names: Sequence[str] = ("delta", "semantic_alpha", "noise")
    sweeps = (("delta", "pearson", "noise"), ("delta", "pearson", "semantic_alpha"))

    def cases(self, lab: Lab) -> Iterator[Case]:
        """The experiment's selection with other values. The complement has no delta."""
        methods = [("threshold", delta) for delta in DELTAS] + [("complement", None)]
        for noise, (method, delta), alpha in itertools.product(lab.calibrated, methods, ALPHAS):
            changes: dict[str, Any] = {"method": method, "delta": delta or Selection.delta, "semantic_alpha": alpha}
            basis = lab.calibration(noise).select(dataclasses.replace(lab.config.selection, **changes))
            yield Case({"noise": noise, **changes, "delta": delta}, noise, basis)


DELTA = Delta()
