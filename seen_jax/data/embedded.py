"""The clips of the embedded model, seen-tiny: those that ship with the package, and new ones of the same recipe."""

import re
import sys
from pathlib import Path

from seen_jax.audio.find import find_audio
from seen_jax.data.base import Dataset, Row
from seen_jax.data.items import PREFIX, clip_rows
from seen_jax.errors import ConfigError
from seen_jax.files import cache_folder, write_folder

FRESH = re.compile(r"seen-tiny/(train|test|validation)-(\d+)")  # split, and number of new clips of each task
FRESH_SEED = 1  # the shipped clips have 0


class Embedded(Dataset):
    """seen-tiny/demo, validation or calibration; and new clips of a split, such as seen-tiny/test-50."""

    name = "embedded"
    looks_for = "seen-tiny/demo, seen-tiny/validation or seen-tiny/calibration, or new ones as seen-tiny/test-50"
    order = 0

    def rows(self, path: str) -> list[Row] | None:
        if not path.startswith(PREFIX):
            return None
        if match := FRESH.fullmatch(path):
            return [Row(item) for item in find_audio([fresh_clips(match[1], int(match[2])) / "manifest.jsonl"])]
        return [Row(item) for item in clip_rows(path.removeprefix(PREFIX))]

    def label(self, path: str) -> str:
        return path


def fresh_clips(split: str, per_task: int) -> Path:
    """The folder of new clips of seen-tiny's recipe, synthesised on first use: the same ones everywhere. Raises
    ConfigError where espeak-ng is missing, and where the cache cannot be written."""
    from seen_jax.train.clips import Subset, make_clips

    if per_task < 1:
        raise ConfigError(f"seen-tiny/{split}-{per_task}: ask for one clip of each task or more")
    folder = cache_folder() / "clips" / f"{split}-{per_task}"
    if not folder.is_dir():
        print(f"synthesising {per_task} clips of each task of seen-tiny's {split} split, once", file=sys.stderr)
        try:
            with write_folder(folder) as partial:
                make_clips(partial, FRESH_SEED, {split: Subset(split, per_task)})
        except ConfigError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
    return folder


KIND = Embedded()
