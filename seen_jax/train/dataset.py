"""Examples on disk: shards of int16 audio next to JSON lines, written by several processes, resumable.

A shard is `<split>-<number>.npy` (int16 [count, 38400], zero padded; sparse on most file systems) and a `.jsonl` of the
same name: a header with the recipe and the count, then one line per example. The `.jsonl` is written last, so a shard
with a matching header is complete.
"""

import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from seen_jax.errors import AudioError, ConfigError
from seen_jax.files import digest, versions, write_file
from seen_jax.progress import Progress, silent
from seen_jax.train import music, sentences, sounds, speech
from seen_jax.train import tasks as recipe
from seen_jax.train.tasks import MAX_SAMPLES, TASKS

SHARD_SIZE = 2000
SEED_STRIDE = 100_000_000  # example i of a data set has the seed `seed * SEED_STRIDE + i`


@dataclass(frozen=True)
class Dataset:
    """Examples of one split. meta: per example the fields of `Example` but the audio, and its `length`."""

    shards: tuple[np.ndarray, ...]
    meta: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.meta)

    @cached_property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        """Samples of each example before the zero padding."""
        return np.array([row["length"] for row in self.meta], np.int32)

    def audio(self, indices: Sequence[int] | Int[np.ndarray, " batch"]) -> Float[np.ndarray, "batch 38400"]:
        """Waveforms of these examples, mono 16 kHz, zero padded to 2.4 s. Raises IndexError as lists do."""
        batch = np.empty((len(indices), MAX_SAMPLES), np.float32)
        size = len(self.shards[0])  # all but the last one have the same size
        for row, index in enumerate(indices):
            if not 0 <= index < len(self):
                raise IndexError(f"example {index} of {len(self)}")
            batch[row] = self.shards[index // size][index % size]
        return batch / np.float32(32768)

    def clips(self, indices: Sequence[int]) -> list[Float[np.ndarray, " samples"]]:
        """`audio` without the padding."""
        return [wave[: self.lengths[i]] for i, wave in zip(indices, self.audio(indices), strict=True)]


def recipe_hash(split: str, seed: int) -> str:
    """Changes whenever the data would: with the code of the recipe, the espeak-ng version, the split or the seed."""
    code = [Path(str(module.__file__)).read_bytes() for module in (music, recipe, sentences, sounds, speech)]
    return digest([versions(["espeakng-loader"])["espeakng-loader"], split, str(seed), str(SHARD_SIZE), *code])


class Shard(NamedTuple):
    """The `size` examples from `start` on, with audio at `path`. key: of `recipe_hash`."""

    path: Path
    key: str
    split: str
    seed: int
    start: int
    size: int


def build_dataset(
    folder: str | Path, n: int, split: str, seed: int = 0, workers: int | None = None, progress: Progress = silent
) -> Dataset:
    """Make the first `n` examples of a split, the four tasks in turn, and keep them in `folder`.

    Complete shards of the same recipe are kept, so an interrupted call can be repeated and `n` can grow. workers:
    processes (None or 0: one per core, 1: this process); the result does not depend on them.

    Raises ConfigError for a bad split, n or seed or a missing espeak-ng; AudioError if the disk is full or the folder
    cannot be written.
    """
    sounds.check_known("split", split, sentences.SPLITS)
    if not 0 < n <= SEED_STRIDE or seed < 0:
        raise ConfigError(f"a data set needs 1 to {SEED_STRIDE} examples and a seed of at least 0: n={n}, seed={seed}")
    key = recipe_hash(split, seed)
    shards = [
        Shard(Path(folder) / f"{split}-{number:05d}.npy", key, split, seed, start, min(SHARD_SIZE, n - start))
        for number, start in enumerate(range(0, n, SHARD_SIZE))
    ]
    _write([shard for shard in shards if _read(shard) is None], workers or os.cpu_count() or 1, progress)
    audio: list[np.ndarray] = []
    meta: list[dict[str, Any]] = []
    for shard in shards:
        content = _read(shard)
        if content is None:
            raise AudioError(f"{shard.path} was changed meanwhile: build the data set again")
        audio.append(content[0])
        meta += content[1]
    return Dataset(tuple(audio), tuple(meta))


def _write(shards: Sequence[Shard], workers: int, progress: Progress) -> None:
    if not shards:
        return
    done, total = 0, sum(shard.size for shard in shards)
    # spawn, because a fork of a process with JAX's threads can hang
    with ProcessPoolExecutor(min(workers, len(shards)), multiprocessing.get_context("spawn")) as pool:
        run = map if workers == 1 or len(shards) == 1 else pool.map
        for count in run(_write_shard, shards):
            done += count
            progress(f"making {shards[0].split} examples", done, total)


def _write_shard(shard: Shard) -> int:
    rows = []

    def write_audio(path: Path) -> None:
        with path.open("wb") as file:
            layout = {"descr": "<i2", "fortran_order": False, "shape": (shard.size, MAX_SAMPLES)}
            np.lib.format.write_array_header_1_0(file, layout)
            for index in range(shard.start, shard.start + shard.size):
                task = TASKS[index % len(TASKS)]
                example = recipe.make_example(task, shard.split, shard.seed * SEED_STRIDE + index)
                samples = np.round(example.audio * 32768).astype("<i2")
                file.write(samples.tobytes())
                file.seek(2 * (MAX_SAMPLES - len(samples)), os.SEEK_CUR)
                row = {name: value for name, value in vars(example).items() if name != "audio"}
                rows.append({**row, "length": len(samples)})
            file.truncate()

    write_file(shard.path, write_audio, AudioError)
    lines = [{"recipe": shard.key, "count": shard.size}, *rows]
    write_file(shard.path.with_suffix(".jsonl"), "".join(json.dumps(line) + "\n" for line in lines), AudioError)
    return shard.size


def _read(shard: Shard) -> tuple[np.ndarray, list[dict[str, Any]]] | None:
    """The audio (memory mapped) and metadata of a shard, or None unless it is complete and of this recipe."""
    try:
        header, *lines = shard.path.with_suffix(".jsonl").read_text().splitlines()
        if json.loads(header) != {"recipe": shard.key, "count": shard.size}:
            return None
        audio = np.load(shard.path, mmap_mode="r")
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return None
    if audio.shape != (shard.size, MAX_SAMPLES) or audio.dtype != np.dtype("<i2") or len(rows) != shard.size:
        return None
    return audio, rows
