"""Shared fixtures. Shapes in signatures are checked while the tests run (jaxtyping + beartype)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("JAX_PLATFORMS", "cpu")
CACHE = Path(__file__).parent.parent / ".cache" / "xla"

hook = install_import_hook("seen_jax", "typecheck.checker")
hook.__enter__()


def pytest_configure(config: pytest.Config) -> None:
    import jax

    CACHE.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of real recordings; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("SEEN_RECORDINGS", Path(__file__).parents[2] / "shared" / "recordings"))
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}; set SEEN_RECORDINGS to a folder of real audio")
    return folder
