"""seen-jax: measure (SEE) and remove (SEEN) noise inside audio language models, in JAX / Flax.

import seen_jax
model = seen_jax.load("seen-tiny")
calibration = seen_jax.calibrate(model, clean, noise)
basis = calibration.select(seen_jax.Selection())
seen_jax.score(model, clips, basis)
seen_jax.generate(model, clips, "transcribe the speech", basis=basis)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from seen_jax.api import Answer, Run, Score, calibrate, calibrate_stream, generate, run, score
    from seen_jax.edits import linear_map, measuring, projection, steering
    from seen_jax.models.generate import Decoding
    from seen_jax.models.load import load
    from seen_jax.models.model import Model
    from seen_jax.models.processor import Request
    from seen_jax.models.sites import SITES, Taps
    from seen_jax.subspace import Calibration, NoiseBasis, Selection

_WHERE = {
    "seen_jax.api": ("Answer", "Run", "Score", "calibrate", "calibrate_stream", "generate", "run", "score"),
    "seen_jax.edits": ("linear_map", "measuring", "projection", "steering"),
    "seen_jax.models.generate": ("Decoding",),
    "seen_jax.models.load": ("load",),
    "seen_jax.models.model": ("Model",),
    "seen_jax.models.processor": ("Request",),
    "seen_jax.models.sites": ("SITES", "Taps"),
    "seen_jax.subspace": ("Calibration", "NoiseBasis", "Selection"),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "SITES",
    "Answer",
    "Calibration",
    "Decoding",
    "Model",
    "NoiseBasis",
    "Request",
    "Run",
    "Score",
    "Selection",
    "Taps",
    "calibrate",
    "calibrate_stream",
    "generate",
    "linear_map",
    "load",
    "measuring",
    "projection",
    "run",
    "score",
    "steering",
]


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that `import seen_jax` stays fast."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'seen_jax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
