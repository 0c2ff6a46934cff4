"""Objects that are found by name: model families, mitigations, studies, denoisers and data sets.

Each kind has a package here, and every module of it may define objects of that kind. An installed package adds its own
through the entry-point group of the kind, for example in its pyproject.toml:

    [project.entry-points."seen_jax.studies"]
    tilt = "my_package.tilt:TILT"
"""

from __future__ import annotations

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
    """The objects of one kind by name. Modules are imported on first use.

    Attributes:
        kind: in messages, for example "study".
        group: the entry-point group, for example "seen_jax.studies".
        package: the package whose modules define the built-in objects.
        base: "module:Class" of the kind. Its instances count; where it is abstract in name only (`classes`), its
            subclasses do. Each has an attribute `name`.
    """

    def __init__(self, kind: str, group: str, package: str, base: str, classes: bool = False) -> None:
        self.kind, self.group, self.package, self.base, self.classes = kind, group, package, base, classes

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

    def __repr__(self) -> str:
        return f"Registry({self.kind}: {', '.join(self)})"

    @functools.cached_property
    def _objects(self) -> dict[str, Any]:
        module, _, name = self.base.partition(":")
        base = getattr(importlib.import_module(module), name)
        objects: dict[str, Any] = {}
        package = importlib.import_module(self.package)
        for info in pkgutil.iter_modules(package.__path__):
            if not info.name.startswith("_"):
                inside = importlib.import_module(f"{self.package}.{info.name}")
                for value in vars(inside).values():
                    if self._counts(value, base) and getattr(value, "__module__", inside.__name__) == inside.__name__:
                        self._add(objects, value, inside.__name__)
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


FAMILIES = Registry("family", "seen_jax.families", "seen_jax.models.families", "seen_jax.models.family:Family")
MITIGATIONS = Registry(
    "mitigation", "seen_jax.mitigations", "seen_jax.mitigations", "seen_jax.mitigations.base:Mitigation", classes=True
)
STUDIES = Registry("study", "seen_jax.studies", "seen_jax.studies", "seen_jax.studies.base:Study")
DENOISERS = Registry(
    "denoiser", "seen_jax.denoisers", "seen_jax.audio.denoisers", "seen_jax.audio.denoisers.base:Denoiser", classes=True
)
DATASETS = Registry("kind of data set", "seen_jax.datasets", "seen_jax.data", "seen_jax.data.base:Dataset")
