"""Experiments: what is asked and measured, and that being killed, batch sizes and broken items change nothing else."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from evaluate_models import random_folder
from experiment_support import restoration, settings, write_clips

from seen_jax import experiment as experiments
from seen_jax.audio import write_audio
from seen_jax.cli import main
from seen_jax.config import load_config
from seen_jax.data.datasets import DatasetConfig
from seen_jax.errors import ConfigError
from seen_jax.evaluate.answer import measure, with_measure
from seen_jax.evaluate.config import CalibrationConfig, ExperimentConfig, NoiseConfig
from seen_jax.evaluate.ledger import ANSWERS, Ledger
from seen_jax.evaluate.prepare import prepare, request_of
from seen_jax.experiment import evaluate, run
from seen_jax.mitigations import restoration as restorations
from seen_jax.mitigations.chain import make_chain
from seen_jax.mitigations.restoration import Restoration
from seen_jax.models.batching import Prepared, run_batches
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.sites import ENCODER_RESID
from seen_jax.progress import silent
from seen_jax.subspace import Selection

KEYS = ("item", "noise", "snr_db", "mitigation")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("experiment")
    write_clips(root / "test", 5, seed=0)
    write_clips(root / "calibration", 4, seed=1)
    return root


@pytest.fixture
def config(world, tmp_path) -> ExperimentConfig:
    return settings(world, tmp_path / "out")


def contents(config: ExperimentConfig) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((config.folder() / "tables").iterdir())}


@pytest.fixture(scope="module")
def reference(world, tmp_path_factory):
    """(summary, tables) of an undisturbed run."""
    config = settings(world, tmp_path_factory.mktemp("whole") / "out")
    return evaluate(config), contents(config)


def table(tables: dict[str, bytes], name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(tables[f"{name}.csv"].decode().splitlines()))


def test_every_item_is_asked_under_every_condition(reference):
    summary, tables = reference
    answers = table(tables, "answers")
    assert summary["answers"] == len(answers) == 5 * 2 * 3 * 5 and summary["failed"] == 0
    keys = [tuple(r[k] for k in KEYS) for r in answers]
    assert len(set(keys)) == len(keys)
    assert {r["noise"] for r in answers} == {"white", "babble"} and {r["snr_db"] for r in answers} == {
        "",
        "-5.0",
        "20.0",
    }
    seen = [r for r in answers if r["mitigation"].endswith("seen")]
    plain = [r for r in answers if not r["mitigation"].endswith("seen")]
    assert all(float(r["see_after"]) < 1e-4 < float(r["see"]) for r in seen)
    assert all(abs(float(r["see_after"]) - float(r["see"])) < 1e-5 for r in plain)


def test_cells_follow_from_the_answers(reference):
    _, tables = reference
    answers = table(tables, "answers")
    task = {r["item"]: r["task"] for r in answers}
    answer = {tuple(r[k] for k in KEYS): r["letter"] or r["output"].lower().strip(" .") for r in answers}
    for cell in table(tables, "conditions"):
        condition = tuple(cell[k] for k in KEYS[1:])
        noise = cell["noise"]
        items = [item for item in task if task[item] == cell["task"]]
        same = [answer[item, *condition] == answer[item, noise, "", "none"] for item in items]
        assert int(cell["items"]) == len(items)
        assert float(cell["gsr"]) == pytest.approx(np.mean(same))
    clean = [c for c in table(tables, "overall") if (c["mitigation"], c["snr_db"]) == ("none", "")]
    assert float(clean[0]["gsr"]) == 1.0


def test_a_noise_without_a_basis_gets_the_union_of_the_others(reference):
    _, tables = reference
    rows = {(r["noise"], r["mitigation"]): r for r in table(tables, "bases")}
    assert rows["babble", "seen"]["calibrated"] == "False" and rows["white", "seen"]["calibrated"] == "True"
    assert json.loads(rows["babble", "seen"]["ranks"]) == json.loads(rows["white", "seen"]["ranks"])


def test_an_interrupted_run_goes_on_and_ends_the_same(config, reference, monkeypatch):
    """Stopped after every unit in turn, and once in the middle of a line: no unit is computed twice."""
    answer_unit = experiments.answer_unit
    computed: list[str] = []

    def one_more(experiment, unit, clean):
        if computed and computed[-1] == "stop":
            computed.pop()
            raise KeyboardInterrupt
        computed.append(unit.key)
        trials = answer_unit(experiment, unit, clean)
        computed.append("stop")
        return trials

    monkeypatch.setattr(experiments, "answer_unit", one_more)
    stops = 0
    while True:
        try:
            evaluate(config)
            break
        except KeyboardInterrupt:
            stops += 1
            with (config.folder() / ANSWERS).open("ab") as file:
                file.write(b'{"unit": "half')
    done = [unit for unit in computed if unit != "stop"]
    assert stops == 5 and len(done) == len(set(done)) == 6
    assert contents(config) == reference[1]


def test_the_batch_size_changes_no_answer(config, reference):
    config = dataclasses.replace(config, batch_size=5)
    evaluate(config)
    ours, theirs = (table(x, "answers") for x in (contents(config), reference[1]))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert {k: a[k] for k in a if not k.startswith("see")} == {k: b[k] for k in b if not k.startswith("see")}
        assert float(a["see"]) == pytest.approx(float(b["see"]), abs=1e-5)
        assert float(a["see_after"]) == pytest.approx(float(b["see_after"]), abs=1e-5)


def test_a_broken_item_is_a_recorded_failure(config, world, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in (world / "test").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "1.wav").write_bytes(b"RIFF, but no audio")
    write_audio(folder / "3.wav", np.zeros(8000))
    config = dataclasses.replace(config, datasets=(DatasetConfig(str(folder / "items.csv"), name="birds"),))
    summary = evaluate(config)
    tables = contents(config)
    why = {(r["item"], r["noise"]): r["why"] for r in table(tables, "failures")}
    assert {item for item, _ in why} == {"1", "3"} and summary["answers"] == 3 * 2 * 3 * 5
    assert "1.wav" in why["1", "white"] and "silence" in why["3", "white"]
    cells = [c for c in table(tables, "conditions") if c["task"] == "sound"]
    assert {(c["items"], c["failed"]) for c in cells} == {("2", "2")}


def test_an_experiment_in_which_every_item_fails_has_its_report(config, world, tmp_path):
    folder = tmp_path / "broken"
    write_clips(folder, 3, seed=5)
    for path in folder.glob("*.wav"):
        path.write_bytes(b"RIFF")
    data = (DatasetConfig(str(folder / "items.csv")),)
    summary = evaluate(dataclasses.replace(config, datasets=data, mitigations=("none", "seen")))
    assert summary["answers"] == 0 and summary["failed"] == 6  # three items, each with two noises
    assert "could not be asked" in Path(summary["page"]).read_text()


def test_audio_of_the_calibration_is_refused_in_a_test(config, world):
    both = dataclasses.replace(
        config, datasets=(DatasetConfig(str(world / "calibration" / "items.csv"), name="birds"),)
    )
    with pytest.raises(ConfigError, match=r"birds/0.*(is|shares)"):
        evaluate(both)


def test_a_folder_belongs_to_one_experiment(config, tmp_path):
    prepare(config, silent)
    with pytest.raises(ConfigError, match=r"holds another experiment \(different: snrs, seed\)"):
        prepare(dataclasses.replace(config, snrs=(0.0,), seed=1), silent)
    other = tmp_path / "in use"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is in use and holds no experiment"):
        prepare(dataclasses.replace(config, out=str(other)), silent)
    (config.folder() / ANSWERS).write_text("no JSON\n")
    with pytest.warns(UserWarning, match=r"a line of .*answers\.jsonl is damaged"):
        assert not Ledger(config.folder() / ANSWERS).done


def test_mitigations_answered_together_answer_as_alone(config):
    """Two sites and two strengths beside the unedited model, in one call."""
    mitigations = (
        "none",
        {"name": "seen", "seen": {"strength": 0.7}},
        {"name": "resid", "seen": {"site": ENCODER_RESID}},
    )
    experiment = prepare(dataclasses.replace(config, mitigations=mitigations), silent)
    model, entries = experiment.model, experiment.entries["birds"][:2]
    batch, owners = model.processor.prepared([request_of(experiment, entry, entry.item()) for entry in entries])
    prepared = Prepared([0, 1], batch, owners)
    together = measure(experiment, prepared, list(experiment.mitigations.values()), ["white"])
    for label, chain in experiment.mitigations.items():
        edits = with_measure(experiment, chain.edits(batch.audio, ["white"])["white"], "white", label, True)
        out = generate(model.lalm, model.variables, batch, edits, Decoding(4))
        answers = [row["white", label] for row in together]
        assert [a.output for a in answers] == model.processor.decode(np.asarray(out.tokens), np.asarray(out.lengths))
        see = np.asarray(out.see[experiment.basis("white", label).site].before)
        np.testing.assert_allclose(np.stack([a.see for a in answers], axis=1), see, atol=1e-5)
    assert together[0]["white", "resid"].pooled.shape == together[0]["white", "none"].pooled.shape


def test_the_same_trials_give_the_same_tables_in_any_order(config):
    config = dataclasses.replace(config, mitigations=("none", "seen"))
    run(prepare(config, silent))
    before = contents(config)
    lines = (config.folder() / ANSWERS).read_text().splitlines(keepends=True)
    (config.folder() / ANSWERS).write_text("".join(reversed(lines)))
    run(prepare(config, silent))
    assert contents(config) == before


def test_an_experiment_may_be_replaced_and_nothing_else_is_deleted(config):
    config = dataclasses.replace(config, mitigations=("none",), noises=("white",), limit=1)
    evaluate(config)
    (config.folder() / "thesis.txt").write_text("precious")
    changed = dataclasses.replace(config, seed=1)
    with pytest.raises(ConfigError, match="--overwrite"):
        evaluate(changed)
    evaluate(changed, overwrite=True)
    assert (config.folder() / "thesis.txt").read_text() == "precious"
    assert json.loads((config.folder() / "manifest.json").read_text())["identity"]["seed"] == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mitigations": ("seen",)}, "first mitigation must be 'none'"),
        ({"mitigations": ("none", "none")}, "each only once"),
        ({"mitigations": ("none", "wiener+sen")}, "no mitigation 'sen'.*Known: none, .*seen"),
        ({"mitigations": ("none", {"name": "x", "seen": {"strenght": 1}})}, "Did you mean .*strength"),
        ({"mitigations": ("none", {"name": "x", "seen": {"strength": float("inf")}})}, "finite"),
        ({"mitigations": ("none", {"name": "../x", "seen": True})}, "letters, digits"),
        ({"noises": (NoiseConfig("white", calibrated=False),)}, "at least one noise must be calibrated"),
        ({"snrs": (500.0,)}, "an SNR must be between"),
        ({"snrs": ()}, "snrs must be at least one"),
        ({"studies": ("astrology",)}, "no study 'astrology'"),
        ({"limit": 0}, "limit must be 1 or more"),
        ({"site": "encoder.mlp"}, r"Did you mean 'encoder\.mlp_act'"),
        ({"strength": float("nan")}, "strength must be a finite number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        ExperimentConfig(**values)


def test_a_config_file_may_name_or_write_out_its_parts(tmp_path):
    (tmp_path / "e.yaml").write_text(
        "noises: [white, {spec: babble, calibrated: false}]\n"
        "datasets: [{path: seen-tiny/demo, limit: 3}]\n"
        "mitigations: [none, wiener, {name: half, seen: {strength: 0.5, selection: {method: complement}}}]\n"
    )
    config = load_config(ExperimentConfig, tmp_path / "e.yaml", ["--snrs=-5,5"])
    assert config.noises == (NoiseConfig("white"), NoiseConfig("babble", calibrated=False))
    assert [chain.label for chain in config.chains] == ["none", "wiener", "half"] and config.snrs == (-5.0, 5.0)
    [seen] = config.chains[2].steps
    assert seen.selection == Selection(method="complement") and seen.strength == 0.5


def test_the_command(config, world, tmp_path, capsys):
    (tmp_path / "e.yaml").write_text(
        f"model: {random_folder()}\n"
        f"datasets: [{{path: {world / 'test' / 'items.csv'}, name: birds}}]\n"
        f"calibration: {{dataset: {{path: {world / 'calibration' / 'items.csv'}}}, clips: 4}}\n"
        "noises: [white]\nsnrs: [0]\nmax_new_tokens: 3\nselection: {method: complement, layers: all}\n"
    )
    argv = ["evaluate", str(tmp_path / "e.yaml"), "--out", str(tmp_path / "run"), "--limit", "1"]
    assert main([*argv, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["answers"] == 2 * 2 * 2 and [m["name"] for m in data["mitigations"]] == ["none", "seen"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "gain in GSR" in out and f"open {tmp_path / 'run' / 'index.html'}" in out
    page = (tmp_path / "run" / "index.html").read_text()
    assert "SEE against GSR" in page and (tmp_path / "run" / "report.md").stat().st_size > 1000
    assert main([*argv, "--seed", "3"]) == 1
    assert "holds another experiment (different: seed)" in capsys.readouterr().err


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("family", ["qwen2_5_omni", "minicpm_o", "step_audio_2"])
def test_the_configs_of_the_papers_models_run_on_tiny_ones(family, world, tmp_path):
    """As they are, but for the model, the data and their size."""
    config = load_config(ExperimentConfig, ROOT / "configs" / f"paper_{family}.yaml")
    assert sum(noise.calibrated for noise in config.noises) == 4 and len(config.datasets) == 4
    small = dataclasses.replace(
        config,
        model=str(ROOT / "tests" / "support" / "golden" / family),
        dtype="float32",
        out=str(tmp_path / "out"),
        datasets=(DatasetConfig(str(world / "test" / "items.csv"), name="birds"),),
        limit=1,
        calibration=CalibrationConfig(DatasetConfig(str(world / "calibration" / "items.csv")), clips=4),
        noises=("gauss", NoiseConfig("rain", calibrated=False)),
        snrs=(0.0,),
        mitigations=("none", "seen", "spectral_subtraction+seen"),
        studies=(),
        batch_size=2,
        max_new_tokens=3,
    )
    summary = evaluate(small)
    assert summary["answers"] == 2 * 2 * 2 * 3 and summary["failed"] == 0


def test_the_shipped_config_is_whole():
    config = load_config(ExperimentConfig, ROOT / "configs" / "paper_tiny.yaml")
    assert config.model == "seen-tiny" and len(config.snrs) == 7 and len(config.noises) >= 3


def test_short_names_of_mitigations():
    both = make_chain("wiener+restoration")
    assert [type(step).name for step in both.steps] == ["denoiser", "restoration"]
    assert both.steps[1] == Restoration() and both.changes_audio and both.audio_key == make_chain("wiener").audio_key
    assert make_chain("seen").audio_key == make_chain("none").audio_key == ""
    for wrong in ("wiener+", "wiener+rest", "+seen+seen"):
        with pytest.raises(ConfigError, match="there is no mitigation"):
            make_chain(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": 1}, "2 clips or more"),
        ({"snrs": (5, 5)}, "different SNRs"),
        ({"gate_layers": ()}, "gate layer or more"),
        ({"strength": float("nan")}, "finite number"),
        ({"penalty": 0.0}, "positive, not 0"),
        ({"temperature": 0.0}, "temperature of a restoration must be positive"),
    ],
)
def test_wrong_restorations_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Restoration(**options)


def test_mitigations_that_edit_where_see_is_measured(config, world):
    at_resid = dataclasses.replace(config, site=ENCODER_RESID, mitigations=("none", restoration(world)))
    with pytest.raises(ConfigError, match="another `site`"):
        prepare(at_resid, silent)


def test_a_restoration_is_fitted_once_and_goes_on_where_it_was_cut(config, monkeypatch):
    name = config.mitigations[-1]["name"]
    before = prepare(config, silent).mitigations[name].steps[1]
    [folder] = (config.folder() / "mitigations").glob("*/layer1")
    assert sorted(path.name for path in folder.iterdir()) == [
        "clean.safetensors",
        "white_-5.safetensors",
        "white_5.safetensors",
    ]
    assert ([*before.maps], before.gate_layers, len(before.maps[1].u)) == ([1], (0, 2), 3)
    assert not before.maps[1].u[0].any() and before.maps[1].u[1].any()  # clean audio has no map
    (folder / "white_5.safetensors").unlink()
    passes = []
    monkeypatch.setattr(restorations, "run_batches", lambda *args: passes.append(args) or run_batches(*args))
    after = prepare(config, silent).mitigations[name].steps[1]
    assert len(passes) == 1
    np.testing.assert_array_equal(after.maps[1].u, before.maps[1].u)
    np.testing.assert_array_equal(after.gate.weight, before.gate.weight)
    (folder / "white_5.safetensors").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"white_5\.safetensors is damaged"):
        prepare(config, silent)


def test_a_restoration_of_a_layer_that_is_not_there_or_of_tested_clips(config, world):
    with pytest.raises(ConfigError, match=r"names layers \[3\], which are not among the encoder's 3"):
        prepare(dataclasses.replace(config, mitigations=("none", restoration(world, gate_layers=[0, 3]))), silent)
    tested = restoration(world, dataset={"path": config.datasets[0].path})
    config = dataclasses.replace(config, mitigations=("none", tested), out=config.out + "2")
    with pytest.raises(ConfigError, match="birds"):
        prepare(config, silent)
