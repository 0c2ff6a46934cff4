"""RNNoise: a small recurrent network for speech."""

from dataclasses import dataclass

from seen_jax.audio.denoisers._native import full_band
from seen_jax.audio.denoisers.base import Denoiser, Wave

PCM = 32768  # RNNoise expects samples on the scale of 16-bit PCM


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
