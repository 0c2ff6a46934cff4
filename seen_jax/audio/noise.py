"""Noises: synthetic ones by name, recorded ones by path."""

import difflib
import os
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from seen_jax.audio import _synth
from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.audio.io import check_wave, is_silent, read_audio
from seen_jax.audio.mix import fit_noise
from seen_jax.errors import AudioError, ConfigError

NOISES = ("white", "pink", "brown", "hum", "babble", "impulses", "engine", "rain", "alarm")
_ALIASES = {"gauss": "white"}
_SHORTEST = SAMPLE_RATE  # draw a second at least: spectra and rhythms need room, also under a short clip


def synthetic_noise(
    name: str, n_samples: int, seed: int, speech: Sequence[np.ndarray] | None = None
) -> Float[np.ndarray, " samples"]:
    """Draw `n_samples` of a synthetic noise at 16 kHz, float32, with a root mean square of one.

    Args:
        name: one of `NOISES`, or "gauss" for "white".
        seed: with the name it determines the noise; other seeds give other noises.
        speech: for "babble", 16 kHz clips to overlap at random moments; else the voices are synthetic.

    Raises:
        ConfigError: an unknown name, no samples, a negative seed.
        AudioError: speech clips that are not waves or all silent.
    """
    kind = _ALIASES.get(name, name)
    if kind not in NOISES:
        raise ConfigError(f"There is no noise {name!r}{nearest_noise(name)}")
    if n_samples < 1:
        raise ConfigError(f"A noise needs at least one sample, not {n_samples}.")
    rng = _rng(kind, seed)
    drawn = max(n_samples, _SHORTEST)
    if kind == "babble":
        wave = _synth.babble(drawn, rng, _voices(speech))
    else:
        wave = _synth.GENERATORS[kind](drawn, rng)
    # A floor 60 dB down keeps any cut from being digital silence, which has no SNR.
    wave = _synth.unit(wave)[:n_samples] + 1e-3 * rng.standard_normal(n_samples)
    return _synth.unit(wave).astype(np.float32)


def load_noise(
    spec: str | Path, seconds: float = 10.0, seed: int = 0, speech: Sequence[np.ndarray] | None = None
) -> Float[np.ndarray, " samples"]:
    """A noise to use on many clips: the whole of an audio file, or `seconds` of a synthetic noise.

    Raises:
        ConfigError: neither a known name nor a path.
        AudioError: a file that `read_audio` refuses or that is digital silence.
    """
    if is_synthetic(spec):
        return synthetic_noise(str(spec), round(seconds * SAMPLE_RATE), seed, speech)
    path = Path(os.path.expanduser(spec))
    if not path.exists() and path.name == str(spec) and not path.suffix:
        raise ConfigError(f"There is no noise or file {str(spec)!r}{nearest_noise(str(spec))}")
    wave = read_audio(path)
    if is_silent(wave):
        raise AudioError(f"The noise {path} is digital silence.")
    return wave


def noise_for_clip(
    spec: str | Path, n_samples: int, seed: int, speech: Sequence[np.ndarray] | None = None
) -> Float[np.ndarray, " samples"]:
    """The noise for one clip: drawn for a synthetic name, looped or cut from a random moment of a file.

    The same (spec, n_samples, seed) gives the same noise. Synthetic ones have unit RMS.

    Raises:
        ConfigError, AudioError: as `synthetic_noise` and `load_noise`.
    """
    if is_synthetic(spec):
        return synthetic_noise(str(spec), n_samples, seed, speech)
    path = Path(os.path.expanduser(spec))
    wave = _recorded(str(spec), path.stat().st_mtime_ns if path.exists() else 0)
    return fit_noise(wave, n_samples, int(_rng(path.name, seed).integers(len(wave))))


@lru_cache(maxsize=16)
def _recorded(spec: str, _modified: int) -> np.ndarray:
    wave = load_noise(spec)
    wave.setflags(write=False)
    return wave


def is_synthetic(spec: str | Path) -> bool:
    """Whether a noise is meant by its name."""
    return spec in NOISES or spec in _ALIASES


def _rng(name: str, seed: int) -> np.random.Generator:
    if seed < 0:
        raise ConfigError(f"A seed must not be negative: {seed}.")
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def nearest_noise(name: str) -> str:
    """The end of a message about an unknown noise: the nearest name, and all of them."""
    known = (*NOISES, *_ALIASES)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
    return f"{f': did you mean {close[0]!r}?' if close else '.'} Known noises: {', '.join(known)}."


def _voices(speech: Sequence[np.ndarray] | None) -> list[np.ndarray]:
    clips = [check_wave(clip, name=f"speech clip {i}") for i, clip in enumerate(speech or ())]
    voiced = [clip for clip in clips if not is_silent(clip)]
    if clips and not voiced:
        raise AudioError("The speech given for babble is digital silence.")
    return voiced
