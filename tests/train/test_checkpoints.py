"""Training states on disk: a damaged one is noticed, and the one before it is used."""

import shutil
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from bad_disk import full_disk

from seen_jax.errors import CheckpointError
from seen_jax.train.checkpoints import Checkpoints

LIKE = {"weights": jnp.zeros((64, 8)), "step": jnp.int32(0)}


def state(step: int) -> dict[str, jnp.ndarray]:
    weights = np.random.default_rng(step).standard_normal((64, 8))
    return {"weights": jnp.asarray(weights, jnp.float32), "step": jnp.int32(step)}


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    kept = Checkpoints(tmp_path / "checkpoints")
    for step in (3, 5, 8):
        kept.save(step, state(step))
    return kept


def damage(path: Path, size: int | None = None) -> None:
    """Flip a bit in the middle, where the numbers are, or cut the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data)[:size])


def restored(checkpoints: Checkpoints) -> int:
    step, read = checkpoints.restore(LIKE)
    np.testing.assert_array_equal(read["weights"], state(step)["weights"])
    assert int(read["step"]) == step
    return step


def test_the_last_two_states_are_kept_and_the_newest_is_used(checkpoints):
    assert checkpoints.steps() == [5, 8]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert restored(checkpoints) == 8


def test_a_new_run_has_no_state(tmp_path):
    assert Checkpoints(tmp_path / "none").restore(LIKE) is None


@pytest.mark.parametrize("size", [None, 0, 10])
def test_a_damaged_state_is_named_and_the_one_before_is_used(checkpoints, size):
    damage(checkpoints.path(8), size)
    with pytest.warns(UserWarning, match=r"checkpoints/8.state is left out: its content is not what was written"):
        assert restored(checkpoints) == 5


def test_the_next_state_takes_the_place_of_damaged_ones(checkpoints):
    damage(checkpoints.path(8))
    checkpoints.save(6, state(6))
    assert checkpoints.steps() == [5, 6] and restored(checkpoints) == 6


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_without_a_whole_state_one_sentence_says_so(checkpoints):
    for step in (5, 8):
        damage(checkpoints.path(step))
    with pytest.raises(CheckpointError, match=r"no training state .* is whole \(steps 5, 8\): delete that folder") as e:
        checkpoints.restore(LIKE)
    assert len(str(e.value)) < 300


def test_a_state_of_another_model_is_refused_in_short(checkpoints):
    with pytest.raises(CheckpointError, match=r"checkpoints/8.state does not fit this configuration") as e:
        checkpoints.restore({**LIKE, "weights": jnp.zeros((3, 3))})
    assert len(str(e.value)) < 600 and "delete" in str(e.value)


def test_a_full_disk_keeps_what_was_there(checkpoints):
    problem = r"cannot write .*checkpoints/9.state: File too large; what was written before is kept"
    with pytest.raises(CheckpointError, match=problem), full_disk(1_000):
        checkpoints.save(9, state(9))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["5.state", "8.state"]
    assert restored(checkpoints) == 8


def test_states_can_be_moved(checkpoints, tmp_path):
    shutil.move(checkpoints.folder, tmp_path / "elsewhere")
    assert restored(Checkpoints(tmp_path / "elsewhere")) == 8


def test_states_of_an_earlier_version_are_not_overlooked(tmp_path):
    (tmp_path / "120").mkdir()
    with pytest.raises(CheckpointError, match="states of an earlier version of seen-jax: delete that folder"):
        Checkpoints(tmp_path).restore(LIKE)
