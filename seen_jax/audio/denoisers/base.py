"""What a denoiser is: a value whose fields are its options, and a function from one wave to another."""

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from seen_jax.audio.io import Wave, check_wave, is_silent
from seen_jax.errors import AudioError, ConfigError
from seen_jax.registry import DENOISERS


@dataclass(frozen=True)
class Denoiser:
    """A denoiser with its options. Call it with a wave; the same wave always gives the same result.

    A subclass (a module here, or a class of another package under the entry-point group "seen_jax.denoisers") is a
    frozen dataclass that declares its options as fields made by `option`, and implements `denoise`. It sets `name`, for
    configurations and tables; `package`, if it imports one; and `install`, what pip takes to install that package.
    >>> denoise = audio.denoiser("spectral_subtraction")
    >>> isinstance(denoise, audio.Denoiser), denoise(clips[0]).shape == clips[0].shape
    (True, True)
    """

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    install: ClassVar[str] = "seen-jax[denoise]"

    def __post_init__(self) -> None:
        self.check_options({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    def __call__(self, wave: Any) -> Wave:
        """Denoise one 16 kHz mono wave: float32 of the same length, not delayed. Silence stays silence. Raises
        AudioError: a wave that `check_wave` refuses, or one for which the denoiser gives no finite result. ConfigError:
        the package is missing or cannot be loaded."""
        wave = check_wave(wave, name=f"audio for {self.name}")
        if is_silent(wave):
            return wave
        out = self.denoise(wave)
        if out.shape != wave.shape or not np.isfinite(out).all():
            what = f"{len(wave)} samples with a peak of {np.abs(wave).max():g}"
            raise AudioError(f"{self.name} gave no valid wave for {what}")
        return out.astype(np.float32)

    def denoise(self, wave: Wave) -> Wave:
        """The denoised wave, of the same length. wave: 16 kHz mono float32, not silent; must not be changed."""
        raise NotImplementedError

    def import_package(self, module: str | None = None) -> Any:
        """Import `package`, or a module of it. Raises ConfigError if it is missing or its native code cannot load."""
        try:
            return importlib.import_module(module or str(self.package))
        except ImportError as error:
            needs = f'needs the package {self.package}: pip install "{self.install}"'
            raise ConfigError(f"The denoiser {self.name} {needs}") from error
        except OSError as error:  # a native library for another system
            raise ConfigError(f"The denoiser {self.name} cannot run here: {error}") from error

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raise ConfigError for an option that this denoiser does not have, or a value of a wrong type or size."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name, value in options.items():
            if name not in fields:
                known = ", ".join(fields) or "none"
                raise ConfigError(f"The denoiser {cls.name} has no option {name!r}. Its options: {known}.")
            kind, limits = type(fields[name].default), fields[name].metadata.get("limits", ())
            good = isinstance(value, (int, float) if kind is float else kind)
            good = good and isinstance(value, bool) == (kind is bool)
            if good and limits:
                good = value in limits if kind is str else limits[0] <= value <= limits[1]
            if not good:
                wanted = f"one of {', '.join(limits)}" if limits and kind is str else kind.__name__
                span = f" from {limits[0]} to {limits[1]}" if limits and kind is not str else ""
                raise ConfigError(f"Option {name} of the denoiser {cls.name} must be {wanted}{span}, not {value!r}.")


def option(default: Any, *limits: Any) -> Any:
    """A field for an option of a denoiser. limits: the smallest and largest number, or every text that is allowed."""
    return dataclasses.field(default=default, metadata={"limits": limits})


def denoiser(name: str, **options: float | int | bool | str) -> Denoiser:
    """A denoiser by its name.

    name, options: one of `DENOISERS`, and fields of its class.
    Raises ConfigError: an unknown name or option, a value out of range, or a package that is not installed.
    >>> audio.denoiser("wiener").name
    'wiener'
    """
    kind: type[Denoiser] = DENOISERS[name]
    kind.check_options(options)
    made = kind(**options)
    if kind.package is not None:
        made.import_package()
    return made
