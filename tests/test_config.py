"""YAML and overrides become a typed configuration, or one message that names what is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from seen_jax.config import build, dotted_defaults, load_config
from seen_jax.errors import ConfigError
from seen_jax.evaluate.config import ExperimentConfig
from seen_jax.train.config import TrainConfig

CONFIGS = Path(__file__).parent.parent / "configs"


@dataclasses.dataclass(frozen=True)
class Stage:
    steps: int
    lr: float = 0.1


@dataclasses.dataclass(frozen=True)
class Task:
    name: str
    items: int = 3


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Has one field of every kind that configurations use."""

    name: str
    seed: int = 0
    share: float = 0.5
    quick: bool = False
    floor: float | None = None
    method: Literal["threshold", "complement"] = "threshold"
    layers: Literal["auto", "all"] | tuple[int, ...] = "auto"
    snrs: tuple[float, ...] = (0.0,)
    tasks: tuple[Task, ...] = ()
    first: Stage = Stage(steps=10)
    second: Stage = dataclasses.field(default_factory=lambda: Stage(steps=20, lr=0.2))

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ConfigError(f"share must be at most 1, not {self.share}")


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(Experiment, path, overrides)
    return str(error.value)


def test_the_shipped_training_configuration_is_complete_and_equals_the_defaults():
    path = CONFIGS / "seen_tiny.yaml"
    assert load_config(TrainConfig, path) == TrainConfig()
    assert yaml.safe_load(path.read_text()) == yaml.safe_load(yaml.safe_dump(dataclasses.asdict(TrainConfig())))
    lines = path.read_text().splitlines()
    assert sum("#" in line for line in lines) > 10, "the file explains its fields"


ZOO = sorted(f"zoo/{path.stem}" for path in (CONFIGS / "zoo").glob("*.yaml") if path.stem != "evaluate")


@pytest.mark.parametrize("name", ["tune_tiny", *ZOO])
def test_training_runs_of_relatives(name):
    config = load_config(TrainConfig, CONFIGS / f"{name}.yaml")
    assert config != TrainConfig() and f"configs/{name}.yaml" in (CONFIGS / f"{name}.yaml").read_text()
    assert config.out != TrainConfig().out and config.noise.warmup == TrainConfig().noise.warmup


def test_the_zoo_has_one_recipe():
    runs = [load_config(TrainConfig, CONFIGS / f"{name}.yaml") for name in ZOO]
    recipes = {(run.words, run.text, run.joint, run.noise, run.data.train) for run in runs}
    assert len(runs) == 5 and len(recipes) == 1


TRAINED = {"seen_tiny", "tune_tiny", *ZOO}
EXPERIMENTS = {str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml")} - TRAINED


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_experiments(name):
    path = CONFIGS / f"{name}.yaml"
    assert load_config(ExperimentConfig, path) != ExperimentConfig()
    assert f"seen-jax evaluate configs/{name}.yaml" in path.read_text()


def test_file_and_defaults(tmp_path):
    text = """
    name: x
    share: 1e-3        # YAML itself takes this for a text
    floor: 0.5
    layers: [2, 3]
    snrs: [-10, 0]
    tasks: [{name: music}, {name: speech, items: 5}]
    first: {lr: 0.3}
    second:
      steps: 7
    """
    assert load_config(Experiment, write(tmp_path, text)) == Experiment(
        "x",
        share=0.001,
        floor=0.5,
        layers=(2, 3),
        snrs=(-10.0, 0.0),
        tasks=(Task("music"), Task("speech", 5)),
        first=Stage(10, 0.3),
        second=Stage(7, 0.2),
    )


def test_values_have_the_declared_types(tmp_path):
    config = load_config(Experiment, write(tmp_path, "{name: '5', share: 1, snrs: [1, 2]}"))
    assert type(config.name) is str
    assert type(config.share) is float
    assert [type(x) for x in config.snrs] == [float, float]


def test_overrides_win(tmp_path):
    path = write(tmp_path, "{name: x, seed: 1, first: {steps: 3}, quick: false, floor: 2.0}")
    tokens = ["--first.steps", "4", "--seed=5", "--snrs", "-5,10", "--quick", "--floor", "null", "--layers=1,2"]
    config = load_config(Experiment, path, tokens)
    assert config == Experiment("x", 5, quick=True, snrs=(-5.0, 10.0), first=Stage(4), layers=(1, 2))
    assert load_config(Experiment, path, ["--layers", "all", "--quick", "false"]).layers == "all"
    assert load_config(Experiment, write(tmp_path, ""), ["--name", "y", "--seed", "-3"]) == Experiment("y", -3)
    path = write(tmp_path, "name: x")
    assert load_config(Experiment, path, ["--seed", "8", "--seed", "9"]).seed == 9


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name: x\nfirst: {stepz: 3}", ("unknown key 'first.stepz'", "Did you mean 'first.steps'?")),
        ("name: x\nsede: 3", ("unknown key 'sede'", "Did you mean 'seed'?")),
        ("name: x\nfrist: {steps: 3}", ("unknown key 'frist'", "Did you mean 'first'?")),
        ("name: x\n7: 3", ("unknown key '7'",)),
        ("name: x\nseed: three", ("seed is 'three'", "expected int")),
        ("name: x\nseed: 1.5", ("seed is 1.5", "expected int")),
        ("name: x\nseed: true", ("seed is True", "expected int")),
        ("name: x\nseed:", ("seed is None", "expected int")),
        ("name: 5", ("name is 5", "expected str")),
        ("name: [x]", ("name is ['x']", "expected str")),
        ("name: x\nshare: much", ("share is 'much'", "expected float")),
        ("name: x\nshare: .nan", ("share is nan", "finite")),
        ("name: x\nsnrs: [0, .inf]", ("snrs is [0, inf]", "finite")),
        ("name: x\nsnrs: [low]", ("snrs is ['low']", "a list of float")),
        ("name: x\nquick: 1", ("quick is 1", "expected bool")),
        ("name: x\nfloor: low", ("floor is 'low'", "float (a number) or null")),
        ("name: x\nmethod: both", ("method is 'both'", "one of 'threshold', 'complement'")),
        ("name: x\nfirst: 3", ("first is 3", "a section with the keys steps, lr")),
        ("name: x\nfirst:", ("first is None", "a section with the keys steps, lr")),
        ("name: x\ntasks: [{name: y, itmes: 2}]", ("unknown key 'tasks[0].itmes'", "Did you mean 'tasks[0].items'?")),
        ("seed: 3", ("the key 'name' is missing",)),
        ("name: x\nshare: 3", ("share must be at most 1, not 3.0",)),
        ("name: x\nseed: 1\nseed: 2", ("line 3", "'seed' occurs twice")),
        ("name: x\nsnrs: " + "[" * 100_000, ("line 2", "nested more than 40 levels deep")),
        ("name: x\nsnrs: " + "{a: " * 100_000, ("line 2", "nested more than 40 levels deep")),
        ("name: x\nsnrs: &a [*a]", ("snrs",)),
        ("name: &b {c: *b}", ("name",)),
        ("name: x\nfirst: {lr: 1\nseed: 2", ("line 3", "not valid YAML")),
        ("name: x\n\t- y", ("line 2", "not valid YAML")),
        ("name: !!python/object/apply:os.getcwd []", ("line 1", "not valid YAML")),
        ("- name\n- x", ("not a list",)),
        ("name x", ("not a str",)),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path, text, parts):
    path = write(tmp_path, text)
    message = refused(path)
    assert str(path) in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("tokens", "parts"),
    [
        (["--tasks", "[{name: a}]", "--sede", "3"], ("unknown key 'sede'", "Did you mean 'seed'?")),
        (["--first.step", "3"], ("with --first.step 3", "unknown key 'first.step'", "Did you mean 'first.steps'?")),
        (["--sede=3"], ("with --sede=3", "unknown key 'sede'", "Did you mean 'seed'?")),
        (["--seed", "x"], ("with --seed x: seed is 'x'", "expected int")),
        (["--snrs", "0,x"], ("snrs is '0,x'", "a list of float")),
        (["--seed"], ("seed is 'true'", "expected int")),
        (["--seed", "--quick"], ("seed is 'true'", "expected int")),
        (["--first", "3"], ("first is 3", "a section with the keys steps, lr")),
        (["seed", "3"], ("unexpected argument 'seed'",)),
        (["--name", "x", "--share", "3"], ("with --name x --share 3", "share must be at most 1")),
    ],
)
def test_what_is_wrong_in_an_override(tmp_path, tokens, parts):
    message = refused(write(tmp_path, "name: x"), *tokens)
    for part in parts:
        assert part in message


def test_unreadable_files(tmp_path):
    assert f"{tmp_path / 'gone.yaml'} cannot be read: No such file" in refused(tmp_path / "gone.yaml")
    assert "cannot be read" in refused(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00x")
    assert "cannot be read" in refused(tmp_path / "binary.yaml")
    assert "the key 'name' is missing" in refused(write(tmp_path, ""))


def test_defaults_of_a_help_text():
    defaults = dotted_defaults(Experiment)
    assert list(defaults)[:3] == ["name", "seed", "share"]
    assert (defaults["name"], defaults["first.steps"], defaults["second.lr"]) == (None, 10, 0.2)
    assert "first" not in defaults


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Dataclasses beside texts and inside lists."""

    tasks: tuple[Task | str, ...] = ("music",)
    options: tuple[dict[str, Any] | str, ...] = ("none",)
    extra: Task | None = None
    first: Stage = Stage(steps=10, lr=0.3)


def test_a_mapping_becomes_a_dataclass():
    values = {
        "tasks": ["speech", {"name": "sound", "items": 5}, Task("bird")],
        "options": ["none", {"name": "seen", "layers": [1, 2], "strength": 0.5}],
        "extra": {"name": "x"},
        "first": {"steps": 3},
    }
    assert build(Mixed, values, "here") == Mixed(
        ("speech", Task("sound", 5), Task("bird")),
        ("none", {"name": "seen", "layers": [1, 2], "strength": 0.5}),
        Task("x"),
        Stage(3, 0.3),
    )
    assert build(Mixed, {"extra": None}, "here") == Mixed()
    assert build(Stage, {}, "here", default=Stage(4, 0.7)) == Stage(4, 0.7)


def test_dataclasses_in_overrides(tmp_path):
    path = write(tmp_path, "")
    tokens = ["--tasks", "[speech, {name: sound}]", "--options=none,seen", "--extra", "{name: x}", "--first.steps=2"]
    assert load_config(Mixed, path, tokens) == Mixed(
        ("speech", Task("sound")), ("none", "seen"), Task("x"), Stage(2, 0.3)
    )
    assert load_config(Mixed, path, ["--tasks", "speech"]).tasks == ("speech",)
    assert load_config(Mixed, path, ["--extra", "null"]).extra is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"taks": 1}, "x.yaml: unknown key 'taks'. Did you mean 'tasks'?"),
        ({"tasks": ["a", {"nmae": "b"}]}, "x.yaml: unknown key 'tasks[1].nmae'. Did you mean 'tasks[1].name'?"),
        ({"tasks": ["a", {"items": 2}]}, "x.yaml: the key 'tasks[1].name' is missing, expected str (a text)."),
        ({"tasks": [{"name": "b", "items": "c"}]}, "x.yaml: tasks[0].items is 'c', expected int (a whole number)."),
        ({"tasks": [3]}, "x.yaml: tasks[0] is 3, expected a section with the keys name, items or str (a text)."),
        ({"extra": 3}, "x.yaml: extra is 3, expected a section with the keys name, items or null."),
        ({"first": {"lr": "x"}}, "x.yaml: first.lr is 'x', expected float (a number)."),
        ({"options": [3]}, "x.yaml: options is [3], expected a list of dict or str (a text)."),
        ([], "x.yaml is [], expected a section with the keys tasks, options, extra, first."),
    ],
)
def test_what_is_wrong_in_a_mapping(values, message):
    with pytest.raises(ConfigError) as error:
        build(Mixed, values, "x.yaml")
    assert str(error.value) == message


def test_a_part_of_a_file_is_named_with_its_place():
    with pytest.raises(ConfigError, match=r"^run\.yaml: mitigations\[1\]\.steps is 'x', expected int"):
        build(Stage, {"steps": "x"}, "run.yaml: mitigations[1]")
