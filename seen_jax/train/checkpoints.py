"""Training states on disk: the last two, one file each, the digest of its tensors before them."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load, save

from seen_jax.errors import CheckpointError
from seen_jax.files import digest, write_file

SUFFIX = ".state"
KEPT = 2  # states: where the newest is damaged, there is another


class Checkpoints:
    """The states of a run, named by the steps that were done. A kill or a full disk leaves the earlier ones whole.

    >>> Checkpoints(folder).save(3, {"weights": jnp.ones(2)})
    >>> Checkpoints(folder).restore({"weights": jnp.zeros(2)})
    (3, {'weights': Array([1., 1.], dtype=float32)})
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def steps(self) -> list[int]:
        """Steps of the states that are there, whole or not, the newest last."""
        names = [path.name for path in self.folder.glob(f"*{SUFFIX}")]
        return sorted(int(name[: -len(SUFFIX)]) for name in names if re.fullmatch(rf"[0-9]{{1,18}}\{SUFFIX}", name))

    def path(self, step: int) -> Path:
        return self.folder / f"{step}{SUFFIX}"

    def save(self, step: int, state: Any) -> None:
        """Keep a tree of arrays as the state after `step` steps. CheckpointError where the disk refuses; the states
        that were there stay."""
        content = save({name: np.asarray(leaf, order="C") for name, leaf in _leaves(state).items()})
        write_file(self.path(step), digest([content]).encode() + content, CheckpointError)
        earlier = [kept for kept in self.steps() if kept < step][1 - KEPT :]
        for other in set(self.steps()) - {step, *earlier}:  # later ones too: they were damaged, and are made again
            self.path(other).unlink(missing_ok=True)

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """(steps, state) of the newest state that is whole, with the structure of `like`; None where there is none yet.
        A damaged one is left out with a warning. CheckpointError if all are, or if their structure is another."""
        steps, leaves = self.steps(), _leaves(like)
        for step in reversed(steps):
            try:
                tensors = _read(self.path(step))
            except (OSError, ValueError) as e:
                warnings.warn(f"the training state {self.path(step)} is left out: {e}", stacklevel=2)
                continue
            form = lambda arrays: {name: (x.shape, str(x.dtype)) for name, x in arrays.items()}
            if form(tensors) != form(leaves):
                problem = f"{self.path(step)} does not fit this configuration or this version of seen-jax"
                raise CheckpointError(f"{problem}: delete {self.folder} to begin again, or choose another 'out'")
            return step, jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(tensors[name]) for name in leaves])
        if steps:
            problem = f"no training state in {self.folder} is whole (steps {', '.join(map(str, steps))})"
            raise CheckpointError(f"{problem}: delete that folder to begin again")
        if any(path.is_dir() and path.name.isdecimal() for path in self.folder.glob("*")):
            problem = f"{self.folder} holds training states of an earlier version of seen-jax"
            raise CheckpointError(f"{problem}: delete that folder to begin again, or go on with that version")
        return None


def _leaves(tree: Any) -> Mapping[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file; ValueError unless it is the one that was written. Nothing is parsed before that."""
    content = path.read_bytes()
    size = len(digest([]))
    if content[:size] != digest([content[size:]]).encode():
        raise ValueError("its content is not what was written")
    return load(content[size:])
