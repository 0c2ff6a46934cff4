"""Errors that a user can act on. The command line prints their message and exits 1, without a traceback."""


class SeenError(Exception):
    """Base of every error that seen_jax raises on purpose: what was wrong, where, and what to do."""


class AudioError(SeenError):
    """An audio file, folder, manifest or waveform that cannot be used."""


class CheckpointError(SeenError):
    """A model folder that is missing, damaged, unsupported or inconsistent."""


class ConfigError(SeenError):
    """A configuration or argument that does not make sense."""


class BasisError(SeenError):
    """A calibration or noise basis that is damaged or does not fit what it is used with."""
