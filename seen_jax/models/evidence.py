"""How sure a model is of an answer, under the audio that it heard and under other audio.

The answer is given, so one pass over prompt and answer shows the probabilities of all of its tokens.
Axes: B batch rows, N new tokens (and the end of the answer behind them)."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seen_jax.models.edits import Edits
from seen_jax.models.lalm import Batch, Lalm, split_records

Rows = Float[np.ndarray, " rows"]
DOUBTS = ("entropy", "largest entropy", "surprise", "largest surprise", "smallest margin")  # in nats


class Answers(NamedTuple):
    """Given answers, as `Generated` holds them."""

    tokens: Any  # [B, N]
    lengths: Any  # [B]


class Forced(NamedTuple):
    """What a pass over prompts and their answers gives. The position behind the last token of an answer is its end."""

    expected: Int[Array, "rows new"]  # ids of the answer, and what the model thinks likeliest at its end
    log_probs: Float[Array, "rows new"]  # of the expected ids
    entropy: Float[Array, "rows new"]  # of the next token, in nats
    margin: Float[Array, "rows new"]  # of log-probability between the likeliest token and the next one
    taps: dict[str, Array]


@functools.partial(jax.jit, static_argnums=0)
def forced(lalm: Lalm, variables: Any, batch: Batch, edits: Edits, answers: Answers, end: Any = None) -> Forced:
    """One pass over prompts and given answers. end: [B] the id that is expected at the end of each answer; None: the
    likeliest one."""
    tokens, lengths = answers
    rows, new = tokens.shape
    longer = lambda x, value: jnp.pad(x, ((0, 0), (0, new + 1)), constant_values=value)
    places = jnp.arange(rows)[:, None], batch.lengths[:, None] + jnp.arange(new)
    whole = dataclasses.replace(
        batch,
        tokens=longer(batch.tokens, lalm.config.pad_token).at[places].set(tokens),
        audio_index=longer(batch.audio_index, -1),
        lengths=batch.lengths + lengths,
    )
    encoded = lalm.apply(variables, whole.audio, edits, method="encode")
    at = batch.lengths[:, None] - 1 + jnp.arange(new + 1)
    logits = lalm.apply(variables, whole, encoded, edits, at=at, method="answer").logits
    log_probs = jax.nn.log_softmax(logits)
    last = log_probs.argmax(-1) if end is None else end[:, None]
    expected = jnp.where(jnp.arange(new + 1) == lengths[:, None], last, longer(tokens, 0)[:, : new + 1])
    best = jax.lax.top_k(log_probs, 2)[0]
    return Forced(
        expected,
        jnp.take_along_axis(log_probs, expected[..., None], axis=-1)[..., 0],
        -(jnp.exp(log_probs) * log_probs).sum(-1),
        best[..., 0] - best[..., 1],
        split_records(encoded.records)[0],
    )


def doubt_of_answers(given: Forced, lengths: Int[np.ndarray, " rows"]) -> dict[str, Rows]:
    """How unsure a model is of its answers by itself; all of these rise with doubt."""
    real = _real(given.entropy, lengths)
    entropy, margin, surprise = (np.asarray(x, np.float64) for x in (given.entropy, given.margin, -given.log_probs))
    mean_and_largest = np.where(real, entropy, 0).sum(1) / real.sum(1), np.where(real, entropy, 0).max(1)
    sum_and_largest = np.where(real, surprise, 0).sum(1), np.where(real, surprise, -np.inf).max(1)
    smallest = -np.where(real, margin, np.inf).min(1)
    return dict(zip(DOUBTS, (*mean_and_largest, *sum_and_largest, smallest), strict=True))


def doubt_of_others(log_probs: Float[np.ndarray, "rows new"], lengths: Int[np.ndarray, " rows"]) -> dict[str, Rows]:
    """How unlikely answers are under other audio than that which they were given to."""
    real, surprise = _real(log_probs, lengths), -np.asarray(log_probs, np.float64)
    return {
        "surprise": np.where(real, surprise, 0).sum(1) / real.sum(1),
        "largest surprise": np.where(real, surprise, -np.inf).max(1),
    }


def _real(x: Any, lengths: Int[np.ndarray, " rows"]) -> np.ndarray:
    """[B, N + 1]: the tokens of each answer, and its end."""
    return np.arange(np.shape(x)[1]) <= np.asarray(lengths)[:, None]
