"""Audio in and out: any readable file or user array becomes one checked 16 kHz mono float32 wave."""

import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.audio.find import AudioItem, find_audio
from seen_jax.errors import AudioError
from seen_jax.files import write_file

__all__ = [
    "AudioItem",
    "audio_seconds",
    "check_wave",
    "decode_audio",
    "find_audio",
    "is_silent",
    "read_audio",
    "write_audio",
]

# (offset, scale) of PCM samples; doubles hold 32 bits exactly
PCM = {np.dtype(name): (np.float64(offset), np.float64(scale))
       for name, offset, scale in (("uint8", 128, 128), ("int16", 0, 2**15), ("int32", 0, 2**31))}  # fmt: skip
_RATES = (1_000, 1_000_000)
_MPEG_SLACK = 2 * 1152  # the length in an MP3 header may be off by the encoder's own frames
_MARGIN = SAMPLE_RATE // 10  # more than the resampler's filter reaches, in samples at 16 kHz
_LATE = 0.01  # seconds that a segment may end behind its file: rounding in somebody's table
_PIPED = 0x7FFF0000  # a program that writes WAV to a pipe declares about 2**31 or 2**32 bytes
_DECLARED = re.compile(r"data\s*: (\d+) \(should be (\d+)\)")


def read_audio(
    path: str | Path, channel: int | Literal["mean"] = 0, start: float = 0.0, seconds: float | None = None
) -> Float[np.ndarray, " samples"]:
    """Read WAV, FLAC, OGG, MP3 and whatever else libsndfile decodes.

    Args:
        path: an audio file of any rate and number of channels.
        channel: which channel, counted from 0; the first by default, as in the paper's protocol. "mean"
            averages all of them.
        start, seconds: read only this segment of the file. It has the samples that the same cut of the whole file
            would have, up to rounding.

    Returns:
        16 kHz mono float32. Digital silence is allowed: see `is_silent`.

    Raises:
        AudioError: missing file, a folder, undecodable or truncated data, no samples, NaN or infinity, no
            such channel, a segment that is not within the file.

    >>> path = audio.write_audio(folder / "read.wav", clips[0])
    >>> audio.read_audio(path, start=0.1, seconds=0.5).shape
    (8000,)
    """
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        raise AudioError(f"{path} is a folder, not an audio file: use find_audio to list what is in it.")
    if not path.exists():
        raise AudioError(f"There is no audio file {path}.")
    return _decode(path, str(path), channel, start, seconds)


def decode_audio(
    data: bytes,
    name: str,
    channel: int | Literal["mean"] = 0,
    start: float = 0.0,
    seconds: float | None = None,
) -> Float[np.ndarray, " samples"]:
    """`read_audio` for the bytes of a file.

    Args:
        data: the whole file.
        name: what error messages call it.
        channel, start, seconds: as for `read_audio`.

    Returns:
        16 kHz mono float32.

    Raises:
        AudioError: as `read_audio`.

    >>> path = audio.write_audio(folder / "bytes.flac", clips[0])
    >>> audio.decode_audio(path.read_bytes(), "a flac file").shape == clips[0].shape
    True
    """
    return _decode(io.BytesIO(data), name, channel, start, seconds)


def audio_seconds(path: str | Path) -> float:
    """Length of an audio file by its header.

    Args:
        path: an audio file.

    Returns:
        Seconds.

    Raises:
        AudioError: a file that is missing or cannot be decoded.

    >>> audio.audio_seconds(audio.write_audio(folder / "half.wav", np.zeros(8000)))
    0.5
    """
    import soundfile

    try:
        return float(soundfile.info(os.path.expanduser(path)).duration)
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise AudioError(
            f"Cannot decode {path}: {str(error).rstrip('.')}. Is it an audio file, and complete?"
        ) from error


def _decode(
    source: Path | io.BytesIO, name: str, channel: int | Literal["mean"], start: float, seconds: float | None
) -> Float[np.ndarray, " samples"]:
    import soundfile

    whole = start == 0 and seconds is None
    try:
        with soundfile.SoundFile(source) as file:
            rate, declared, log = file.samplerate, file.frames, file.extra_info
            piece = _Piece(0, declared, 0, None) if whole else _piece(name, rate, declared, start, seconds)
            if piece.first:
                file.seek(piece.first)
            data = file.read(-1 if whole else piece.frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise AudioError(
            f"Cannot decode {name}: {str(error).rstrip('.')}. Is it an audio file, and complete?"
        ) from error
    if len(data) == 0:
        raise AudioError(f"{name} holds no samples.")
    if len(data) < piece.frames - _MPEG_SLACK or _lost_data(log):
        raise AudioError(f"{name} is truncated: its header promises more audio than it holds ({len(data)} frames).")
    channels = data.shape[1]
    if channel == "mean":
        wave = data.mean(axis=1)
    elif channel in range(channels):
        wave = data[:, channel]
    else:
        raise AudioError(f"{name} has {channels} channel(s), numbered from 0: there is no channel {channel!r}.")
    wave = check_wave(wave, rate, name=name)
    return wave if whole else wave[piece.skip :][: piece.samples]


@dataclass(frozen=True)
class _Piece:
    """What to read of a file (first frame, frames) and to keep of it at 16 kHz (after skip; None: all)."""

    first: int
    frames: int
    skip: int
    samples: int | None


def _piece(name: str, rate: int, declared: int, start: float, seconds: float | None) -> _Piece:
    """A segment with a margin, cut where input and output samples coincide: resampling then gives the same samples as
    for the whole file."""
    length = declared / rate
    if not 0 <= start < length or not (seconds is None or 0 < seconds <= length - start + _LATE):
        span = f"{start:g} s on" if seconds is None else f"{start:g} s on for {seconds:g} s"
        raise AudioError(f"{name} lasts {length:.3f} s: there is no segment from {span}.")
    step = math.gcd(rate, SAMPLE_RATE)
    block_in, block_out = rate // step, SAMPLE_RATE // step
    margin = 0 if rate == SAMPLE_RATE else -(-_MARGIN // block_out)
    first_sample = round(start * SAMPLE_RATE)
    samples = None if seconds is None else max(1, round(seconds * SAMPLE_RATE))
    first = max(0, first_sample // block_out - margin)
    last = declared if samples is None else (-(-(first_sample + samples) // block_out) + margin) * block_in
    return _Piece(first * block_in, min(last, declared) - first * block_in, first_sample - first * block_out, samples)


def _lost_data(log: str) -> bool:
    """Whether libsndfile's log tells of a WAV chunk larger than the file, and not of a size left unknown."""
    cut = _DECLARED.search(log)
    return cut is not None and int(cut[2]) < int(cut[1]) < _PIPED


def check_wave(wave: Any, sample_rate: Any = SAMPLE_RATE, name: str = "audio") -> Float[np.ndarray, " samples"]:
    """Check a waveform and bring it to 16 kHz float32 (soxr, "HQ").

    Args:
        wave: anything NumPy reads as a one-dimensional array: floats in about [-1, 1], or PCM samples as uint8, int16
            or int32, which are scaled to [-1, 1).
        sample_rate: an int, in Hz.
        name: what error messages call it, for instance its path.

    Returns:
        A new float32 array of ceil(samples * 16000 / sample_rate) samples.

    Raises:
        AudioError: wrong type, shape, rate or scale; no samples; NaN or infinity.

    >>> audio.check_wave(np.array([0, 16384, -32768], np.int16)).tolist()
    [0.0, 0.5, -1.0]
    """
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int | np.integer):
        raise AudioError(f"{name}: the sample rate must be an int in Hz, not {sample_rate!r}.")
    if not _RATES[0] <= sample_rate <= _RATES[1]:
        raise AudioError(f"{name}: a sample rate of {sample_rate} Hz is not between {_RATES[0]} and {_RATES[1]}.")
    try:
        array = np.asarray(wave)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AudioError(f"{name}: not an array of samples: {error}.") from error
    if array.ndim != 1:
        raise AudioError(
            f"{name}: one dimension expected, not shape {array.shape}: pick or average the channels, and pass several "
            "clips as a list."
        )
    if array.size == 0:
        raise AudioError(f"{name}: the wave has no samples.")
    if array.dtype in PCM:
        offset, scale = PCM[array.dtype]
        array = ((array - offset) / scale).astype(np.float32)
    elif np.issubdtype(array.dtype, np.integer):
        raise AudioError(
            f"{name}: {array.dtype} samples have no known scale: pass floats in [-1, 1], or PCM samples as "
            f"{', '.join(map(str, PCM))}."
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):  # jnp's also knows bfloat16
        raise AudioError(f"{name}: samples must be real floating-point numbers, not {array.dtype}.")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise AudioError(f"{name}: {bad} of {array.size} samples are NaN or infinite.")
    peak = float(np.abs(array).max())
    if peak > 1000:
        raise AudioError(
            f"{name}: samples reach {peak:.0f} where full scale is 1; floats on a PCM scale? Divide by 32768."
        )
    return array if sample_rate == SAMPLE_RATE else _resample(array, int(sample_rate))


def _resample(wave: np.ndarray, rate: int) -> np.ndarray:
    import soxr  # what librosa.resample(res_type="soxr_hq") calls; librosa itself takes 1.4 s to import

    resampled = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ")
    length = -(-len(wave) * SAMPLE_RATE // rate)
    return np.pad(resampled[:length], (0, max(0, length - len(resampled))))


def is_silent(wave: np.ndarray) -> bool:
    """Whether every sample is exactly zero. Such a wave can be read but has no SNR.

    Args:
        wave: [samples].

    >>> audio.is_silent(np.zeros(16000))
    True
    """
    return not np.any(wave)


def write_audio(path: str | Path, wave: Any, sample_rate: Any = SAMPLE_RATE, *, clip: bool = False) -> Path:
    """Write a wave as 16 kHz mono 16-bit PCM.

    The file appears whole or not at all. Folders are created. Samples are rounded to multiples of 1/32768.

    Args:
        path: ends in .wav or .flac.
        wave: as for `check_wave`.
        sample_rate: of `wave`, an int in Hz.
        clip: what to do with samples beyond full scale: refuse (default), or saturate them.

    Returns:
        The path.

    Raises:
        AudioError: an unknown suffix, a wave that `check_wave` refuses or that would clip, or a failed write
            (no permission, disk full).

    >>> audio.write_audio(folder / "new" / "clip.wav", clips[0]).name
    'clip.wav'
    """
    import soundfile

    path = Path(os.path.expanduser(path))
    kind = {".wav": "WAV", ".flac": "FLAC"}.get(path.suffix.lower())
    if kind is None:
        raise AudioError(f"Cannot write {path}: the suffix must be .wav or .flac.")
    wave = check_wave(wave, sample_rate, name=f"wave for {path}")
    peak = float(np.abs(wave).max())
    if peak > 1 and not clip:
        raise AudioError(f"{path} would clip as 16-bit PCM: the wave peaks at {peak:.3f}. Scale it, or pass clip=True.")
    pcm = np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)
    encoded = io.BytesIO()
    soundfile.write(encoded, pcm, SAMPLE_RATE, subtype="PCM_16", format=kind)
    return write_file(path, encoded.getvalue(), AudioError)
