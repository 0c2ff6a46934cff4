"""A package outside ours that adds objects through entry points, as an installed package does."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from seen_jax import registry


def install(folder: Path, groups: Mapping[str, Mapping[str, str]], modules: Mapping[str, str]) -> Path:
    """Write a package into `folder`, which a process finds once the folder is on its path (PYTHONPATH).

    Args:
        groups: {entry-point group: {name: "module:object"}}, as {"seen_jax.families": {"mine": "mine:FAMILY"}}.
        modules: {name of a module: its source}.
    """
    info = folder / "outside-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    lines = []
    for group, names in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    return folder


@contextlib.contextmanager
def installed(folder: Path, groups: Mapping[str, Mapping[str, str]], modules: Mapping[str, str]) -> Iterator[Path]:
    """`install`, and make this process see the package for the length of the block."""
    sys.path.insert(0, str(install(folder, groups, modules)))
    _forget()
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        for name in modules:
            sys.modules.pop(name, None)
        _forget()


def _forget() -> None:
    """Let the registries look again."""
    importlib.invalidate_caches()
    for value in vars(registry).values():
        if isinstance(value, registry.Registry):
            value.__dict__.pop("_objects", None)
