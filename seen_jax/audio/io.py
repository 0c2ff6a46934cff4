"""Audio in and out: any readable file or user array becomes one checked 16 kHz mono float32 wave."""

import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Number
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.errors import AudioError
from seen_jax.files import write_file

Wave = Float[np.ndarray, " samples"]
Clip = str | Path | np.ndarray | tuple[Any, int] | Mapping[str, Any]  # and any other array, a list of floats
# (offset, scale) of PCM samples; doubles hold 32 bits exactly
PCM = {np.dtype(name): (np.float64(offset), np.float64(scale))
       for name, offset, scale in (("uint8", 128, 128), ("int16", 0, 2**15), ("int32", 0, 2**31))}  # fmt: skip
_RATES = (1_000, 1_000_000)
_MPEG_SLACK = 2 * 1152  # the length in an MP3 header may be off by the encoder's own frames
_MARGIN = SAMPLE_RATE // 10  # more than the resampler's filter reaches, in samples at 16 kHz
_LATE = 0.01  # seconds that a segment may end behind its file: rounding in somebody's table
_BLOCK = 1 << 20  # frames
_PIPED = 0x7FFF0000  # a program that writes WAV to a pipe declares about 2**31 or 2**32 bytes
_DECLARED = re.compile(r"data\s*: (\d+) \(should be (\d+)\)")


def read_audio(
    path: str | Path, channel: int | Literal["mean"] = "mean", start: float = 0.0, seconds: float | None = None
) -> Wave:
    """Read WAV, FLAC, OGG, MP3 and whatever else libsndfile decodes, as 16 kHz mono float32.

    path: an audio file of any rate and number of channels.
    channel: "mean" of all channels, as librosa and the models' own processors take, or one of them, counted from 0.
    start, seconds: read only this segment; up to rounding it has the samples of the same cut of the whole file.
    Raises AudioError: missing file, a folder, undecodable or truncated data, no samples (silence is allowed), NaN or
    infinity, no such channel, a segment that is not within the file.
    >>> path = audio.write_audio(folder / "read.wav", clips[0])
    >>> audio.read_audio(path, start=0.1, seconds=0.5).shape
    (8000,)
    """
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        raise AudioError(f"{path} is a folder, not an audio file: use find_audio to list what is in it.")
    if not path.exists():
        raise AudioError(f"There is no audio file {path}.")
    return decode_audio(path, str(path), channel, start, seconds)


def decode_audio(
    data: bytes | Path,
    name: str,
    channel: int | Literal["mean"] = "mean",
    start: float = 0.0,
    seconds: float | None = None,
) -> Wave:
    """`read_audio` for the bytes of a file, with the same result and errors.

    data, name: the whole file, or its path; what error messages call it.
    channel, start, seconds: as for `read_audio`.
    >>> path = audio.write_audio(folder / "bytes.flac", clips[0])
    >>> audio.decode_audio(path.read_bytes(), "a flac file").shape == clips[0].shape
    True
    """
    import soundfile

    with _decoding(name), soundfile.SoundFile(_opened(data)) as file:
        rate, declared, log = file.samplerate, file.frames, file.extra_info
        first, frames, kept = 0, declared, slice(None)
        if start or seconds is not None:
            first, frames, kept = _segment(name, rate, declared, start, seconds)
        if first:
            file.seek(first)
        pcm = _read_blocks(file, frames)
    if len(pcm) == 0:
        raise AudioError(f"{name} holds no samples.")
    cut = _DECLARED.search(log)  # what libsndfile says of a WAV chunk larger than the file
    cut_short = (cut and int(cut[2]) < int(cut[1]) < _PIPED) or _size(data) < _promised_size(data)
    if len(pcm) < frames - _MPEG_SLACK or cut_short:
        raise AudioError(f"{name} is truncated: its header promises more audio than it holds ({len(pcm)} frames).")
    channels = pcm.shape[1]
    if channel != "mean" and channel not in range(channels):
        raise AudioError(f"{name} has {channels} channel(s), numbered from 0: there is no channel {channel!r}.")
    return check_wave(pcm.mean(axis=1) if channel == "mean" else pcm[:, channel], rate, name)[kept]


def audio_seconds(path: str | Path) -> float:
    """The length of a file by its header, in seconds.

    path: of the audio file. Raises AudioError where it is missing or cannot be decoded.
    >>> audio.audio_seconds(audio.write_audio(folder / "half.wav", np.zeros(8000)))
    0.5
    """
    import soundfile

    with _decoding(path):
        return float(soundfile.info(_opened(Path(os.path.expanduser(path)))).duration)


def _opened(data: bytes | Path) -> Any:
    """What soundfile opens: names that are no UTF-8 as bytes, for it encodes texts strictly."""
    if isinstance(data, bytes):
        return io.BytesIO(data)
    name = str(data)
    return name if name.isascii() or os.name == "nt" else os.fsencode(name)


@contextmanager
def _decoding(name: str | Path) -> Iterator[None]:
    """Whatever libsndfile and its wrapper raise about a file becomes an AudioError."""
    try:
        yield
    except AudioError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise AudioError(f"Cannot decode {name}: {reason}. Is it an audio file, and complete?") from error


def _read_blocks(file: Any, frames: int) -> Float[np.ndarray, "frames channels"]:
    """Frames from here on, a block at a time: a header may promise more than any memory holds."""
    blocks = []
    while frames > 0 and len(block := file.read(min(frames, _BLOCK), dtype="float32", always_2d=True)):
        blocks.append(block)
        frames -= len(block)
    return np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)


def _size(data: bytes | Path) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data)


def _promised_size(data: bytes | Path) -> int:
    """Bytes that the file should have by its first header; 0 where that does not say. libsndfile takes a cut AIFF, AU,
    W64 or RF64 file for a shorter one."""
    head = data[:28] if isinstance(data, bytes) else b""
    if isinstance(data, Path):
        with data.open("rb") as file:
            head = file.read(28)
    if head[:4] == b"FORM":
        return int.from_bytes(head[4:8], "big") + 8
    if head[:4] == b".snd" and head[8:12] != b"\xff\xff\xff\xff":
        return int.from_bytes(head[4:8], "big") + int.from_bytes(head[8:12], "big")
    if head[:4] == b"riff":
        return int.from_bytes(head[16:24], "little")
    if head[:4] == b"RF64" and head[12:16] == b"ds64":
        return int.from_bytes(head[20:28], "little") + 8
    return 0


def _segment(name: str, rate: int, declared: int, start: float, seconds: float | None) -> tuple[int, int, slice]:
    """First frame and number of frames to read, and what to keep of them at 16 kHz. There is a margin, cut where input
    and output samples coincide: resampling then gives the same samples as for the whole file."""
    length = declared / rate
    if not 0 <= start < length or not (seconds is None or 0 < seconds <= length - start + _LATE):
        span = f"{start:g} s on" if seconds is None else f"{start:g} s on for {seconds:g} s"
        raise AudioError(f"{name} lasts {length:.3f} s: there is no segment from {span}.")
    step = math.gcd(rate, SAMPLE_RATE)
    block_in, block_out = rate // step, SAMPLE_RATE // step
    margin = 0 if rate == SAMPLE_RATE else -(-_MARGIN // block_out)
    first_sample = round(start * SAMPLE_RATE)
    first = max(0, first_sample // block_out - margin)
    skip, last, stop = first_sample - first * block_out, declared, None
    if seconds is not None:
        samples = max(1, round(seconds * SAMPLE_RATE))
        last = min(declared, (-(-(first_sample + samples) // block_out) + margin) * block_in)
        stop = skip + samples
    return first * block_in, last - first * block_in, slice(skip, stop)


def check_wave(wave: Any, sample_rate: Any = SAMPLE_RATE, name: str = "audio") -> Wave:
    """Check a waveform and bring it to 16 kHz float32 (soxr, "HQ"): a new array of ceil(samples * 16000 / rate).

    wave: anything NumPy reads as a one-dimensional array: floats in about [-1, 1], or PCM samples as uint8, int16 or
        int32, which are scaled to [-1, 1).
    sample_rate, name: an int, in Hz; what error messages call the wave, for instance its path.
    Raises AudioError: wrong type, shape, rate or scale; no samples; NaN or infinity.
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
        advice = "pick or average the channels, and pass several clips as a list"
        raise AudioError(f"{name}: one dimension expected, not shape {array.shape}: {advice}.")
    if array.size == 0:
        raise AudioError(f"{name}: the wave has no samples.")
    if array.dtype in PCM:
        offset, scale = PCM[array.dtype]
        array = ((array - offset) / scale).astype(np.float32)
    elif np.issubdtype(array.dtype, np.integer):
        advice = f"pass floats in [-1, 1], or PCM samples as {', '.join(map(str, PCM))}"
        raise AudioError(f"{name}: {array.dtype} samples have no known scale: {advice}.")
    if not jnp.issubdtype(array.dtype, jnp.floating):  # jnp's also knows bfloat16
        raise AudioError(f"{name}: samples must be real floating-point numbers, not {array.dtype}.")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if bad := array.size - np.count_nonzero(np.isfinite(array)):
        raise AudioError(f"{name}: {bad} of {array.size} samples are NaN or infinite.")
    if (peak := float(np.abs(array).max())) > 1000:
        advice = "floats on a PCM scale? Divide by 32768"
        raise AudioError(f"{name}: samples reach {peak:.0f} where full scale is 1; {advice}.")
    if sample_rate == SAMPLE_RATE:
        return array
    import soxr  # what librosa.resample(res_type="soxr_hq") calls; librosa itself takes 1.4 s to import

    resampled = soxr.resample(array, int(sample_rate), SAMPLE_RATE, quality="HQ")
    length = -(-len(array) * SAMPLE_RATE // int(sample_rate))
    return np.pad(resampled[:length], (0, max(0, length - len(resampled))))


def as_wave(audio: Any, name: str = "audio") -> Wave:
    """One clip in any form as 16 kHz mono float32, a new array [samples].

    audio: a path (str or Path); a one-dimensional array at 16 kHz; a pair (samples, rate in Hz); or a dictionary with
        "array" and "sampling_rate", as Hugging Face `datasets` give. Samples are those that `check_wave` takes.
    name: what error messages call it; files are called by their path.
    Raises AudioError: as `read_audio` and `check_wave`, a dictionary without those keys, a pair in wrong order.
    >>> audio.as_wave((np.zeros(8000, np.int16), 8000)).shape
    (16000,)
    """
    if isinstance(audio, str | Path):
        return read_audio(audio)
    if isinstance(audio, Mapping) or hasattr(audio, "get_all_samples"):  # a decoder, as newer `datasets` give
        try:
            return check_wave(audio["array"], audio["sampling_rate"], name)
        except KeyError as error:
            needs = 'a dictionary of audio needs "array" and "sampling_rate"'
            raise AudioError(f"{name}: {needs}; {error} is missing.") from None
    if isinstance(audio, tuple) and len(audio) == 2 and _is_number(audio[0]) != _is_number(audio[1]):
        if _is_number(audio[0]):
            raise AudioError(f"{name}: give a pair as (samples, rate), in this order.")
        return check_wave(*audio, name)
    return check_wave(audio, name=name)


def is_one_clip(audio: Any) -> bool:
    """Whether audio is a single clip and not a list of clips. A list of numbers is the samples of one clip."""
    if isinstance(audio, list | tuple):
        return any(_is_number(part) for part in audio)
    return not isinstance(audio, Sequence) or isinstance(audio, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, Number | np.generic) and not isinstance(value, np.str_)


def is_silent(wave: np.ndarray) -> bool:
    """Whether every sample is exactly zero.

    wave: [samples]. A silent one can be read but has no SNR.
    >>> audio.is_silent(np.zeros(16000))
    True
    """
    return not np.any(wave)


def write_audio(path: str | Path, wave: Any, sample_rate: Any = SAMPLE_RATE) -> Path:
    """Write a wave as 16 kHz mono 16-bit PCM: samples are rounded to multiples of 1/32768.

    path: ends in .wav or .flac. It is returned; the file appears whole or not at all, and folders are created.
    wave, sample_rate: as for `check_wave`.
    Raises AudioError: an unknown suffix, a wave that `check_wave` refuses or that would clip, or a failed write (no
    permission, disk full).
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
    if peak > 1:
        raise AudioError(f"{path} would clip as 16-bit PCM: the wave peaks at {peak:.3f}. Scale or saturate it.")
    pcm = np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)
    encoded = io.BytesIO()
    soundfile.write(encoded, pcm, SAMPLE_RATE, subtype="PCM_16", format=kind)
    return write_file(path, encoded.getvalue(), AudioError)
