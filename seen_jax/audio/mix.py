"""Mix clips with noise at a signal-to-noise ratio."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seen_jax.audio.io import Wave, check_wave, is_silent
from seen_jax.errors import AudioError, ConfigError

MAX_SNR_DB = 120.0  # beyond it the weaker part drowns in float32 rounding


@dataclass(frozen=True)
class Mixture:
    """A noisy clip.

    audio, snr_db: [samples] float32 at 16 kHz, and the measured SNR.
    >>> audio.mix_at_snr(clips[0], noises[0], 20.0).audio.shape == clips[0].shape
    True
    """

    audio: Wave
    snr_db: float


def fit_noise(noise: Float[np.ndarray, " noise"], n_samples: int, offset: int = 0) -> Wave:
    """A stretch of a noise that is looped.

    noise, n_samples: [n], not empty; how many samples.
    offset: the first one, modulo n.
    >>> audio.fit_noise(np.array([1.0, 2.0, 3.0]), 4, offset=2).tolist()
    [3.0, 1.0, 2.0, 3.0]
    """
    return np.take(noise, np.arange(offset % len(noise), offset % len(noise) + n_samples), mode="wrap")


def mix_at_snr(clean: Any, noise: Any, snr_db: float, offset: int = 0) -> Mixture:
    """Add noise to a clean clip at `snr_db` decibels (the paper's protocol).

    The noise is looped or cut to the clip's length and scaled so that 10 log10(P_clean / P_noise) = SNR, where P is the
    mean square over the clip. The clean clip is never touched: no clipping, no normalisation of the peak.
    clean, noise: 16 kHz waves of any length (`check_wave` is applied).
    snr_db, offset: wanted ratio, within -120 to 120 dB; where to start reading the noise, in samples.
    Raises AudioError: a wave that `check_wave` refuses, or digital silence, which has no SNR. ConfigError: an SNR that
    is not finite or out of range.
    >>> round(audio.mix_at_snr(clips[0], noises[0], -5.0).snr_db, 3)
    -5.0
    """
    if not (math.isfinite(snr_db) and abs(snr_db) <= MAX_SNR_DB):
        raise ConfigError(f"The SNR must be a number of dB between -{MAX_SNR_DB:g} and {MAX_SNR_DB:g}, not {snr_db}.")
    clean = check_wave(clean, name="clean audio")
    fitted = fit_noise(check_wave(noise, name="noise"), len(clean), offset).astype(np.float64)
    if is_silent(clean):
        raise AudioError("The clean audio is digital silence: there is no SNR to reach.")
    if is_silent(fitted):
        raise AudioError(f"The noise is digital silence over the {len(clean)} samples used: it cannot be scaled.")
    power = np.mean(np.square(clean, dtype=np.float64))
    scale = math.sqrt(power / np.mean(np.square(fitted))) * 10.0 ** (-snr_db / 20.0)
    audio = (clean + scale * fitted).astype(np.float32)
    added = np.mean(np.square(audio.astype(np.float64) - clean))
    return Mixture(audio, 10.0 * math.log10(power / added))


@jax.jit
def mix_batch(
    clean: Float[Array, "batch samples"],
    noise: Float[Array, "batch samples"],
    snr_db: Float[Array, " batch"],
    lengths: Int[Array, " batch"],
) -> Float[Array, "batch samples"]:
    """`mix_at_snr` for padded batches, in JAX: [batch, samples]; a clip as it is where either part is silent.

    clean, noise: [batch, samples], padded on the right.
    snr_db, lengths: [batch]; +inf dB adds nothing; powers are taken over these samples, and noise is added only there.
    >>> one = jnp.ones((1, 4))
    >>> audio.mix_batch(one, 2 * one, jnp.zeros(1), jnp.array([2])).tolist()
    [[2.0, 2.0, 1.0, 1.0]]
    """
    valid = jnp.arange(clean.shape[1]) < lengths[:, None]
    kept = jnp.where(valid, noise, 0.0)
    signal = jnp.square(jnp.where(valid, clean, 0.0)).sum(axis=1)
    energy = jnp.square(kept).sum(axis=1)
    ratio = jnp.where(energy > 0, signal / jnp.where(energy > 0, energy, 1.0), 0.0)
    scale = jnp.sqrt(ratio) * 10.0 ** (-snr_db / 20.0)
    return clean + scale[:, None] * kept
