"""LibriSpeech, and other speech with transcripts."""

from collections.abc import Iterator
from pathlib import Path

from seen_jax.audio.find import AudioItem, resolve_audio
from seen_jax.data.base import Dataset, Row, manifest_items
from seen_jax.errors import AudioError


class LibriSpeech(Dataset):
    """The official tree, SPLIT/SPEAKER/CHAPTER/*.trans.txt, or a manifest with nothing but transcripts in `text`."""

    name = "librispeech"
    looks_for = "LibriSpeech: a folder with *.trans.txt below it"
    order = 20

    def rows(self, path: str) -> list[Row] | None:
        if tables := sorted(Path(path).rglob("*.trans.txt")):
            return [row for table in tables for row in _chapter(table)]
        items = manifest_items(Path(path))
        speech = items and all(item.text and item.prompt is None and not item.choices for item in items)
        return [Row(item) for item in items] if speech else None


def _chapter(table: Path) -> Iterator[Row]:
    """Each line of the table has an id and a transcript."""
    split = table.absolute().parents[2].name
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AudioError(f"Cannot read {table} as UTF-8 text: {error}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, text = line.strip().partition(" ")
        file = resolve_audio(table.parent, name)
        if file is None or not text:
            what = f"no audio file {name}" if file is None else "no transcript"
            raise AudioError(f"{table} line {number}: {what}. Is the data set complete?")
        yield Row(AudioItem(name, file, text.strip()), split)


KIND = LibriSpeech()
