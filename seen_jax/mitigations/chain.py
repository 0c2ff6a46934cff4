"""Mitigations as an experiment names them: steps that follow each other, built from a configuration."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from seen_jax.audio.denoisers.base import Denoiser, denoiser
from seen_jax.config import build
from seen_jax.edits import joined
from seen_jax.errors import ConfigError
from seen_jax.files import check_name
from seen_jax.mitigations.base import NONE, Fitting, Mitigation, Wave
from seen_jax.models.edits import Edits
from seen_jax.models.encoder import Audio
from seen_jax.registry import DENOISERS, MITIGATIONS
from seen_jax.subspace import NoiseBasis


@dataclasses.dataclass(frozen=True)
class WaveformDenoiser(Mitigation):
    """A denoiser before the model. method: a name of the registry `DENOISERS`; options: its options."""

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


@dataclasses.dataclass(frozen=True)
class Chain(Mitigation):
    """Steps in turn under one label; without steps it is "none", with which all others are compared."""

    label: str
    steps: tuple[Mitigation, ...] = ()

    def data(self) -> Sequence[Any]:
        return [wanted for step in self.steps for wanted in step.data()]

    def noise_specs(self) -> Sequence[str]:
        return [spec for step in self.steps for spec in step.noise_specs()]

    def fit(self, fitting: Fitting) -> "Chain":
        """Each step is fitted to audio as the earlier ones leave it."""
        fitted = Chain(self.label)
        for step in self.steps:
            ready = step.fit(dataclasses.replace(fitting, hear=fitted.hear, audio_key=fitted.audio_key))
            fitted = Chain(self.label, (*fitted.steps, ready))
        return fitted

    def hear(self, wave: Wave) -> Wave:
        for step in self.steps:
            wave = step.hear(wave)
        return wave

    def edits(self, audio: Audio, noises: Sequence[str]) -> Mapping[str, Edits]:
        """The edits of all steps. Raises ConfigError if two of them edit one site."""
        parts = [edits for step in self.steps if any((edits := step.edits(audio, noises)).values())]
        if len(parts) < 2:
            return parts[0] if parts else {noise: {} for noise in noises}
        try:
            return {noise: joined(*(part[noise] for part in parts)) for noise in noises}
        except ConfigError as error:
            raise ConfigError(f"mitigation {self.label}: {error}") from None

    def basis(self, noise: str) -> NoiseBasis | None:
        return next((basis for step in self.steps if (basis := step.basis(noise)) is not None), None)

    @property
    def changes_audio(self) -> bool:
        return any(step.changes_audio for step in self.steps)

    @property
    def audio_key(self) -> str:
        """The same for chains that give the model the same audio."""
        return " + ".join(repr(step) for step in self.steps if step.changes_audio)

    def describe(self) -> dict[str, Any]:
        """Label, kinds and options as JSON-like values."""
        steps = [{"kind": step.name, **dataclasses.asdict(step)} for step in self.steps]
        return {"name": self.label, "steps": steps}


def make_chain(entry: str | Mapping[str, Any]) -> Chain:
    """The chain that an entry of a configuration means.
    entry: "none"; kinds and denoisers by name, joined by "+" ("seen", "wiener", "wiener+restoration"); or a mapping of
    `name` and, in order, kinds with their options: {"name": "mild", "wiener": {"floor": 0.2}, "seen": {"site": ...}}.
    Raises ConfigError, naming the entry, for anything else."""
    if isinstance(entry, str):
        names = [] if entry == NONE else entry.split("+")
        return Chain(entry, tuple(_step(name, {}, f"mitigation {entry}") for name in names))
    label = entry.get("name")
    if not isinstance(label, str) or not re.fullmatch(r"[\w.+-]+", label):
        raise ConfigError(f"a mitigation's name has letters, digits and + - . _ only, not {label!r}")
    check_name("mitigation", label)
    steps = [(kind, options) for kind, options in entry.items() if kind != "name" and options is not False]
    return Chain(label, tuple(_step(kind, options, f"mitigation {label}") for kind, options in steps))


def _step(kind: str, options: Any, where: str) -> Mitigation:
    if kind in DENOISERS and kind not in MITIGATIONS:
        return build(WaveformDenoiser, {"method": kind, "options": options or {}}, where)
    if kind not in MITIGATIONS:
        known = ", ".join([NONE, *MITIGATIONS, *DENOISERS])
        raise ConfigError(f"{where}: there is no mitigation {kind!r}. Known: {known}; several are joined by '+'.")
    cls = MITIGATIONS[kind]
    if isinstance(options, Mapping) or options is None or options is True:
        return build(cls, options if isinstance(options, Mapping) else {}, f"{where}: {kind}")
    first = dataclasses.fields(cls)
    if not first:
        raise ConfigError(f"{where}: {kind} has no options, so write `{kind}: true`")
    return build(cls, {first[0].name: options}, f"{where}: {kind}")
