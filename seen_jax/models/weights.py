"""Weight maps as tables: checkpoint key pattern -> parameter path and layout. Every key is used once, both ways."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from seen_jax.errors import CheckpointError

Layout = Callable[[np.ndarray], np.ndarray]  # a parameter of one layer -> a view of it as the checkpoint stores it

SAME: Layout = lambda x: x
REVERSED: Layout = np.transpose  # of a torch Linear, Conv1d, or Conv2d over (mels, time): over (time, mels) here
POINTWISE: Layout = lambda x: x.T[..., None]  # of a torch Conv1d of one tap: a linear map here


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


def linear(key: str, path: str, bias: bool = True, layout: Layout = REVERSED) -> list[Rule]:
    """Rules of a torch Linear or convolution. path: of the module, with dots."""
    return _module(key, path, "kernel", layout, bias)


def norm(key: str, path: str, bias: bool = True) -> list[Rule]:
    """Rules of a torch LayerNorm, BatchNorm or, without bias, RMSNorm. path: of the module, with dots."""
    return _module(key, path, "scale", SAME, bias)


def _module(key: str, path: str, name: str, layout: Layout, bias: bool) -> list[Rule]:
    where = tuple(path.split("."))
    return [Rule(f"{key}.weight", (*where, name), layout)] + [Rule(f"{key}.bias", (*where, "bias"))] * bias


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where one checkpoint key goes: parameter path, index there (layer, expert), layout and the stored shape."""

    path: tuple[str, ...]
    index: tuple[int, ...]
    layout: Layout
    shape: tuple[int, ...]


def slots(rules: Sequence[Rule], shapes: Mapping[tuple[str, ...], tuple[int, ...]]) -> dict[str, Slot]:
    """Every checkpoint key that the parameters of `shapes` need. Raises if table and parameters do not match."""
    ruled = {rule.path for rule in rules}
    if ruled != set(shapes):
        named = lambda paths: ", ".join(sorted(map(".".join, paths))) or "none"
        unknown, left = named(ruled - set(shapes)), named(set(shapes) - ruled)
        raise CheckpointError(f"weight table: parameters that the model lacks: {unknown}; without a rule: {left}.")
    table: dict[str, Slot] = {}
    for rule in rules:
        shape = shapes[rule.path]
        stored = rule.layout(np.broadcast_to(np.int8(0), shape[rule.stacked :])).shape
        for index in np.ndindex(shape[: rule.stacked]):
            table[rule.key.format(**dict(zip("ie", index, strict=False)))] = Slot(rule.path, index, rule.layout, stored)
    return table


def canonical(key: str, renames: Iterable[tuple[str, str]]) -> str:
    """The key under which the table knows it: the first matching rename is applied."""
    for pattern, replacement in renames:
        if re.search(pattern, key):
            return re.sub(pattern, replacement, key)
    return key
