"""Batches, losses and jitted update steps of the training stages. A batch depends on seed and step alone."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from seen_jax.audio.features import HOP, log_mel
from seen_jax.audio.mix import mix_batch
from seen_jax.models.config import LalmConfig
from seen_jax.models.encoder import Audio, Encoded
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.prefetch import prefetch
from seen_jax.train.config import NoiseAugmentation, TrainConfig
from seen_jax.train.dataset import Dataset
from seen_jax.train.regulariser import consistency_penalty, measured, see_penalty
from seen_jax.train.tasks import MAX_SAMPLES, TASKS, audible_words

PREFIX, MIDDLE = "<|im_start|>user\n<|audio_bos|>", "<|audio_eos|>"
CLOSING, STOP = "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"
TOKEN_SECONDS = 0.04
SILENCE = 5 * HOP  # zeros behind the longest clip, as `pad_waves` leaves them


class Examples(NamedTuple):
    """One training batch, NumPy arrays on the host."""

    waves: Any  # [B, N] float32
    samples: Any  # [B]
    tokens: Any  # [B, S] prompt and answer, right-padded
    lengths: Any  # [B]
    audio_index: Any  # as in `Batch`
    loss_mask: Any  # [B, S] True where the next token is part of the answer
    labels: Any  # [B, P] word per audio token, 0 = none
    stand_in: Any  # [B, S] tokens with words in place of audio


def frame_labels(words: Sequence[int], spans: Sequence[Sequence[float]], n: int) -> np.ndarray:
    """One label per audio token [n]: the word's number in the middle of its span, 0 (blank) between words."""
    labels = np.zeros(n, np.int32)
    for word, (start, end) in zip(words, spans, strict=True):
        margin = 0.1 * (end - start)
        first = min(round((start + margin) / TOKEN_SECONDS), n - 1)
        labels[first : max(round((end - margin) / TOKEN_SECONDS), first + 1)] = word
    return labels


class Batcher:
    """Token ids of all examples of a dataset, and batches of them."""

    def __init__(self, data: Dataset, tokenizer: Any, config: LalmConfig):
        self.data, self.config = data, config
        self.per_clip = int(config.encoder.token_count(config.encoder.pad_frames))
        self.pools = [[i for i, row in enumerate(data.meta) if row["task"] == task] for task in TASKS]
        encode = lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"]
        self.prefix = encode([PREFIX])[0]
        self.middle = encode([MIDDLE + m["prompt"] + CLOSING for m in data.meta])
        self.answers = encode([f" {m['answer']}{STOP}" for m in data.meta])
        names = {word: i + 1 for i, word in enumerate(audible_words())}
        self.labels = [[names[word] for word in m["words"]] for m in data.meta]
        words = encode([f" {word}" for word in names])
        self.word_tokens = np.asarray([config.audio_token, *(ids[0] for ids in words)], np.int32)
        longest = max(len(m) + len(a) for m, a in zip(self.middle, self.answers, strict=True))
        self.audio_tokens = lambda samples: int(config.encoder.token_count(-(-samples // HOP)))
        self.length = -(-(len(self.prefix) + self.audio_tokens(MAX_SAMPLES) + longest) // 16) * 16

    def batch(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Padded examples, in this order."""
        rows, samples = len(indices), self.data.lengths[np.asarray(indices)]
        tokens, audio_index = (np.full((rows, self.length), x, np.int32) for x in (self.config.pad_token, -1))
        mask, lengths = np.zeros((rows, self.length), bool), np.zeros(rows, np.int32)
        labels, start = np.zeros((rows, self.per_clip), np.int32), len(self.prefix)
        for row, i in enumerate(indices):
            n = self.audio_tokens(int(samples[row]))
            prompt = [*self.prefix, *[self.config.audio_token] * n, *self.middle[i]]
            full = prompt + self.answers[i]
            tokens[row, : len(full)] = full
            lengths[row] = len(full)
            mask[row, len(prompt) - 1 : len(full) - 1] = True
            audio_index[row, start : start + n] = row * self.per_clip + np.arange(n)
            labels[row, :n] = frame_labels(self.labels[i], self.data.meta[i]["spans"], n)
        waves = np.pad(self.data.audio(indices), ((0, 0), (0, SILENCE)))
        stand_in = np.where(audio_index >= 0, self.word_tokens[labels.reshape(-1)[audio_index]], tokens)
        return Examples(waves, samples, tokens, lengths, audio_index, mask, labels, stand_in)

    def stream(self, first: int, last: int, size: int, seed: int) -> Iterator[tuple[int, Examples]]:
        """(step, batch) for steps first..last-1, with as many examples of each task; made ahead of their use."""

        def make(step: int) -> Examples:
            rng, each = np.random.default_rng([seed, step]), -(-size // len(TASKS))
            return self.batch(np.concatenate([rng.choice(pool, each, replace=False) for pool in self.pools])[:size])

        steps = range(first, last)
        return zip(steps, prefetch(partial(make, step) for step in steps), strict=True)


class State(NamedTuple):
    params: Any  # {"lalm": ..., "head": {"kernel", "bias"}}
    optimizer: Any
    step: Array
    directions: Array  # along which the regulariser measures SEE [L, D, R]


def coloured_noise(key: Array, rows: int, n: int) -> Float[Array, "batch samples"]:
    """Noise with a random spectral slope (violet to brown, f^1 to f^-2) and a random broad resonance per row."""
    slope_key, centre_key, height_key, noise_key = jax.random.split(key, 4)
    f = jnp.linspace(1e-2, 1.0, n // 2 + 1)
    slope = jax.random.uniform(slope_key, (rows, 1), minval=-2.0, maxval=1.0)
    centre = jax.random.uniform(centre_key, (rows, 1), minval=jnp.log(0.02), maxval=0.0)
    height = jax.random.uniform(height_key, (rows, 1), minval=0.0, maxval=3.0)
    log_power = slope * jnp.log(f) + height * jnp.exp(-jnp.square(jnp.log(f) - centre) / 0.5)
    spectrum = jnp.fft.rfft(jax.random.normal(noise_key, (rows, n))) * jnp.exp(0.5 * log_power)
    return jnp.fft.irfft(spectrum, n)


def augment(key: Array, waves: Array, samples: Array, noise: NoiseAugmentation) -> Array:
    """Add coloured noise to a random share of the rows at a random SNR."""
    noise_key, snr_key, share_key = jax.random.split(key, 3)
    snr = jax.random.uniform(snr_key, samples.shape, minval=noise.low, maxval=noise.high)
    noisy = mix_batch(waves, coloured_noise(noise_key, *waves.shape), snr, samples)
    chosen = jax.random.uniform(share_key, samples.shape) < noise.share
    return jnp.where(chosen[:, None], noisy, waves)


def features(lalm: Lalm, waves: Array, samples: Array) -> Audio:
    """Log-mel in whole chunks, and the frames per clip, of waves that end in `SILENCE`."""
    mel, chunk = log_mel(waves, lalm.config.encoder.n_mels), lalm.config.encoder.pad_frames
    total = -(-(waves.shape[1] - SILENCE) // (HOP * chunk)) * chunk
    mel = jnp.pad(mel, ((0, 0), (0, max(total - mel.shape[1], 0)), (0, 0)))[:, :total]
    return Audio(mel, -(-samples // HOP))


def cross_entropy(logits: Array, labels: Array, mask: Array) -> Array:
    """The mean over the positions where the mask is True."""
    losses, mask = optax.softmax_cross_entropy_with_integer_labels(logits, labels), mask.astype(jnp.float32)
    return (losses * mask).sum() / mask.sum()


def word_loss(head: Any, encoded: Encoded, labels: Array) -> Array:
    """Of the word (or blank, 0) that sounds at each audio token, from the pooled encoder states."""
    logits = encoded.states @ head["kernel"] + head["bias"]
    return cross_entropy(logits, labels, jnp.arange(logits.shape[1]) < encoded.lengths[:, None])


def answer_loss(logits: Array, x: Examples) -> Array:
    """Of the answer's tokens and of the stop token."""
    return cross_entropy(logits[:, :-1], x.tokens[:, 1:], x.loss_mask[:, :-1])


def words_loss(lalm: Lalm, params: Any, x: Examples, key: Array) -> tuple[Array, dict[str, Array]]:
    """The encoder alone, with the word head."""
    encoded = lalm.apply({"params": params["lalm"]}, features(lalm, x.waves, x.samples), method="encode")
    loss = word_loss(params["head"], encoded, x.labels)
    return loss, {"word": loss}


def text_loss(lalm: Lalm, params: Any, x: Examples, key: Array) -> tuple[Array, dict[str, Array]]:
    """The decoder alone: embeddings of the words, slightly noisy, stand in for audio tokens."""
    rows, length = x.tokens.shape
    embedded = params["lalm"]["decoder"]["embed"]["embedding"][x.stand_in]
    embedded = embedded + 0.2 * jax.random.normal(key, embedded.shape)
    flat = jnp.where(x.audio_index >= 0, jnp.arange(rows * length).reshape(rows, length), -1)
    batch = Batch(x.tokens, x.lengths, jnp.zeros((rows, 1, 1)), x.lengths, flat)
    out = lalm.apply({"params": params["lalm"]}, batch, Encoded(embedded, x.lengths, embedded, {}), method="answer")
    loss = answer_loss(out.logits, x)
    return loss, {"answer": loss}


def joint_loss(
    lalm: Lalm, params: Any, x: Examples, key: Array, config: TrainConfig, directions: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """The whole model. directions: None for clean clips; else clips are noisy, and the regulariser measures SEE along
    them."""
    waves = x.waves if directions is None else augment(key, x.waves, x.samples, config.augmentation)
    variables, added = {"params": params["lalm"]}, config.regulariser
    edits = {} if directions is None else measured(added, directions)
    audio = features(lalm, waves, x.samples)
    encoded = lalm.apply(variables, audio, edits, method="encode")
    batch = Batch(x.tokens, x.lengths, audio.features, audio.frames, x.audio_index)
    out = lalm.apply(variables, batch, encoded, method="answer")
    losses = {"answer": answer_loss(out.logits, x), "word": word_loss(params["head"], encoded, x.labels)}
    weights = {"answer": 1.0, "word": config.word_weight}
    if edits:
        losses["see"], weights["see"] = see_penalty(encoded, added.site), added.see
    if directions is not None and added.consistency:
        clean = lalm.apply(variables, features(lalm, x.waves, x.samples), method="encode")
        losses["consistency"], weights["consistency"] = consistency_penalty(encoded, clean), added.consistency
    return sum((weights[name] * loss for name, loss in losses.items()), jnp.float32(0)), losses


def optimizer(config: TrainConfig, name: str) -> optax.GradientTransformation:
    """That of the stage `name`."""
    stage = getattr(config, name)
    warmup, final = min(stage.warmup, stage.steps // 4), stage.lr * stage.final
    schedule = optax.warmup_cosine_decay_schedule(0.0, stage.lr, warmup, stage.steps, final)
    decays = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    adamw = optax.adamw(schedule, b2=0.98, weight_decay=config.weight_decay, mask=decays)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)


def make_step(config: TrainConfig, name: str, lalm: Lalm, seed: int) -> Any:
    """(state, examples) -> (state, metrics) of the stage `name`, jitted; the state is donated."""
    tx = optimizer(config, name)

    def step(state: State, x: Examples) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        joint = partial(joint_loss, config=config, directions=state.directions if name == "noise" else None)
        loss = {"words": words_loss, "text": text_loss}.get(name, joint)
        grads, metrics = jax.grad(lambda p: loss(lalm, p, x, key), has_aux=True)(state.params)
        updates, opt = tx.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, opt, state.step + 1, state.directions), {**metrics, "grad_norm": optax.tree.norm(grads)}

    return jax.jit(step, donate_argnums=0)
