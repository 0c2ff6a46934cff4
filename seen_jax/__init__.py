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

__version__ = "0.1.0"

if TYPE_CHECKING:
    from seen_jax.api import Answer, Score, calibrate, calibrate_stream, generate, score, seen_edit
    from seen_jax.models.generate import Decoding
    from seen_jax.models.model import Model, load
    from seen_jax.models.processor import Request
    from seen_jax.models.sites import SITES, Taps
    from seen_jax.subspace import Calibration, NoiseBasis, Selection

_WHERE = {
    "seen_jax.api": ("Answer", "Score", "calibrate", "calibrate_stream", "generate", "score", "seen_edit"),
    "seen_jax.models.generate": ("Decoding",),
    "seen_jax.models.model": ("Model", "load"),
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
    "Score",
    "Selection",
    "Taps",
    "calibrate",
    "calibrate_stream",
    "generate",
    "load",
    "score",
    "seen_edit",
]


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that `import seen_jax` stays fast."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'seen_jax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
