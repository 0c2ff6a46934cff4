"""Data sets on disk: complete, resumable, independent of the number of processes."""

import errno
import json
import os

import numpy as np
import pytest

from seen_jax.errors import AudioError, ConfigError
from seen_jax.train import dataset, tasks

pytest.importorskip("espeakng_loader", reason="needs the train extra")


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(dataset, "SHARD_SIZE", 8)


@pytest.fixture
def made(monkeypatch):
    """Seeds of the examples that were made in this process."""
    seeds = []
    original = tasks.make_example

    def make_example(task, split, seed):
        seeds.append(seed)
        return original(task, split, seed)

    monkeypatch.setattr(tasks, "make_example", make_example)
    return seeds


def test_examples_come_back(tmp_path, small_shards):
    data = dataset.build_dataset(tmp_path, 20, "test", seed=3, workers=1)
    assert len(data.meta) == 20 and [row["task"] for row in data.meta] == list(tasks.TASKS) * 5
    picked = [17, 2, 8]
    audio = data.audio(np.array(picked))
    assert audio.shape == (3, tasks.MAX_SAMPLES) and audio.dtype == np.float32
    for wave, index in zip(audio, picked, strict=True):
        example = tasks.make_example(tasks.TASKS[index % 4], "test", 3 * dataset.SEED_STRIDE + index)
        length = data.lengths[index]
        assert length == len(example.audio)
        np.testing.assert_allclose(wave[:length], example.audio, atol=1 / 32768)
        assert not wave[length:].any()
        row = dict(data.meta[index])
        assert row.pop("length") == length
        fields = {name: value for name, value in vars(example).items() if name != "audio"}
        assert row == json.loads(json.dumps(fields))
    with pytest.raises(IndexError):
        data.audio([20])


def test_processes_do_not_change_the_result(tmp_path, small_shards):
    one = dataset.build_dataset(tmp_path / "one", 20, "train", workers=1)
    two = dataset.build_dataset(tmp_path / "two", 20, "train", workers=2)
    assert one.meta == two.meta
    np.testing.assert_array_equal(one.audio(range(20)), two.audio(range(20)))


def test_complete_shards_are_kept(tmp_path, small_shards, made):
    dataset.build_dataset(tmp_path, 20, "train", workers=1)
    assert made == list(range(20))
    made.clear()
    before = dataset.build_dataset(tmp_path, 20, "train", workers=1).audio(range(20))
    assert made == []
    (tmp_path / "train-00001.jsonl").unlink()  # as after an interruption between the two files
    with open(tmp_path / "train-00000.npy", "r+b") as file:
        file.truncate(5000)
    again = dataset.build_dataset(tmp_path, 20, "train", workers=1)
    assert made == list(range(16))
    np.testing.assert_array_equal(again.audio(range(20)), before)
    made.clear()
    assert len(dataset.build_dataset(tmp_path, 28, "train", workers=1).meta) == 28
    assert made == list(range(16, 28))


def test_another_recipe_is_made_anew_and_splits_live_side_by_side(tmp_path, small_shards, made):
    dataset.build_dataset(tmp_path, 4, "train", workers=1)
    dataset.build_dataset(tmp_path, 4, "test", workers=1)
    made.clear()
    dataset.build_dataset(tmp_path, 4, "train", workers=1)
    assert made == []
    dataset.build_dataset(tmp_path, 4, "train", seed=1, workers=1)
    assert len(made) == 4
    assert dataset.recipe_hash("train", 0) != dataset.recipe_hash("train", 1) != dataset.recipe_hash("test", 1)


def test_a_full_disk_is_explained_and_leaves_no_half_shard(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AudioError, match=r"cannot write .*train-00000\.npy: No space left on device"):
        dataset.build_dataset(tmp_path, 2, "train", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_errors(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AudioError, match=r"cannot write .*train-00000"):
        dataset.build_dataset(tmp_path / "file", 2, "train", workers=1)
    with pytest.raises(ConfigError, match="n=0"):
        dataset.build_dataset(tmp_path, 0, "train")
