"""seen-jax: measure (SEE) and remove (SEEN) noise inside audio language models, in JAX / Flax.

import seen_jax
model = seen_jax.load("seen-tiny")
calibration = seen_jax.calibrate(model, clean, noise)
basis = calibration.select(seen_jax.Selection())
seen_jax.score(model, clips, basis)
seen_jax.generate(model, clips, "transcribe the speech", basis=basis)"""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # such as that there is no PyTorch: none is needed

if TYPE_CHECKING:
    from seen_jax.api import *  # noqa: F403

__all__ = [  # noqa: F405
    "SITES", "Answer", "BlindModel", "BlindScore", "Calibration", "Decoding", "Model", "NoiseBasis", "Patched",
    "Request", "Run", "Runtime", "Score", "Selection", "Taps", "When", "blind_model", "blind_score", "calibrate",
    "calibrate_stream", "fit_blind", "generate", "linear_map", "load", "measuring", "patch", "projection", "run",
    "runtime", "score", "steering",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Public names come from `seen_jax.api` on first use, so that `import seen_jax` stays fast."""
    if name in __all__:
        return getattr(importlib.import_module("seen_jax.api"), name)
    raise AttributeError(f"module 'seen_jax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
