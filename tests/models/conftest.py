"""Miniature checkpoints, built and loaded once for all tests of the models."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_omni import write_checkpoint

from seen_jax.models.load import load
from seen_jax.models.model import Model


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A model folder (float32, unsharded) that no test changes."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "omni")


@pytest.fixture(scope="session")
def model(folder) -> Model:
    return load(folder)
