"""The trainer on a tiny model: batches, starting values, resuming after a kill."""

import ctypes
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bad_disk import full_disk
from compilation_cache import CACHE
from tiny_omni import prompt_ids

from seen_jax.errors import CheckpointError, ConfigError
from seen_jax.files import locked
from seen_jax.models import layers
from seen_jax.models.load import load
from seen_jax.models.processor import Request
from seen_jax.train.checkpoints import Checkpoints
from seen_jax.train.config import DataSize, ModelSize, Stage, TrainConfig
from seen_jax.train.export import write_folder, write_weights
from seen_jax.train.steps import coloured_noise, frame_labels
from seen_jax.train.tasks import audible_words, vocabulary
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


def test_one_process_at_a_time_trains_in_a_folder(config, trained):
    with locked(Path(config.out)), pytest.raises(ConfigError, match="another process works in"):
        train(config)
    train(config)


def kill(at: str):
    """A progress callback that ends a run after the second step of a stage."""

    def die(stage: str, done: int, total: int) -> None:
        if (stage, done) == (f"training: {at}", 2):
            raise Killed

    return die


def test_another_configuration_is_named(config, trained):
    changed = dataclasses.replace(config, words=dataclasses.replace(config.words, lr=0.5))
    with pytest.raises(ConfigError, match=r"\(words.lr was 0.001, now 0.5\): delete it, or choose another 'out'"):
        Run(changed)


def test_a_run_that_diverges_stops_and_says_what_to_change(config, trained, tmp_path):
    """The state before is kept, nothing is exported, and the same folder says why a sane rate cannot go on in it."""
    wild = dataclasses.replace(config, out=str(tmp_path / "wild"), words=dataclasses.replace(config.words, lr=1e30))
    with pytest.raises(ConfigError, match=r"stage 'words', step 1: training diverged.*lower words.lr \(1e\+30\)") as e:
        train(wild)
    assert "another 'out'" in str(e.value) and "the state after step 1" in str(e.value)
    run = Run(wild)
    assert run.checkpoints.steps() == [1] and not (run.model_folder / "model.safetensors").exists()
    with pytest.raises(ConfigError, match=r"words.lr was 1e[+]30, now 0.001"):
        train(dataclasses.replace(wild, words=config.words))


def test_a_state_that_is_not_finite_is_not_kept(config, trained, tmp_path):
    run = Run(dataclasses.replace(config, out=str(tmp_path / "run")))
    _, state = run._restore()
    bias = state.params["head"]["bias"].at[0].set(jnp.nan)
    broken = state._replace(params={**state.params, "head": {**state.params["head"], "bias": bias}})
    with pytest.raises(ConfigError, match=r"stage 'words', step .*not finite"):
        run._save(1, 0, broken)
    assert run.checkpoints.steps() == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])  # 1e30 has no place in 16 bits
def test_weights_that_are_not_finite_are_not_exported(trained, tmp_path, value):
    shutil.copytree(trained.model_folder, tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    params = load(trained.model_folder).variables["params"]
    params["encoder"]["proj"]["bias"] = params["encoder"]["proj"]["bias"].at[3].set(value)
    with pytest.raises(CheckpointError, match=r"1 of its weights are not finite in float16, such as .*proj.bias"):
        write_weights(tmp_path / "model", params)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("train_examples", "batch", "needed"),
    [(40, 8, "the start of joint needs 50"), (80, 81, "a batch of words needs 84")],
)
def test_too_few_examples_are_refused_before_any_work(config, tmp_path, train_examples, batch, needed):
    few = dataclasses.replace(
        config,
        out=str(tmp_path / "few"),
        data=dataclasses.replace(config.data, folder=str(tmp_path / "data"), train=train_examples),
        words=dataclasses.replace(config.words, batch=batch),
    )
    with pytest.raises(ConfigError, match=f"data.train is {train_examples}, but {needed} examples"):
        train(few)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_run_with_a_damaged_state_goes_on_from_the_one_before(config, trained, tmp_path):
    """A part of a line in the log, as a full disk leaves it, is dropped."""
    cut = dataclasses.replace(config, out=str(tmp_path / "cut"))
    with pytest.raises(Killed):
        train(cut, kill("text"))
    checkpoints = Path(cut.out) / "checkpoints"
    newest = max(Checkpoints(checkpoints).steps())
    path = Checkpoints(checkpoints).path(newest)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with (Path(cut.out) / "metrics.jsonl").open("a") as log:
        log.write('{"stage": "te')
    stage, state = Run(cut)._restore()
    assert (newest, stage, int(state.step)) == (4, 0, 3)
    entries = [json.loads(line) for line in (Path(cut.out) / "metrics.jsonl").read_text().splitlines()]
    assert {entry["stage"] for entry in entries} == {"words"}


def without_override() -> None:
    """The superuser writes into read-only folders, unless it gives up that power (CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0:
        assert ctypes.CDLL(None, use_errno=True).prctl(24, 1, 0, 0, 0) == 0  # PR_CAPBSET_DROP


def test_a_full_disk_leaves_the_model_folder_as_it_was(trained, tmp_path):
    shutil.copytree(trained.model_folder, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    problem = r"cannot write .*tokenizer.json: File too large; what was written before is kept"
    with pytest.raises(ConfigError, match=problem), full_disk(1_000):
        write_folder(tmp_path / "model", SIZE, vocabulary())
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_a_full_disk_leaves_the_log_as_it_was(trained):
    log = trained.folder / "metrics.jsonl"
    before = log.read_bytes()
    problem = r"cannot write .*metrics.jsonl: File too large; .* rerun the same command"
    with pytest.raises(ConfigError, match=problem), full_disk(len(before)):
        trained._log(stage="noise", step=3)
    assert log.read_bytes() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's limits and powers of processes")
@pytest.mark.parametrize("disk", ["full", pytest.param("locked", marks=pytest.mark.slow)])
def test_a_disk_that_refuses_is_one_sentence_and_the_rerun_goes_on(config, trained, tmp_path, disk):
    out, path = tmp_path / "run", tmp_path / "config.yaml"
    small = dataclasses.replace(config, out=str(out))
    path.write_text(json.dumps(dataclasses.asdict(small)))
    script = Path(__file__).parents[1] / "support" / "train_on_a_bad_disk.py"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(CACHE), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    done = subprocess.run(
        [sys.executable, str(script), str(path), disk],
        capture_output=True,
        text=True,
        env=os.environ | cache,
        preexec_fn=without_override,
    )
    for folder in (out, out / "checkpoints"):
        folder.chmod(0o755)
    assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    reason = {"full": "File too large", "locked": "Permission denied"}[disk]
    assert re.search(
        f"cannot write {out}/checkpoints/2.state: {reason}; what was written before is kept", done.stdout
    ), done.stdout
    assert Checkpoints(out / "checkpoints").steps() == [1] and len(list((out / "checkpoints").iterdir())) == 1
    steps = []

    def watch(at: str, done: int, total: int) -> None:
        steps.append((at, done))
        kill("words")(at, done, total)

    with pytest.raises(Killed):
        train(small, watch)
    assert [step for step in steps if step[0].startswith("training")] == [("training: words", 2)]


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
