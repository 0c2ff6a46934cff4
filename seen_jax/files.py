"""Files and folders that appear whole or not at all, and what identifies their contents."""

import contextlib
import csv
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from seen_jax.errors import ConfigError, SeenError

DAY = 86_400  # seconds
LOCK = ".lock"
_HIDDEN = re.compile(r"[0-9a-f]{32}(\.old)?")
_unfinished: dict[Path, Callable[[], None]] = {}  # {hidden file or folder: how to delete it} of this process
PACKAGES = ("seen-jax", "jax", "jaxlib", "flax", "numpy", "transformers")


def write_file(path: Path, content: str | bytes | Callable[[Path], Any], error: type[SeenError] = ConfigError) -> Path:
    """Write a file through a hidden one beside it, so that it is complete or absent; folders are created. content: text
    (UTF-8), bytes, or a function that writes to a path. error: raised where the disk refuses, with the reason."""
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")  # short: a name has 255 bytes at most
    _unfinished[partial] = tidy = lambda: partial.unlink(missing_ok=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        share(partial)
        partial.replace(path)
    except (OSError, UnicodeError) as e:
        reason = getattr(e, "strerror", None) or e
        raise error(f"cannot write {path}: {reason}; what was written before is kept") from e
    finally:
        with contextlib.suppress(OSError):
            tidy()
        del _unfinished[partial]
    return path


@contextlib.contextmanager
def write_folder(
    target: Path, error: type[SeenError] = ConfigError, mine: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """A hidden folder beside `target` to write into; it takes the target's place when the block ends without an error.
    error: raised where the disk refuses or `target` is in use. mine: whether a non-empty folder may be replaced."""
    target = Path(os.path.expanduser(target)).resolve()
    restore_folder(target)
    _check_free(target, error, mine)
    fresh = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}")
    old = fresh.with_name(fresh.name + ".old")
    _unfinished[fresh] = tidy = functools.partial(_tidy, target, fresh, old)
    try:
        fresh.mkdir(parents=True)
        yield fresh
        _check_free(target, error, mine)  # a long run may lie between the first look and now
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    except OSError as e:
        raise error(f"cannot write {target}: {e.strerror or e}") from e
    finally:
        tidy()
        del _unfinished[fresh]


def _tidy(target: Path, fresh: Path, old: Path) -> None:
    with contextlib.suppress(OSError):
        if old.exists() and not target.exists():
            old.rename(target)
    shutil.rmtree(fresh, ignore_errors=True)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)


def remove_unfinished() -> None:
    """Delete the hidden files and folders of writers that an interruption has broken off, even as they tidied up."""
    for tidy in list(_unfinished.values()):
        with contextlib.suppress(OSError):
            tidy()


def restore_folder(target: Path) -> None:
    """Put back the folder that `write_folder` was replacing when it was killed, and delete what it left behind.

    Only what nobody has changed for a day is deleted: another process may be writing.
    """
    with contextlib.suppress(OSError):
        for path in target.parent.glob(f".{glob.escape(target.name[:100])}.*"):
            if not _HIDDEN.fullmatch(path.name.rpartition(f"{target.name[:100]}.")[2]):
                continue
            if path.suffix == ".old" and not target.exists():
                path.rename(target)
            elif time.time() - path.stat().st_mtime > DAY:
                shutil.rmtree(path, ignore_errors=True)


def share(path: Path) -> None:
    """Give a file the permissions that a new one has here; some libraries make files for their owner alone."""
    probe = path.with_name(f".{uuid.uuid4().hex}.mode")
    _unfinished[probe] = functools.partial(probe.unlink, missing_ok=True)
    probe.touch()
    path.chmod(probe.stat().st_mode & 0o777)
    probe.unlink()
    del _unfinished[probe]


def _check_free(target: Path, error: type[SeenError], mine: Callable[[Path], bool]) -> None:
    if target.exists() and not (target.is_dir() and (not any(target.iterdir()) or mine(target))):
        raise error(f"{target} exists and is not replaced: choose another folder")


def to_json(value: Any) -> str:
    """Indented JSON text with a final newline. Raises ValueError on NaN and infinite numbers."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for anything else: NaN, deep nesting and lone surrogates too."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        value = json.loads(text, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # 1e999 is infinite, "\\ud800" no text
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def csv_quoting(cells: Iterable[Any]) -> Literal[0, 1]:
    """How to quote a CSV file whose lines end in \\n: Python's writer puts no quotes around a carriage return,
    which readers take for the end of a line."""
    return csv.QUOTE_ALL if any("\r" in cell for cell in cells if isinstance(cell, str)) else csv.QUOTE_MINIMAL


def escaped(name: str) -> str:
    """A file name as text that any file can hold: bytes that are no UTF-8 become escapes such as \\udcff."""
    return name.encode("utf-8", "backslashreplace").decode()


def digest(parts: Iterable[str | bytes]) -> str:
    """16 hexadecimal digits that identify a sequence of texts or bytes (SHA-256; where each part ends counts)."""
    hashed = hashlib.sha256()
    for part in parts:
        content = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        hashed.update(len(content).to_bytes(8, "little") + content)
    return hashed.hexdigest()[:16]


def file_parts(path: Path) -> Iterator[bytes]:
    """The bytes of a file in parts, for `digest`."""
    with path.open("rb") as file:
        while part := file.read(1 << 24):
            yield part


def file_mark(path: Path) -> str:
    """Identifies a file without reading all of a large one: its size and 64 parts of 16 KB spread over it."""
    size, part = path.stat().st_size, 1 << 14
    with path.open("rb") as file:
        offsets = range(0, size, max(size // 64, part))
        return digest([str(size), *(file.read(part) for offset in offsets if file.seek(offset) == offset)])


def check_name(kind: str, name: str) -> str:
    """A name that files may have, as it is. ConfigError for another: it must stay inside its folder and be readable."""
    plain = name.isprintable() and name == name.strip() and not set(name) & set('/\\:*?"<>|')
    if not plain or name.startswith((".", "-")) or not 0 < len(name.encode()) <= 100:
        raise ConfigError(
            f"the {kind} {name!r:.120} cannot name a file: give it a `name` of up to 100 letters and digits"
        )
    return name


@contextlib.contextmanager
def locked(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Hold a lock file of a folder, which is made where it is missing, while the block runs. Raises ConfigError where
    another process holds it, and where the disk refuses.

    The lock ends with the process, however that ends. Windows and some network drives have no such locks.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror or error}") from None
    try:
        import fcntl
    except ImportError:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process works in {path.parent}: wait for it, or choose another one") from None
        except PermissionError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None
        except OSError:  # the drive has no locks
            pass
        yield


def cache_folder() -> Path:
    """Where compiled programs, synthesised clips and released bases are kept: SEEN_JAX_CACHE, or a folder in the user's
    cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "seen_jax"
    return Path(os.path.expanduser(os.environ.get("SEEN_JAX_CACHE") or default))


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
