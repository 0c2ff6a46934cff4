"""Native denoisers that work frame by frame at 48 kHz."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from seen_jax.audio.features import SAMPLE_RATE

FULL_BAND = 48_000
FLOATS = ctypes.POINTER(ctypes.c_float)


def full_band(
    wave: Float[np.ndarray, " samples"], frame: int, delay: int, process: Callable[[Any, Any], Any]
) -> Float[np.ndarray, " samples"]:
    """Run a native denoiser on a 16 kHz wave.

    Args:
        frame: samples at 48 kHz that it takes at a time.
        delay: samples at 48 kHz by which its output is late; they are removed.
        process: called with pointers to the input and to the output of each frame.
    """
    import soxr

    wide = soxr.resample(wave, SAMPLE_RATE, FULL_BAND)
    padded = np.pad(wide, (0, delay + -(len(wide) + delay) % frame)).astype(np.float32).reshape(-1, frame)
    out = np.zeros_like(padded)
    for source, target in zip(padded, out, strict=True):
        process(source.ctypes.data_as(FLOATS), target.ctypes.data_as(FLOATS))
    narrow = soxr.resample(out.ravel()[delay : delay + len(wide)], FULL_BAND, SAMPLE_RATE)[: len(wave)]
    return np.pad(narrow, (0, len(wave) - len(narrow)))
