"""A package outside ours adds one of each kind, in one file each, and an experiment takes them to its report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from evaluate_models import random_folder
from outside import install

GROUPS = {
    "seen_jax.families": {"echo": "outside_family:ECHO"},
    "seen_jax.mitigations": {"quieter": "outside_mitigation:Quieter"},
    "seen_jax.studies": {"tilt": "outside_study:TILT"},
    "seen_jax.denoisers": {"smoother": "outside_denoiser:Smoother"},
    "seen_jax.datasets": {"chords": "outside_dataset:CHORDS"},
}

FAMILY = """
from seen_jax.models.families.qwen2_5_omni import Qwen25Omni


class Echo(Qwen25Omni):
    name = "echo"
    model_types = ("echo_audio",)

    def complete(self, raw):
        return super().complete({**raw, "model_type": "qwen2_5_omni_thinker"})


ECHO = Echo()
"""

MITIGATION = """
import dataclasses

from seen_jax.mitigations.base import Mitigation


@dataclasses.dataclass(frozen=True)
class Quieter(Mitigation):
    name = "quieter"
    factor: float = 0.5

    def hear(self, wave):
        return self.factor * wave
"""

STUDY = """
import pandas as pd

from seen_jax.studies.base import Case, Study


class Tilt(Study):
    name = "tilt"
    title = "Study: tilt"
    lead = "How SEE of the experiment's own selection moves from clean to noisy audio."
    values = ("see_clean", "see_noisy")

    def cases(self, lab):
        for noise in lab.calibrated:
            yield Case({"noise": noise}, noise, lab.calibration(noise).select(lab.config.selection))


TILT = Tilt()
"""

DENOISER = """
from dataclasses import dataclass

import numpy as np

from seen_jax.audio.denoisers.base import Denoiser, option


@dataclass(frozen=True)
class Smoother(Denoiser):
    name = "smoother"
    width: int = option(3, 1, 64)

    def denoise(self, wave):
        return np.convolve(wave, np.ones(self.width) / self.width, "same")
"""

DATASET = """
from pathlib import Path

import numpy as np

from seen_jax.audio import write_audio
from seen_jax.audio.find import AudioItem
from seen_jax.data.base import Dataset, Row


class Chords(Dataset):
    name = "chords"
    looks_for = "chords:FOLDER, where chords are written"

    def rows(self, path):
        if not path.startswith("chords:"):
            return None
        rows = []
        for i in range(3):
            file = Path(path.removeprefix("chords:")) / f"{i}.wav"
            t = np.arange(9600 + 320 * i) / 16000
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                write_audio(file, 0.1 * np.sin(2 * np.pi * (200 + 90 * i) * t) + 0.1 * np.sin(2 * np.pi * 333 * t))
            columns = {"question": "which colour", "choices": '["red", "green"]', "answer": "red", "task": "sound"}
            rows.append(Row(AudioItem(str(i), file, extra=columns)))
        return rows


CHORDS = Chords()
"""

MODULES = {
    "outside_family": FAMILY,
    "outside_mitigation": MITIGATION,
    "outside_study": STUDY,
    "outside_denoiser": DENOISER,
    "outside_dataset": DATASET,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A finished experiment with the package installed."""
    root = tmp_path_factory.mktemp("outside")
    model = shutil.copytree(random_folder(), root / "model")
    raw = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**raw, "model_type": "echo_audio"}))
    config = {
        "model": str(model),
        "out": str(root / "out"),
        "datasets": [{"path": f"chords:{root / 'chords'}", "name": "chords"}],
        "calibration": {"clips": 4},
        "noises": ["white"],
        "snrs": [0, 20],
        "mitigations": [
            "none",
            {"name": "quieter", "quieter": {"factor": 0.25}},
            {"name": "smoother", "smoother": {"width": 5}},
            "smoother+seen",
        ],
        "studies": ["tilt"],
        "study_items": 2,
        "batch_size": 2,
        "max_new_tokens": 4,
    }
    (root / "experiment.yaml").write_text(yaml.safe_dump(config))
    site = install(root / "site", GROUPS, MODULES)
    done = subprocess.run(
        [sys.executable, "-m", "seen_jax.cli", "evaluate", str(root / "experiment.yaml")],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return root


def test_an_experiment_takes_a_package_to_the_report(folder):
    assert len(MODULES) == len(GROUPS), "one file each"
    out = folder / "out"
    answers = pd.read_csv(out / "tables" / "answers.csv", keep_default_na=False)
    assert set(answers["dataset"]) == {"chords"} and len(set(answers["item"])) == 3
    assert set(answers["mitigation"]) == {"none", "quieter", "smoother", "smoother+seen"}
    tilt = pd.read_csv(out / "tables" / "study_tilt.csv")
    assert tilt["noise"].tolist() == ["white"] and tilt[["see_clean", "see_noisy"]].notna().all(axis=None)
    page, text = (out / "index.html").read_text(), (out / "report.md").read_text()
    for shown in ("Study: tilt", "quieter", "smoother + SEEN", "chords"):
        assert shown in page and shown in text


def test_without_the_package_each_kind_is_unknown(folder):
    done = subprocess.run(
        [sys.executable, "-m", "seen_jax.cli", "evaluate", str(folder / "experiment.yaml"), "--out", str(folder / "b")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "quieter" in done.stderr and "Traceback" not in done.stderr
