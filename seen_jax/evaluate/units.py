"""The work of an experiment, cut into units that are done or not done."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.data.items import NO_WAVE
from seen_jax.evaluate.parts import make_parts
from seen_jax.evaluate.prepare import Experiment, request_of
from seen_jax.models.buckets import Bucket, share_buckets


class Unit(NamedTuple):
    """The least that is done or not done: a part of a data set under one noise.

    key: its name in the ledger. part: its number among all parts. bucket: the shape that its batches are padded to.
    """

    key: str
    part: int
    dataset: str
    places: list[int]
    noise: str
    bucket: Bucket


def make_units(experiment: Experiment) -> list[Unit]:
    """All units of all processes, one part after the other: which shapes batches share depends on all of them."""
    parts = make_parts(experiment.entries, experiment.config.batch_size)
    wanted = []
    for part in parts:
        entries = [experiment.entries[part.dataset][i] for i in part.places]
        requests = [request_of(experiment, entry, entry.item(NO_WAVE)) for entry in entries]
        samples = [[math.ceil(seconds * SAMPLE_RATE)] for seconds in part.seconds]
        wanted.append(experiment.model.processor.bucket(requests, samples))
    return [
        Unit(f"{part.dataset}/{part.number}/{noise}", number, part.dataset, part.places, noise, bucket)
        for number, (part, bucket) in enumerate(zip(parts, share_buckets(wanted), strict=True))
        for noise in experiment.noises
    ]


def count_answers(experiment: Experiment, units: Iterable[Unit]) -> int:
    """How many answers some units have."""
    per_item = (1 + len(experiment.config.snrs)) * len(experiment.config.chains)
    return per_item * sum(len(unit.places) for unit in units)
