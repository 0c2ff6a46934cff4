"""The batch loop: requests are grouped by length, prepared ahead of the device, run, and put back in order."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from seen_jax.errors import ConfigError
from seen_jax.models.encoder import Audio
from seen_jax.models.lalm import Batch
from seen_jax.models.model import Model
from seen_jax.models.processor import Bucket, Request
from seen_jax.prefetch import pipeline
from seen_jax.progress import Progress, silent

Wave = Float[np.ndarray, " _"]
R = TypeVar("R")


class Group(NamedTuple):
    """The requests of one batch."""

    indices: list[int]  # which requests, in the order of the results
    rows: list[int]  # the request of every row: `indices`, then the first of them as often as it fills the batch up
    bucket: Bucket  # the shape that the batch is padded to
    text: bool = True  # whether prompts are prepared too, or audio alone, for work that only needs the encoder


class Prepared(NamedTuple):
    """Model inputs of a group."""

    rows: list[int]  # as in `Group`
    inputs: Batch | Audio  # `Audio` of a group without text
    owners: list[list[list[int]]]  # of the request of every row, the encoder rows of each of its clips

    @property
    def batch(self) -> Batch:
        """The inputs of a group with text."""
        assert isinstance(self.inputs, Batch)
        return self.inputs

    @property
    def clips(self) -> list[list[int]]:
        """The encoder rows of every clip."""
        return [clip for request in self.owners for clip in request]


def filled(indices: list[int], size: int, multiple: int) -> list[int]:
    """The indices of a batch, and its first one as often as it takes to a multiple of `multiple`, at least `size`."""
    rows = -(-max(1, size) // multiple) * multiple
    return [*indices, *indices[:1] * (rows - len(indices))]


def group_requests(model: Model, requests: Sequence[Request], batch_size: int, text: bool = True) -> list[Group]:
    """Groups of `batch_size` requests, from the shortest audio to the longest: similar lengths waste little padding.
    All groups have one number of rows and share at most two shapes. ConfigError for a batch size below 1, and for text
    without a decoder."""
    if text:
        model.need_decoder("a prompt")
    if batch_size < 1:
        raise ConfigError(f"the batch size must be at least 1, not {batch_size}.")
    samples = [sum(len(wave) for wave in request.audio) for request in requests]
    order = sorted(range(len(requests)), key=samples.__getitem__)
    size = min(batch_size, len(requests))
    parts = [order[start : start + size] for start in range(0, len(order), max(1, size))]
    rows = [filled(part, size, model.rows) for part in parts]
    wanted = [model.processor.bucket([requests[i] for i in part], text=text) for part in parts]
    return [Group(*group, text) for group in zip(parts, rows, share_buckets(wanted), strict=True)]


def share_buckets(wanted: Sequence[Bucket]) -> list[Bucket]:
    """A bucket for every batch, no smaller than it wants: at most two different ones, with the fewest frames."""
    count = Counter(bucket.frames for bucket in wanted)
    largest = max(count, default=0)
    padded = lambda frames, small: small if frames <= small else largest
    cost = lambda small: sum(n * padded(frames, small) for frames, n in count.items())
    small = min(sorted(count), key=cost, default=0)
    sizes = [padded(bucket.frames, small) for bucket in wanted]
    tokens = Counter[int]()
    for size, bucket in zip(sizes, wanted, strict=True):
        tokens[size] = max(tokens[size], bucket.tokens)
    return [Bucket(size, tokens[size]) for size in sizes]


def run_batches(
    model: Model,
    requests: Sequence[Request],
    run: Callable[[Prepared], Sequence[R]],
    groups: Sequence[Group],
    hear: Callable[[int], Wave] | None = None,
    progress: Progress = silent,
    stage: str = "running",
) -> list[R]:
    """What `run` returns for each request, in the order of the requests. run: from the inputs of a group to one result
    per row; results of rows that only fill a batch are dropped. groups: of `group_requests`; together they hold every
    request once. hear: from the index of a one-clip request to the audio of the same length that replaces its clip, in
    a thread ahead of the device: the place to mix and to denoise. progress(stage, requests done, requests in all) is
    called after every group."""

    def prepare(group: Group) -> Prepared:
        of_group = {i: requests[i].with_audio([hear(i)]) if hear else requests[i] for i in group.indices}
        rows = [of_group[i] for i in group.rows]
        return Prepared(group.rows, *model.processor.prepared(rows, group.bucket, group.text))

    results: dict[int, R] = {}
    for group, of_rows in zip(groups, pipeline(groups, prepare, run, model.concurrent), strict=True):
        results |= zip(group.indices, of_rows, strict=False)
        progress(stage, len(results), len(requests))
    return [results[i] for i in range(len(requests))]
