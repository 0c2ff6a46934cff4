"""Greedy and sampled generation: one compiled loop over a fixed key/value cache."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from seen_jax.errors import ConfigError
from seen_jax.models.config import LalmConfig
from seen_jax.models.constraints import OFF, Constraints, History
from seen_jax.models.decoder import KeysValues
from seen_jax.models.edits import Edits, See
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.sharding import constrain

COLDEST = 1e-6  # the lowest temperature that is sampled at


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How to generate. temperature and top_p are data: other values recompile nothing among sampled settings.
    ConfigError for values out of range.

    max_new_tokens: the longest answer, in tokens.
    temperature: 0 is greedy, and so is anything below 1e-6, where float32 would lose the logits.
    top_k: draw among this many most likely tokens; 0 for all.
    top_p: draw among the most likely tokens that hold this much probability together; 1 for all.
    constraints: repetition penalty and the like; None: those of the model's folder.

    >>> seen_jax.Decoding(max_new_tokens=8, temperature=0.7)
    Decoding(max_new_tokens=8, temperature=0.7, top_k=0, top_p=1.0)
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    constraints: Constraints | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}.")
        if not self.temperature >= 0:
            raise ConfigError(f"temperature must be 0 (greedy) or more, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], not {self.top_p}.")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be 0 (off) or more, not {self.top_k}.")

    def static(self, config: LalmConfig) -> "Decoding":
        """What a compiled program depends on, with the constraints of the model's folder unless there are others."""
        top_k = self.top_k if self.temperature >= COLDEST else 0
        return Decoding(self.max_new_tokens, top_k=top_k, constraints=self.constraints or config.constraints)


@struct.dataclass
class Generated:
    """Answers, and what their prompt pass measured: one call yields the answer and the SEE of its input."""

    tokens: Any  # [B, N] new ids, padded after the stop token
    lengths: Any  # [B] ids before the stop token
    see: dict[str, See]
    taps: dict[str, Any]
    logits: Any  # [B, V] of the first new token
    finite: Any  # [B] whether the logits of every token of the answer were finite

    @property
    def finished(self) -> Any:
        """[B] whether an answer ended by itself, and was not cut at the longest length."""
        return self.lengths < self.tokens.shape[-1]


class Prompted(NamedTuple):
    """What the decode loop goes on from."""

    logits: Any  # [rows, V] of the first new token
    cache: KeysValues  # [L, rows or (K, B), S, ...]
    tokens: Any  # [rows, S]
    lengths: Any  # [rows] real tokens


def sample(
    logits: Float[Array, "batch vocab"], keys: Array, temperature: Array, top_p: Array, top_k: int
) -> Int[Array, " batch"]:
    """Draw one id per row with that row's key, after temperature, the top-k cut and the nucleus (top-p) cut."""
    logits = logits / temperature
    if top_k:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    order = jnp.argsort(logits, axis=-1)[:, ::-1]  # of equal logits the last comes first, as in transformers
    probabilities = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    inside = jnp.cumsum(probabilities, axis=-1) - probabilities < top_p
    nan = jnp.isnan(logits)  # stays, so that `Generated.finite` sees it
    kept = nan | jnp.put_along_axis(nan, order, inside, axis=-1, inplace=False)
    return jax.vmap(jax.random.categorical)(keys, jnp.where(kept, logits, -jnp.inf))


def generate(
    lalm: Lalm,
    variables: Any,
    batch: Batch,
    edits: Edits | None = None,
    decoding: Decoding | None = None,
    keys: Any = None,
) -> Generated:
    """Generate from every row of a ragged batch, up to the config's stop tokens. keys: one random key per row, needed
    when sampling; a row's draws do not depend on its batch."""
    decoding = decoding or Decoding()
    sampling = None
    if decoding.temperature >= COLDEST:
        rows = batch.tokens.shape[0]
        if keys is None or keys.shape != (rows,):
            example = f"keys=jax.random.split(key, {rows})"
            raise ConfigError(f"sampling (temperature > 0) needs one random key per row: {example}.")
        sampling = keys, jnp.float32(decoding.temperature), jnp.float32(decoding.top_p)
    return answer_batch(lalm, variables, batch, dict(edits or {}), sampling, decoding.static(lalm.config))


@functools.partial(jax.jit, static_argnums=(0, 5))
def answer_batch(
    lalm: Lalm, variables: Any, batch: Batch, edits: Edits, sampling: tuple[Any, ...] | None, decoding: Decoding
) -> Generated:
    """sampling: keys [B], of which every token has one folded in, temperature and top_p of `sample`."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    out = lalm.apply(variables, batch, edits, last_only=True)

    def pick(logits: Array, i: Array | int) -> Array:
        if sampling is None:
            return logits.argmax(-1)
        keys, temperature, top_p = sampling
        return sample(logits, fold(keys, i), temperature, top_p, decoding.top_k)

    def step(last: Array, cache: KeysValues, visible: Array, positions: Array) -> tuple[Array, KeysValues]:
        return lalm.apply(variables, last, cache, visible, positions, edits, method="step")

    prompted = Prompted(out.logits[:, 0], out.cache, batch.tokens, batch.lengths)
    tokens, lengths, finite = decode(lalm, step, pick, prompted, decoding)
    return Generated(tokens, lengths, out.see, out.taps, out.logits[:, 0], finite)


def _finite(logits: Float[Array, "rows vocab"], tokens: Int[Array, " rows"]) -> Bool[Array, " rows"]:
    """Whether no logit of a row is NaN or infinite, by that of the picked token: both are picked before all others."""
    return jnp.isfinite(jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0])


def cached(new: KeysValues) -> KeysValues:
    """Keys [..., kv_heads, head_dim, S] and values [..., kv_heads, S, head_dim] as the decode loop wants them."""
    return KeysValues(jnp.moveaxis(new.k, -3, -1), jnp.swapaxes(new.v, -3, -2))


def decode(
    lalm: Lalm,
    step: Callable[[Array, KeysValues, Array, Array], tuple[Array, KeysValues]],
    pick: Callable[[Array, Any], Array],
    prompted: Prompted,
    decoding: Decoding,
) -> tuple[Int[Array, "rows new"], Int[Array, " rows"], Bool[Array, " rows"]]:
    """(tokens, lengths, finite). step: (last token, cache, visible, positions) -> (logits, its keys and values). pick:
    (logits, i) -> i-th new token, of logits that keep to the constraints. decoding: of `Decoding.static`."""
    logits, cache, _, prompts = prompted
    rows, prompt, max_new = len(logits), cache.k.shape[-3], decoding.max_new_tokens
    constraints = decoding.constraints or OFF
    stops = jnp.asarray(lalm.config.stop_tokens)

    def extended(x: Array, axis: int) -> Array:
        """With zeros behind the prompt."""
        padded = jnp.pad(x, [(0, max_new * (i == axis % x.ndim)) for i in range(x.ndim)])
        return constrain(padded, lalm.mesh, *[None] * (x.ndim - 4), "batch", "kv_heads")

    def chosen(logits: Array, i: Array | int, past: History | None) -> tuple[Array, History | None]:
        token = pick(constraints.apply(logits, lalm.config.stop_tokens, i, past), i).astype(jnp.int32)
        return token, None if past is None else past.grown(token, i)

    cache = cached(cache)
    cache = KeysValues(extended(cache.k, -1), extended(cache.v, -2))
    slots = jnp.arange(prompt + max_new)
    in_prompt = slots < prompts[:, None]
    first, past = chosen(logits, 0, constraints.history(prompted.tokens, prompts, max_new))
    done = jnp.isin(first, stops)
    tokens = jnp.full((rows, max_new), lalm.config.pad_token, jnp.int32)
    tokens = tokens.at[:, 0].set(jnp.where(done, lalm.config.pad_token, first))

    def advance(state: Any) -> Any:
        i, tokens, lengths, last, cache, past, done, finite = state
        visible = in_prompt | ((slots >= prompt) & (slots < prompt + i - 1))
        logits, new = step(last, cache, visible, prompts + i - 1)
        new, write = cached(new), jax.lax.dynamic_update_slice_in_dim
        at = prompt + i - 1
        cache = KeysValues(write(cache.k, new.k, at, axis=-1), write(cache.v, new.v, at, axis=-2))
        token, past = chosen(logits, i, past)
        finite = finite & (done | _finite(logits, token))
        done = done | jnp.isin(token, stops)
        tokens = tokens.at[:, i].set(jnp.where(done, lalm.config.pad_token, token))
        return i + 1, tokens, lengths + ~done, token, cache, past, done, finite

    state = (jnp.int32(1), tokens, (~done).astype(jnp.int32), first, cache, past, done, _finite(logits, first))
    unfinished = lambda state: (state[0] < max_new) & ~state[-2].all()
    _, tokens, lengths, *_, finite = jax.lax.while_loop(unfinished, advance, state)
    return tokens, lengths, finite
