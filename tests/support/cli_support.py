"""What the command-line tests share: a tiny random model, wavs, and `main` as a function of its arguments."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seen_jax.audio import synthetic_noise, write_audio
from seen_jax.cli import main
from seen_jax.train.config import ModelSize

SIZE = ModelSize(
    n_mels=32, n_window=30, encoder_width=32, encoder_layers=2, encoder_heads=2, decoder_width=32, decoder_layers=2,
    decoder_heads=2,
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


def run(*argv: str | Path) -> Outcome:
    """The command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([str(arg) for arg in argv])
    return Outcome(status, out.getvalue(), err.getvalue())


def make_model(folder: Path, seed: int = 0, size: ModelSize = SIZE) -> Path:
    """A tiny random model as a Hugging Face folder."""
    from seen_jax.train.export import write_folder, write_weights
    from seen_jax.train.tasks import vocabulary
    from seen_jax.train.trainer import initial_params

    config = write_folder(folder, size, vocabulary())
    write_weights(folder, initial_params(config, seed)["lalm"])
    return folder


def make_clips(folder: Path, count: int, seconds: float = 0.6) -> Path:
    """Clips that differ: chords of random pitch with a little noise."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * 16_000)) / 16_000
    for i in range(count):
        tones = sum(np.sin(2 * np.pi * rng.uniform(100, 2000) * t) for _ in range(3))
        write_audio(folder / f"clip{i}.wav", 0.1 * tones + 0.01 * rng.standard_normal(len(t)))
    return folder


@dataclass(frozen=True)
class World:
    """A folder in which a user might work."""

    root: Path
    model: Path
    clips: Path
    crowd: Path
    calibrations: Path

    @property
    def white(self) -> Path:
        return self.calibrations / "white"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once, however many modules take this fixture over."""
    return _make_world(tmp_path_factory.getbasetemp() / "cli")


@cache
def _make_world(root: Path) -> World:
    world = World(root, root / "model", root / "clips", root / "noise" / "crowd.wav", root / "calibrations")
    make_model(world.model)
    make_clips(world.clips, 12)
    write_audio(world.crowd, 0.1 * synthetic_noise("babble", 20_000, 1))
    made = run(
        "calibrate", world.clips, "--noise", "white", "--out", world.calibrations, "--model", world.model, "--json"
    )
    assert made.status == 0, made.err
    return world
