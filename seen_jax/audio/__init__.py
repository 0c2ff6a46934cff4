"""Audio: read and check files, find them, mixing at an SNR, synthetic noises, denoisers."""

from seen_jax.audio.denoisers.base import Denoiser, denoiser
from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.audio.find import AudioItem, find_audio
from seen_jax.audio.io import as_wave, audio_seconds, check_wave, decode_audio, is_silent, read_audio, write_audio
from seen_jax.audio.mix import Mixture, fit_noise, mix_at_snr, mix_batch
from seen_jax.audio.noise import NOISES, noise_for_clip, synthetic_noise
from seen_jax.audio.sources import NoiseSource, noise_source
from seen_jax.registry import DENOISERS

__all__ = [
    "DENOISERS", "NOISES", "SAMPLE_RATE", "AudioItem", "Denoiser", "Mixture", "NoiseSource", "as_wave", "audio_seconds",
    "check_wave", "decode_audio", "denoiser", "find_audio", "fit_noise", "is_silent", "mix_at_snr", "mix_batch",
    "noise_for_clip", "noise_source", "read_audio", "synthetic_noise", "write_audio",
]  # fmt: skip
