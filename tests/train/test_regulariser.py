"""Fine-tuning from a model's weights, and what the regulariser adds to the loss."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import seen_jax
from seen_jax.errors import ConfigError
from seen_jax.models.encoder import Encoded
from seen_jax.models.load import load
from seen_jax.models.sites import DECODER_RESID, ENCODER_MLP_ACT
from seen_jax.train.config import DataSize, ModelSize, Regulariser, Stage, TrainConfig
from seen_jax.train.export import write_folder, write_weights
from seen_jax.train.regulariser import COLUMNS, SELECTION, consistency_penalty, noise_directions
from seen_jax.train.tasks import vocabulary
from seen_jax.train.trainer import initial_params, train

pytest.importorskip("espeakng_loader", reason="speech synthesis needs the `train` extra")

SIZE = ModelSize(
    encoder_width=32, encoder_heads=2, encoder_layers=2, decoder_width=32, decoder_heads=2, decoder_layers=2
)
NONE = Stage(steps=0, lr=1e-3)
BOTH = Regulariser(see=1.0, consistency=1.0, every=2, clips=4)


class Killed(Exception):
    pass


def die(stage: str, done: int, total: int) -> None:
    if (stage, done) == ("training: noise", 3):
        raise Killed


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_weights(folder, initial_params(write_folder(folder, SIZE, vocabulary()), 3)["lalm"])
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory, start) -> TrainConfig:
    folder = tmp_path_factory.mktemp("run")
    stage = Stage(steps=4, lr=1e-3, batch=8, dtype="float32")
    return TrainConfig(
        out=str(folder / "both"), start=str(start), model=SIZE, words=NONE, text=NONE, joint=NONE, noise=stage,
        data=DataSize(folder=str(folder / "data"), train=16, validation=8, test=8, workers=1),
        regulariser=BOTH, word_weight=0.0, checkpoint_seconds=0.0, eval_every=100, eval_items=8,
    )  # fmt: skip


def weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def logged(config: TrainConfig) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_run_goes_on_with_the_directions_that_it_had(config, tmp_path):
    """Directions are those of steps 0 and 2; the run is cut between 2 and the next ones."""
    whole = weights(train(config))
    cut = dataclasses.replace(config, out=str(tmp_path / "cut"))
    with pytest.raises(Killed):
        train(cut, die)
    again = weights(train(cut))
    for name, x in whole.items():
        np.testing.assert_array_equal(x, again[name], err_msg=name)
    [first] = [entry for entry in logged(config) if entry["step"] == 0]
    assert 0 < first["see"] < 1 and 0 < first["consistency"] < 2


def test_every_term_changes_the_weights_and_the_start_is_the_given_model(config, start, tmp_path):
    made = {}
    for name, regulariser in (("none", Regulariser()), ("see", dataclasses.replace(BOTH, consistency=0.0))):
        one = dataclasses.replace(config, out=str(tmp_path / name), regulariser=regulariser)
        made[name] = weights(train(one))
        assert ("see" in logged(one)[0]) == (name == "see") and "consistency" not in logged(one)[0]
    still = dataclasses.replace(config, out=str(tmp_path / "still"), noise=Stage(1, 0.0, 8, dtype="float32"))
    for name, x in weights(train(still)).items():
        np.testing.assert_array_equal(x, weights(start)[name], err_msg=name)
    assert any((made["none"][name] != x).any() for name, x in made["see"].items())


def test_directions_are_those_of_a_calibration(start):
    rng, model = np.random.default_rng(0), load(start)
    waves, noises = ([rng.normal(size=16_000).astype(np.float32) for _ in range(6)] for _ in range(2))
    basis = seen_jax.calibrate(model, waves, noises).select(SELECTION)
    q = np.asarray(noise_directions(model, waves, noises, BOTH))
    assert q.shape == (2, 128, COLUMNS)
    for layer, rank in enumerate(basis.ranks):
        np.testing.assert_allclose(q[layer, :, :rank], basis.q[layer, :, :rank], atol=1e-6)
        assert not q[layer, :, rank:].any()


def test_consistency_is_a_share_of_the_clean_energy():
    rng = np.random.default_rng(0)
    states = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32)
    encoded = lambda x: Encoded(x, jnp.array([5, 2]), x, {})
    padding = jnp.arange(5)[None, :, None] >= jnp.array([5, 2])[:, None, None]
    assert float(consistency_penalty(encoded(jnp.where(padding, 1e6, states)), encoded(states))) == 0
    assert float(consistency_penalty(encoded(0 * states), encoded(states))) == pytest.approx(1)
    assert float(consistency_penalty(encoded(3 * states), encoded(states))) == pytest.approx(4)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"noise": NONE}, "no stage has steps"),
        ({"start": "seen-tiny"}, "'seen-tiny' has other shapes than the 'model'"),
        ({"regulariser": Regulariser(see=1.0, site=DECODER_RESID)}, f"must be one of the encoder's .{ENCODER_MLP_ACT}"),
        ({"regulariser": Regulariser(consistency=-1.0)}, "weights must be 0 or more"),
        ({"regulariser": Regulariser(every=0)}, "`every` and `clips` 1 or more"),
    ],
)
def test_settings_that_make_no_sense(config, tmp_path, changes, problem):
    with pytest.raises(ConfigError, match=problem):
        train(dataclasses.replace(config, out=str(tmp_path / "wrong"), **changes))
