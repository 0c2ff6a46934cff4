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
POINTWISE = Layout(lambda x: x[..., 0].T, lambda x: x.T[..., None], lambda s: (s[1], s[0], 1))  # a Conv1d of one tap
CONV2D = _permuted(3, 2, 1, 0)  # over (mels, time) -> over (time, mels)


@dataclasses.dataclass(frozen=True)
class Rule:
    """`key` with `{i}` for the number of the layer and `{e}` for that of the expert; `path` of the parameter, which has
    one leading axis for each of them, in this order."""

    key: str
    path: tuple[str, ...]
    layout: Layout = SAME

    @property
    def stacked(self) -> int:
        return ("{i}" in self.key) + ("{e}" in self.key)


def _module(key: str, path: str, name: str, layout: Layout, bias: bool) -> list[Rule]:
    where = tuple(path.split("."))
    return [Rule(f"{key}.weight", (*where, name), layout)] + [Rule(f"{key}.bias", (*where, "bias"))] * bias


def linear(key: str, path: str, bias: bool = True) -> list[Rule]:
    """Rules of a torch Linear."""
    return _module(key, path, "kernel", DENSE, bias)


def conv1d(key: str, path: str, layout: Layout = CONV1D) -> list[Rule]:
    """Rules of a torch Conv1d."""
    return _module(key, path, "kernel", layout, True)


def conv2d(key: str, path: str) -> list[Rule]:
    """Rules of a torch Conv2d."""
    return _module(key, path, "kernel", CONV2D, True)


def norm(key: str, path: str, bias: bool = True) -> list[Rule]:
    """Rules of a torch LayerNorm, BatchNorm or, without bias, RMSNorm."""
    return _module(key, path, "scale", SAME, bias)


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
    """Where one checkpoint key goes: parameter path, index there (layer, expert), layout and the stored shape."""

    path: tuple[str, ...]
    index: tuple[int, ...]
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
        stored = rule.layout.axes(shape[rule.stacked :])
        for index in np.ndindex(shape[: rule.stacked]):
            table[rule.key.format(**dict(zip("ie", index, strict=False)))] = Slot(rule.path, index, rule.layout, stored)
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
