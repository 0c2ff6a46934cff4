"""The noise suppressor of WebRTC."""

from dataclasses import dataclass

import numpy as np

from seen_jax.audio.denoisers.base import Denoiser, Wave, option

FRAME = 160
DELAY = 96  # its 256-sample window less one frame


@dataclass(frozen=True)
class WebRTC(Denoiser):
    """WebRTC's noise suppressor (webrtc-noise-gain), on 10 ms frames of 16-bit PCM, without gain control.

    level: of suppression, from 1 (mild) to 4 (strongest). It includes a high-pass filter at about 100 Hz.
    """

    name = "webrtc"
    package = "webrtc_noise_gain"
    level: int = option(2, 1, 4)

    def denoise(self, wave: Wave) -> Wave:
        processor = self.import_package().AudioProcessor(0, self.level)
        scale = 32767 / max(float(np.abs(wave).max()), 1.0)
        padded = np.pad(wave, (0, DELAY + -(len(wave) + DELAY) % FRAME))
        pcm = np.rint(scale * padded).astype(np.int16).reshape(-1, FRAME)
        out = b"".join(processor.Process10ms(frame.tobytes()).audio for frame in pcm)
        return np.frombuffer(out, np.int16)[DELAY : DELAY + len(wave)] / scale
