"""A disk on which there is no room."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def full_disk(space: int) -> Iterator[None]:
    """No file can become longer than `space` bytes while the block runs."""
    import resource  # Windows has none

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (space, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
