"""Small experiments: clips, questions, and settings that run in seconds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from evaluate_models import random_folder

from seen_jax.audio import write_audio
from seen_jax.data.datasets import DatasetConfig
from seen_jax.evaluate.config import CalibrationConfig, ExperimentConfig, NoiseConfig
from seen_jax.subspace import Selection

COMPLEMENT = Selection(method="complement", energy="sigma", layers="all")


def write_clips(folder: Path, count: int, seed: int, seconds: tuple[float, float, float] = (0.5, 0.6, 0.7)) -> None:
    """Chords of three lengths: four questions with choices for every two transcripts."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        t = np.arange(round(seconds[i % 3] * 16_000)) / 16_000
        tones = sum(np.sin(2 * np.pi * rng.uniform(100, 2000) * t) for _ in range(3))
        write_audio(folder / f"{i}.wav", 0.1 * tones + 0.01 * rng.standard_normal(len(t)))
        choice = {"question": "which bird", "choices": json.dumps(["cat", "dog"]), "answer": "dog", "task": "sound"}
        spoken = {"text": "the red bird", "task": "transcription"}
        rows.append({"path": f"{i}.wav", **(spoken if i % 3 == 2 else choice)})
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "task", "question", "choices", "answer", "text"])
        writer.writeheader()
        writer.writerows(rows)


def restoration(world: Path, name: str = "spectral_subtraction+restoration", **options) -> dict:
    clips = {"path": str(world / "calibration" / "items.csv")}
    fit = {"dataset": clips, "clips": 4, "snrs": [-5, 5], "layers": [-2], "gate_layers": [0, -1], **options}
    return {"name": name, "spectral_subtraction": {}, "restoration": fit}


def settings(world: Path, out: Path) -> ExperimentConfig:
    return ExperimentConfig(
        model=str(random_folder()),
        out=str(out),
        datasets=(DatasetConfig(str(world / "test" / "items.csv"), name="birds"),),
        calibration=CalibrationConfig(DatasetConfig(str(world / "calibration" / "items.csv")), clips=4),
        noises=("white", NoiseConfig("babble", calibrated=False)),
        snrs=(-5.0, 20.0),
        mitigations=("none", "seen", "spectral_subtraction", "spectral_subtraction+seen", restoration(world)),
        selection=COMPLEMENT,
        batch_size=2,
        max_new_tokens=4,
    )
