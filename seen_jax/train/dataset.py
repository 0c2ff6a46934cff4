"""Examples on disk: shards of int16 audio next to JSON lines, written by several processes, resumable.
A shard is `<split>-<number>.npy` (int16 [count, 38400], zero padded; sparse on most file systems) and a `.jsonl` of the
same name: a header with the recipe and the count, then one line per example. The `.jsonl` is written last, so a shard
with a matching header is complete."""

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

    @cached_property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        """Samples of each example before the zero padding."""
        return np.array([row["length"] for row in self.meta], np.int32)

    def audio(self, indices: Sequence[int] | Int[np.ndarray, " batch"]) -> Float[np.ndarray, "batch 38400"]:
        """Waveforms of these examples, mono 16 kHz, zero padded to 2.4 s."""
        size = len(self.shards[0])  # all but the last one have the same size
        return np.stack([self.shards[i // size][i % size] for i in indices]) / np.float32(32768)

    def clips(self, indices: Sequence[int]) -> list[Float[np.ndarray, " samples"]]:
        """`audio` without the padding."""
        return [wave[: self.lengths[i]] for i, wave in zip(indices, self.audio(indices), strict=True)]


def recipe_hash(split: str, seed: int) -> str:
    """Changes whenever the data would: with the code of the recipe, the espeak-ng version, the split or the seed."""
    code = [Path(str(module.__file__)).read_bytes() for module in (music, recipe, sentences, sounds, speech)]
    return digest([versions(["espeakng-loader"])["espeakng-loader"], split, str(seed), str(SHARD_SIZE), *code])


class Shard(NamedTuple):
    path: Path  # of the audio
    key: str  # of `recipe_hash`
    split: str
    seed: int
    start: int  # index of the first example
    size: int


def build_dataset(
    folder: str | Path, n: int, split: str, seed: int = 0, workers: int = 0, progress: Progress = silent
) -> Dataset:
    """Make the first `n` examples of a split, the four tasks in turn, and keep them in `folder`. Complete shards of the
    same recipe are kept, so an interrupted call can be repeated and `n` can grow. workers: processes (0: one per core,
    1: this process); the result does not depend on them. Raises ConfigError for a bad n or seed, or a missing
    espeak-ng; AudioError if the folder cannot be written."""
    if not 0 < n <= SEED_STRIDE or seed < 0:
        raise ConfigError(f"a data set needs 1 to {SEED_STRIDE} examples and a seed of at least 0: n={n}, seed={seed}")
    key = recipe_hash(split, seed)
    path = lambda start: Path(folder) / f"{split}-{start // SHARD_SIZE:05d}.npy"
    place = lambda start: (start, min(SHARD_SIZE, n - start))
    shards = [Shard(path(start), key, split, seed, *place(start)) for start in range(0, n, SHARD_SIZE)]
    missing, done = [shard for shard in shards if _read(shard) is None], 0
    workers = max(1, min(workers or os.cpu_count() or 1, len(missing)))
    # spawn, because a fork of a process with JAX's threads can hang
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for count in (map if workers == 1 else pool.map)(_write_shard, missing):
            done += count
            progress(f"making {split} examples", done, sum(shard.size for shard in missing))
    contents = [content for shard in shards if (content := _read(shard))]
    if len(contents) < len(shards):
        raise AudioError(f"{folder} was changed meanwhile: build the data set again")
    return Dataset(tuple(audio for audio, _ in contents), tuple(row for _, rows in contents for row in rows))


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
        header, *rows = map(json.loads, shard.path.with_suffix(".jsonl").read_text().splitlines())
        audio = np.load(shard.path, mmap_mode="r")
    except (OSError, ValueError):
        return None
    complete = header == {"recipe": shard.key, "count": shard.size} and len(rows) == shard.size
    return (audio, rows) if complete and (audio.shape, audio.dtype) == ((shard.size, MAX_SAMPLES), "<i2") else None
