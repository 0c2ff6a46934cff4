"""Whisper's log-mel features in JAX: what every supported audio encoder reads. 100 frames per second."""

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
HTK_FFT = 512


@lru_cache
def mel_filterbank(n_mels: int, htk: bool = False) -> Float[np.ndarray, "bins mels"]:
    """Triangular mel filters, 0 to 8 kHz, read-only, as `librosa.filters.mel(sr=16000, n_fft=400, n_mels=n_mels).T`
    (importing librosa costs more than a second): Slaney scale and area norm. With htk those of torchaudio: HTK scale,
    no norm, over a DFT of 512 points."""
    if htk:
        top = 2595.0 * np.log10(1.0 + SAMPLE_RATE / 2 / 700.0)
        edges = 700.0 * (10.0 ** (np.linspace(0.0, top, n_mels + 2) / 2595.0) - 1.0)
    else:
        linear, step = 1000.0, 27.0 / np.log(6.4)  # below 1 kHz: 15 mels in equal steps; above: logarithmic
        mels = np.linspace(0.0, 15.0 + step * np.log(SAMPLE_RATE / 2 / linear), n_mels + 2)
        edges = np.where(mels < 15.0, mels * linear / 15.0, linear * np.exp((mels - 15.0) / step))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, (HTK_FFT if htk else WINDOW) // 2 + 1)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.maximum(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0.0)
    bank = (triangles if htk else triangles * 2.0 / (high - low)).astype(np.float32)
    bank.setflags(write=False)  # shared by every caller through the cache
    return bank


@partial(jax.jit, static_argnames=("n_mels", "htk"))
def log_mel(
    waves: Float[Array, "batch samples"], n_mels: int, real: Int[Array, " batch"] | None = None, htk: bool = False
) -> Float[Array, "batch frames mels"]:
    """Whisper log-mel of 16 kHz waves in about [-1, 1], float32: `transformers.WhisperFeatureExtractor` on the same
    padded waves. Each clip is limited to 8 decades of power below its own loudest bin, so clips of a batch do not
    influence each other. Raises AudioError unless there is a multiple of 160 samples, 320 or more: use `pad_waves`.

    real: frames per clip among which the loudest bin is looked for; None: all. htk: as in `mel_filterbank` (Granite).
    """
    batch, samples = waves.shape
    if samples % HOP or samples < 2 * HOP:
        raise AudioError(f"log_mel needs a multiple of {HOP} samples, {2 * HOP} or more, not {samples}: use pad_waves.")
    frames = samples // HOP
    padded = jnp.pad(waves.astype(jnp.float32), ((0, 0), (WINDOW // 2, WINDOW // 2)), mode="reflect")
    # A window is two hops and a half: reshapes and slices do, where a gather copies single samples.
    hops = jnp.pad(padded, ((0, 0), (0, HOP // 2))).reshape(batch, -1, HOP)
    windows = jnp.concatenate([hops[:, :frames], hops[:, 1:-2], hops[:, 2:-1, : HOP // 2]], axis=-1)
    hann = np.hanning(WINDOW + 1)[:-1].astype(np.float32)  # periodic; the symmetric one is off by 6e-3
    # rfft, not a DFT matrix: on 2 CPU cores 11 ms against 28 (24 clips of 3 s), and closer to float64.
    spectrum = jnp.fft.rfft(windows * hann, HTK_FFT if htk else WINDOW)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    mel = jnp.matmul(power, mel_filterbank(n_mels, htk), precision=jax.lax.Precision.HIGHEST)
    decades = jnp.log10(jnp.maximum(mel, 1e-10))
    loud = decades if real is None else jnp.where(jnp.arange(frames)[:, None] < real[:, None, None], decades, -10.0)
    floor = loud.max(axis=(1, 2), keepdims=True) - 8.0
    return (jnp.maximum(decades, floor) + 4.0) / 4.0


def pad_waves(
    waves: Sequence[np.ndarray], multiple: int = SAMPLE_RATE, least: int = 0
) -> Float[np.ndarray, "batch samples"]:
    """Zero-pad waves on the right to one common length, a multiple of `multiple` samples; float32. At least a window of
    zeros follows the longest wave, so that its last frames see zeros and not its own reflection, as under the padding
    to 30 or 300 s of the original pipelines; the features of valid frames are then the same in every bucket. Few
    distinct lengths also mean few compilations: with `least` a wave of so many samples fits in."""
    longest = max(least, *map(len, waves))
    padded = np.zeros((len(waves), max(-(-(longest + WINDOW) // multiple) * multiple, 2 * HOP)), np.float32)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    return padded
