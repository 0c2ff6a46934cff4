"""Two shapes for many batches: no batch gets less space than it wants, and no choice of shapes has fewer frames."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from seen_jax.models.batching import share_buckets
from seen_jax.models.processor import Bucket

SIZES = st.lists(st.builds(Bucket, st.integers(0, 9).map(lambda n: 40 * n), st.integers(1, 200)), max_size=12)


@given(SIZES)
def test_every_batch_fits_one_of_two_shapes(wanted):
    buckets = share_buckets(wanted)
    assert len(buckets) == len(wanted)
    for bucket, needed in zip(buckets, wanted, strict=True):
        assert bucket.frames >= needed.frames and bucket.tokens >= needed.tokens
    assert len(set(buckets)) <= 2


@given(SIZES.filter(bool))
def test_no_other_shapes_have_fewer_frames(wanted):
    sizes = {bucket.frames for bucket in wanted}

    def frames(tops) -> float:
        return sum(min((top for top in tops if top >= bucket.frames), default=float("inf")) for bucket in wanted)

    every = (tops for n in (1, 2) for tops in itertools.combinations(sizes, n))
    assert sum(bucket.frames for bucket in share_buckets(wanted)) == min(map(frames, every))


def test_alike_batches_keep_their_size():
    assert share_buckets([Bucket(200, 32)] * 3) == [Bucket(200, 32)] * 3
