"""Greedy and sampled generation: one compiled loop over a fixed key/value cache."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from seen_jax.errors import ConfigError
from seen_jax.models.decoder import KeysValues
from seen_jax.models.edits import Edit, Edits, See
from seen_jax.models.encoder import encode_above
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.sharding import constrain
from seen_jax.models.sites import ENCODER_SITES


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How to generate. temperature 0 is greedy; top_k 0 and top_p 1 switch those cuts off. Static, except temperature
    and top_p, which recompile nothing among sampled settings."""

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}.")
        if not self.temperature >= 0:
            raise ConfigError(f"temperature must be 0 (greedy) or more, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], not {self.top_p}.")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be 0 (off) or more, not {self.top_k}.")


@struct.dataclass
class Generated:
    """tokens: [B, N] new ids, padded after the stop token. lengths: [B] ids before the stop token. see and taps: of
    the prompt pass, so one call yields the answer and the SEE of its input. logits: [B, V] of the first new token."""

    tokens: Any
    lengths: Any
    see: dict[str, See]
    taps: dict[str, Any]
    logits: Any


def sample(
    logits: Float[Array, "batch vocab"], keys: Array, temperature: Array, top_p: Array, top_k: int
) -> Int[Array, " batch"]:
    """Draw one id per row with that row's key, after temperature, the top-k cut and the nucleus (top-p) cut."""
    logits = logits / temperature
    if top_k:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    ordered = -jnp.sort(-logits, axis=-1)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    inside = jnp.cumsum(probabilities, axis=-1) - probabilities < top_p
    least = jnp.min(jnp.where(inside, ordered, jnp.inf), axis=-1, keepdims=True)
    return jax.vmap(jax.random.categorical)(keys, jnp.where(logits < least, -jnp.inf, logits))


def generate(
    lalm: Lalm,
    variables: Any,
    batch: Batch,
    edits: Edits | None = None,
    decoding: Decoding | None = None,
    keys: Any = None,
) -> Generated:
    """Generate from every row of a ragged batch; stops at the config's stop tokens.

    keys: one random key per row, needed when sampling; a row's draws then do not depend on its batch.
    """
    decoding = decoding or Decoding()
    sampled = decoding.temperature > 0
    rows = batch.tokens.shape[0]
    if sampled and (keys is None or keys.shape != (rows,)):
        raise ConfigError(
            f"sampling (temperature > 0) needs one random key per row: keys=jax.random.split(key, {rows})."
        )
    return _generate(
        lalm,
        variables,
        batch,
        dict(edits or {}),
        jax.random.split(jax.random.key(0), rows) if keys is None else keys,
        jnp.float32(decoding.temperature if sampled else 1.0),
        jnp.float32(decoding.top_p),
        sampled,
        decoding.top_k,
        decoding.max_new_tokens,
    )


@functools.partial(jax.jit, static_argnums=(0, 7, 8, 9))
def _generate(
    lalm: Lalm,
    variables: Any,
    batch: Batch,
    edits: Edits,
    keys: Array,
    temperature: Array,
    top_p: Array,
    sampled: bool,
    top_k: int,
    max_new: int,
) -> Generated:
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    out = lalm.apply(variables, batch, edits, last_only=True)

    def pick(logits: Array, i: Array | int) -> Array:
        return sample(logits, fold(keys, i), temperature, top_p, top_k) if sampled else logits.argmax(-1)

    def step(last: Array, cache: KeysValues, visible: Array, positions: Array) -> tuple[Array, KeysValues]:
        return lalm.apply(variables, last, cache, visible, positions, edits, method="step")

    tokens, lengths = _decode(lalm, step, pick, out.logits[:, 0], out.cache, batch.lengths, max_new)
    return Generated(tokens, lengths, out.see, out.taps, out.logits[:, 0])


@functools.partial(jax.jit, static_argnums=(0, 4, 6, 7))
def generate_each(
    lalm: Lalm,
    variables: Any,
    batch: Batch,
    edits: Edits,
    decoding: Decoding,
    shared: Edits | None = None,
    first: int = 0,
    flight: int | None = None,
) -> Generated:
    """Greedy `generate` under K edits of one batch, stacked on a leading axis that the results have too.

    u [L, D, R] without that axis, beside K strengths: the directions of all of them. shared: edits that all K have.
    first: the first encoder layer that any of them changes (`first_edited`): the layers below run once for all. Edits
    that only measure (scale None) share the whole model. flight: prompts that pass through the model at once, of all
    edits together, where that can be had; None: all. On a CPU their activations then stay in its caches.
    """
    rows = len(batch.lengths)

    def prompt(batch: Batch, own: Edits) -> tuple[Any, ...]:
        every = {**own, **(shared or {})}
        encoded = encode_above(lalm, variables, batch.audio, every, first)
        out = lalm.apply(variables, batch, encoded, every, True, method="answer")
        return out.logits, out.taps, out.see, out.cache

    measured = all(edit.scale is None for edit in edits.values())
    axis = None if measured else 0
    axes = (axis, axis, 0, None if measured else 1)
    stacks = {site: _stacked_axes(edit) for site, edit in edits.items()}
    count = len(next(x for edit in edits.values() for x in (edit.scale, edit.u) if x is not None))
    lanes = 1 if measured else count
    each = jax.vmap(prompt, in_axes=(None, stacks), out_axes=axes)
    by_row = shared or any(edit.v is not None for edit in edits.values())  # such maps may be one for each row
    parts = 1 if flight is None or by_row else _parts(lalm, batch, max(1, flight // lanes))
    if parts == 1:
        logits, taps, see, cache = each(batch, edits)
    else:
        found = jax.lax.map(lambda part: each(part, edits), _split_rows(lalm, batch, parts))
        at = 0 if measured else 1
        logits, taps, see, cache = (
            jax.tree.map(functools.partial(_joined, axis=axis), x)
            for x, axis in zip(found, (at, at + 1, 2, at + 1), strict=True)
        )
    in_decoder = {} if measured else {site: edit for site, edit in edits.items() if site not in ENCODER_SITES}

    def step(last: Array, cache: KeysValues, visible: Array, positions: Array) -> tuple[Array, KeysValues]:
        def one(own: Edits, *args: Any) -> tuple[Array, KeysValues]:
            return lalm.apply(variables, *args, {**own, **(shared or {})}, method="step")

        if not in_decoder:
            return one({}, last, cache, visible, positions)
        split = lambda x: x.reshape(lanes, rows, *x.shape[1:])  # noqa: E731
        each = jax.vmap(one, in_axes=({site: stacks[site] for site in in_decoder}, 0, 1, 0, 0), out_axes=(0, 1))
        logits, new = each(in_decoder, split(last), cache, split(visible), split(positions))
        return logits.reshape(lanes * rows, -1), new

    logits = logits.reshape(lanes * rows, -1)
    if not in_decoder:
        cache = jax.tree.map(lambda x: x.reshape(len(x), lanes * rows, *x.shape[-3:]), cache)
    pick = lambda logits, _: logits.argmax(-1)  # noqa: E731
    lengths = jnp.tile(batch.lengths, lanes)
    tokens, lengths = _decode(lalm, step, pick, logits, cache, lengths, decoding.max_new_tokens)
    spread = lambda x: jnp.broadcast_to(x.reshape(lanes, rows, *x.shape[1:]), (count, rows, *x.shape[1:]))  # noqa: E731
    taps = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), taps) if measured else taps
    return Generated(spread(tokens), spread(lengths), see, taps, spread(logits))


def _parts(lalm: Lalm, batch: Batch, most: int) -> int:
    """Into how many equal parts a batch is cut, of about `most` rows each; 1 where rows do not stand for themselves."""
    rows = len(batch.lengths)
    if lalm.mesh is not None or len(batch.frames) != rows or rows <= most:
        return 1
    sizes = [size for size in range(1, rows + 1) if rows % size == 0]
    return rows // min(sizes, key=lambda size: max(size, most) / min(size, most))


def _split_rows(lalm: Lalm, batch: Batch, parts: int) -> Batch:
    """A batch of one encoder row per prompt as `parts` of it, on a leading axis."""
    audio_tokens = lalm.config.encoder.token_count(batch.features.shape[1])
    rows = len(batch.lengths) // parts
    found = jax.tree.map(lambda x: x.reshape(parts, rows, *x.shape[1:]), batch)
    before = jnp.arange(parts)[:, None, None] * rows * audio_tokens
    return dataclasses.replace(found, audio_index=jnp.where(found.audio_index < 0, -1, found.audio_index - before))


def _joined(x: Array, axis: int) -> Array:
    """[parts, ..., rows / parts, ...] -> [..., rows, ...], the rows on an axis of the result."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _stacked_axes(edit: Edit) -> Any:
    """Of each leaf the axis that K edits are stacked on; None of directions that they share."""
    axes = jax.tree.map(lambda _: 0, edit)
    return axes if edit.u.ndim > 3 else axes.replace(u=None)


def cached(new: KeysValues) -> KeysValues:
    """Keys [..., kv_heads, head_dim, S] and values [..., kv_heads, S, head_dim] as the decode loop wants them."""
    return KeysValues(jnp.moveaxis(new.k, -3, -1), jnp.swapaxes(new.v, -3, -2))


def _decode(
    lalm: Lalm,
    step: Callable[[Array, KeysValues, Array, Array], tuple[Array, KeysValues]],
    pick: Callable[[Array, Any], Array],
    logits: Float[Array, "rows vocab"],
    cache: KeysValues,
    prompts: Int[Array, " rows"],
    max_new: int,
) -> tuple[Int[Array, "rows new"], Int[Array, " rows"]]:
    """(tokens, lengths) from the logits and the cache of prompts [L, rows or (K, B), S, ...] of `prompts` tokens each.

    step: (last token, cache, visible, positions) -> (logits, its keys and values). pick: (logits, i) -> i-th new token.
    """
    rows, prompt = len(logits), cache.k.shape[-3]
    stops = jnp.asarray(lalm.config.stop_tokens)
    room = lambda x, axis: jnp.pad(x, [(0, max_new * (i == axis % x.ndim)) for i in range(x.ndim)])  # noqa: E731
    lead = [None] * (cache.k.ndim - 4)
    split = lambda x: constrain(x, lalm.mesh, *lead, "batch", "kv_heads")  # noqa: E731
    cache = cached(cache)
    cache = KeysValues(split(room(cache.k, -1)), split(room(cache.v, -2)))
    slots = jnp.arange(prompt + max_new)
    in_prompt = slots < prompts[:, None]
    first = pick(logits, 0).astype(jnp.int32)
    done = jnp.isin(first, stops)
    tokens = jnp.full((rows, max_new), lalm.config.pad_token, jnp.int32)
    tokens = tokens.at[:, 0].set(jnp.where(done, lalm.config.pad_token, first))

    def unfinished(state: Any) -> Bool[Array, ""]:
        i, done = state[0], state[-1]
        return (i < max_new) & ~done.all()

    def advance(state: Any) -> Any:
        i, tokens, lengths, last, cache, done = state
        visible = in_prompt | ((slots >= prompt) & (slots < prompt + i - 1))
        logits, new = step(last, cache, visible, prompts + i - 1)
        new, write = cached(new), jax.lax.dynamic_update_slice_in_dim
        at = prompt + i - 1
        cache = KeysValues(write(cache.k, new.k, at, axis=-1), write(cache.v, new.v, at, axis=-2))
        token = pick(logits, i).astype(jnp.int32)
        done = done | jnp.isin(token, stops)
        tokens = tokens.at[:, i].set(jnp.where(done, lalm.config.pad_token, token))
        return i + 1, tokens, lengths + ~done, token, cache, done

    state = (jnp.int32(1), tokens, (~done).astype(jnp.int32), first, cache, done)
    _, tokens, lengths, *_ = jax.lax.while_loop(unfinished, advance, state)
    return tokens, lengths
