"""Noise subspaces: calibrate, select a basis, measure SEE, remove it with SEEN. Arrays in, arrays out."""

from seen_jax.subspace.basis import NoiseBasis, union
from seen_jax.subspace.calibration import Calibration, Statistics
from seen_jax.subspace.diagnose import Finding, diagnose
from seen_jax.subspace.formulas import low_rank_edit, masked_mean, noise_energy, see, see_frames, seen
from seen_jax.subspace.localize import Curves, Localization, layer_curves, localize
from seen_jax.subspace.selection import Selection, columns, noise_directions, threshold_mask
from seen_jax.subspace.svd import Directions, right_singular

__all__ = [
    "Calibration",
    "Curves",
    "Directions",
    "Finding",
    "Localization",
    "NoiseBasis",
    "Selection",
    "Statistics",
    "columns",
    "diagnose",
    "layer_curves",
    "localize",
    "low_rank_edit",
    "masked_mean",
    "noise_directions",
    "noise_energy",
    "right_singular",
    "see",
    "see_frames",
    "seen",
    "threshold_mask",
    "union",
]
