"""Waveform denoisers: what SEEN is compared with. Each takes one noisy 16 kHz wave and knows nothing else about it."""
