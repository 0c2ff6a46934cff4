"""Typed configuration: a YAML file and command-line overrides become one frozen dataclass, checked before any work.

jsonargparse checks and converts every value; the names are checked here, so that a misspelt key gets the nearest right
one in its message.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

import yaml

from seen_jax.errors import ConfigError, SeenError

C = TypeVar("C")


def load_config(cls: type[C], path: str | Path | None = None, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file as the frozen dataclass `cls` (nested ones are sections); what it omits keeps its default.

    overrides: command-line tokens that win over the file, `--joint.steps 100` or `--joint.steps=100`. A sequence may be
    written `1,2,3`, and a bool without a value is true. Without a path only the defaults and overrides count.

    Raises ConfigError, naming file (or option), key and value: a missing or unreadable file, bad YAML (with its line),
    an unknown or missing key (with the nearest right one), a wrong type, or values that `cls` itself refuses.
    """
    keys = {key: hint for key, hint, _ in _leaves(cls)}
    values = {key: default for key, _, default in _leaves(cls)}
    where = "the command line" if path is None else str(Path(path).expanduser())
    raw = {} if path is None else _read(Path(where))
    for key, value in _flatten(raw, keys, where):
        values[key] = _typed(keys[key], value, f"{where}: {key}")
    for key, text in _parse_overrides(overrides, keys):
        values[key] = _typed(keys[key], text, f"--{key}")
    for key, value in values.items():
        if value is MISSING:
            raise ConfigError(f"{where}: the key '{key}' is missing, expected {_expected(keys[key])}.")
    try:
        return _build(cls, values, "")
    except (SeenError, ValueError, TypeError) as e:
        raise ConfigError(f"{where}{' with ' * bool(overrides)}{' '.join(overrides)}: {e}") from e


def dotted_defaults(cls: type) -> dict[str, Any]:
    """{dotted key: default} of every field of a configuration, in order: what a help text lists."""
    return {key: None if default is MISSING else default for key, _, default in _leaves(cls)}


def _leaves(cls: type, instance: Any = MISSING, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, type, default or MISSING) of every field that is not a section."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = default if instance is MISSING else getattr(instance, field.name)
        if dataclasses.is_dataclass(hint := hints[field.name]):
            yield from _leaves(typing.cast(type, hint), default, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hint, default


def _build(cls: type[C], values: Mapping[str, Any], prefix: str) -> C:
    chosen: dict[str, Any] = {}
    for name, hint in ((f.name, typing.get_type_hints(cls)[f.name]) for f in dataclasses.fields(typing.cast(Any, cls))):
        section = dataclasses.is_dataclass(hint)
        chosen[name] = _build(typing.cast(type, hint), values, f"{prefix}{name}.") if section else values[prefix + name]
    return cls(**chosen)


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice, where PyYAML would silently take the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key '{key.value}' occurs twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Mapping[Any, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}.") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"the configuration {path} cannot be read ({e}).") from None
    except yaml.MarkedYAMLError as e:
        line = f", line {e.problem_mark.line + 1}" if e.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {e.problem}.") from None
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(e).split())}.") from None
    if raw is not None and not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: expected keys and values (key: value), not a {type(raw).__name__}.")
    return raw or {}


def _flatten(
    raw: Mapping[Any, Any], keys: Mapping[str, Any], where: str, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for name, value in raw.items():
        key = f"{prefix}{name}"
        inner = [k.removeprefix(f"{key}.") for k in keys if k.startswith(f"{key}.")]
        if key in keys:
            yield key, value
        elif not inner:
            raise ConfigError(f"{where}: unknown key '{key}'.{_nearest(key, keys)}")
        elif isinstance(value, Mapping):
            yield from _flatten(value, keys, where, f"{key}.")
        else:
            raise ConfigError(f"{where}: {key} is {value!r}, expected a section with the keys {', '.join(inner)}.")


def _nearest(key: str, keys: Mapping[str, Any], mark: str = "") -> str:
    sections = {k.rpartition(".")[0] for k in keys if "." in k and not mark}
    near = difflib.get_close_matches(key, [*keys, *sorted(sections)], n=1, cutoff=0.0)
    return f" Did you mean '{mark}{near[0]}'?"


def _parse_overrides(tokens: Sequence[str], keys: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        name, equals, text = token.removeprefix("--").partition("=")
        key = name.replace("-", "_")
        if not token.startswith("--"):
            raise ConfigError(f"unexpected argument '{token}': overrides look like --{next(iter(keys))} VALUE.")
        if key not in keys:
            raise ConfigError(f"unknown option --{name}.{_nearest(key, keys, '--')}")
        if not equals and rest and not rest[0].startswith("--"):
            text = rest.pop(0)
        elif not equals and keys[key] is bool:
            text = "true"
        elif not equals:
            raise ConfigError(f"--{name} needs a value, {_expected(keys[key])}.")
        yield key, text


def _members(hint: Any) -> list[Any]:
    """The types of a union, without None; a type that is no union by itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [h for h in typing.get_args(hint) if h is not type(None)] if union else [hint]


def _typed(hint: Any, value: Any, where: str) -> Any:
    """`value` as type `hint`, converted by jsonargparse; `where` names the key. `1,2` will do for `[1,2]`."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    convert = lambda given: parser.instantiate(parser.parse_object({"value": given})).value  # noqa: E731
    try:
        result = convert(value)
    except (ArgumentError, TypeError, ValueError) as e:
        if isinstance(value, str) and not value.startswith("[") and any(map(_is_sequence, _members(hint))):
            with contextlib.suppress(ConfigError):
                return _typed(hint, f"[{value}]", where)
        inside = [x for h in _members(hint) for x in (h, *typing.get_args(h)) if dataclasses.is_dataclass(x)]
        reason = " ".join(str(e).split()).partition("Option ")[2] if inside else ""
        raise ConfigError(f"{where} is {value!r}, expected {_expected(hint)}. {reason}".rstrip()) from None
    if result is None and type(None) not in typing.get_args(hint):
        raise ConfigError(f"{where} is empty, expected {_expected(hint)}.")
    numbers = result if isinstance(result, (tuple, list)) else [result]
    if any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
        raise ConfigError(f"{where} is {value!r}, expected finite numbers.")
    return result


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
    names = {int: "int (a whole number)", float: "float (a number)", str: "str (a text)", bool: "bool (true or false)"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
