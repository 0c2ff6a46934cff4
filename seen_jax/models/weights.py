"""Weight maps as tables: checkpoint key pattern -> parameter path and layout. Every key is used once, both ways."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from seen_jax.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a stored tensor becomes a parameter, and back."""

    load: Callable[[Any], Any]
    save: Callable[[Any], Any]
    axes: Callable[[tuple[int, ...]], tuple[int, ...]]


def _permuted(*order: int) -> Layout:
    back = tuple(int(i) for i in np.argsort(order))
    return Layout(lambda x: x.transpose(order), lambda x: x.transpose(back), lambda s: tuple(s[i] for i in back))


SAME = Layout(lambda x: x, lambda x: x, lambda s: s)
DENSE = _permuted(1, 0)
CONV1D = _permuted(2, 1, 0)


@dataclasses.dataclass(frozen=True)
class Rule:
    """`key` with `{i}` for the layer number; `path` of the parameter, which then has a leading layer axis."""

    key: str
    path: tuple[str, ...]
    layout: Layout = SAME

    @property
    def stacked(self) -> bool:
        return "{i}" in self.key

    def keys(self, layers: int) -> list[str]:
        """The checkpoint keys of the rule in a stack of so many layers."""
        return [self.key.format(i=i) for i in range(layers)] if self.stacked else [self.key]


def linear(key: str, path: str, bias: bool = True) -> list[Rule]:
    """Rules of a torch Linear."""
    where = tuple(path.split("."))
    rules = [Rule(f"{key}.weight", (*where, "kernel"), DENSE)]
    return rules + [Rule(f"{key}.bias", (*where, "bias"))] * bias


def conv1d(key: str, path: str) -> list[Rule]:
    where = tuple(path.split("."))
    return [Rule(f"{key}.weight", (*where, "kernel"), CONV1D), Rule(f"{key}.bias", (*where, "bias"))]


def norm(key: str, path: str, bias: bool = True) -> list[Rule]:
    where = tuple(path.split("."))
    return [Rule(f"{key}.weight", (*where, "scale"))] + [Rule(f"{key}.bias", (*where, "bias"))] * bias


def flatten(tree: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Nested dicts -> {path: leaf}."""
    flat: dict[tuple[str, ...], Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, (*prefix, name))
        else:
            flat[(*prefix, name)] = value
    return flat


def unflatten(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where one checkpoint key goes: parameter path, layer (None if not stacked), layout and the stored shape."""

    path: tuple[str, ...]
    layer: int | None
    layout: Layout
    shape: tuple[int, ...]


def slots(rules: Iterable[Rule], shapes: Mapping[tuple[str, ...], tuple[int, ...]]) -> dict[str, Slot]:
    """Every checkpoint key that the parameters of `shapes` need. Raises if table and parameters do not match."""
    table: dict[str, Slot] = {}
    covered = set()
    for rule in rules:
        if rule.path not in shapes:
            raise CheckpointError(
                f"weight table names the parameter {'.'.join(rule.path)}, which the model does not have."
            )
        covered.add(rule.path)
        shape = shapes[rule.path]
        if not rule.stacked:
            table[rule.key] = Slot(rule.path, None, rule.layout, rule.layout.axes(shape))
            continue
        for i, key in enumerate(rule.keys(shape[0])):
            table[key] = Slot(rule.path, i, rule.layout, rule.layout.axes(shape[1:]))
    left = sorted(".".join(path) for path in set(shapes) - covered)
    if left:
        raise CheckpointError(f"weight table has no rule for the parameters {', '.join(left)}.")
    return table


def canonical(key: str, renames: Iterable[tuple[str, str]]) -> str:
    """The key under which the table knows it: the first matching rename is applied."""
    for pattern, replacement in renames:
        new, hits = re.subn(pattern, replacement, key)
        if hits:
            return new
    return key
