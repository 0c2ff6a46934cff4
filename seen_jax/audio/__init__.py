"""Audio: read and check files, find them, log-mel features, mixing at an SNR, synthetic noises, denoisers."""

from seen_jax.audio.denoise import DENOISERS, Denoiser, denoiser
from seen_jax.audio.features import SAMPLE_RATE, frame_count, log_mel, mel_filterbank, pad_waves
from seen_jax.audio.io import (
    AudioItem,
    audio_seconds,
    check_wave,
    decode_audio,
    find_audio,
    is_silent,
    read_audio,
    write_audio,
)
from seen_jax.audio.mix import Mixture, fit_noise, mix_at_snr, mix_batch
from seen_jax.audio.noise import NOISES, load_noise, noise_for_clip, synthetic_noise
from seen_jax.audio.sources import NoiseSource, noise_source

__all__ = [
    "DENOISERS",
    "NOISES",
    "SAMPLE_RATE",
    "AudioItem",
    "Denoiser",
    "Mixture",
    "NoiseSource",
    "audio_seconds",
    "check_wave",
    "decode_audio",
    "denoiser",
    "find_audio",
    "fit_noise",
    "frame_count",
    "is_silent",
    "load_noise",
    "log_mel",
    "mel_filterbank",
    "mix_at_snr",
    "mix_batch",
    "noise_for_clip",
    "noise_source",
    "pad_waves",
    "read_audio",
    "synthetic_noise",
    "write_audio",
]
