"""Objects that are found by name: model families, mitigations, studies, denoisers and data sets.
Every module of a kind's package may define some. An installed package adds its own by an entry point of the kind's
group, as in `[project.entry-points."seen_jax.studies"]` with `tilt = "my_package.tilt:TILT"`."""

import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

from seen_jax.errors import ConfigError


class Registry(Mapping[str, Any]):
    """The objects of one kind by name. Modules are imported on first use. kind: in messages, for example "study". The
    others without "seen_jax.": group of entry points; package whose modules define the built-in objects; base as
    "module:Class", whose instances count, or with `classes` its subclasses. Each has an attribute `name`."""

    def __init__(self, kind: str, group: str, package: str, base: str, classes: bool = False) -> None:
        self.kind, self.classes = kind, classes
        self.group, self.package, self.base = (f"seen_jax.{name}" for name in (group, package, base))

    def __getitem__(self, name: str) -> Any:
        """The object of this name. Raises ConfigError, with the nearest name, if there is none."""
        if name in self._objects:
            return self._objects[name]
        near = difflib.get_close_matches(str(name), self._objects, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no {self.kind} {name!r}.{hint} Known: {', '.join(self)}.")

    def __contains__(self, name: object) -> bool:
        return name in self._objects

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    @functools.cached_property
    def _objects(self) -> dict[str, Any]:
        base, objects = pkgutil.resolve_name(self.base), dict[str, Any]()
        for info in pkgutil.iter_modules(importlib.import_module(self.package).__path__, f"{self.package}."):
            if not info.name.startswith(f"{self.package}._"):
                for value in vars(importlib.import_module(info.name)).values():
                    if self._counts(value, base) and getattr(value, "__module__", info.name) == info.name:
                        self._add(objects, value, info.name)
        for entry in entry_points(group=self.group):
            where = f"entry point {entry.name} ({entry.value}) of {self.group}"
            try:
                value = entry.load()
            except Exception as error:
                raise ConfigError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
            if not self._counts(value, base):
                wanted = "a subclass" if self.classes else "an instance"
                raise ConfigError(f"{where} is a {type(value).__name__}, not {wanted} of {self.base}")
            self._add(objects, value, where)
        return objects

    def _counts(self, value: Any, base: type) -> bool:
        if not self.classes:
            return isinstance(value, base)
        return inspect.isclass(value) and issubclass(value, base) and value is not base and "name" in vars(value)

    def _add(self, objects: dict[str, Any], value: Any, where: str) -> None:
        if objects.setdefault(value.name, value) is not value:
            raise ConfigError(f"{where}: there are two of the {self.kind} {value.name!r}; give one another name")


FAMILIES = Registry("family", "families", "models.families", "models.family:Family")
MITIGATIONS = Registry("mitigation", "mitigations", "mitigations", "mitigations.base:Mitigation", classes=True)
STUDIES = Registry("study", "studies", "studies", "studies.base:Study")
DENOISERS = Registry("denoiser", "denoisers", "audio.denoisers", "audio.denoisers.base:Denoiser", classes=True)
DATASETS = Registry("kind of data set", "datasets", "data", "data.base:Dataset")
