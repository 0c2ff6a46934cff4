"""The batch loop: requests are grouped by length, prepared ahead of the device, run, and put back in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from seen_jax.errors import ConfigError
from seen_jax.models.buckets import Bucket, share_buckets
from seen_jax.models.encoder import Audio
from seen_jax.models.lalm import Batch
from seen_jax.models.model import Model
from seen_jax.models.processor import Request
from seen_jax.prefetch import pipeline
from seen_jax.progress import Progress, silent

Wave = Float[np.ndarray, " _"]
R = TypeVar("R")


class Group(NamedTuple):
    """The requests of one batch.

    indices: which requests, in the order of the results. rows: the request of every row of the batch: `indices`, then
    the first of them as often as it takes to fill the batch up to its size. bucket: the shape that it is padded to.
    text: whether prompts are prepared too, or audio alone, for work that only needs the encoder.
    """

    indices: list[int]
    rows: list[int]
    bucket: Bucket
    text: bool = True


class Prepared(NamedTuple):
    """Model inputs of a group. rows: as in `Group`. inputs: a `Batch`, or `Audio` of a group without text. owners: of
    every row's request, the encoder rows of each of its clips."""

    rows: list[int]
    inputs: Batch | Audio
    owners: list[list[list[int]]]

    @property
    def batch(self) -> Batch:
        """The inputs of a group with text."""
        assert isinstance(self.inputs, Batch)
        return self.inputs

    @property
    def size(self) -> int:
        """How many rows are requests of the group, before those that fill it up."""
        return len(set(self.rows))

    @property
    def clips(self) -> list[list[int]]:
        """The encoder rows of every clip."""
        return [clip for request in self.owners for clip in request]


def filled(indices: list[int], size: int, multiple: int) -> list[int]:
    """The indices of a batch, and its first one as often as it takes to reach the next multiple of `multiple` that is
    not below `size`."""
    rows = -(-max(1, size) // multiple) * multiple
    return [*indices, *indices[:1] * (rows - len(indices))]


def group_requests(model: Model, requests: Sequence[Request], batch_size: int, text: bool = True) -> list[Group]:
    """Groups of `batch_size` requests, from the shortest audio to the longest: similar lengths waste little padding.

    All groups have one number of rows and share at most `buckets.MOST` shapes, so that few programs are compiled.
    Raises ConfigError for a batch size below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"the batch size must be at least 1, not {batch_size}.")
    samples = [sum(len(wave) for wave in request.audio) for request in requests]
    order = sorted(range(len(requests)), key=samples.__getitem__)
    size = min(batch_size, len(requests))
    parts = [order[start : start + size] for start in range(0, len(order), max(1, size))]
    rows = [filled(part, size, model.rows) for part in parts]
    wanted = [model.processor.bucket([requests[i] for i in part], text=text) for part in parts]
    return [Group(*group, text) for group in zip(parts, rows, share_buckets(wanted), strict=True)]


def run_batches(
    model: Model,
    requests: Sequence[Request],
    run: Callable[[Prepared], Sequence[R]],
    groups: Sequence[Group],
    hear: Callable[[int], Wave] | None = None,
    progress: Progress = silent,
    stage: str = "running",
) -> list[R]:
    """What `run` returns for each request, in the order of the requests.

    Args:
        run: from the inputs of a group to one result per row; results of rows that only fill a batch are dropped.
        groups: of `group_requests`; together they hold every request once.
        hear: from the index of a one-clip request to the audio that takes the place of its clip, of the same length.
            It is called in a thread ahead of the device: the place to mix and to denoise.
        progress, stage: called as progress(stage, requests done, requests in all) after every group.
    """

    def prepare(group: Group) -> Prepared:
        waves = {i: hear(i) for i in group.indices} if hear else {}
        own = [replaced(requests[i], waves.get(i)) for i in group.rows]
        if group.text:
            batch, owners = model.processor.prepared(own, bucket=group.bucket)
            return Prepared(group.rows, batch, owners)
        audio, clips = model.processor.audio([wave for request in own for wave in request.audio], group.bucket)
        rest = iter(clips)
        return Prepared(group.rows, audio, [[next(rest) for _ in request.audio] for request in own])

    results: dict[int, R] = {}
    for group, found in zip(groups, pipeline(groups, prepare, run, model.concurrent), strict=True):
        results |= zip(group.indices, found, strict=False)
        progress(stage, len(results), len(requests))
    return [results[i] for i in range(len(requests))]


def replaced(request: Request, wave: Wave | None) -> Request:
    """The request about another clip; as it is for None."""
    return request if wave is None else request.with_audio([wave])
