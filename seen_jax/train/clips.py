"""The clips that ship with the package: for calibration, for choosing a variant of the method, and for the demo.

    python -m seen_jax.train.clips OUT

Speakers and sentences come from the held-out splits of the training recipe. No sentence and no audio is in two subsets.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from seen_jax.audio.io import write_audio
from seen_jax.errors import AudioError, ConfigError
from seen_jax.files import write_folder
from seen_jax.train.tasks import TASKS, Example, make_example

MANIFEST = "manifest.jsonl"
MAX_BYTES = 5_000_000  # of all clips: they are part of every installation
FIRST_SEED = 900_000_000  # far from the seeds of the training, validation and test data
SEEDS_PER_RUN = 1_000_000


@dataclass(frozen=True)
class Subset:
    """Which split of the recipe a subset is drawn from, and how many clips of each task it holds."""

    split: str
    per_task: int


SUBSETS = {"calibration": Subset("test", 12), "validation": Subset("validation", 8), "demo": Subset("test", 12)}


def content_hash(wave: Float[np.ndarray, " samples"]) -> str:
    """Identity of a clip: a hash over its samples as 16-bit PCM."""
    return hashlib.sha256(np.rint(wave * 32768).astype("<i2").tobytes()).hexdigest()[:16]


def make_clips(
    folder: str | Path,
    seed: int = 0,
    subsets: dict[str, Subset] | None = None,
    most_bytes: int | None = MAX_BYTES,
) -> Path:
    """Write FLAC clips (16 kHz mono) and manifest.jsonl into a new or empty folder; returns it.

    The same seed gives the same clips. A manifest row holds id, path, subset, split, task, prompt, answer, choices,
    letter, words, voice, seed and hash. most_bytes: limit for all clips together; None: no limit.

    Raises:
        ConfigError: the folder is in use, a negative seed, or espeak-ng is missing.
        AudioError: the clips take more than `most_bytes`, or a file cannot be written.
    """
    if seed < 0:
        raise ConfigError(f"the seed of the clips must not be negative: {seed}")
    folder = Path(folder).expanduser()
    rows: list[dict[str, Any]] = []
    used: set[str] = set()
    with write_folder(folder) as partial:
        for name, subset in (subsets or SUBSETS).items():
            for task in TASKS:
                next_seed = FIRST_SEED + seed * SEEDS_PER_RUN
                for number in range(subset.per_task):
                    example, next_seed = _draw(task, subset.split, next_seed, used)
                    rows.append(_row(f"{name}-{task}-{number:02d}", name, subset.split, example))
                    write_audio(partial / rows[-1]["path"], example.audio)
        check_disjoint(rows)
        size = sum(path.stat().st_size for path in partial.rglob("*.flac"))
        if most_bytes is not None and size > most_bytes:
            raise AudioError(f"{folder} would take {size / 1e6:.1f} MB, over {most_bytes / 1e6:g}: make fewer clips")
        (partial / MANIFEST).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


def check_disjoint(rows: list[dict[str, Any]]) -> None:
    """Raise AudioError if a sentence or the audio of a clip is in more than one subset."""
    subsets: dict[str, str] = {}
    for row in rows:
        for key in _identities(row["task"], row["words"], row["hash"]):
            if subsets.setdefault(key, row["subset"]) != row["subset"]:
                raise AudioError(f"{row['id']}: '{key}' is in the subsets {subsets[key]} and {row['subset']}")


def _identities(task: str, words: list[str] | tuple[str, ...], audio: str) -> list[str]:
    """What must not be in two subsets: the audio and, of speech, the sentence."""
    return [audio, " ".join(words)] if task in ("transcription", "speech") else [audio]


def _draw(task: str, split: str, seed: int, used: set[str]) -> tuple[Example, int]:
    """The next example whose audio and sentence are not `used` yet, and the seed after it."""
    while True:
        example = make_example(task, split, seed)
        seed += 1
        keys = _identities(task, example.words, content_hash(example.audio))
        if used.isdisjoint(keys):
            used.update(keys)
            return example, seed


def _row(name: str, subset: str, split: str, example: Example) -> dict[str, Any]:
    fields = {key: value for key, value in vars(example).items() if key not in ("audio", "spans")}
    clip = {"id": name, "path": f"{subset}/{name}.flac", "subset": subset, "split": split}
    return {**clip, **fields, "hash": content_hash(example.audio)}


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(prog="python -m seen_jax.train.clips", description=__doc__)
    parser.add_argument("out", help="a new or empty folder")
    print(make_clips(parser.parse_args().out))
