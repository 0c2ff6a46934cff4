"""A waveform denoiser before the model."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

from seen_jax.audio.denoisers.base import Denoiser, denoiser
from seen_jax.mitigations.base import Mitigation, Wave


@dataclasses.dataclass(frozen=True)
class WaveformDenoiser(Mitigation):
    """method: a name of the registry `DENOISERS`; options: its options."""

    name: ClassVar[str] = "denoiser"
    method: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.denoiser  # refuses an unknown name or option, and a package that is missing, before any work

    @functools.cached_property
    def denoiser(self) -> Denoiser:
        return denoiser(self.method, **self.options)

    def hear(self, wave: Wave) -> Wave:
        return self.denoiser(wave)
