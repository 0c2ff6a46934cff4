"""Artefact folders: one safetensors file and one JSON card, written whole or not at all."""

import json
import shutil
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.errors import BasisError

CARD = "card.json"
VERSION = 1
FILES = {"calibration": "statistics.safetensors", "noise basis": "basis.safetensors"}  # by kind


def _provenance() -> dict[str, Any]:
    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a source tree that is not installed
            return "unknown"

    packages = ("seen-jax", "jax", "jaxlib", "flax", "numpy", "transformers")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in packages},
    }


def _kind(folder: Path) -> str | None:
    try:
        return json.loads((folder / CARD).read_text("utf-8")).get("kind")
    except (OSError, ValueError, AttributeError):
        return None


def write_folder(
    folder: str | Path,
    kind: str,
    tensors: Mapping[str, np.ndarray],
    card: Mapping[str, Any],
    overwrite: bool = False,
) -> Path:
    """Write the tensors and card.json beside the target, then rename the folder into place.

    Format version, kind, shapes, date and package versions are added to the card; a date and versions that it
    already holds stay. Returns the folder.

    Raises:
        BasisError: the folder exists (with overwrite: and is neither empty nor of the same kind), the card is
            not JSON, or the disk refuses.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    target = Path(folder).expanduser().resolve()
    if target.exists():
        if not overwrite:
            raise BasisError(f"{target} exists: choose another folder or pass overwrite=True")
        if not target.is_dir() or (any(target.iterdir()) and _kind(target) != kind):
            raise BasisError(f"{target} is not a {kind} folder, so it is not replaced: choose another folder")
    full = {**_provenance(), **card, "kind": kind, "format_version": VERSION}
    full["shapes"] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    try:
        text = json.dumps(full, indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise BasisError(f"the card of {target} cannot be written as JSON: {error}") from error
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    old = fresh.with_name(fresh.name + ".old")
    try:
        fresh.mkdir(parents=True)
        save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, fresh / FILES[kind])
        (fresh / CARD).write_text(text + "\n", "utf-8")
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    except (OSError, SafetensorError) as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise BasisError(f"cannot write {target}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
    return target


def read_folder(
    folder: str | Path, kind: str, required: tuple[str, ...], double: frozenset[str] = frozenset()
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors (float32, those named in `double` float64) and the card of a folder that `write_folder` made.

    Args:
        required: card keys that must be there.

    Raises:
        BasisError: a missing folder or file, a truncated safetensors file, a card that is not JSON, of
            another kind or version or lacks a key, tensors of another dtype or not of the card's shapes.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    source = Path(folder).expanduser()
    if not source.is_dir():
        raise BasisError(f"{source} is not a folder: expected a saved {kind}")
    weights = source / FILES[kind]
    for path in (source / CARD, weights):
        if not path.is_file():
            raise BasisError(f"{path} is missing: {source} is not a complete {kind}; make it again")
    try:
        card = json.loads((source / CARD).read_text("utf-8"))
    except ValueError as error:
        raise BasisError(f"{source / CARD} is not JSON ({error}): make the {kind} again") from error
    if not isinstance(card, dict) or card.get("kind") != kind:
        raise BasisError(f"{source / CARD} is not the card of a {kind}")
    if card.get("format_version") != VERSION:
        raise BasisError(
            f"{source / CARD} has format version {card.get('format_version')!r}, "
            f"this seen_jax reads {VERSION}: make the {kind} again"
        )
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
    return tensors, card
