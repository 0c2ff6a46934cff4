"""The trainer on a tiny model: batches, starting values, resuming after a kill."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_omni import prompt_ids

from seen_jax.errors import ConfigError
from seen_jax.models import layers
from seen_jax.models.load import load
from seen_jax.models.processor import Request
from seen_jax.train.config import DataSize, ModelSize, Stage, TrainConfig
from seen_jax.train.steps import coloured_noise, frame_labels
from seen_jax.train.tasks import audible_words
from seen_jax.train.trainer import STAGES, Run, fit_projector, previous_token_bias, train

pytest.importorskip("espeakng_loader", reason="speech synthesis needs the `train` extra")

SIZE = ModelSize(
    encoder_width=32, encoder_heads=2, encoder_layers=2, decoder_width=32, decoder_heads=2, decoder_layers=2
)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("run")
    stage = Stage(steps=3, lr=1e-3, batch=8, dtype="float32")
    return TrainConfig(
        out=str(folder / "whole"),
        model=SIZE,
        data=DataSize(folder=str(folder / "data"), train=80, validation=16, test=16, workers=1),
        words=stage,
        text=stage,
        joint=stage,
        noise=stage,
        checkpoint_seconds=0.0,
        eval_every=100,
        eval_items=8,
    )


@pytest.fixture(scope="module")
def trained(config) -> Run:
    train(config)
    return Run(config)


def test_the_trained_folder_loads_and_answers(trained):
    from seen_jax.api import generate

    model = load(trained.model_folder)
    waves = trained.validation.clips([0, 1])
    assert len(generate(model, waves)) == 2


def test_curves_are_logged_for_every_stage(trained):
    entries = [json.loads(line) for line in (trained.folder / "metrics.jsonl").read_text().splitlines()]
    assert {entry["stage"] for entry in entries} == set(STAGES)
    assert any("val_wer" in entry for entry in entries)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(config, trained, tmp_path):
    """Killed in every stage; the log shows every step once."""
    cut = dataclasses.replace(config, out=str(tmp_path / "cut"))
    for stage in STAGES:

        def die(at: str, done: int, total: int, stage: str = stage) -> None:
            if (at, done) == (f"training: {stage}", 1):
                raise Killed

        with pytest.raises(Killed):
            train(cut, die)
    folder = train(cut)
    whole, again = (load(f).variables["params"] for f in (trained.model_folder, folder))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, again)
    steps = [
        (e["stage"], e["step"]) for e in map(json.loads, (tmp_path / "cut/metrics.jsonl").read_text().splitlines())
    ]
    assert len(steps) == len(set(steps))


def test_a_folder_of_another_configuration_is_refused(config, trained):
    with pytest.raises(ConfigError, match="another configuration"):
        Run(dataclasses.replace(config, seed=1))


def test_batches_match_the_processor(trained):
    """What the model is trained on is what a user's request becomes."""
    batcher, model = trained.batcher, load(trained.model_folder)
    x = batcher.batch(range(6))
    for i in range(6):
        ids = prompt_ids(model, Request([x.waves[i, : x.samples[i]]], trained.data.meta[i]["prompt"]))
        np.testing.assert_array_equal(x.tokens[i, : x.lengths[i] - len(batcher.answers[i])], ids)
        assert (x.audio_index[i] >= 0).sum() == ids.count(model.config.audio_token)


def test_loss_covers_the_answer_and_the_stop_token(trained):
    x = trained.batcher.batch(range(6))
    for i in range(6):
        targets = x.tokens[i, 1:][x.loss_mask[i, :-1]]
        assert trained.processor.tokenizer.decode(targets) == f" {trained.data.meta[i]['answer']}<|im_end|>"


def test_stand_in_words_keep_their_order(trained):
    batcher = trained.batcher
    words = list(audible_words())
    x = batcher.batch(range(20))
    for i in range(20):
        audio = x.stand_in[i][x.audio_index[i] >= 0]
        spelled = [
            words[np.flatnonzero(batcher.word_tokens[1:] == t)[0]]
            for t in audio
            if t != trained.lalm.config.audio_token
        ]
        expected = batcher.data.meta[i]["words"]
        collapsed = [w for k, w in enumerate(spelled) if k == 0 or w != spelled[k - 1]]
        assert collapsed == [w for k, w in enumerate(expected) if k == 0 or w != expected[k - 1]]


def test_frame_labels_lie_inside_the_words():
    labels = frame_labels([5, 9], [(0.0, 0.4), (0.4, 0.44)], 20)
    assert labels.tolist() == [0, *[5] * 8, 0, 9, *[0] * 9]


def test_previous_token_bias_attends_one_back():
    q, k = previous_token_bias(64, 10_000.0)
    positions = jnp.arange(80)[None]
    rotate = lambda x: layers.rope(jnp.broadcast_to(x, (1, 80, 1, 64)), positions, 10_000.0)
    scores = jnp.einsum("bshd,bthd->st", rotate(q), rotate(k)) / 8.0
    attention = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((80, 80), bool)), scores, -jnp.inf), axis=-1)
    assert float(jnp.diagonal(attention, -1).min()) > 0.99


def test_projector_fit_recovers_a_linear_map():
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=(500, 8)), rng.normal(size=(8, 5)), rng.normal(size=5)
    fit = fit_projector(jnp.asarray(x, jnp.float32), jnp.asarray(x @ kernel + bias, jnp.float32), ridge=1e-7)
    np.testing.assert_allclose(fit["kernel"], kernel, atol=1e-3)
    np.testing.assert_allclose(fit["bias"], bias, atol=1e-3)


def test_coloured_noise_differs_in_colour():
    noise = np.asarray(coloured_noise(jax.random.key(0), 64, 8000))
    power = np.abs(np.fft.rfft(noise)) ** 2
    tilt = np.log(power[:, 2000:].mean(1) / power[:, 40:400].mean(1))
    assert tilt.std() > 1.0 and tilt.min() < -1.0 < tilt.max()
