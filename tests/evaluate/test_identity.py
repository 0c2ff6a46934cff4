"""What an experiment is: another one, other audio or damaged files are noticed, and nobody's files are deleted."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from experiment_support import settings, write_clips

from seen_jax.audio import read_audio, synthetic_noise, write_audio
from seen_jax.errors import ConfigError
from seen_jax.evaluate import prepare as preparing
from seen_jax.evaluate.config import ExperimentConfig, NoiseConfig
from seen_jax.evaluate.ledger import ANSWERS, MANIFEST
from seen_jax.evaluate.prepare import prepare
from seen_jax.experiment import evaluate
from seen_jax.models.model import Model
from seen_jax.progress import silent
from seen_jax.subspace import Calibration


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Clips, a noise, and a finished experiment on them."""
    root = tmp_path_factory.mktemp("identity")
    write_clips(root / "test", 3, seed=0)
    write_clips(root / "calibration", 4, seed=1)
    write_audio(root / "hiss.wav", 0.1 * synthetic_noise("pink", 32_000, 1))
    evaluate(small(root))
    return root


def small(root: Path) -> ExperimentConfig:
    noises = (NoiseConfig(str(root / "hiss.wav")),)
    return dataclasses.replace(settings(root, root / "out"), noises=noises, snrs=(0.0,), mitigations=("none", "seen"))


@pytest.fixture
def finished(template, tmp_path):
    """The same, to be spoilt: afterwards it is as it was."""
    shutil.copytree(template, tmp_path / "kept")
    yield template
    shutil.rmtree(template)
    shutil.copytree(tmp_path / "kept", template)


def test_a_finished_experiment_is_not_run_again(finished, monkeypatch):
    before = (finished / "out" / ANSWERS).read_bytes()
    monkeypatch.setattr("seen_jax.experiment.answer_unit", lambda *_: pytest.fail("it answers again"))
    evaluate(small(finished))
    assert (finished / "out" / ANSWERS).read_bytes() == before


@pytest.mark.parametrize("name, what", [("hiss.wav", "hiss"), ("test/1.wav", "birds"), ("calibration/1.wav", "calib")])
def test_other_audio_of_the_same_name_and_length_is_noticed(finished, name, what):
    samples = len(read_audio(finished / name))
    write_audio(finished / name, 0.1 * synthetic_noise("brown", samples, 7))
    with pytest.raises(ConfigError, match=f"the audio of .*{what}.* is not what .* was begun with"):
        evaluate(small(finished))


@pytest.mark.parametrize("key", ["fingerprint", "snr_db", "data"])
def test_a_calibration_of_something_else_is_noticed(finished, key):
    [folder] = [path.parent for path in (finished / "out" / "calibration").rglob("card.json")]
    calibration = Calibration.load(folder)
    other = {"fingerprint": "0" * 16, "snr_db": 5.0, "data": {"clean": ["0" * 16], "noise": []}}
    dataclasses.replace(calibration, card={**calibration.card, key: other[key]}).save(folder, overwrite=True)
    with pytest.raises(ConfigError, match=f"of another {'clips' if key == 'data' else key}"):
        prepare(small(finished), silent)


def test_other_generation_settings_are_noticed(finished, monkeypatch, tmp_path):
    config = small(finished)
    folder = shutil.copytree(config.model, tmp_path / "model")
    path = folder / "generation_config.json"
    generation = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(generation | {"repetition_penalty": 1.3}))
    load = preparing.load
    monkeypatch.setattr(preparing, "load", lambda _, *args, **options: load(folder, *args, **options))
    with pytest.raises(ConfigError, match="different: model_settings"):
        evaluate(config)


def test_damaged_lines_are_answered_again(finished):
    path = finished / "out" / ANSWERS
    before = path.read_bytes()
    lines = before.splitlines(keepends=True)
    changed = lines[0].replace(b'"see": 0.', b'"see": 9.', 1)
    assert changed != lines[0]
    for damaged in ([changed, *lines[1:]], lines[1:], [lines[0][:-9] + b"\n", *lines[1:]]):
        path.write_bytes(b"".join(damaged))
        evaluate(small(finished))
        assert path.read_bytes() == before


def test_a_damaged_manifest_is_noticed(finished):
    manifest = finished / "out" / MANIFEST
    manifest.write_text(manifest.read_text()[:-20])
    with pytest.raises(ConfigError, match=r"manifest\.json is damaged"):
        evaluate(small(finished))


def test_only_what_was_written_is_deleted(finished):
    out = finished / "out"
    mine = [out / "notes.txt", out / "tables" / "mine.csv", out / "figures" / "mine.png", out / "calibration" / "a.txt"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    evaluate(dataclasses.replace(small(finished), snrs=(5.0,)), overwrite=True)
    assert all(path.read_text() == "mine" for path in mine)
    assert "5.0" in (out / "tables" / "answers.csv").read_text()


@pytest.mark.parametrize("name", ["../../up", "/absolute", "a/b", "..", "a\nb", "x" * 300])
def test_names_stay_inside_their_folder(template, name, tmp_path):
    config = dataclasses.replace(small(template), out=str(tmp_path / "out"), noises=(NoiseConfig("white", name),))
    with pytest.raises(ConfigError, match=r"the noise .* cannot name a file"):
        prepare(config, silent)
    assert not (tmp_path / "out" / "calibration").exists()
    with pytest.raises(ConfigError, match="mitigation"):
        dataclasses.replace(small(template), mitigations=("none", {"name": name, "seen": True}))


def test_one_process_at_a_time(finished):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom seen_jax.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(finished / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process works in"):
            evaluate(small(finished))
        other.kill()
    evaluate(small(finished))


def test_numbers_that_are_not_finite_are_no_answers(finished, monkeypatch):
    """A NaN in the weights of the encoder fails every item, by name, and gives no GSR of 100 %."""
    load = preparing.load

    def broken(*args, **options) -> Model:
        model = load(*args, **options)
        encoder = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(np.nan), model.variables["params"]["encoder"])
        return dataclasses.replace(model, variables={"params": {**model.variables["params"], "encoder": encoder}})

    monkeypatch.setattr(preparing, "load", broken)
    (finished / "out" / ANSWERS).unlink()
    summary = evaluate(small(finished))
    assert summary["answers"] == 0 and summary["failed"] == 3
    assert "not finite" in (finished / "out" / "tables" / "failures.csv").read_text()


def test_names_that_are_no_utf8_and_clips_that_are_too_long(tmp_path):
    """Such an item is answered or fails by itself, and its name is escaped in tables and page."""
    root = tmp_path / "world"
    write_clips(root / "calibration", 4, seed=1)
    (root / "clips").mkdir()
    name = os.fsdecode(b"bird\xff")
    for stem, seconds in ((name, 0.5), (f"{name}-long", 400.0), ("plain", 0.6)):
        write_audio(root / "clips" / f"{stem}.wav", 0.1 * synthetic_noise("pink", round(seconds * 16_000), len(stem)))
    (root / "clips" / f"{name}-damaged.wav").write_bytes(b"RIFF")
    config = settings(root, root / "out")
    datasets = (dataclasses.replace(config.datasets[0], path=str(root / "clips"), name=None),)
    summary = evaluate(dataclasses.replace(config, datasets=datasets, noises=("white",), mitigations=("none", "seen")))
    assert (summary["answers"], summary["failed"]) == (2 * 3 * 2, 2)
    failures = pd.read_csv(root / "out" / "tables" / "failures.csv")
    reasons = dict(zip(failures["item"], failures["why"], strict=True))
    assert "bird\\udcff-damaged" in reasons["bird\\udcff-damaged"] and "at most 300 s" in reasons["bird\\udcff-long"]
    assert "bird\\udcff" in (root / "out" / "tables" / "answers.csv").read_text()


def test_the_manifest_names_what_it_identifies(finished):
    manifest = json.loads((finished / "out" / MANIFEST).read_text())
    assert set(manifest["contents"]) == {"the clips of calibration", "the data set birds", "the noise hiss"}
