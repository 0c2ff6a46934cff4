"""A sweep over noises and SNRs: every item, with and without SEEN, by one compiled program per batch shape."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float

from seen_jax.api import Progress, seen_edit
from seen_jax.audio.mix import mix_at_snr
from seen_jax.audio.noise import noise_for_clip
from seen_jax.data.items import Item
from seen_jax.errors import AudioError, ConfigError
from seen_jax.evaluate.table import NONE, SEEN, Row
from seen_jax.models.edits import Edit
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.lalm import Batch
from seen_jax.models.model import Model, batches
from seen_jax.models.processor import Request
from seen_jax.prefetch import overlapped
from seen_jax.subspace import NoiseBasis

MAX_NEW_TOKENS = 12  # the longest answer of the tiny model's tasks has 8


def clip_seed(purpose: str, seed: int, index: int) -> int:
    """A seed of its own for every clip and purpose, so that no noise is heard twice."""
    return zlib.crc32(f"{purpose}/{seed}/{index}".encode())


def noises_for(
    spec: str, waves: Sequence[np.ndarray], purpose: str, seed: int, speech: Sequence[np.ndarray] | None = None
) -> list[Float[np.ndarray, " _"]]:
    """A noise for each clip, of its length. speech: voices of "babble" (synthetic ones if not given)."""
    return [noise_for_clip(spec, len(w), clip_seed(purpose, seed, i), speech) for i, w in enumerate(waves)]


def mix(item: Item, noise: Float[np.ndarray, " samples"], snr_db: float | None) -> Float[np.ndarray, " samples"]:
    """The item's clip with its noise at an SNR, or as it is (None). AudioError names the item."""
    if snr_db is None:
        return item.wave
    try:
        return mix_at_snr(item.wave, noise, snr_db).audio
    except AudioError as error:
        raise AudioError(f"item {item.id}: {error}") from error


def prepared(model: Model, items: Sequence[Item], size: int) -> Iterator[tuple[list[int], list[int], Batch]]:
    """(indices of the own items, indices of all rows, model inputs) in batches of one size and few shapes.

    Items are ordered by length, and the last batch is filled up, as everywhere in the package.
    """
    if size < 1:
        raise ConfigError(f"the batch size must be 1 or more, not {size}")
    if len({item.id for item in items}) != len(items):
        raise ConfigError("two items have the same id: an evaluation needs one id per item")
    requests = [Request([item.wave], item.prompt) for item in items]
    length = [(len(item.wave), len(item.prompt)) for item in items]
    order = sorted(range(len(items)), key=length.__getitem__)
    for own, rows in batches(order, size, model.rows):
        yield [order[i] for i in own], rows, model.processor.prepare([requests[i] for i in rows])


def with_waves(model: Model, batch: Batch, waves: Sequence[np.ndarray]) -> Batch:
    """The same prompts about other audio of the same lengths."""
    return dataclasses.replace(batch, features=model.processor.audio(waves)[0].features)


def common_rank(bases: Mapping[str, NoiseBasis], multiple: int = 1) -> dict[str, NoiseBasis]:
    """The same bases, padded with zero columns to one rank, a multiple of `multiple`, for one compiled program."""
    rank = -(-max(basis.q.shape[-1] for basis in bases.values()) // multiple) * multiple
    pad = lambda q: jax.device_put(np.pad(q, ((0, 0), (0, 0), (0, rank - q.shape[-1]))))  # noqa: E731
    return {name: dataclasses.replace(basis, q=pad(np.asarray(basis.q))) for name, basis in bases.items()}


def sweep(
    model: Model,
    items: Sequence[Item],
    noises: Sequence[str],
    snrs: Sequence[float],
    basis_by_noise: Mapping[str, NoiseBasis],
    strength: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress | None = None,
    speech: Sequence[np.ndarray] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Row]:
    """Answer every item clean and at each SNR (dB) of each noise, with and without SEEN, and measure SEE meanwhile.

    noises: as `noise_for_clip` takes them; a clip's noise depends on seed and position in `items` alone, and is the
    same at all SNRs. basis_by_noise: what measures and removes each noise, all of one site. speech: voices for
    "babble". Returns len(noises) * (1 + len(snrs)) * 2 * len(items) rows in order of noise, SNR (clean first),
    mitigation and item. Raises ConfigError for empty lists, BasisError for a basis of another model, AudioError for
    silent clips.
    """
    if not items or not noises:
        raise ConfigError("a sweep needs at least one item and one noise")
    if len({*noises}) < len(noises) or len({*snrs}) < len(snrs):
        raise ConfigError("every noise and every SNR of a sweep may be named only once")
    if missing := [noise for noise in noises if noise not in basis_by_noise]:
        raise ConfigError(f"no basis for the noises {', '.join(missing)}")
    bases = common_rank({noise: basis_by_noise[noise] for noise in noises})
    if len({basis.site for basis in bases.values()}) > 1:
        raise ConfigError("the bases of one sweep must all be of the same site")
    strengths = {NONE: 0.0, SEEN: strength}
    edits = {(n, m): seen_edit(model, bases[n], value) for n in noises for m, value in strengths.items()}
    levels = [None, *snrs]
    noise_waves = {n: noises_for(n, [item.wave for item in items], f"sweep/{n}", seed, speech) for n in noises}
    total, done = len(edits) * len(levels) * len(items), 0
    found: dict[tuple[str, float | None, str, int], Row] = {}
    work = list(itertools.product(noises, levels))
    for own, rows, batch in prepared(model, items, batch_size):

        def mixed(job: tuple[str, float | None], rows: list[int] = rows, batch: Batch = batch) -> tuple[str, Batch]:
            noise, snr = job
            return noise, with_waves(model, batch, [mix(items[i], noise_waves[noise][i], snr) for i in rows])

        def answered(job: tuple[str, Batch]) -> dict[str, list[Parts]]:
            noise, heard = job
            return {m: answer(model, heard, edits[noise, m], bases[noise], max_new_tokens) for m in strengths}

        for (noise, snr), told in zip(work, overlapped(work, mixed, answered, model.concurrent), strict=True):
            for mitigation, answers in told.items():
                for i, parts in zip(own, answers, strict=False):
                    found[noise, snr, mitigation, i] = Row(noise, snr, mitigation, items[i].id, items[i].task, *parts)
            done += len(strengths) * len(own)
            if progress:
                progress(done, total)
    return [found[n, s, m, i] for n in noises for s in levels for m in strengths for i in range(len(items))]


Parts = tuple[str, float, float, tuple[float, ...], tuple[float, ...]]


def answer(
    model: Model, batch: Batch, edits: Mapping[str, Edit], basis: NoiseBasis, max_new_tokens: int
) -> list[Parts]:
    """(text, SEE, SEE after the edit, both per layer) of every row of a batch, greedily, in one pass."""
    out = generate(model.lalm, model.variables, batch, edits, Decoding(max_new_tokens))
    texts = model.processor.decode(np.asarray(out.tokens), np.asarray(out.lengths))
    see = (out.see[basis.site].before, out.see[basis.site].after)
    means = [np.asarray(basis.mean_see(x)).tolist() for x in see]
    layers = [[tuple(column) for column in np.asarray(x).T.tolist()] for x in see]
    return list(zip(texts, *means, *layers, strict=True))
