"""Soft thresholding of wavelet coefficients."""

from dataclasses import dataclass

import numpy as np

from seen_jax.audio.denoisers.base import Denoiser, Wave, option

WAVELETS = (*(f"db{i}" for i in range(1, 21)), *(f"sym{i}" for i in range(2, 21)), "haar")


@dataclass(frozen=True)
class Wavelet(Denoiser):
    """Soft thresholding of wavelet details (PyWavelets; Donoho 1995), sigma = MAD of the finest details / 0.6745.

    level: octaves of detail, as far as the length allows. scale: of the threshold sigma sqrt(2 ln n).
    """

    name = "wavelet"
    package = "pywt"
    wavelet: str = option("db8", *WAVELETS)
    level: int = option(5, 1, 20)
    scale: float = option(1.0, 0.0, 10.0)

    def denoise(self, wave: Wave) -> Wave:
        pywt = self.import_package()
        level = min(self.level, pywt.dwt_max_level(len(wave), self.wavelet))
        if level < 1:
            return wave
        approximation, *details = pywt.wavedec(wave.astype(np.float64), self.wavelet, level=level)
        sigma = np.median(np.abs(details[-1])) / 0.6745
        threshold = self.scale * sigma * np.sqrt(2 * np.log(len(wave)))
        kept = [np.sign(d) * np.maximum(np.abs(d) - threshold, 0) for d in details]
        return pywt.waverec([approximation, *kept], self.wavelet)[: len(wave)]
