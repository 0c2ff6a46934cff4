"""Training of the tiny model: four stages, resumable after a kill at any moment."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seen_jax.errors import ConfigError
from seen_jax.models.config import LalmConfig, token_count
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.train.batches import Batcher
from seen_jax.train.checkpoints import Checkpoints
from seen_jax.train.config import Stage, TrainConfig
from seen_jax.train.dataset import build_dataset
from seen_jax.train.export import write_folder, write_weights
from seen_jax.train.init import fit_projector, start_copying
from seen_jax.train.measure import answers, task_scores
from seen_jax.train.steps import State, features, make_step, optimizer
from seen_jax.train.tasks import heard_words, vocabulary

STAGES = ("words", "text", "joint", "noise")
LOG = "metrics.jsonl"


def initial_params(config: LalmConfig, seed: int) -> dict[str, Any]:
    """Parameters of the model and of the word head, which only training knows."""
    keys = jax.random.split(jax.random.key(seed), 3)
    batch = Batch(
        jnp.zeros((1, 8), jnp.int32),
        jnp.array([8]),
        jnp.zeros((1, config.encoder.pad_frames, config.encoder.n_mels)),
        jnp.array([config.encoder.pad_frames]),
        jnp.full((1, 8), -1, jnp.int32),
    )
    params = jax.jit(Lalm(config).init)(keys[0], batch)["params"]
    params = {**params, "decoder": start_copying(params["decoder"], config.decoder, keys[1])}
    labels = len(heard_words()) + 1
    kernel = jax.random.normal(keys[2], (config.encoder.width, labels)) * config.encoder.width**-0.5
    return {"lalm": params, "head": {"kernel": kernel, "bias": jnp.zeros(labels)}}


def connect(lalm: Lalm, params: Any, batcher: Batcher, clips: int = 600, size: int = 50) -> Any:
    """Start the projector: ridge regression from encoder states to the expected word embedding under the word head."""
    words = params["lalm"]["decoder"]["embed"]["embedding"][batcher.word_tokens]

    @jax.jit
    def pairs(waves: Any, samples: Any) -> tuple[Any, Any, Any]:
        encoded = lalm.apply({"params": params["lalm"]}, features(lalm, waves, samples), method="encode")
        shares = jax.nn.softmax(encoded.states @ params["head"]["kernel"] + params["head"]["bias"])
        return encoded.states, shares @ words, jnp.arange(encoded.states.shape[1]) < encoded.lengths[:, None]

    states, targets = [], []
    for start in range(0, min(clips, len(batcher.data.meta) // size * size), size):
        x = batcher.batch(range(start, start + size))
        s, t, valid = (np.asarray(a) for a in pairs(x.waves, x.samples))
        states.append(s[valid])
        targets.append(t[valid])
    proj = fit_projector(jnp.asarray(np.concatenate(states)), jnp.asarray(np.concatenate(targets)))
    encoder = {**params["lalm"]["encoder"], "proj": proj}
    return {**params, "lalm": {**params["lalm"], "encoder": encoder}}


class Run:
    """One training run: its folder, data, model, and the position (stage, step) it has reached."""

    def __init__(self, config: TrainConfig):
        from transformers import AutoTokenizer

        self.config, self.folder = config, Path(config.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claim()
        self.model_folder = self.folder / "model"
        shape = write_folder(self.model_folder, config.model, vocabulary())
        self.lalm = Lalm(shape, unroll=max(shape.encoder.layers, shape.decoder.layers))
        self.tokenizer = AutoTokenizer.from_pretrained(self.model_folder)
        data, folder = config.data, Path(config.data.folder)
        self.batchers = {
            split: self._batcher(build_dataset(folder / split, n, split, config.seed, data.workers or None))
            for split, n in (("train", data.train), ("validation", data.validation))
        }
        self.checkpoints = Checkpoints(self.folder / "checkpoints")

    def _claim(self) -> None:
        """Remember the configuration; a run folder continues only with the one it began with."""
        mine = json.dumps(dataclasses.asdict(self.config), indent=2, sort_keys=True)
        path = self.folder / "config.json"
        if path.is_file() and path.read_text() != mine:
            raise ConfigError(
                f"{self.folder} holds a run with another configuration: choose another 'out' or delete it."
            )
        path.write_text(mine)

    def _batcher(self, data: Any) -> Batcher:
        c = self.lalm.config
        return Batcher(data, self.tokenizer, c.audio_token, c.pad_token, token_count(c.encoder.pad_frames))

    def stage(self, name: str) -> Stage:
        return getattr(self.config, name)

    def _fresh(self, name: str, params: Any) -> State:
        tx = optimizer(self.stage(name), self.config.weight_decay, self.config.clip_norm)
        return State(params, tx.init(params), jnp.int32(0))

    def _restore(self) -> tuple[int, State]:
        state = self._fresh(STAGES[0], initial_params(self.lalm.config, self.config.seed))
        last = self.checkpoints.latest()
        if last is None:
            (self.folder / LOG).unlink(missing_ok=True)
            return 0, state
        saved = self.checkpoints.restore(last, {"state": state._asdict(), "stage": jnp.int32(0)})
        self._cut_log(int(saved["stage"]), int(saved["state"]["step"]))
        leaves = jax.tree.leaves(saved["state"]["optimizer"])
        opt = jax.tree.unflatten(jax.tree.structure(state.optimizer), leaves)
        return int(saved["stage"]), State(saved["state"]["params"], opt, saved["state"]["step"])

    def _cut_log(self, stage: int, step: int) -> None:
        path = self.folder / LOG
        lines = [line for line in path.read_text().splitlines() if line] if path.is_file() else []
        keep = [x for x in lines if (STAGES.index((d := json.loads(x))["stage"]), d["step"]) <= (stage, step)]
        path.write_text("".join(line + "\n" for line in keep))

    def log(self, **entry: Any) -> None:
        with (self.folder / LOG).open("a") as f:
            f.write(json.dumps(entry) + "\n")

    def run(self, report: Callable[[str], None] = print) -> Path:
        """Train to the end (from the last checkpoint, if any) and return the model folder."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        index, state = self._restore()
        total = sum(self.stage(name).steps for name in STAGES)
        done = sum(self.stage(name).steps for name in STAGES[:index]) + int(state.step)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns) as bar:
            task = bar.add_task("training", total=total, completed=done)
            tick = lambda text: bar.update(task, advance=1, description=text)  # noqa: E731
            for i in range(index, len(STAGES)):
                if i > index:
                    if STAGES[i] == "joint":
                        state = state._replace(params=connect(self.lalm, state.params, self.batchers["train"]))
                    state = self._fresh(STAGES[i], state.params)
                state = self._run_stage(i, state, tick, report)
        write_weights(self.model_folder, jax.device_get(state.params["lalm"]))
        return self.model_folder

    def _run_stage(self, index: int, state: State, tick: Any, report: Callable[[str], None]) -> State:
        name, c = STAGES[index], self.config
        stage = self.stage(name)
        tx = optimizer(stage, c.weight_decay, c.clip_norm)
        noise = c.augmentation if name == "noise" else None
        lalm = self.lalm.clone(dtype=jnp.dtype(stage.dtype))
        step_fn = make_step(name, lalm, tx, noise, c.word_weight, c.seed * 10 + index)
        number = sum(self.stage(s).steps for s in STAGES[:index])
        saved = time.monotonic()
        for step, x in self.batchers["train"].stream(int(state.step), stage.steps, stage.batch, c.seed * 10 + index):
            began = time.monotonic()
            state, metrics = step_fn(state, x)
            if step % 10 == 0:
                values = {k: round(float(v), 5) for k, v in metrics.items()}
                self.log(stage=name, step=step, seconds=round(time.monotonic() - began, 3), **values)
                text = "  ".join(f"{k} {v:.3f}" for k, v in values.items())
                report(f"{name} {step}/{stage.steps}  {text}") if step % 100 == 0 else None
            tick(f"{name} {step + 1}/{stage.steps}")
            last = step + 1 == stage.steps
            if (step + 1) % c.eval_every == 0 or last:
                scores = self.validate(state) if name in ("joint", "noise") else {}
                if scores:
                    self.log(stage=name, step=step + 1, **{f"val_{k}": round(v, 4) for k, v in scores.items()})
                    report(f"{name} {step + 1}: " + "  ".join(f"{k} {v:.3f}" for k, v in scores.items()))
            if last or time.monotonic() - saved > c.checkpoint_seconds:
                self.checkpoints.save(number + step + 1, {"state": state._asdict(), "stage": jnp.int32(index)})
                saved = time.monotonic()
        return state

    def validate(self, state: State) -> dict[str, float]:
        batcher = self.batchers["validation"]
        indices = range(min(self.config.eval_items, len(batcher.data.meta)))
        texts = answers(self.lalm, {"params": state.params["lalm"]}, batcher, self.tokenizer, indices)
        return task_scores([batcher.data.meta[i] for i in indices], texts)


def train(config: TrainConfig, report: Callable[[str], None] = print) -> Path:
    """Run or resume a training run; returns the Hugging Face folder of the trained model."""
    return Run(config).run(report)
