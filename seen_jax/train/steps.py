"""Losses and jitted update steps of the training stages."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from seen_jax.audio.features import HOP, log_mel
from seen_jax.audio.mix import mix_batch
from seen_jax.models.encoder import Audio, Encoded
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.train.config import NoiseAugmentation, TrainConfig

SILENCE = 5 * HOP  # zeros behind the longest clip, as `pad_waves` leaves them


class Examples(NamedTuple):
    """One training batch, NumPy arrays on the host.

    waves: [B, N] float32. samples: [B]. tokens: [B, S] prompt and answer, right-padded. lengths: [B]. audio_index: as
    in `Batch`. loss_mask: [B, S] True where the next token is part of the answer. labels: [B, P] word per audio token,
    0 = none. stand_in: [B, S] tokens with words in place of audio.
    """

    waves: Any
    samples: Any
    tokens: Any
    lengths: Any
    audio_index: Any
    loss_mask: Any
    labels: Any
    stand_in: Any


class State(NamedTuple):
    params: Any  # {"lalm": ..., "head": {"kernel", "bias"}}
    optimizer: Any
    step: Array


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
    encoder = lalm.config.encoder
    mel = log_mel(waves, encoder.n_mels)
    chunk = encoder.pad_frames
    total = -(-(waves.shape[1] - SILENCE) // (HOP * chunk)) * chunk
    mel = jnp.pad(mel, ((0, 0), (0, max(total - mel.shape[1], 0)), (0, 0)))[:, :total]
    return Audio(mel, -(-samples // HOP))


def word_loss(head: Any, encoded: Encoded, labels: Array) -> Array:
    """Cross-entropy of the word (or blank, 0) that sounds at each audio token, on the pooled encoder states."""
    logits = encoded.states @ head["kernel"] + head["bias"]
    real = (jnp.arange(logits.shape[1]) < encoded.lengths[:, None]).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (losses * real).sum() / real.sum()


def answer_loss(logits: Array, tokens: Array, mask: Array) -> Array:
    """Cross-entropy of the answer's tokens and of the stop token."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    mask = mask[:, :-1].astype(jnp.float32)
    return (losses * mask).sum() / mask.sum()


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
    loss = answer_loss(out.logits, x.tokens, x.loss_mask)
    return loss, {"answer": loss}


def joint_loss(
    lalm: Lalm, params: Any, x: Examples, key: Array, noise: NoiseAugmentation | None, weight: float
) -> tuple[Array, dict[str, Array]]:
    """The whole model. noise: None for clean clips. weight: of the word head's loss."""
    waves = x.waves if noise is None else augment(key, x.waves, x.samples, noise)
    variables = {"params": params["lalm"]}
    audio = features(lalm, waves, x.samples)
    encoded = lalm.apply(variables, audio, method="encode")
    batch = Batch(x.tokens, x.lengths, audio.features, audio.frames, x.audio_index)
    out = lalm.apply(variables, batch, encoded, method="answer")
    answer = answer_loss(out.logits, x.tokens, x.loss_mask)
    word = word_loss(params["head"], encoded, x.labels)
    return answer + weight * word, {"answer": answer, "word": word}


def optimizer(config: TrainConfig, name: str) -> optax.GradientTransformation:
    """That of the stage `name`."""
    stage = config.stage(name)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, stage.lr, min(stage.warmup, stage.steps // 4), stage.steps, stage.lr * stage.final
    )
    decays = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, b2=0.98, weight_decay=config.weight_decay, mask=decays),
    )


def make_step(config: TrainConfig, name: str, lalm: Lalm, seed: int) -> Any:
    """(state, examples) -> (state, metrics) of the stage `name`, jitted; the state is donated."""
    noise = config.augmentation if name == "noise" else None
    joint = functools.partial(joint_loss, noise=noise, weight=config.word_weight)
    loss = {"words": words_loss, "text": text_loss}.get(name, joint)
    tx = optimizer(config, name)

    def step(state: State, x: Examples) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, metrics = jax.grad(lambda p: loss(lalm, p, x, key), has_aux=True)(state.params)
        updates, opt = tx.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, opt, state.step + 1), {**metrics, "grad_norm": optax.tree.norm(grads)}

    return jax.jit(step, donate_argnums=0)
