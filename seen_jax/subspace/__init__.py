"""Noise subspaces: calibrate, select a basis, measure SEE, remove it with SEEN. Arrays in, arrays out."""

from seen_jax.subspace.basis import NoiseBasis, union
from seen_jax.subspace.blind import BlindModel, conformal_threshold
from seen_jax.subspace.calibration import Calibration
from seen_jax.subspace.diagnose import Finding, diagnose
from seen_jax.subspace.formulas import low_rank_edit, masked_mean, noise_energy, see, see_frames, seen
from seen_jax.subspace.moments import Moments
from seen_jax.subspace.released import fetch_released, load_released, read_vectors, save_released
from seen_jax.subspace.selection import Selection
from seen_jax.subspace.statistics import Statistics, Streamed

__all__ = [
    "BlindModel", "Calibration", "Finding", "Moments", "NoiseBasis", "Selection", "Statistics", "Streamed",
    "conformal_threshold", "diagnose", "fetch_released", "load_released", "low_rank_edit", "masked_mean",
    "noise_energy", "read_vectors", "save_released", "see", "see_frames", "seen", "union",
]  # fmt: skip
