"""Noise subspaces: calibrate, select a basis, measure SEE, remove it with SEEN. Arrays in, arrays out."""

from seen_jax.subspace.basis import NoiseBasis, union
from seen_jax.subspace.calibration import Calibration
from seen_jax.subspace.diagnose import Finding, diagnose
from seen_jax.subspace.formulas import low_rank_edit, masked_mean, noise_energy, see, see_frames, seen
from seen_jax.subspace.localize import Curves, Localization, layer_curves, localize
from seen_jax.subspace.moments import Moments
from seen_jax.subspace.released import load_released, read_vectors, save_released
from seen_jax.subspace.selection import Selection, columns, noise_directions, threshold_mask
from seen_jax.subspace.statistics import Statistics, Streamed
from seen_jax.subspace.svd import Directions, directions_of_moments, right_singular

__all__ = [
    "Calibration",
    "Curves",
    "Directions",
    "Finding",
    "Localization",
    "Moments",
    "NoiseBasis",
    "Selection",
    "Statistics",
    "Streamed",
    "columns",
    "diagnose",
    "directions_of_moments",
    "layer_curves",
    "load_released",
    "localize",
    "low_rank_edit",
    "masked_mean",
    "noise_directions",
    "noise_energy",
    "read_vectors",
    "right_singular",
    "save_released",
    "see",
    "see_frames",
    "seen",
    "threshold_mask",
    "union",
]
