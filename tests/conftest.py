"""Shared fixtures. Shapes in signatures are checked while the tests run (jaxtyping + beartype)."""

from __future__ import annotations

import gc
import itertools
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from compilation_cache import CACHE
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    # A core for each of the processes: with all cores for all, XLA's threads spend most of the time waiting in turns.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
if metadata.version("jax").startswith("0.10."):
    # Tests compile far more than they run: programs that are compiled quickly take half the time in all. The flags are
    # XLA's own and change from version to version; an unknown one ends the process.
    quick = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
    os.environ.setdefault("XLA_FLAGS", quick)  # XLA_FLAGS= pytest: as users compile
SLOW = (  # minutes each: begun first, so that no process ends long after the other
    "test_parity_families.py", "test_sharding.py", "test_training.py", "test_golden_parity.py", "test_run.py",
    "test_cli.py", "test_apply.py", "test_hosts.py", "test_stream.py", "test_released_bases.py",
    "test_experiment.py", "test_parity_seen_tiny.py", "test_checkpoint.py", "test_notebook.py",
)  # fmt: skip

settings.register_profile("seen", deadline=None)  # a busy machine is no error
settings.load_profile("seen")
hook = install_import_hook("seen_jax", "typecheck.checker")
hook.__enter__()


def pytest_configure(config: pytest.Config) -> None:
    import jax

    CACHE.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, but for the notebooks, each of which any process may take."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return nodeid if file.endswith("test_notebook.py") else file

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How long each notebook took."""
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == "notebook":
                terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def compiled_programs_are_freed(tests=itertools.count(1)):  # noqa: B008
    """Every compiled program maps some memory, and Linux lets a process map 65,530 regions: past that it crashes."""
    yield
    maps = Path("/proc/self/maps")
    if next(tests) % 10 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        import jax

        jax.clear_caches()
        gc.unfreeze()
        gc.collect()


@pytest.fixture(scope="module", autouse=True)
def the_collector_passes_over_what_stays():
    """Traced programs are millions of objects, and a collection that walks them all takes seconds, many times over."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of real recordings; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("SEEN_RECORDINGS", Path(__file__).parents[2] / "shared" / "recordings"))
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}; set SEEN_RECORDINGS to a folder of real audio")
    return folder
