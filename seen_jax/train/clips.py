"""The clips that ship with the package: for calibration, for choosing a variant of the method, and for the demo.

    python -m seen_jax.train.clips OUT

Speakers and sentences come from the held-out splits of the training recipe. No sentence and no audio is in two subsets.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from seen_jax.audio.io import write_audio
from seen_jax.files import write_folder
from seen_jax.train.tasks import TASKS, Example, make_example

FIRST_SEED, SEEDS_PER_RUN = 900_000_000, 1_000_000  # far from the seeds of the training, validation and test data


class Subset(NamedTuple):
    split: str  # of the recipe
    per_task: int  # clips


SUBSETS = {"calibration": Subset("test", 12), "validation": Subset("validation", 8), "demo": Subset("test", 12)}


def content_hash(wave: Float[np.ndarray, " samples"]) -> str:
    """Identity of a clip: a hash over its samples as 16-bit PCM."""
    return hashlib.sha256(np.rint(wave * 32768).astype("<i2").tobytes()).hexdigest()[:16]


def make_clips(folder: Path, seed: int = 0, subsets: Mapping[str, Subset] = SUBSETS) -> Path:
    """Write FLAC clips (16 kHz mono) and manifest.jsonl into a new or empty folder; returns it. The same seed, 0 or
    more, gives the same clips. A manifest row holds id, path, subset, split, task, prompt, answer, choices, letter,
    words, voice, seed and hash. ConfigError if the folder is in use or espeak-ng missing, AudioError if a file cannot
    be written."""
    rows: list[dict[str, Any]] = []
    used: set[str] = set()
    with write_folder(folder) as partial:
        for subset, (split, per_task) in subsets.items():
            for task in TASKS:
                next_seed = FIRST_SEED + seed * SEEDS_PER_RUN
                for number in range(per_task):
                    example, next_seed = _draw(task, split, next_seed, used)
                    name = f"{subset}-{task}-{number:02d}"
                    clip = {"id": name, "path": f"{subset}/{name}.flac", "subset": subset, "split": split}
                    fields = {key: value for key, value in vars(example).items() if key not in ("audio", "spans")}
                    rows.append({**clip, **fields, "hash": content_hash(example.audio)})
                    write_audio(partial / clip["path"], example.audio)
        (partial / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


def _draw(task: str, split: str, seed: int, used: set[str]) -> tuple[Example, int]:
    """The next example whose audio and, of speech, whose sentence are not `used` yet, and the seed after it."""
    while True:
        example = make_example(task, split, seed)
        seed += 1
        keys = [content_hash(example.audio), *[" ".join(example.words)] * (task in ("transcription", "speech"))]
        if used.isdisjoint(keys):
            used.update(keys)
            return example, seed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m seen_jax.train.clips", description=__doc__)
    parser.add_argument("out", help="a new or empty folder")
    print(make_clips(Path(parser.parse_args().out)))
