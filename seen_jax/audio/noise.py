"""Single noises: synthetic ones by name, and pieces of recordings."""

import difflib
import functools
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from seen_jax.audio import _synth
from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.audio.io import Wave, audio_seconds, check_wave, is_silent, read_audio
from seen_jax.audio.mix import fit_noise
from seen_jax.errors import AudioError, ConfigError

NOISES = ("white", "pink", "brown", "hum", "babble", "impulses", "engine", "rain", "alarm")
MATLAB = ".mat"  # as NOISEX-92 is published
NOISEX_RATE = 19_980  # the .mat files do not say it
_ALIASES = {"gauss": "white"}
_CACHED = 30.0  # seconds: shorter segments are cached in memory; of longer ones only the piece is read
_TRIES = 16  # random moments to try where a recording has digital silence


def synthetic_noise(name: str, n_samples: int, seed: int, speech: Sequence[np.ndarray] | None = None) -> Wave:
    """Draw `n_samples` of a synthetic noise at 16 kHz, float32, with a root mean square of one.

    name, n_samples: one of `NOISES`, or "gauss" for "white"; its length.
    seed: with the name it determines the noise; other seeds give other noises.
    speech: for "babble", 16 kHz clips to overlap at random moments; else the voices are synthetic.
    Raises ConfigError: an unknown name, no samples, a negative seed. AudioError: speech clips that are not waves or all
    silent.
    >>> round(float(audio.synthetic_noise("pink", 16000, seed=0).std()), 3)
    1.0
    """
    if not is_synthetic(name):
        raise ConfigError(f"There is no noise {name!r}{nearest_noise(name)}")
    kind = _ALIASES.get(name, name)
    if n_samples < 1:
        raise ConfigError(f"A noise needs at least one sample, not {n_samples}.")
    rng = _rng(kind, seed)
    drawn = max(n_samples, SAMPLE_RATE)  # a second at least: spectra and rhythms need that much, also for a short clip
    wave = _synth.babble(drawn, rng, _voices(speech)) if kind == "babble" else _synth.GENERATORS[kind](drawn, rng)
    # A floor 60 dB down keeps any cut from being digital silence, which has no SNR.
    wave = _synth.unit(wave)[:n_samples] + 1e-3 * rng.standard_normal(n_samples)
    return _synth.unit(wave).astype(np.float32)


def noise_for_clip(spec: str | Path, n_samples: int, seed: int, speech: Sequence[np.ndarray] | None = None) -> Wave:
    """The noise for one clip, 16 kHz float32; see `noise_source` for noise that calibration and test do not share.

    spec, n_samples: a name of `NOISES`, or an audio file of which a piece is taken; length of the clip.
    seed, speech: as for `synthetic_noise`.
    Raises ConfigError, AudioError: as `synthetic_noise`; neither a name nor a file; a file as for `NoiseSource.clip`.
    >>> audio.noise_for_clip("white", len(clips[0]), seed=3).shape == clips[0].shape
    True
    """
    if is_synthetic(spec):
        return synthetic_noise(str(spec), n_samples, seed, speech)
    path = Path(os.path.expanduser(spec))
    if not path.is_file():
        raise ConfigError(f"There is no noise or file {str(spec)!r}{nearest_noise(str(spec))}")
    return draw(Segment(path), n_samples, _rng(path.name, seed))


def is_synthetic(spec: str | Path) -> bool:
    """Whether this is the name of a synthetic noise."""
    return spec in NOISES or spec in _ALIASES


def nearest_noise(name: str) -> str:
    """The end of a message about an unknown noise: the nearest name, and all of them."""
    known = (*NOISES, *_ALIASES)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
    return f"{f': did you mean {close[0]!r}?' if close else '.'} Known noises: {', '.join(known)}."


def _rng(name: str, seed: int) -> np.random.Generator:
    if seed < 0:
        raise ConfigError(f"A seed must not be negative: {seed}.")
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def _voices(speech: Sequence[np.ndarray] | None) -> list[np.ndarray]:
    clips = [check_wave(clip, name=f"speech clip {i}") for i, clip in enumerate(speech or ())]
    voiced = [clip for clip in clips if not is_silent(clip)]
    if clips and not voiced:
        raise AudioError("The speech given for babble is digital silence.")
    return voiced


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording (an audio file, or a MATLAB file as in NOISEX-92); seconds None: to its end."""

    path: Path
    start: float = 0.0
    seconds: float | None = None

    @property
    def end(self) -> float:
        """The moment at which it ends, in seconds; infinite for the end of the recording."""
        return math.inf if self.seconds is None else self.start + self.seconds


def draw(segment: Segment, samples: int, rng: np.random.Generator) -> Wave:
    """A piece of a segment from a random moment on, at 16 kHz, looped where the segment is shorter. Raises AudioError:
    a recording that cannot be read, or is digital silence wherever it was tried."""
    for _ in range(_TRIES):
        wave = _piece(segment, samples, rng)
        if not is_silent(wave):
            return wave
    raise AudioError(f"The noise {segment.path} is digital silence at {_TRIES} random moments: leave it out.")


def noise_seconds(path: Path) -> float:
    """The length of a recording. Raises AudioError where it cannot be read."""
    return len(_noisex(path, _modified(path))) / SAMPLE_RATE if path.suffix.lower() == MATLAB else audio_seconds(path)


def _piece(segment: Segment, samples: int, rng: np.random.Generator) -> Wave:
    path, modified = segment.path, _modified(segment.path)
    seconds = noise_seconds(path) - segment.start if segment.seconds is None else segment.seconds
    length = round(seconds * SAMPLE_RATE)
    if path.suffix.lower() == MATLAB:
        wave = _noisex(path, modified)[round(segment.start * SAMPLE_RATE) :][: max(1, length)]
    elif seconds <= _CACHED or length <= samples:
        wave = _cached(segment, modified)
    else:
        start = segment.start + rng.integers(length - samples + 1) / SAMPLE_RATE
        return read_audio(path, start=float(start), seconds=samples / SAMPLE_RATE)
    spare = len(wave) - samples
    return fit_noise(wave, samples, int(rng.integers(spare + 1 if spare >= 0 else len(wave))))


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise AudioError(f"Cannot read the noise {path}: {error.strerror or error}.") from error


@functools.lru_cache(maxsize=32)
def _cached(segment: Segment, _time: int) -> Float[np.ndarray, " _"]:
    wave = read_audio(segment.path, start=segment.start, seconds=segment.seconds)
    wave.setflags(write=False)
    return wave


@functools.lru_cache(maxsize=4)
def _noisex(path: Path, _time: int) -> Float[np.ndarray, " _"]:
    """The longest array of numbers in a MATLAB file, at 16 kHz; 16-bit values are brought to [-1, 1]."""
    import scipy.io

    try:
        values = scipy.io.loadmat(path).values()
    except Exception as error:  # a damaged file makes scipy raise errors of many kinds
        raise AudioError(f"Cannot read {path} as a MATLAB file (up to version 7): {error}.") from error
    arrays = [v.ravel() for v in values if isinstance(v, np.ndarray) and v.dtype.kind in "iuf" and v.size]
    if not arrays:
        raise AudioError(f"{path} holds no array of samples.")
    longest = max(arrays, key=len).astype(np.float32)
    scale = 32768.0 if np.abs(longest).max() > 1 else 1.0
    wave = check_wave(longest / np.float32(scale), NOISEX_RATE, name=str(path))
    wave.setflags(write=False)
    return wave
