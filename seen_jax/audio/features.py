"""Whisper's log-mel features in JAX: what every supported audio encoder reads.

Axes: batch, samples (16 kHz), frames (100 per second), bins (201 of the DFT), mels.
"""

from collections.abc import Sequence
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seen_jax.errors import AudioError

SAMPLE_RATE = 16_000
HOP = 160
WINDOW = 400
BINS = WINDOW // 2 + 1
HTK_FFT = 512


def frame_count(n_samples: int) -> int:
    """Number of mel frames that hold `n_samples` samples: ceil(n / 160)."""
    return -(-n_samples // HOP)


@lru_cache
def mel_filterbank(n_mels: int) -> Float[np.ndarray, "bins mels"]:
    """Triangular mel filters, 0 to 8 kHz, Slaney scale and Slaney (area) norm, float32 and read-only.

    Equals `librosa.filters.mel(sr=16000, n_fft=400, n_mels=n_mels).T`; written out because importing librosa
    costs more than a second.
    """
    if n_mels < 1:
        raise AudioError(f"A mel filterbank needs at least one filter, not {n_mels}.")
    linear, step = 1000.0, 27.0 / np.log(6.4)  # below 1 kHz: 15 mels in equal steps; above: logarithmic
    top = 15.0 + step * np.log(SAMPLE_RATE / 2 / linear)
    mels = np.linspace(0.0, top, n_mels + 2)
    edges = np.where(mels < 15.0, mels * linear / 15.0, linear * np.exp((mels - 15.0) / step))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, BINS)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    bank = (np.maximum(triangles, 0.0) * 2.0 / (high - low)).astype(np.float32)
    bank.setflags(write=False)  # shared by every caller through the cache
    return bank


@lru_cache
def htk_filterbank(n_mels: int) -> Float[np.ndarray, "bins mels"]:
    """Triangular mel filters, 0 to 8 kHz, HTK scale, no norm, float32 and read-only: those of torchaudio."""
    top = 2595.0 * np.log10(1.0 + SAMPLE_RATE / 2 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0.0, top, n_mels + 2) / 2595.0) - 1.0)
    bins = np.linspace(0.0, SAMPLE_RATE / 2, HTK_FFT // 2 + 1)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    bank = np.maximum(triangles, 0.0).astype(np.float32)
    bank.setflags(write=False)
    return bank


@partial(jax.jit, static_argnames=("n_mels", "htk"))
def log_mel(
    waves: Float[Array, "batch samples"], n_mels: int, real: Int[Array, " batch"] | None = None, htk: bool = False
) -> Float[Array, "batch frames mels"]:
    """Whisper log-mel of 16 kHz waves: `transformers.WhisperFeatureExtractor` on the same padded waves.

    Args:
        waves: float32 in about [-1, 1]; a multiple of 160 samples, at least 320 (`pad_waves` sees to both).
        n_mels: 80 or 128 in released models; static.
        real: frames per clip among which the loudest bin is looked for; None: all.
        htk: the filters are `htk_filterbank`, over a DFT of 512 points (Granite Speech).

    Returns:
        float32, samples // 160 frames. Each clip is limited to 8 decades of power below its own loudest bin,
        so clips of a batch do not influence each other.

    Raises:
        AudioError: the number of samples does not fit.
    """
    batch, samples = waves.shape
    if samples % HOP or samples < 2 * HOP:
        raise AudioError(
            f"log_mel needs a multiple of {HOP} samples and at least {2 * HOP}, got {samples}: use pad_waves."
        )
    frames = samples // HOP
    padded = jnp.pad(waves.astype(jnp.float32), ((0, 0), (WINDOW // 2, WINDOW // 2)), mode="reflect")
    # A window is two hops and a half: reshapes and slices do, where a gather copies single samples.
    hops = jnp.pad(padded, ((0, 0), (0, HOP // 2))).reshape(batch, -1, HOP)
    windows = jnp.concatenate([hops[:, :frames], hops[:, 1:-2], hops[:, 2:-1, : HOP // 2]], axis=-1)
    hann = np.hanning(WINDOW + 1)[:-1].astype(np.float32)  # periodic; the symmetric one is off by 6e-3
    # rfft, not a DFT matrix: on 2 CPU cores 11 ms against 28 (24 clips of 3 s), and closer to float64.
    spectrum = jnp.fft.rfft(windows * hann, HTK_FFT if htk else WINDOW)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    bank = (htk_filterbank if htk else mel_filterbank)(n_mels)
    mel = jnp.matmul(power, bank, precision=jax.lax.Precision.HIGHEST)
    decades = jnp.log10(jnp.maximum(mel, 1e-10))
    loud = decades if real is None else jnp.where(jnp.arange(frames)[:, None] < real[:, None, None], decades, -10.0)
    floor = loud.max(axis=(1, 2), keepdims=True) - 8.0
    return (jnp.maximum(decades, floor) + 4.0) / 4.0


def pad_waves(
    waves: Sequence[np.ndarray], multiple: int = SAMPLE_RATE, extra: int = WINDOW, least: int = 0
) -> tuple[Float[np.ndarray, "batch samples"], Int[np.ndarray, " batch"]]:
    """Zero-pad waves on the right to one common length, a multiple of `multiple` samples.

    At least `extra` zeros follow the longest wave, so that its last frames see zeros and not its own
    reflection, as under the padding to 30 or 300 s of the original pipelines; the features of valid frames
    are then the same in every bucket. Few distinct lengths also mean few compilations: with `least` there is room for
    a wave of so many samples.

    Returns:
        float32 waves, and the true lengths in samples (int32).

    Raises:
        AudioError: no wave, a wave that is empty or not one-dimensional, or 160 does not divide `multiple`.
    """
    if multiple < HOP or multiple % HOP:
        raise AudioError(f"The bucket size must be a positive multiple of {HOP} samples, got {multiple}.")
    if not waves:
        raise AudioError("No waves to pad: the batch is empty.")
    for i, wave in enumerate(waves):
        if np.ndim(wave) != 1 or np.size(wave) == 0:
            raise AudioError(f"Wave {i} must be one-dimensional and not empty, not of shape {np.shape(wave)}.")
    lengths = np.array([len(wave) for wave in waves], dtype=np.int32)
    bucket = max(-(-(max(int(lengths.max()), least) + extra) // multiple) * multiple, 2 * HOP)
    padded = np.zeros((len(waves), bucket), dtype=np.float32)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    return padded, lengths
