"""A trial: what one item got as an answer under one condition, and what was measured on the way."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from seen_jax.evaluate import metrics
from seen_jax.mitigations.base import NONE

__all__ = ["NONE", "SEEN", "Trial"]

SEEN = "seen"  # the mitigation that is SEEN alone, with the settings of the experiment
TUPLES = ("layers", "layers_after", "energy")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One item under one condition: a noise, an SNR and a mitigation.

    Attributes:
        noise: names the basis too, also for clean audio. snr_db: None for clean audio.
        letter: that the output names, if any; right: the right one. Both None if the item is no multiple choice.
        reference: the right transcript, if there is one.
        see, see_after: mean over the kept layers before and after the edit of the same forward pass, from 0 to 1.
        layers, layers_after: SEE of every layer; energy: that projects onto each layer's basis, raw.
        cosines: between activations, by the names of `metrics.COSINES`; None where they are not measured.
        failed: why the item could not be asked; then nothing else is known about it.
    """

    dataset: str
    task: str
    item: str
    noise: str
    snr_db: float | None
    mitigation: str
    output: str = ""
    letter: str | None = None
    right: str | None = None
    reference: str | None = None
    see: float = math.nan
    see_after: float = math.nan
    layers: tuple[float, ...] = ()
    layers_after: tuple[float, ...] = ()
    energy: tuple[float, ...] = ()
    cosines: dict[str, float] | None = None
    failed: str | None = None

    @property
    def answer(self) -> str:
        """What GSR compares; see `metrics.answer`."""
        return metrics.answer(self.output, self.letter)

    def to_json(self) -> dict[str, Any]:
        """JSON values of all fields but those that say nothing; NaN becomes None."""
        values = {field.name: _json(getattr(self, field.name)) for field in dataclasses.fields(self)}
        optional = ("cosines", "failed", *TUPLES)
        return {name: value for name, value in values.items() if value or name not in optional}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Trial:
        """The trial that `to_json` wrote. Raises TypeError for unknown or missing fields."""
        given: dict[str, Any] = dict(values)
        for name in ("see", "see_after"):
            if given.get(name) is None:
                given[name] = math.nan
        for name in TUPLES:
            given[name] = tuple(math.nan if x is None else x for x in given.get(name, ()))
        return cls(**given)


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, tuple):
        return [_json(x) for x in value]
    return {key: _json(x) for key, x in value.items()} if isinstance(value, dict) else value
