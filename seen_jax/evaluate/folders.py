"""A result folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from seen_jax.errors import ConfigError


def check_target(target: Path, mine: Callable[[Path], bool]) -> None:
    """ConfigError if `target` holds anything but what `mine` recognises as a former result."""
    if not target.exists() or (target.is_dir() and (not any(target.iterdir()) or mine(target))):
        return
    raise ConfigError(f"{target} is in use and holds no former result of this command: choose another folder")


@contextmanager
def fresh_folder(target: Path, mine: Callable[[Path], bool]) -> Iterator[Path]:
    """A hidden folder beside `target` to write into; it takes the target's place when the block ends without an error.

    Raises ConfigError as `check_target`, and where the disk refuses.
    """
    target = target.expanduser().resolve()
    check_target(target, mine)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    old = fresh.with_name(fresh.name + ".old")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        check_target(target, mine)  # a long run lies between the first look and now
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise ConfigError(f"cannot write {target}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
