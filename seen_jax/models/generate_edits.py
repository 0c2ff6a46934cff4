"""Answers under several edits of one batch, where what the edits have in common runs once.

Below the first encoder layer that any of them changes the activations are the same, so those layers run once. Edits
that only measure share the whole model. Which those are follows from the edits themselves.
"""

from __future__ import annotations

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
from seen_jax.models.edits import Edit, Edits
from seen_jax.models.encoder import encode_above, first_edited
from seen_jax.models.generate import Decoding, Generated, decode
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
    """Greedy answers to one batch under each of several sets of edits, as `generate` gives them one by one.

    Args:
        variants: {site: Edit}. Leaves that are the same object in all variants are passed once: directions that
            differ in their strength alone, or a map that is common to all.
        microbatch: prompts, of all variants together, that pass through the model at once where that can be had; None:
            all. On a CPU their activations then stay in its caches.

    Returns:
        One `Generated` of host arrays per variant. Variants of one form (the same sites, the same kinds of edits) are
        one compiled call.

    Raises:
        ConfigError: sampling, which variants could not share.
    """
    decoding = decoding or Decoding()
    if decoding.temperature > 0:
        raise ConfigError("several edits of one batch are answered greedily: set the temperature to 0")
    forms: dict[Any, list[int]] = {}
    for i, edits in enumerate(variants):
        forms.setdefault(_form(edits), []).append(i)
    results: dict[int, Generated] = {}
    for places in forms.values():
        results |= zip(
            places, _one_form(lalm, variables, batch, [variants[i] for i in places], decoding, microbatch), strict=True
        )
    return [results[i] for i in range(len(variants))]


def _form(edits: Edits) -> tuple[Any, ...]:
    """What edits must have in common to be stacked."""
    leaves = ("u", "scale", "v", "bias", "text")
    return tuple(
        (site, *(None if getattr(edit, leaf) is None else np.ndim(getattr(edit, leaf)) for leaf in leaves))
        for site, edit in sorted(edits.items())
    )


def _one_form(
    lalm: Lalm,
    variables: Any,
    batch: Batch,
    variants: Sequence[Edits],
    decoding: Decoding,
    microbatch: int | None,
) -> list[Generated]:
    stacked = {site: _stacked([edits[site] for edits in variants]) for site in sorted(variants[0])}
    shared = _Shared(
        axes=tuple((site, axes) for site, (_, axes) in stacked.items()),
        count=len(variants),
        first=min(first_edited(lalm.config.encoder, edits) for edits in variants),
        microbatch=microbatch,
    )
    edits = {site: edit for site, (edit, _) in stacked.items()}
    out = jax.device_get(_generate_edits(lalm, variables, batch, edits, decoding.max_new_tokens, shared))
    if shared.alike(edits):
        return [out.replace(see=jax.tree.map(lambda x, k=k: x[k], out.see)) for k in range(len(variants))]
    return [jax.tree.map(lambda x, k=k: x[k], out) for k in range(len(variants))]


def _stacked(edits: Sequence[Edit]) -> tuple[Edit, Edit]:
    """Edits of one site on a new leading axis, and the axis of every leaf: None where all share one object."""
    leaves: dict[str, Any] = {}
    axes: dict[str, int | None] = {}
    for field in dataclasses.fields(Edit):
        values = [getattr(edit, field.name) for edit in edits]
        if values[0] is None or all(value is values[0] for value in values):
            leaves[field.name], axes[field.name] = values[0], None
            if field.name == "u" and values[0] is not None and edits[0].v is None:
                leaves["u"] = pad_rank(values[0])
        else:
            wide = field.name in ("u", "v") and edits[0].v is None
            rank = max(np.shape(value)[-1] for value in values) if wide else 0
            arrays = [np.asarray(pad_rank(value, rank)) if wide else np.asarray(value) for value in values]
            leaves[field.name], axes[field.name] = jax.device_put(np.stack(arrays)), 0
    return Edit(**leaves), Edit(**axes)


@dataclasses.dataclass(frozen=True)
class _Shared:
    """What variants have in common, a static argument.

    axes: of every leaf of an edit the axis on which variants are stacked, None where all have the same. first: the
    first encoder layer that any of them changes.
    """

    axes: tuple[tuple[str, Edit], ...]
    count: int
    first: int
    microbatch: int | None

    def alike(self, edits: Edits) -> bool:
        """Whether all variants change the activations in the same way, so that only their measurements differ."""
        return all(edits[site].scale is None or not jax.tree.leaves(axes) for site, axes in self.axes)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _generate_edits(
    lalm: Lalm, variables: Any, batch: Batch, edits: Mapping[str, Edit], max_new: int, shared: _Shared
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
    lengths = jnp.tile(batch.lengths, lanes)
    tokens, lengths = decode(lalm, step, lambda logits, _: logits.argmax(-1), logits, cache, lengths, max_new)
    answers = (tokens, lengths, logits) if alike else (split(tokens), split(lengths), split(logits))
    return Generated(answers[0], answers[1], see, taps, answers[2])


def _prompts(
    lalm: Lalm, variables: Any, batch: Batch, edits: Mapping[str, Edit], shared: _Shared
) -> tuple[Array, Any, Any, KeysValues]:
    """(logits, taps, see, cache) of the prompt pass; see has a leading axis of variants. Unless they are alike so have
    logits and taps, and the cache has one behind its layers."""
    alike = shared.alike(edits)

    def prompt(batch: Batch, edits: Edits) -> tuple[Any, ...]:
        encoded = encode_above(lalm, variables, batch.audio, edits, shared.first)
        out = lalm.apply(variables, batch, encoded, edits, True, method="answer")
        return out.logits, out.taps, out.see, out.cache

    variant = None if alike else 0
    out_axes = (variant, variant, 0, None if alike else 1)
    each = jax.vmap(prompt, in_axes=(None, dict(shared.axes)), out_axes=out_axes, axis_size=shared.count)
    by_row = any(edit.v is not None for edit in edits.values())  # such maps may be one for each row
    most = None if shared.microbatch is None else max(1, shared.microbatch // (1 if alike else shared.count))
    parts = 1 if most is None or by_row else _parts(lalm, batch, most)
    if parts == 1:
        return each(batch, edits)
    found = jax.lax.map(lambda part: each(part, edits), _split_rows(lalm, batch, parts))
    rows = (0, 1, 2, 1) if alike else (1, 2, 2, 2)  # the axis of rows in each result: behind layers and variants
    return tuple(jax.tree.map(functools.partial(_joined, axis=axis), x) for x, axis in zip(found, rows, strict=True))


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
