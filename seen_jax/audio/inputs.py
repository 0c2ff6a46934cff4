"""What users pass as audio: paths, arrays, (samples, rate) pairs, dictionaries of Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from seen_jax.audio.io import check_wave, read_audio
from seen_jax.errors import AudioError

Clip = str | Path | np.ndarray | tuple[Any, int] | Mapping[str, Any]  # and any other array, a list of floats


def as_wave(audio: Any, name: str = "audio") -> Float[np.ndarray, " samples"]:
    """One clip in any form as 16 kHz mono float32.

    Args:
        audio: a path (str or Path); a one-dimensional array at 16 kHz; a pair (samples, rate in Hz); or a dictionary
            with "array" and "sampling_rate", as Hugging Face `datasets` give. Samples are floats in about [-1, 1], or
            PCM as uint8, int16 or int32.
        name: what error messages call it; files are called by their path.

    Returns:
        A new array [samples], float32.

    Raises:
        AudioError: what `read_audio` and `check_wave` refuse, a dictionary without those keys, a pair in wrong order.

    >>> audio.as_wave((np.zeros(8000, np.int16), 8000)).shape
    (16000,)
    """
    if isinstance(audio, str | Path):
        return read_audio(audio)
    if _is_dictionary(audio):
        try:
            return check_wave(audio["array"], audio["sampling_rate"], name)
        except KeyError as error:
            raise AudioError(
                f'{name}: a dictionary of audio needs "array" and "sampling_rate"; {error} is missing.'
            ) from None
    if isinstance(audio, tuple) and len(audio) == 2 and any(_is_number(part) for part in audio):
        if _is_number(audio[0]) and not _is_number(audio[1]):
            raise AudioError(f"{name}: give a pair as (samples, rate), in this order.")
        if not _is_number(audio[0]):
            return check_wave(*audio, name)
    return check_wave(audio, name=name)


def is_one_clip(audio: Any) -> bool:
    """Whether audio is a single clip and not a list of clips. A list of numbers is the samples of one clip."""
    if isinstance(audio, list | tuple):
        return any(_is_number(part) for part in audio)
    return not isinstance(audio, Sequence) or isinstance(audio, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, Number | np.generic) and not isinstance(value, np.str_)


def _is_dictionary(audio: Any) -> bool:
    """A mapping, or the decoder that newer `datasets` give, which is read like one."""
    return isinstance(audio, Mapping) or hasattr(audio, "get_all_samples")
