"""Few shapes for many batches: nobody gets less room than is wanted, and no choice of shapes has fewer frames."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from seen_jax.models.buckets import Room, share_rooms

ROOMS = st.lists(st.builds(Room, st.integers(0, 9).map(lambda n: 40 * n), st.integers(1, 200)), max_size=12)


@given(ROOMS, st.integers(1, 4))
def test_every_batch_has_room_in_one_of_few_shapes(wanted, most):
    rooms = share_rooms(wanted, most)
    assert len(rooms) == len(wanted)
    assert all(room.frames >= own.frames and room.tokens >= own.tokens for room, own in zip(rooms, wanted, strict=True))
    assert len(set(rooms)) <= most


@given(ROOMS.filter(bool), st.integers(1, 4))
def test_no_other_shapes_have_fewer_frames(wanted, most):
    sizes = {room.frames for room in wanted}

    def frames(tops) -> float:
        return sum(min((top for top in tops if top >= room.frames), default=float("inf")) for room in wanted)

    every = (tops for n in range(1, most + 1) for tops in itertools.combinations(sizes, n))
    assert sum(room.frames for room in share_rooms(wanted, most)) == min(map(frames, every))


def test_alike_batches_keep_their_size():
    assert share_rooms([Room(200, 32)] * 3) == [Room(200, 32)] * 3
