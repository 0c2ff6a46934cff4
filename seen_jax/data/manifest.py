"""Anybody's own audio: a manifest, or a folder of audio files."""

import os
from pathlib import Path

from seen_jax.audio.find import find_audio
from seen_jax.data.base import Dataset, Row, manifest_items

OTHERS = (".json", ".parquet", ".txt")  # files that are no manifest


class Manifest(Dataset):
    """Any file or folder that `find_audio` takes."""

    name = "manifest"
    looks_for = "a manifest (.csv, .tsv, .jsonl) or a folder that holds one or audio"
    order = 100

    def rows(self, path: str) -> list[Row] | None:
        if not os.path.exists(path) or (os.path.isfile(path) and path.lower().endswith(OTHERS)):
            return None
        return [Row(item) for item in manifest_items(Path(path)) or find_audio([path])]


KIND = Manifest()
