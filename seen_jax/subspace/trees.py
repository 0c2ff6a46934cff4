"""Frozen dataclasses as pytrees: arrays are leaves, the rest is static metadata, which may hold dictionaries."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax


class Static(tuple):
    """Metadata of a pytree, compared by value. Its hash leaves out what cannot be hashed, such as a card."""

    def __hash__(self) -> int:
        return hash(tuple(value for value in self if not isinstance(value, dict)))


def register(cls: type, leaves: Sequence[str], static: Sequence[str] = ()) -> None:
    """Make a pytree node of a dataclass. Transformations rebuild it without its checks: leaves may be tracers then."""

    def flatten(node: Any) -> tuple[list[tuple[Any, Any]], Static]:
        keyed = [(jax.tree_util.GetAttrKey(name), getattr(node, name)) for name in leaves]
        return keyed, Static(getattr(node, name) for name in static)

    def unflatten(metadata: Static, values: Iterable[Any]) -> Any:
        node: Any = object.__new__(cls)
        for name, value in zip((*leaves, *static), (*values, *metadata), strict=True):
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
