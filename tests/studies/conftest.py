"""A small experiment on a random model, and all of its studies."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from evaluate_models import random_folder

from seen_jax.audio import write_audio
from seen_jax.data.datasets import DatasetConfig
from seen_jax.evaluate.config import CalibrationConfig, ExperimentConfig, NoiseConfig
from seen_jax.evaluate.prepare import prepare
from seen_jax.progress import silent
from seen_jax.registry import STUDIES
from seen_jax.subspace import Selection


def write_clips(folder: Path, count: int, seed: int) -> str:
    """Chords of different lengths: two questions for every transcript."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "task", "question", "choices", "answer", "text"])
        for i in range(count):
            t = np.arange(round((0.5 + 0.1 * (i % 3)) * 16_000)) / 16_000
            tones = sum(np.sin(2 * np.pi * rng.uniform(100, 2000) * t) for _ in range(3))
            write_audio(folder / f"{i}.wav", 0.1 * tones + 0.01 * rng.standard_normal(len(t)))
            asked = ["sound", "which bird", json.dumps(["cat", "dog"]), "dog", ""]
            writer.writerow([f"{i}.wav", *(["transcription", "", "", "", "the red bird"] if i % 3 == 2 else asked)])
    return str(folder / "items.csv")


@pytest.fixture(scope="package")
def whole_config(tmp_path_factory) -> ExperimentConfig:
    root = tmp_path_factory.mktemp("studies")
    return ExperimentConfig(
        model=str(random_folder()),
        out=str(root / "out"),
        datasets=(DatasetConfig(write_clips(root / "test", 5, 0), name="birds"),),
        calibration=CalibrationConfig(DatasetConfig(write_clips(root / "calibration", 12, 1)), clips=6),
        noises=("white", "pink", NoiseConfig("engine", calibrated=False)),
        snrs=(-5.0, 0.0, 20.0),
        selection=Selection(method="complement", energy="sigma", layers="all"),
        study_items=3,
        batch_size=2,
        max_new_tokens=3,
        studies=tuple(STUDIES),
    )


@pytest.fixture(scope="package")
def config(whole_config) -> ExperimentConfig:
    return whole_config


@pytest.fixture(scope="package")
def experiment(whole_config):
    return prepare(whole_config, silent)
