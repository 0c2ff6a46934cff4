"""Waveform denoisers: what SEEN is compared with. Each takes one noisy 16 kHz wave and knows nothing else about it.

A new denoiser is one file: a module here, or a class of another package under the entry-point group
"seen_jax.denoisers". `seen_jax.audio.denoisers.base.Denoiser` says what it defines.
"""
