"""Answers under several edits of one batch, where what the edits have in common runs once.

Below the first encoder layer that any of them changes the activations are the same, so those layers run once. Edits
that only measure share the whole model. Which those are follows from the edits themselves."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from seen_jax.errors import ConfigError
from seen_jax.models.decoder import KeysValues
from seen_jax.models.edits import Edit, Edits, lasting
from seen_jax.models.encoder import first_edited
from seen_jax.models.generate import COLDEST, Decoding, Generated, Prompted, decode
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.sites import ENCODER_SITES
from seen_jax.subspace.basis import pad_rank


def generate_edits(
    lalm: Lalm,
    variables: Any,
    batch: Batch,
    variants: Sequence[Edits],
    decoding: Decoding | None = None,
    microbatch: int | None = None,
) -> list[Generated]:
    """Greedy answers to one batch under each of several sets of edits, as `generate` gives them one by one: one
    `Generated` of host arrays per variant. variants: leaves that are the same object in all of them are passed once:
    directions that differ in their strength alone, or a map that is common to all. Variants of one form (the same
    sites, the same kinds of edits, maps of the same shapes) are one compiled call. microbatch: prompts, of all
    variants together, that pass through the model at once where that can be had; None: all. On a CPU their activations
    then stay in its caches. ConfigError for sampling, which variants could not share, and for patches."""
    decoding = decoding or Decoding()
    if decoding.temperature >= COLDEST:
        raise ConfigError("several edits of one batch are answered greedily: set the temperature to 0")
    shareable = [lasting(edits) for edits in variants]
    if [*map(len, shareable)] != [*map(len, variants)]:
        raise ConfigError("a patch is answered by itself: use `generate`, not several edits of one batch")
    forms: dict[Any, list[int]] = {}
    for i, of_variant in enumerate(shareable):
        sizes: list[Any] = []
        for _, edit in sorted(of_variant.items()):
            sizes += [np.ndim(x) if edit.v is None else np.shape(x) for x in jax.tree.leaves(edit)]
        forms.setdefault((jax.tree.structure(of_variant), *sizes), []).append(i)
    results: dict[int, Generated] = {}
    for places in forms.values():
        alike = [shareable[i] for i in places]
        stacked = {site: _stacked([edits[site] for edits in alike]) for site in sorted(alike[0])}
        axes = tuple((site, axes) for site, (_, axes) in stacked.items())
        first = min(first_edited(lalm.config.encoder, edits) for edits in alike)
        shared = Shared(axes, len(alike), first, microbatch)
        edits = {site: edit for site, (edit, _) in stacked.items()}
        out = jax.device_get(answer_variants(lalm, variables, batch, edits, decoding.static(lalm.config), shared))
        for k, place in enumerate(places):
            take = lambda x, k=k: x[k]
            one = out.replace(see=jax.tree.map(take, out.see)) if shared.alike(edits) else jax.tree.map(take, out)
            results[place] = one
    return [results[i] for i in range(len(variants))]


def _stacked(edits: Sequence[Edit]) -> tuple[Edit, Edit]:
    """Edits of one site on a new leading axis, and the axis of every leaf: None where all share one object."""
    leaves: dict[str, Any] = {}
    axes: dict[str, int | None] = {}
    for name in (field.name for field in dataclasses.fields(Edit)):
        values = [getattr(edit, name) for edit in edits]
        common = values[0] is None or all(value is values[0] for value in values)
        values = values[:1] if common else values
        if name == "u" and edits[0].v is None:  # projections may have different ranks
            rank = max(np.shape(value)[-1] for value in values)
            values = [pad_rank(value, rank) for value in values]
        leaves[name] = values[0] if common else jax.device_put(np.stack([np.asarray(value) for value in values]))
        axes[name] = None if common else 0
    return Edit(**leaves), Edit(**axes)


@dataclasses.dataclass(frozen=True)
class Shared:
    """What variants have in common, a static argument."""

    axes: tuple[tuple[str, Edit], ...]  # per site and leaf, the axis on which variants are stacked; None: all share it
    count: int
    first: int  # encoder layer that any of them changes
    microbatch: int | None

    def alike(self, edits: Mapping[str, Edit]) -> bool:
        """Whether all variants change the activations in the same way, so that only their measurements differ."""
        return all(edits[site].scale is None or not jax.tree.leaves(axes) for site, axes in self.axes)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def answer_variants(
    lalm: Lalm, variables: Any, batch: Batch, edits: Mapping[str, Edit], decoding: Decoding, shared: Shared
) -> Generated:
    rows, alike = len(batch.lengths), shared.alike(edits)
    lanes = 1 if alike else shared.count
    logits, taps, see, cache = _prompts(lalm, variables, batch, edits, shared)
    decoder = {s: edit for s, edit in edits.items() if s not in ENCODER_SITES and edit.scale is not None}
    axes = {site: axis for site, axis in shared.axes if site in decoder}

    def split(x: Array) -> Array:
        return x.reshape(lanes, rows, *x.shape[1:])

    def step(last: Array, cache: KeysValues, visible: Array, positions: Array) -> tuple[Array, KeysValues]:
        def one(edits: Edits, *args: Any) -> tuple[Array, KeysValues]:
            return lalm.apply(variables, *args, edits, method="step")

        if not decoder or alike:
            return one(decoder, last, cache, visible, positions)
        each = jax.vmap(one, in_axes=(axes, 0, 1, 0, 0), out_axes=(0, 1))
        logits, new = each(decoder, split(last), cache, split(visible), split(positions))
        return logits.reshape(lanes * rows, -1), new

    logits = logits.reshape(lanes * rows, -1)
    if not decoder or alike:
        cache = jax.tree.map(lambda x: x.reshape(len(x), lanes * rows, *x.shape[-3:]), cache)
    prompted = Prompted(logits, cache, jnp.tile(batch.tokens, (lanes, 1)), jnp.tile(batch.lengths, lanes))
    tokens, lengths, finite = decode(lalm, step, lambda logits, _: logits.argmax(-1), prompted, decoding)
    if not alike:
        tokens, lengths, logits, finite = map(split, (tokens, lengths, logits, finite))
    return Generated(tokens, lengths, see, taps, logits, finite)


def _prompts(
    lalm: Lalm, variables: Any, batch: Batch, edits: Mapping[str, Edit], shared: Shared
) -> tuple[Array, Any, Any, KeysValues]:
    """(logits, taps, see, cache) of the prompt pass; see has a leading axis of variants. Unless they are alike so have
    logits and taps, and the cache has one behind its layers."""
    alike = shared.alike(edits)

    def prompt(batch: Batch, edits: Edits) -> tuple[Any, ...]:
        encoded = lalm.apply(variables, batch.audio, edits, shared.first, method="encode")
        out = lalm.apply(variables, batch, encoded, edits, True, method="answer")
        return out.logits, out.taps, out.see, out.cache

    out_axes = (None, None, 0, None) if alike else (0, 0, 0, 1)
    each = jax.vmap(prompt, in_axes=(None, dict(shared.axes)), out_axes=out_axes, axis_size=shared.count)
    by_row = any(edit.v is not None for edit in edits.values())  # such maps may be one for each row
    most = None if shared.microbatch is None else max(1, shared.microbatch // (1 if alike else shared.count))
    parts = 1 if most is None or by_row else _parts(lalm, batch, most)
    if parts == 1:
        return each(batch, edits)
    outputs = jax.lax.map(lambda part: each(part, edits), _split_rows(lalm, batch, parts))
    rows = (0, 1, 2, 1) if alike else (1, 2, 2, 2)  # the axis of rows in each result: behind layers and variants
    return tuple(jax.tree.map(functools.partial(_joined, axis=axis), x) for x, axis in zip(outputs, rows, strict=True))


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
    split = jax.tree.map(lambda x: x.reshape(parts, rows, *x.shape[1:]), batch)
    before = jnp.arange(parts)[:, None, None] * rows * audio_tokens
    return dataclasses.replace(split, audio_index=jnp.where(split.audio_index < 0, -1, split.audio_index - before))


def _joined(x: Array, axis: int) -> Array:
    """[parts, ..., rows / parts, ...] -> [..., rows, ...], the rows on an axis of the result."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
