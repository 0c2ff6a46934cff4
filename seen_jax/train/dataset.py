"""Examples on disk: shards of int16 audio next to JSON lines, written by several processes, resumable.

A shard is `<split>-<number>.npy` (int16 [count, 38400], zero padded; sparse on most file systems) and a
`.jsonl` of the same name: a header with the recipe and the count, then one line per example. The `.jsonl`
is written last, each file under a temporary name first, so a shard with a matching header is complete.
"""

import errno
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from seen_jax.errors import AudioError, ConfigError
from seen_jax.train import music, sentences, sounds, speech
from seen_jax.train import tasks as recipe
from seen_jax.train.tasks import MAX_SAMPLES, TASKS

SHARD_SIZE = 2000
SEED_STRIDE = 100_000_000  # example i of a data set has the seed `seed * SEED_STRIDE + i`


@dataclass(frozen=True)
class Dataset:
    """Examples of one split. `meta[i]` has the keys task, prompt, answer, choices, letter, words, spans, voice,
    seed, length.

    `lengths[i]` is the number of samples before the zero padding.
    """

    shards: tuple[np.ndarray, ...]
    meta: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.meta)

    @cached_property
    def lengths(self) -> Int[np.ndarray, " examples"]:
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


def recipe_hash(split: str, seed: int) -> str:
    """Changes whenever the data would: with the code of the recipe, the espeak-ng version, the split or the
    seed."""
    try:
        engine = version("espeakng-loader")
    except PackageNotFoundError:
        engine = "none"
    digest = hashlib.sha256(f"{engine}/{split}/{seed}/{SHARD_SIZE}".encode())
    for module in (music, recipe, sentences, sounds, speech):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:16]


def build_dataset(folder: str | Path, n: int, split: str, seed: int = 0, workers: int | None = None) -> Dataset:
    """Make the first `n` examples of a split, the four tasks in turn, and keep them in `folder`.

    Complete shards of the same recipe that lie there are kept, so an interrupted call can be repeated and
    `n` can grow. `workers` processes are used (None or 0: one per core, 1: this process). The result does
    not depend on them.

    Raises ConfigError for a bad split, n or seed or a missing espeak-ng; AudioError if the disk is full or
    the folder cannot be written.
    """
    if split not in sentences.SPLITS:
        raise ConfigError(f"unknown split {split!r}: choose one of {', '.join(sentences.SPLITS)}")
    if not 0 < n <= SEED_STRIDE or seed < 0:
        raise ConfigError(f"a data set needs 1 to {SEED_STRIDE} examples and a seed of at least 0: n={n}, seed={seed}")
    folder = Path(folder)
    key = recipe_hash(split, seed)
    jobs = []
    for number, start in enumerate(range(0, n, SHARD_SIZE)):
        count = min(SHARD_SIZE, n - start)
        path = folder / f"{split}-{number:05d}.npy"
        if _read_shard(path, key, count) is None:
            jobs.append((path, key, split, seed, start, count))
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _run(jobs, workers or os.cpu_count() or 1)
    shards, meta = [], []
    for number, start in enumerate(range(0, n, SHARD_SIZE)):
        shard = _read_shard(folder / f"{split}-{number:05d}.npy", key, min(SHARD_SIZE, n - start))
        if shard is None:
            raise AudioError(f"shard {number} of {split} in {folder} was changed meanwhile: build it again")
        shards.append(shard[0])
        meta.extend(shard[1])
    return Dataset(tuple(shards), tuple(meta))


Job = tuple[Path, str, str, int, int, int]  # path, recipe hash, split, seed, first example, number of examples


def _run(jobs: list[Job], workers: int) -> None:
    from rich.progress import Progress

    if not jobs:
        return
    with Progress() as progress:
        bar = progress.add_task(f"making {jobs[0][2]} examples", total=sum(job[-1] for job in jobs))
        if workers == 1 or len(jobs) == 1:
            for job in jobs:
                _write_shard(job)
                progress.advance(bar, job[-1])
            return
        # spawn, because a fork of a process with JAX's threads can hang
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
            futures = {pool.submit(_write_shard, job): job for job in jobs}
            try:
                for done in as_completed(futures):
                    done.result()
                    progress.advance(bar, futures[done][-1])
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _write_shard(job: Job) -> None:
    path, key, split, seed, start, count = job
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    rows = []
    with _writing(path):
        try:
            with open(temporary, "wb") as file:
                layout = {"descr": "<i2", "fortran_order": False, "shape": (count, MAX_SAMPLES)}
                np.lib.format.write_array_header_1_0(file, layout)
                for index in range(start, start + count):
                    example = recipe.make_example(TASKS[index % len(TASKS)], split, seed * SEED_STRIDE + index)
                    samples = np.round(example.audio * 32768).astype("<i2")
                    file.write(samples.tobytes())
                    file.seek(2 * (MAX_SAMPLES - len(samples)), os.SEEK_CUR)
                    row = {name: value for name, value in vars(example).items() if name != "audio"}
                    rows.append({**row, "length": len(samples)})
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            lines = [{"recipe": key, "count": count}, *rows]
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
            os.replace(temporary, path.with_suffix(".jsonl"))
        finally:
            temporary.unlink(missing_ok=True)


def _read_shard(path: Path, key: str, count: int) -> tuple[np.ndarray, list[dict[str, Any]]] | None:
    """The audio (memory mapped) and metadata of a shard, or None unless it is complete and of this recipe."""
    try:
        lines = path.with_suffix(".jsonl").read_text().splitlines()
        if json.loads(lines[0]) != {"recipe": key, "count": count}:
            return None
        audio = np.load(path, mmap_mode="r")
        rows = [json.loads(line) for line in lines[1:]]
    except (OSError, ValueError, IndexError):
        return None
    if audio.shape != (count, MAX_SAMPLES) or audio.dtype != np.dtype("<i2") or len(rows) != count:
        return None
    for row in rows:
        row["choices"], row["words"] = tuple(row["choices"]), tuple(row["words"])
        row["spans"] = tuple((start, end) for start, end in row["spans"])
    return audio, rows


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AudioError(
                f"no space left for training data at {path}: free some, or choose another folder"
            ) from error
        raise AudioError(f"cannot write training data at {path}: {error.strerror or error}") from error
