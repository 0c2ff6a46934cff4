"""Training of the tiny model: four stages, resumable after a kill at any moment."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jiwer
import numpy as np
from jaxtyping import Array, Float
from transformers import AutoTokenizer

from seen_jax.api import generate
from seen_jax.config import build, dotted_defaults
from seen_jax.data.letters import answer_letter
from seen_jax.errors import ConfigError
from seen_jax.files import locked, parse_json, to_json, write_file
from seen_jax.models.checkpoint import read_config
from seen_jax.models.config import DecoderConfig, LalmConfig
from seen_jax.models.generate import Decoding
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.load import load
from seen_jax.models.model import Model
from seen_jax.models.processor import Processor, Request
from seen_jax.progress import Progress, silent
from seen_jax.train.checkpoints import Checkpoints
from seen_jax.train.config import TrainConfig
from seen_jax.train.dataset import build_dataset
from seen_jax.train.export import write_folder, write_weights
from seen_jax.train.regulariser import check_regulariser, no_directions, noise_directions
from seen_jax.train.steps import Batcher, State, coloured_noise, features, make_step, optimizer
from seen_jax.train.tasks import MAX_SAMPLES, TASKS, audible_words, vocabulary

STAGES = ("words", "text", "joint", "noise")
LOG = "metrics.jsonl"
CONNECTED, CLIPS = 50, 600  # examples of a batch of `connect`, and at most of all of them
NOWHERE = (len(STAGES), 0)  # after everything
# Starting values that let a small decoder learn to copy. Answers have the form "word letter" after options "red A green
# B ...": find the word, then copy what follows it. From a plain start, small decoders stay at chance on the letter for
# thousands of steps. Hence heads that match contents, and heads that look back by one.
AMPLITUDE, PAIRS, DAMPING = 60.0**0.5, 3, 0.05

Meta = Sequence[Mapping[str, Any]]  # of examples, see `Dataset.meta`


def answers(model: Model, waves: Sequence[Float[np.ndarray, " _"]], meta: Meta) -> list[str]:
    """The greedy answer to each example's prompt about its clip."""
    requests = [Request([wave], row["prompt"]) for wave, row in zip(waves, meta, strict=True)]
    return [answer.text for answer in generate(model, requests, decoding=Decoding(10), batch_size=50)]


def key(row: Mapping[str, Any], output: str) -> str | None:
    """What counts of an output: the letter that it means, the text of a transcript."""
    return answer_letter(output, row["choices"]) if row["choices"] else output


def task_scores(meta: Meta, outputs: Sequence[str]) -> dict[str, float]:
    """Per task: `<task>` = share of right letters (multiple choice) or exact transcripts; `wer` of the transcripts."""
    scores: dict[str, float] = {}
    for task in TASKS:
        pairs = [(row, output) for row, output in zip(meta, outputs, strict=True) if row["task"] == task]
        if pairs:
            scores[task] = float(np.mean([key(row, text) == (row["letter"] or row["answer"]) for row, text in pairs]))
        if pairs and task == "transcription":
            scores["wer"] = jiwer.wer([row["answer"] for row, _ in pairs], [output for _, output in pairs])
    return scores


def previous_token_bias(head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Query and key biases [head_dim] whose rotary score peaks at a distance of one position. Uses the fastest `PAIRS`
    rotary pairs: pair p adds AMPLITUDE^2 cos((i - j - 1) w_p)."""
    q, k, half = np.zeros(head_dim, np.float32), np.zeros(head_dim, np.float32), head_dim // 2
    for p in range(PAIRS):
        w = theta ** (-2 * p / head_dim)
        q[p], q[p + half] = AMPLITUDE * np.cos(w), -AMPLITUDE * np.sin(w)
        k[p] = AMPLITUDE
    return q, k


def start_copying(params: dict[str, Any], config: DecoderConfig, key: Array) -> dict[str, Any]:
    """Decoder parameters with content matching in every layer (key = query projections) and two previous-token heads in
    the first one, whose value and output maps are an orthonormal projection and its transpose."""
    layers = jax.tree.map(jnp.array, params["layers"])
    layers["k"]["kernel"] = layers["q"]["kernel"]
    q_bias, k_bias = previous_token_bias(config.head_dim, config.rope_theta)
    for head, head_key in enumerate(jax.random.split(key, 2)):
        columns = slice(head * config.head_dim, (head + 1) * config.head_dim)
        for name, bias in (("q", q_bias), ("k", k_bias)):
            layers[name]["kernel"] = layers[name]["kernel"].at[0, :, columns].multiply(DAMPING)
            layers[name]["bias"] = layers[name]["bias"].at[0, columns].set(bias)
        projection = jnp.linalg.qr(jax.random.normal(head_key, (config.width, config.head_dim)))[0]
        layers["v"]["kernel"] = layers["v"]["kernel"].at[0, :, columns].set(projection)
        layers["o"]["kernel"] = layers["o"]["kernel"].at[0, columns, :].set(projection.T)
    return {**params, "layers": layers}


def fit_projector(
    states: Float[Array, "positions width"], targets: Float[Array, "positions output"], ridge: float = 1e-3
) -> dict[str, Array]:
    """Ridge regression of target embeddings on encoder states: kernel [width, output] and bias [output]."""
    mean_x, mean_y = states.mean(0), targets.mean(0)
    x, y = states - mean_x, targets - mean_y
    gram = x.T @ x / len(x)
    gram = gram + ridge * jnp.trace(gram) / len(gram) * jnp.eye(len(gram))
    kernel = jnp.linalg.solve(gram, x.T @ y / len(x))
    return {"kernel": kernel, "bias": mean_y - mean_x @ kernel}


def initial_params(config: LalmConfig, seed: int) -> dict[str, Any]:
    """Parameters of the model and of the word head, which is used in training only."""
    keys = jax.random.split(jax.random.key(seed), 3)
    row, one = jnp.zeros((1, 8), jnp.int32), jnp.ones(1, jnp.int32)
    batch = Batch(row, one, jnp.zeros((1, config.encoder.pad_frames, config.encoder.n_mels)), one, row)
    params = jax.jit(Lalm(config).init)(keys[0], batch)["params"]
    params = {**params, "decoder": start_copying(params["decoder"], config.decoder, keys[1])}
    labels = len(audible_words()) + 1
    kernel = jax.random.normal(keys[2], (config.encoder.width, labels)) * config.encoder.width**-0.5
    return {"lalm": params, "head": {"kernel": kernel, "bias": jnp.zeros(labels)}}


def connect(lalm: Lalm, params: Any, batcher: Batcher) -> Any:
    """Start the projector: ridge regression from encoder states to the expected word embedding under the word head."""
    words = params["lalm"]["decoder"]["embed"]["embedding"][batcher.word_tokens]

    @jax.jit
    def pairs(waves: Any, samples: Any) -> tuple[Any, Any, Any]:
        encoded = lalm.apply({"params": params["lalm"]}, features(lalm, waves, samples), method="encode")
        shares = jax.nn.softmax(encoded.states @ params["head"]["kernel"] + params["head"]["bias"])
        return encoded.states, shares @ words, jnp.arange(encoded.states.shape[1]) < encoded.lengths[:, None]

    states, targets = [], []
    for start in range(0, min(CLIPS, len(batcher.data.meta) // CONNECTED * CONNECTED), CONNECTED):
        x = batcher.batch(range(start, start + CONNECTED))
        state, target, valid = (np.asarray(a) for a in pairs(x.waves, x.samples))
        states.append(state[valid])
        targets.append(target[valid])
    proj = fit_projector(jnp.asarray(np.concatenate(states)), jnp.asarray(np.concatenate(targets)))
    encoder = {**params["lalm"]["encoder"], "proj": proj}
    return {**params, "lalm": {**params["lalm"], "encoder": encoder}}


def started(name: str, like: Any) -> Any:
    """The float32 parameters of the model that training begins with. ConfigError where its shapes are others."""
    params = load(name, dtype="float32").variables["params"]
    shapes = lambda tree: jax.tree.map(lambda x: x.shape, dict(tree))
    if shapes(params) != shapes(like):
        raise ConfigError(f"start: '{name}' has other shapes than the 'model' of this configuration.")
    return params


def _check_examples(config: TrainConfig) -> None:
    """ConfigError where a stage needs more training examples than there are: a batch holds as many of each task."""
    stages = {name: stage for name in STAGES if (stage := getattr(config, name)).steps}
    if not stages:
        raise ConfigError("no stage has steps: there is nothing to train.")
    batches = {f"a batch of {name}": -(-stage.batch // len(TASKS)) * len(TASKS) for name, stage in stages.items()}
    connected = {"the start of joint": CONNECTED} if {"words", "joint"} <= stages.keys() else {}
    place, least = max((batches | connected).items(), key=lambda need: need[1])
    if config.data.train < least:
        given = f"data.train is {config.data.train}, but {place} needs {least} examples"
        raise ConfigError(f"{given}: make it at least that.")


def _claim(path: Path, config: TrainConfig) -> None:
    """Write the configuration into a run's folder. ConfigError where that holds another, with a difference."""
    text = to_json(dataclasses.asdict(config))
    try:
        held = path.read_text("utf-8") if path.is_file() else text
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} cannot be read ({e}): delete {path.parent}, or choose another 'out'.") from None
    if held != text:
        other = f"holds a run with another configuration{_difference(held, config)}"
        raise ConfigError(f"{path.parent} {other}: delete it, or choose another 'out'.")
    write_file(path, text)


def _difference(held: str, config: TrainConfig) -> str:
    """The first value of a stored configuration that another one changes."""
    try:
        stored = dotted_defaults(TrainConfig, build(TrainConfig, parse_json(held), "config.json"))
    except (ValueError, ConfigError):
        return ""
    given = dotted_defaults(TrainConfig, config)
    changed = [f" ({key} was {stored[key]}, now {value})" for key, value in given.items() if stored[key] != value]
    return changed[0] if changed else ""


def _place(line: str) -> tuple[int, int]:
    """(stage, step) of a line of the log; a full disk or a kill leaves a part of the last one, which is `NOWHERE`."""
    try:
        entry = parse_json(line)
        return STAGES.index(entry["stage"]), int(entry["step"])
    except (ValueError, KeyError, TypeError):
        return NOWHERE


class Run:
    """One training run: its folder, data, model, and the state that it has reached."""

    def __init__(self, config: TrainConfig, progress: Progress = silent):
        self.config, self.folder, self.progress = config, Path(config.out), progress
        self.stages = [index for index, name in enumerate(STAGES) if getattr(config, name).steps]
        _claim(self.folder / "config.json", config)
        self.model_folder = self.folder / "model"
        shape = write_folder(self.model_folder, config.model, vocabulary())
        self.lalm = Lalm(shape, unroll=max(shape.encoder.layers, shape.decoder.layers))
        self.processor = Processor(AutoTokenizer.from_pretrained(self.model_folder), *read_config(self.model_folder))
        size, folder = config.data, Path(config.data.folder)
        make = lambda split, n: build_dataset(folder / split, n, split, config.seed, size.workers, progress)
        self.data, self.validation = make("train", size.train), make("validation", size.validation)
        self.batcher = Batcher(self.data, self.processor.tokenizer, shape)
        self.checkpoints = Checkpoints(self.folder / "checkpoints")

    def _log(self, **entry: Any) -> None:
        path = self.folder / LOG
        try:
            with path.open("a") as f:
                f.write(json.dumps(entry) + "\n")
        except OSError as e:
            kept = "what was written before is kept; rerun the same command when the disk takes more"
            raise ConfigError(f"cannot write {path}: {e.strerror}; {kept}") from e

    def _fresh(self, name: str, params: Any) -> State:
        """The state at the start of a stage."""
        directions = no_directions(self.config.regulariser, self.lalm.config)
        return State(params, optimizer(self.config, name).init(params), jnp.int32(0), directions)

    def _restore(self) -> tuple[int, State]:
        """(stage, state) of the last checkpoint, or of the beginning."""
        params = initial_params(self.lalm.config, self.config.seed)
        if self.config.start:
            params = {**params, "lalm": started(self.config.start, params["lalm"])}
        state = self._fresh(STAGES[self.stages[0]], params)
        log = self.folder / LOG
        restored = self.checkpoints.restore((jnp.int32(0), state))
        if restored is None:
            log.unlink(missing_ok=True)
            return self.stages[0], state
        stage, state = int(restored[1][0]), restored[1][1]
        lines = log.read_text("utf-8", "replace").splitlines() if log.is_file() else []
        kept = [line for line in lines if _place(line) <= (stage, int(state.step))]  # the others run again
        write_file(log, "".join(line + "\n" for line in kept))
        return stage, state

    def _save(self, total: int, stage: int, state: State) -> None:
        """Keep the state after so many steps of all stages."""
        name, done = STAGES[stage], int(state.step)
        leaves = jax.tree.leaves(jax.device_get((state.params, state.optimizer)))
        if not all(np.isfinite(leaf).all() for leaf in leaves):
            raise self._diverged(name, done - 1, "the new weights are not finite")
        self.checkpoints.save(total, (jnp.int32(stage), state))

    def _diverged(self, name: str, step: int, what: str) -> ConfigError:
        """What to tell of a stage that went wrong at a step."""
        kept = self.checkpoints.steps()
        last = f"; the state after step {kept[-1]} of the run is kept in {self.checkpoints.folder}" if kept else ""
        advice = f"lower {name}.lr ({getattr(self.config, name).lr:g}) or clip_norm ({self.config.clip_norm:g})"
        return ConfigError(f"stage '{name}', step {step}: {what}. Begin again with another 'out': {advice}{last}.")

    def run(self) -> Path:
        """Train to the end (from the last checkpoint, if any) and return the model folder."""
        start, state = self._restore()
        for index in self.stages[self.stages.index(start) :]:
            name = STAGES[index]
            if index > start:
                if name == "joint" and self.config.words.steps:
                    state = state._replace(params=connect(self.lalm, state.params, self.batcher))
                state = self._fresh(name, state.params)
            state = self._run_stage(index, state)
        write_weights(self.model_folder, jax.device_get(state.params["lalm"]))
        return self.model_folder

    def _model(self, state: State) -> Model:
        """The model as it is now."""
        variables = {"params": state.params["lalm"]}
        return Model(self.folder.name, self.model_folder, self.lalm, variables, self.processor)

    def _directions(self, state: State) -> Array:
        """Noise-only directions of the model as it is now, from other training clips and noises at each step."""
        regulariser, step = self.config.regulariser, int(state.step)
        rng = np.random.default_rng([self.config.seed, step])
        count = min(regulariser.clips, len(self.data.meta))
        waves = self.data.clips(sorted(map(int, rng.choice(len(self.data.meta), count, replace=False))))
        noise = coloured_noise(jax.random.key(rng.integers(2**31)), len(waves), MAX_SAMPLES)
        return noise_directions(self._model(state), waves, list(np.asarray(noise)), regulariser)

    def _validate(self, state: State) -> dict[str, float]:
        """Scores on the first `eval_items` examples of the validation split."""
        model = self._model(state)
        meta = self.validation.meta[: self.config.eval_items]
        return task_scores(meta, answers(model, self.validation.clips(range(len(meta))), meta))

    def _run_stage(self, index: int, state: State) -> State:
        name, c = STAGES[index], self.config
        stage, seed = getattr(c, name), c.seed * 10 + index
        train_step = make_step(c, name, self.lalm.clone(dtype=jnp.dtype(stage.dtype)), seed)
        earlier = sum(getattr(c, stage).steps for stage in STAGES[:index])
        saved = time.monotonic()
        for step, x in self.batcher.stream(int(state.step), stage.steps, stage.batch, seed):
            began = time.monotonic()
            if name == "noise" and c.regulariser.see and step % c.regulariser.every == 0:
                state = state._replace(directions=self._directions(state))
            state, metrics = train_step(state, x)
            values = {k: round(float(v), 5) for k, v in metrics.items()}
            if wrong := [f"{k} is {v}" for k, v in values.items() if not math.isfinite(v)]:
                raise self._diverged(name, step, f"training diverged, {', '.join(wrong)}")
            if step % 10 == 0:
                self._log(stage=name, step=step, seconds=round(time.monotonic() - began, 3), **values)
            self.progress(f"training: {name}", step + 1, stage.steps)
            last = step + 1 == stage.steps
            if name in ("joint", "noise") and ((step + 1) % c.eval_every == 0 or last):
                scores = self._validate(state)
                self._log(stage=name, step=step + 1, **{f"val_{k}": round(v, 4) for k, v in scores.items()})
            if last or time.monotonic() - saved > c.checkpoint_seconds:
                self._save(earlier + step + 1, index, state)
                saved = time.monotonic()
        return state


def train(config: TrainConfig, progress: Progress = silent) -> Path:
    """Run or resume a training run; returns the Hugging Face folder of the trained model. progress: called as
    progress("training: " + stage, steps done, steps of the stage), and while the data are made. ConfigError for a run
    that cannot go on, and while another process trains in the folder."""
    _check_examples(config)
    check_regulariser(config.regulariser)
    with locked(Path(config.out)):
        return Run(config, progress).run()
