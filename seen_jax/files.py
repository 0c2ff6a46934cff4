"""Files and folders that appear whole or not at all, and what identifies their contents."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from seen_jax.errors import ConfigError, SeenError

PACKAGES = ("seen-jax", "jax", "jaxlib", "flax", "numpy", "transformers")


def write_file(path: Path, content: str | bytes | Callable[[Path], Any], error: type[SeenError] = ConfigError) -> Path:
    """Write a file through a hidden one beside it, so that it is complete or absent; folders are created. content: text
    (UTF-8), bytes, or a function that writes to a path. error: raised where the disk refuses, with the reason."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as e:
        raise error(f"cannot write {path}: {e.strerror or e}; what was written before is kept") from e
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def write_folder(
    target: Path, error: type[SeenError] = ConfigError, mine: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """A hidden folder beside `target` to write into; it takes the target's place when the block ends without an error.
    error: raised where the disk refuses or `target` is in use. mine: whether a non-empty folder may be replaced."""
    target = target.expanduser().resolve()
    _check_free(target, error, mine)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    old = fresh.with_name(fresh.name + ".old")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        _check_free(target, error, mine)  # a long run may lie between the first look and now
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    except OSError as e:
        if old.exists() and not target.exists():
            old.rename(target)
        raise error(f"cannot write {target}: {e.strerror or e}") from e
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def _check_free(target: Path, error: type[SeenError], mine: Callable[[Path], bool]) -> None:
    if target.exists() and not (target.is_dir() and (not any(target.iterdir()) or mine(target))):
        raise error(f"{target} exists and is not replaced: choose another folder")


def to_json(value: Any) -> str:
    """Indented JSON text with a final newline. Raises ValueError on NaN and infinite numbers."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def digest(parts: Iterable[str | bytes]) -> str:
    """16 hexadecimal digits that identify a sequence of texts or bytes (SHA-256; where each part ends counts)."""
    hashed = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        hashed.update(len(content).to_bytes(8, "little") + content)
    return hashed.hexdigest()[:16]


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The installed versions of some packages, "unknown" for one that is not installed."""
    installed = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):  # run from a source tree that is not installed
            installed[name] = metadata.version(name)
    return {name: installed.get(name, "unknown") for name in packages}


def now() -> str:
    """The time in UTC, to the second, in ISO format."""
    return datetime.now(UTC).isoformat(timespec="seconds")
