"""Artefact folders: one safetensors file and one JSON card, written whole or not at all."""

import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax import files
from seen_jax.errors import BasisError

CARD = "card.json"
VERSION = 2  # 1 had no digest
FILES = {  # by kind
    "calibration": "statistics.safetensors",
    "noise basis": "basis.safetensors",
    "blind model": "blind.safetensors",
}


def kind_of(folder: Path) -> str | None:
    """What the card of a folder says, None without a card."""
    try:
        return files.parse_json((folder / CARD).read_bytes()).get("kind")
    except (OSError, ValueError, AttributeError):
        return None


def _digest(card: Mapping[str, Any], weights: Path) -> str:
    """Identifies a card but for its own digest, and the bytes of its tensors."""
    text = json.dumps({key: value for key, value in card.items() if key != "digest"}, sort_keys=True)
    return files.digest(itertools.chain([text], files.file_parts(weights)))


def write_folder(
    folder: str | Path, kind: str, tensors: Mapping[str, np.ndarray], card: Mapping[str, Any], overwrite: bool
) -> Path:
    """Write the tensors and card.json, all or nothing, and return the folder. Format version, kind, shapes, date and
    package versions are added to the card; a date and versions that it holds stay. Raises BasisError: the folder exists
    (with overwrite: and is neither empty nor of the same kind), the card is not JSON, or the disk refuses."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    target = Path(os.path.expanduser(folder)).resolve()
    if target.exists() and not overwrite:
        raise BasisError(f"{target} exists: choose another folder or pass overwrite=True")
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and kind_of(target) != kind)):
        raise BasisError(f"{target} is not a {kind} folder, so it is not replaced: choose another folder")
    full = {"date": files.now(), "versions": files.versions(), **card, "kind": kind, "format_version": VERSION}
    full["shapes"] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    try:
        full = files.parse_json(files.to_json(full))
    except (TypeError, ValueError, RecursionError) as error:
        raise BasisError(f"the card of {target} cannot be written as JSON: {error}") from error
    with files.write_folder(target, BasisError, lambda existing: kind_of(existing) == kind) as fresh:
        weights = fresh / FILES[kind]
        try:
            save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, weights)
        except SafetensorError as error:
            raise BasisError(f"cannot write {target}: {error}") from error
        files.share(weights)
        (fresh / CARD).write_text(files.to_json({**full, "digest": _digest(full, weights)}), "utf-8")
    return target


def read_folder(
    folder: str | Path, kind: str, required: tuple[str, ...], double: frozenset[str] = frozenset()
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors (float32, those named in `double` float64) and the card of a folder that `write_folder` made. Raises
    BasisError: a missing folder or file, a truncated safetensors file, a card that is not JSON, of another kind or
    version or lacks a `required` key, tensors of another dtype or not of its shapes."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    source = Path(os.path.expanduser(folder))
    files.restore_folder(source)
    if not source.is_dir():
        raise BasisError(f"{source} is not a folder: expected a saved {kind}")
    weights = source / FILES[kind]
    for path in (source / CARD, weights):
        if not path.is_file():
            raise BasisError(f"{path} is missing: {source} is not a complete {kind}; make it again")
    try:
        card = files.parse_json((source / CARD).read_bytes())
    except (OSError, ValueError) as error:
        raise BasisError(f"{source / CARD} is not JSON ({error}): make the {kind} again") from error
    if not isinstance(card, dict) or card.get("kind") != kind:
        raise BasisError(f"{source / CARD} is not the card of a {kind}")
    version: Any = card.get("format_version")
    if version not in range(1, VERSION + 1):
        known = f"{source / CARD} has format version {version!r}, this seen_jax reads 1 to {VERSION}"
        raise BasisError(f"{known}: make the {kind} again")
    if absent := [key for key in (*required, "shapes") if key not in card]:
        raise BasisError(f"{source / CARD} lacks {', '.join(absent)}: make the {kind} again")
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise BasisError(f"{weights} is damaged or truncated ({error}): make the {kind} again") from error
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if shapes != card["shapes"]:
        raise BasisError(f"{weights} holds shapes {shapes}, but its card says {card['shapes']}")
    for name, tensor in tensors.items():
        expected = np.float64 if name in double else np.float32
        if tensor.dtype != expected:
            raise BasisError(f"{name} in {weights} is {tensor.dtype}, expected {np.dtype(expected)}")
    if (version > 1 or "digest" in card) and card.get("digest") != _digest(card, weights):
        raise BasisError(f"{source} is damaged: its card and tensors are not those that were written; make it again")
    return tensors, card
