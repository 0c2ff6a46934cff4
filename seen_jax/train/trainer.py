"""Training of the tiny model: four stages, resumable after a kill at any moment."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seen_jax.errors import ConfigError
from seen_jax.files import to_json, write_file
from seen_jax.models.checkpoint import read_config
from seen_jax.models.config import LalmConfig
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.model import Model
from seen_jax.models.processor import Processor
from seen_jax.progress import Progress, silent
from seen_jax.train.batches import Batcher
from seen_jax.train.checkpoints import Checkpoints
from seen_jax.train.config import TrainConfig
from seen_jax.train.dataset import build_dataset
from seen_jax.train.export import write_folder, write_weights
from seen_jax.train.init import fit_projector, start_copying
from seen_jax.train.measure import answers, task_scores
from seen_jax.train.steps import State, features, make_step, optimizer
from seen_jax.train.tasks import audible_words, vocabulary

STAGES = ("words", "text", "joint", "noise")
LOG = "metrics.jsonl"


def initial_params(config: LalmConfig, seed: int) -> dict[str, Any]:
    """Parameters of the model and of the word head, which is used in training only."""
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
    labels = len(audible_words()) + 1
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
    for start in range(0, min(clips, len(batcher.data) // size * size), size):
        x = batcher.batch(range(start, start + size))
        state, target, valid = (np.asarray(a) for a in pairs(x.waves, x.samples))
        states.append(state[valid])
        targets.append(target[valid])
    proj = fit_projector(jnp.asarray(np.concatenate(states)), jnp.asarray(np.concatenate(targets)))
    encoder = {**params["lalm"]["encoder"], "proj": proj}
    return {**params, "lalm": {**params["lalm"], "encoder": encoder}}


class Run:
    """One training run: its folder, data, model, and the state that it has reached."""

    def __init__(self, config: TrainConfig, progress: Progress = silent):
        from transformers import AutoTokenizer

        self.config, self.folder, self.progress = config, Path(config.out), progress
        self._claim()
        self.model_folder = self.folder / "model"
        shape = write_folder(self.model_folder, config.model, vocabulary())
        self.lalm = Lalm(shape, unroll=max(shape.encoder.layers, shape.decoder.layers))
        self.processor = Processor(AutoTokenizer.from_pretrained(self.model_folder), *read_config(self.model_folder))
        size, folder = config.data, Path(config.data.folder)
        self.data, self.validation = (
            build_dataset(folder / split, n, split, config.seed, size.workers or None, progress)
            for split, n in (("train", size.train), ("validation", size.validation))
        )
        self.batcher = Batcher(self.data, self.processor.tokenizer, shape)
        self.checkpoints = Checkpoints(self.folder / "checkpoints")

    def _claim(self) -> None:
        """Remember the configuration; a run folder continues only with the one it began with."""
        text, path = to_json(dataclasses.asdict(self.config)), self.folder / "config.json"
        if path.is_file() and path.read_text() != text:
            raise ConfigError(
                f"{self.folder} holds a run with another configuration: delete it, or choose another 'out'."
            )
        write_file(path, text)

    def _fresh(self, name: str, params: Any) -> State:
        """The state at the start of a stage."""
        return State(params, optimizer(self.config, name).init(params), jnp.int32(0))

    def _restore(self) -> tuple[int, State]:
        """(stage, state) of the last checkpoint, or of the beginning."""
        state = self._fresh(STAGES[0], initial_params(self.lalm.config, self.config.seed))
        last = self.checkpoints.latest()
        if last is None:
            (self.folder / LOG).unlink(missing_ok=True)
            return 0, state
        saved = self.checkpoints.restore(last, {"state": state._asdict(), "stage": jnp.int32(0)})
        stage, step = int(saved["stage"]), saved["state"]["step"]
        self._cut_log(stage, int(step))
        leaves = jax.tree.leaves(saved["state"]["optimizer"])
        opt = jax.tree.unflatten(jax.tree.structure(state.optimizer), leaves)
        return stage, State(saved["state"]["params"], opt, step)

    def _cut_log(self, stage: int, step: int) -> None:
        """Drop entries later than the checkpoint: these steps run again."""
        path = self.folder / LOG
        lines = path.read_text().splitlines() if path.is_file() else []
        kept = [x for x in lines if (STAGES.index((entry := json.loads(x))["stage"]), entry["step"]) <= (stage, step)]
        write_file(path, "".join(line + "\n" for line in kept))

    def log(self, **entry: Any) -> None:
        with (self.folder / LOG).open("a") as f:
            f.write(json.dumps(entry) + "\n")

    def run(self) -> Path:
        """Train to the end (from the last checkpoint, if any) and return the model folder."""
        start, state = self._restore()
        for index, name in enumerate(STAGES[start:], start):
            if index > start:
                if name == "joint":
                    state = state._replace(params=connect(self.lalm, state.params, self.batcher))
                state = self._fresh(name, state.params)
            state = self._run_stage(index, state)
        write_weights(self.model_folder, jax.device_get(state.params["lalm"]))
        return self.model_folder

    def _run_stage(self, index: int, state: State) -> State:
        name, c = STAGES[index], self.config
        stage, seed = c.stage(name), c.seed * 10 + index
        train_step = make_step(c, name, self.lalm.clone(dtype=jnp.dtype(stage.dtype)), seed)
        earlier = sum(c.stage(s).steps for s in STAGES[:index])
        saved = time.monotonic()
        for step, x in self.batcher.stream(int(state.step), stage.steps, stage.batch, seed):
            began = time.monotonic()
            state, metrics = train_step(state, x)
            if step % 10 == 0:
                values = {k: round(float(v), 5) for k, v in metrics.items()}
                self.log(stage=name, step=step, seconds=round(time.monotonic() - began, 3), **values)
            self.progress(f"training: {name}", step + 1, stage.steps)
            last = step + 1 == stage.steps
            if name in ("joint", "noise") and ((step + 1) % c.eval_every == 0 or last):
                scores = self.validate(state)
                self.log(stage=name, step=step + 1, **{f"val_{k}": round(v, 4) for k, v in scores.items()})
            if last or time.monotonic() - saved > c.checkpoint_seconds:
                self.checkpoints.save(earlier + step + 1, {"state": state._asdict(), "stage": jnp.int32(index)})
                saved = time.monotonic()
        return state

    def validate(self, state: State) -> dict[str, float]:
        """Scores on the first `eval_items` examples of the validation split."""
        variables = {"params": state.params["lalm"]}
        model = Model(self.folder.name, self.model_folder, self.lalm, variables, self.processor, fingerprint="")
        indices = range(min(self.config.eval_items, len(self.validation)))
        meta = [self.validation.meta[i] for i in indices]
        return task_scores(meta, answers(model, self.validation.clips(indices), meta))


def train(config: TrainConfig, progress: Progress = silent) -> Path:
    """Run or resume a training run; returns the Hugging Face folder of the trained model.

    progress: called as progress("training: " + stage, steps done, steps of the stage), and while the data are made.
    """
    return Run(config, progress).run()
