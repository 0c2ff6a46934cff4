"""A package outside ours adds one of each kind, in one file each, and an experiment takes them to its report.
The package is that of docs/adding.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml
from evaluate_models import random_folder
from outside import install

PAGE = (Path(__file__).parents[1] / "docs" / "adding.md").read_text()
[PROJECT] = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
GROUPS = tomllib.loads(PROJECT)["project"]["entry-points"]
MODULES = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))


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
