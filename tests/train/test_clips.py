"""Making the shipped clips."""

import json

import numpy as np
import pytest

from seen_jax.errors import ConfigError
from seen_jax.train.clips import SUBSETS, Subset, content_hash, make_clips

FEW = {"calibration": Subset("test", 2), "demo": Subset("test", 2), "validation": Subset("validation", 1)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("espeakng_loader")
    return make_clips(tmp_path_factory.mktemp("clips") / "new", 3, FEW)


def read(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_every_row_has_its_clip(made):
    table = read(made)
    assert len(table) == 20
    assert {row["path"] for row in table} == {p.relative_to(made).as_posix() for p in made.rglob("*.flac")}
    assert len({row["hash"] for row in table}) == 20
    assert set(table[0]) == {
        *("id", "path", "subset", "split", "task", "prompt", "answer", "choices", "letter"),
        *("words", "voice", "seed", "hash"),
    }


def test_same_seed_same_clips(made, tmp_path):
    few = {"demo": Subset("test", 1)}
    first, second, other = (make_clips(tmp_path / name, seed, few) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert read(first) == read(second)
    assert not {row["hash"] for row in read(first)} & {row["hash"] for row in read(other)}


def test_no_clip_and_no_sentence_is_in_two_subsets(made):
    table = read(made)
    spoken = [" ".join(row["words"]) for row in table if row["task"] in ("transcription", "speech")]
    assert len(set(spoken)) == len(spoken) == 10


def test_folders_in_use(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="not replaced"):
        make_clips(tmp_path)


def test_the_hash_is_of_16_bit_samples():
    wave = np.array([0.1, -0.5], np.float32)
    assert content_hash(wave) == content_hash(np.rint(wave * 32768).astype(np.float32) / 32768)
    assert content_hash(wave) != content_hash(-wave)
    assert {subset.split for subset in SUBSETS.values()} == {"test", "validation"}
