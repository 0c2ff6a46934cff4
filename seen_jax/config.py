"""Typed configuration: a YAML file and command-line overrides become one frozen dataclass, checked before any work.
jsonargparse converts and checks single values. Names are checked here: a misspelt key gets the nearest right one."""

import contextlib
import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from seen_jax.errors import ConfigError, SeenError

C = TypeVar("C")
DEEPEST = 40  # levels of a file
WORDS = {
    "int": "int (a whole number)", "float": "float (a number)", "str": "str (a text)", "bool": "bool (true or false)",
    "PositiveInt": "a whole number above 0", "NonNegativeInt": "a whole number, 0 or more",
}  # fmt: skip


def load_config(cls: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file as the frozen dataclass `cls`; nested dataclasses are sections, and absent keys keep defaults.
    overrides: command-line tokens that win over the file, `--joint.steps 100` or `--joint.steps=100`. A sequence may be
    written `1,2,3`, and a bool without a value is true. ConfigError for a file that is missing, unreadable or not YAML
    (with the line), and for all that `build` refuses."""
    where = str(Path(os.path.expanduser(path)))
    values = _read(Path(where))
    _override(values, overrides)
    tokens = " ".join(overrides).replace(": ", ":")  # a colon and a blank would end the name of the file
    return build(cls, values, f"{where} with {tokens}" if overrides else where)


def build(cls: type[C], values: Any, where: str, default: Any = None) -> C:
    """Make a frozen dataclass from a mapping; mappings inside become the dataclasses that their fields declare. where:
    the values come from, for errors: "FILE", or "FILE: SECTION". default: the instance whose values absent keys keep,
    in place of the defaults of `cls`. ConfigError for an unknown key (with the nearest right one), a missing key, a
    value of the wrong type, numbers that are not finite, and values that `cls` itself refuses."""
    prefix = where + ("." if ": " in where else ": ")
    source, _, section = prefix.rpartition(": ")
    hints, chosen = typing.get_type_hints(cls), _defaults(cls, default)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}, expected {_expected(cls)}.")
    for name, value in values.items():
        if name not in chosen:
            near = difflib.get_close_matches(str(name), [*chosen, *dotted_defaults(cls)], n=1, cutoff=0.0)
            raise ConfigError(f"{source}: unknown key '{section}{name}'. Did you mean '{section}{''.join(near)}'?")
        chosen[name] = convert(hints[name], value, prefix + name, chosen[name])
    for name, value in chosen.items():
        if value is MISSING:
            raise ConfigError(f"{source}: the key '{section}{name}' is missing, expected {_expected(hints[name])}.")
    try:
        return cls(**chosen)
    except (SeenError, ValueError, TypeError) as e:
        raise ConfigError(f"{where}: {e}") from e


def dotted_defaults(cls: Any, instance: Any = None, prefix: str = "") -> dict[str, Any]:
    """{dotted key: default} of every field of a configuration, in order: what a help text lists."""
    keys: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for name, default in _defaults(cls, instance).items():
        key, value, section = f"{prefix}{name}", None if default is MISSING else default, hints[name]
        keys |= dotted_defaults(section, value, f"{key}.") if dataclasses.is_dataclass(section) else {key: value}
    return keys


def convert(hint: Any, value: Any, where: str, default: Any = None) -> Any:
    """`value` as the type `hint`; a text may be YAML, and `1,2` is enough for a list. Other arguments as `build`."""
    members, given = _members(hint), value
    section: Any = next(filter(dataclasses.is_dataclass, members), None)
    element = next((typing.get_args(member)[0] for member in members if _is_sequence(member)), None)
    if section is not None and isinstance(value, section):
        return value
    literals = [choice for member in members for choice in typing.get_args(member)]
    if isinstance(value, str) and (section or element) and value not in literals:
        with contextlib.suppress(yaml.YAMLError):
            value = yaml.load(value, _Loader)
            value = yaml.load(f"[{given}]", _Loader) if element and not isinstance(value, list | None) else value
    if section is not None and (isinstance(value, Mapping) or hint is section):
        return build(section, value, where, default)
    if isinstance(value, list | tuple) and any(map(dataclasses.is_dataclass, _members(element))):
        return tuple(convert(element, item, f"{where}[{i}]") for i, item in enumerate(value))
    problem = f"{where} is {given!r}, expected"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        result = parser.instantiate(parser.parse_object({"value": value})).value
        if result is None and type(None) not in typing.get_args(hint):
            raise TypeError("jsonargparse takes None for a value of any type")
    except (ArgumentError, TypeError, ValueError):
        raise ConfigError(f"{problem} {_expected(hint)}.") from None
    if any(isinstance(x, float) and not math.isfinite(x) for x in (result if isinstance(result, tuple) else [result])):
        raise ConfigError(f"{problem} finite numbers.")
    return result


def _defaults(cls: Any, instance: Any = None) -> dict[str, Any]:
    """{field: its value in `instance`, else its default, else MISSING}."""
    default = lambda f: f.default if f.default_factory is MISSING else f.default_factory()
    known = isinstance(instance, cls)
    return {f.name: getattr(instance, f.name) if known else default(f) for f in dataclasses.fields(cls)}


def _override(values: dict[Any, Any], tokens: Sequence[str]) -> None:
    """Put the values of command-line tokens into nested dictionaries."""
    rest = list(tokens)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--"):
            raise ConfigError(f"unexpected argument '{name}': overrides look like --key VALUE.")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        *sections, last = name[2:].replace("-", "_").split(".")
        target = values
        for section in sections:
            inner = target.setdefault(section, {})
            target = inner if isinstance(inner, dict) else {}  # `build` refuses what is no section
        target[last] = value


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice, where PyYAML would silently take the last one, and deep nesting, in which it
    would recurse until Python gives up."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.depth == DEEPEST:
            problem = f"it is nested more than {DEEPEST} levels deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        for i, (key, _) in enumerate(node.value):
            if key.value in [earlier.value for earlier, _ in node.value[:i]]:
                problem = f"the key '{key.value}' occurs twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[Any, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"the configuration {path} cannot be read: {getattr(e, 'strerror', None) or e}.") from None
    except yaml.YAMLError as e:
        mark, problem = getattr(e, "problem_mark", None), getattr(e, "problem", None) or " ".join(str(e).split())
        raise ConfigError(f"{path}{f', line {mark.line + 1}' if mark else ''}: not valid YAML: {problem}.") from None
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path}: expected keys and values (key: value), not a {type(values).__name__}.")
    return values or {}


def _members(hint: Any) -> list[Any]:
    """The types of a union, without None; a type that is no union by itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [h for h in typing.get_args(hint) if h is not type(None)] if union else [hint]


def _is_sequence(hint: Any) -> bool:
    return typing.get_origin(hint) in (tuple, list, Sequence)


def _expected(hint: Any) -> str:
    """A type in words."""
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if (members := _members(hint)) != [hint]:
        return " or ".join([_expected(h) for h in members] + ["null"] * (type(None) in typing.get_args(hint)))
    if _is_sequence(hint):
        return f"a list of {', '.join(_expected(h) for h in typing.get_args(hint) if h is not Ellipsis)}"
    if dataclasses.is_dataclass(hint):
        return f"a section with the keys {', '.join(_defaults(hint))}"
    name = getattr(hint, "__name__", str(hint))
    return WORDS.get(name, name)
