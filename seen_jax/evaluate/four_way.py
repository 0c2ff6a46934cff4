"""The paper's four answers about every item: clean, clean with SEEN, noisy, noisy with SEEN."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from seen_jax.api import Answer, Progress, per_request, seen_edit
from seen_jax.errors import ConfigError
from seen_jax.models.edits import Edit
from seen_jax.models.encoder import first_edited
from seen_jax.models.generate import Decoding, generate_each
from seen_jax.models.lalm import Batch
from seen_jax.models.model import Group, Model, roomy_batches
from seen_jax.models.processor import Request
from seen_jax.prefetch import overlapped
from seen_jax.subspace import NoiseBasis


@dataclasses.dataclass(frozen=True)
class FourWay:
    """Answers about one item, each with the SEE of what was heard."""

    clean: Answer
    clean_seen: Answer
    noisy: Answer
    noisy_seen: Answer


def four_way(
    model: Model,
    requests: Sequence[Request],
    noisy: Sequence[Float[np.ndarray, " _"]],
    basis: NoiseBasis,
    strength: float = 1.0,
    decoding: Decoding | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> list[FourWay]:
    """Answer each one-clip request about its own clip and about the noisy version of it, with and without SEEN.

    noisy: of the same lengths as the requests' clips. The four answers of a batch come from one compiled call; the
    encoder's layers below the first edited one run once for both strengths. Raises ConfigError for clips that do not
    fit together, BasisError for a basis of another model.
    """
    if len(noisy) != len(requests) or any(len(r.audio[0]) != len(n) for r, n in zip(requests, noisy, strict=False)):
        raise ConfigError("four answers need one noisy clip for each request, of the same length")
    one = seen_edit(model, basis, strength)[basis.site]
    edits = {basis.site: Edit(u=one.u, scale=jnp.stack([jnp.zeros_like(one.scale), one.scale]))}
    first = first_edited(model.config.encoder, edits)
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].audio[0]))
    groups = roomy_batches(model, [requests[i] for i in order], batch_size)

    def prepare(group: Group) -> tuple[Batch, Any]:
        rows = [order[k] for k in group.rows]
        both = group.requests + [dataclasses.replace(requests[i], audio=[noisy[i]]) for i in rows]
        return model.processor.prepared(both, room=group.room)

    def answers(prepared: tuple[Batch, Any]) -> list[list[Answer]]:
        batch, owners = prepared
        out = generate_each(
            model.lalm, model.variables, batch, edits, decoding or Decoding(), None, first, model.flight
        )
        tokens, lengths, see = jax.device_get((out.tokens, out.lengths, out.see[basis.site]))
        found = []
        for lane in range(2):
            texts = model.processor.decode(tokens[lane], lengths[lane])
            before, after = (per_request(model, basis, x[lane], batch.frames, owners) for x in (see.before, see.after))
            ids = [tuple(row[:n].tolist()) for row, n in zip(tokens[lane], lengths[lane], strict=True)]
            found.append([Answer(*parts) for parts in zip(texts, ids, before, after, strict=True)])
        return found

    found: dict[int, FourWay] = {}
    for group, (plain, edited) in zip(groups, overlapped(groups, prepare, answers, model.concurrent), strict=True):
        for k, i in enumerate(group.indices):
            other = len(group.requests) + k
            found[order[i]] = FourWay(plain[k], edited[k], plain[other], edited[other])
        if progress:
            progress(len(found), len(requests))
    return [found[i] for i in range(len(requests))]
