"""Experiments: what is asked and measured, and that being killed, batch sizes and broken items change nothing else."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from evaluate_models import random_folder

from seen_jax.audio import write_audio
from seen_jax.cli import main
from seen_jax.config import load_config
from seen_jax.data.datasets import DatasetConfig
from seen_jax.errors import ConfigError
from seen_jax.evaluate import runner
from seen_jax.evaluate.config import (
    CalibrationConfig,
    ExperimentConfig,
    MitigationConfig,
    NoiseConfig,
    RestorationConfig,
    mitigation,
)
from seen_jax.evaluate.ledger import ANSWERS, Ledger
from seen_jax.experiment import evaluate, tables_of
from seen_jax.mitigations.restoration import pair
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.sites import ENCODER_RESID
from seen_jax.subspace import Selection

COMPLEMENT = Selection(method="complement", energy="sigma", layers="all")
QUIET = lambda stage, done, total: None  # noqa: E731


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


def restoration(world: Path) -> MitigationConfig:
    clips = DatasetConfig(str(world / "calibration" / "items.csv"))
    settings = RestorationConfig(clips, clips=4, snrs=(-5.0, 5.0), layer=-2, gate_layers=(0, -1))
    return MitigationConfig("spectral_subtraction+restoration", denoiser="spectral_subtraction", restoration=settings)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("experiment")
    write_clips(root / "test", 5, seed=0)
    write_clips(root / "calibration", 4, seed=1)
    return root


@pytest.fixture
def config(world, tmp_path) -> ExperimentConfig:
    return ExperimentConfig(
        model=str(random_folder()),
        out=str(tmp_path / "out"),
        datasets=(DatasetConfig(str(world / "test" / "items.csv"), name="birds"),),
        calibration=CalibrationConfig(DatasetConfig(str(world / "calibration" / "items.csv")), clips=4),
        noises=("white", NoiseConfig("babble", calibrated=False)),
        snrs=(-5.0, 20.0),
        mitigations=("none", "seen", "spectral_subtraction", "spectral_subtraction+seen", restoration(world)),
        selection=COMPLEMENT,
        batch_size=2,
        max_new_tokens=4,
    )


def contents(config: ExperimentConfig) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((config.folder() / "tables").iterdir())}


@pytest.fixture(scope="module")
def reference(world, tmp_path_factory):
    """(summary, tables) of an undisturbed run."""
    config = ExperimentConfig(
        model=str(random_folder()),
        out=str(tmp_path_factory.mktemp("whole") / "out"),
        datasets=(DatasetConfig(str(world / "test" / "items.csv"), name="birds"),),
        calibration=CalibrationConfig(DatasetConfig(str(world / "calibration" / "items.csv")), clips=4),
        noises=("white", NoiseConfig("babble", calibrated=False)),
        snrs=(-5.0, 20.0),
        mitigations=("none", "seen", "spectral_subtraction", "spectral_subtraction+seen", restoration(world)),
        selection=COMPLEMENT,
        batch_size=2,
        max_new_tokens=4,
    )
    return evaluate(config), contents(config)


def table(tables: dict[str, bytes], name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(tables[f"{name}.csv"].decode().splitlines()))


def test_every_item_is_asked_under_every_condition(reference):
    summary, tables = reference
    answers = table(tables, "answers")
    assert summary["answers"] == len(answers) == 5 * 2 * 3 * 5 and summary["failed"] == 0
    keys = [tuple(r[k] for k in ("item", "noise", "snr_db", "mitigation")) for r in answers]
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
    said = {tuple(r[k] for k in ("item", "noise", "snr_db", "mitigation")): r["letter"] or r["output"] for r in answers}
    for cell in table(tables, "conditions"):
        own = [
            (said[item, noise, snr, arm], said[item, noise, "", "none"])
            for (item, noise, snr, arm) in said
            for r in [next(r for r in answers if r["item"] == item)]
            if (r["task"], noise, snr, arm) == (cell["task"], cell["noise"], cell["snr_db"], cell["mitigation"])
        ]
        assert int(cell["items"]) == len(own)
        assert float(cell["gsr"]) == pytest.approx(np.mean([a.strip() == b.strip() for a, b in own]))
    clean = [c for c in table(tables, "overall") if (c["mitigation"], c["snr_db"]) == ("none", "")]
    assert float(clean[0]["gsr"]) == 1.0


def test_a_noise_without_a_basis_gets_the_union_of_the_others(reference):
    _, tables = reference
    rows = {(r["noise"], r["mitigation"]): r for r in table(tables, "bases")}
    assert rows["babble", "seen"]["calibrated"] == "False" and rows["white", "seen"]["calibrated"] == "True"
    assert json.loads(rows["babble", "seen"]["ranks"]) == json.loads(rows["white", "seen"]["ranks"])


def test_an_interrupted_run_goes_on_and_ends_the_same(config, reference, monkeypatch):
    """Stopped after every unit in turn, and once in the middle of a line: no unit is computed twice."""
    whole = runner.run_unit
    computed: list[str] = []

    def one_more(experiment, clean, unit):
        if computed and computed[-1] == "stop":
            computed.pop()
            raise KeyboardInterrupt
        computed.append(unit.key)
        rows = whole(experiment, clean, unit)
        computed.append("stop")
        return rows

    monkeypatch.setattr(runner, "run_unit", one_more)
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


def test_audio_of_the_calibration_is_refused_in_a_test(config, world):
    both = dataclasses.replace(
        config, datasets=(DatasetConfig(str(world / "calibration" / "items.csv"), name="birds"),)
    )
    with pytest.raises(ConfigError, match=r"birds/0.*(is|shares)"):
        evaluate(both)


def test_a_folder_belongs_to_one_experiment(config, tmp_path):
    runner.prepare(config, QUIET)
    with pytest.raises(ConfigError, match=r"holds another experiment \(different: snrs, seed\)"):
        runner.prepare(dataclasses.replace(config, snrs=(0.0,), seed=1), QUIET)
    other = tmp_path / "in use"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is in use and holds no experiment"):
        runner.prepare(dataclasses.replace(config, out=str(other)), QUIET)
    (config.folder() / ANSWERS).write_text("no JSON\n")
    with pytest.raises(ConfigError, match=r"answers\.jsonl is damaged"):
        Ledger(config.folder() / ANSWERS)


def test_settings_run_together_as_they_run_alone(config):
    """Two sites and two strengths in one compiled call."""
    arms = (
        MitigationConfig("none"),
        MitigationConfig("seen", seen=True, strength=0.7),
        MitigationConfig("resid", seen=True, site=ENCODER_RESID),
    )
    experiment = runner.prepare(dataclasses.replace(config, mitigations=arms), QUIET)
    items = [entry.item() for entry in experiment.entries["birds"][:2]]
    requests = [runner.request_of(experiment, e, i) for e, i in zip(experiment.entries["birds"], items, strict=False)]
    batch, owners = experiment.model.processor.prepared(requests)
    settings = [runner.setting_of(experiment, arm, "white") for arm in arms]
    together = runner.hear(experiment, batch, owners, settings)
    for setting, heard in zip(settings, together, strict=True):
        edits = runner.stacked([setting])
        alone = {site: edit.replace(scale=edit.scale[0]) for site, edit in edits.items()}
        out = generate(experiment.model.lalm, experiment.model.variables, batch, alone, Decoding(4))
        texts = experiment.model.processor.decode(np.asarray(out.tokens), np.asarray(out.lengths))
        assert [h.output for h in heard] == texts
        see = np.asarray(out.see[setting.basis.site].before)
        np.testing.assert_allclose(np.array([h.see for h in heard]).T, see, atol=1e-5)
    assert together[1][0].pooled.shape == (3, together[0][0].pooled.shape[1])


def test_the_same_rows_give_the_same_tables_in_any_order(config, reference):
    experiment = runner.prepare(config, QUIET)
    tables = tables_of(experiment, runner.run(experiment, QUIET))
    lines = (config.folder() / ANSWERS).read_text().splitlines(keepends=True)
    (config.folder() / ANSWERS).write_text("".join(reversed(lines)))
    assert tables_of(experiment, Ledger(config.folder() / ANSWERS)) == tables


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mitigations": ("seen",)}, "first mitigation must be 'none'"),
        ({"mitigations": ("none", "none")}, "each only once"),
        ({"mitigations": ("none", "wiener+sen")}, r"a denoiser and '\+seen'"),
        ({"noises": (NoiseConfig("white", calibrated=False),)}, "at least one noise must be calibrated"),
        ({"snrs": (500.0,)}, "an SNR must be between"),
        ({"snrs": ()}, "snrs must be at least one"),
        ({"studies": ("astrology",)}, r"unknown studies \['astrology'\]"),
        ({"limit": 0}, "limit must be 1 or more"),
        ({"site": "encoder.mlp"}, r"Did you mean 'encoder\.mlp_act'"),
        ({"strength": float("nan")}, "strength must be a finite number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        ExperimentConfig(**values)


def test_parts_of_a_mitigation_are_checked():
    with pytest.raises(ConfigError, match=r"add `seen: true`"):
        MitigationConfig("x", strength=0.5)
    with pytest.raises(ConfigError, match="letters, digits"):
        MitigationConfig("a b")


def test_a_config_file_may_name_or_write_out_its_parts(tmp_path):
    (tmp_path / "e.yaml").write_text(
        "noises: [white, {spec: babble, calibrated: false}]\n"
        "datasets: [{path: seen-tiny/demo, limit: 3}]\n"
        "mitigations: [none, wiener, {name: half, seen: true, strength: 0.5, selection: {method: complement}}]\n"
    )
    config = load_config(ExperimentConfig, tmp_path / "e.yaml", ["--snrs=-5,5"])
    assert config.noises == (NoiseConfig("white"), NoiseConfig("babble", calibrated=False))
    assert config.mitigations[1] == MitigationConfig("wiener", denoiser="wiener")
    assert config.mitigations[2].selection == Selection(method="complement") and config.snrs == (-5.0, 5.0)


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
        model=str(ROOT / "tests" / "models" / "golden" / family),
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
    assert mitigation("restoration") == MitigationConfig("restoration", restoration=RestorationConfig())
    both = mitigation("wiener+restoration")
    assert (both.denoiser, both.seen, both.restoration) == ("wiener", False, RestorationConfig())
    assert mitigation("wiener+seen") == MitigationConfig("wiener+seen", denoiser="wiener", seen=True)
    for wrong in ("wiener+", "wiener+rest", "+seen+seen"):
        with pytest.raises(ConfigError, match="should be a denoiser and"):
            mitigation(wrong)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RestorationConfig(clips=1), "2 clips or more"),
        (lambda: RestorationConfig(snrs=(5, 5)), "different SNRs"),
        (lambda: RestorationConfig(gate_layers=()), "gate layer or more"),
        (lambda: RestorationConfig(strength=float("nan")), "finite number"),
        (lambda: MitigationConfig("x", seen=True, restoration=RestorationConfig()), "not combined"),
        (lambda: ExperimentConfig(site=ENCODER_RESID, mitigations=("none", "restoration")), "another `site`"),
    ],
)
def test_wrong_restorations_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_a_restoration_is_fitted_once_and_goes_on_where_it_was_cut(config, monkeypatch):
    experiment = runner.prepare(config, QUIET)
    name = config.mitigations[-1].name
    folder = config.folder() / "restoration" / name
    assert sorted(path.name for path in folder.iterdir()) == ["clean.npz", "white_-5.npz", "white_5.npz"]
    before = experiment.restorations[name]
    assert (before.layer, before.gate_layers, len(before.maps.u)) == (1, (0, 2), 3)
    assert not before.maps.u[0].any() and before.maps.u[1].any()  # clean audio has no map
    (folder / "white_5.npz").unlink()
    paired = []
    monkeypatch.setattr(runner, "pair", lambda *args: paired.append(args) or pair(*args))
    after = runner.prepare(config, QUIET).restorations[name]
    assert len(paired) == 1
    np.testing.assert_array_equal(after.maps.u, before.maps.u)
    np.testing.assert_array_equal(after.gate.weight, before.gate.weight)
    (folder / "white_5.npz").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"white_5\.npz is damaged"):
        runner.prepare(config, QUIET)


def test_a_restoration_of_a_layer_that_is_not_there_or_of_tested_clips(config, world):
    clips = DatasetConfig(str(world / "calibration" / "items.csv"))
    arm = MitigationConfig("restored", restoration=RestorationConfig(clips, clips=4, gate_layers=(0, 3)))
    with pytest.raises(ConfigError, match=r"there are no layers \[3\] among the encoder's 3"):
        runner.prepare(dataclasses.replace(config, mitigations=("none", arm)), QUIET)
    tested = MitigationConfig("restored", restoration=RestorationConfig(config.datasets[0], clips=4))
    config = dataclasses.replace(config, mitigations=("none", tested), out=config.out + "2")
    with pytest.raises(ConfigError, match="birds"):
        runner.prepare(config, QUIET)
