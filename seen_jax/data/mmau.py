"""MMAU, and other multiple choice about audio in its layouts."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from seen_jax.audio.find import as_texts, table_items
from seen_jax.data.base import Dataset, Row, manifest_items, rows_inside
from seen_jax.data.items import Entry
from seen_jax.data.parquet import SHARD, parquet_rows
from seen_jax.errors import AudioError
from seen_jax.files import parse_json

ASKED = {"question", "choices"}


class MMAU(Dataset):
    """A JSON list, parquet files, or a manifest, in which every row has a question and choices."""

    name = "mmau"
    looks_for = "MMAU: a .json list or .parquet with question and choices, or a folder that holds one"
    order = 10

    def rows(self, path: str) -> list[Row] | None:
        folder = Path(path)
        if folder.is_dir():
            tables = sorted(p for p in (*folder.glob("*.json"), *folder.glob("*.parquet"), *folder.glob("*/*.parquet")))
            read = [rows for table in tables if (rows := self.rows(str(table))) is not None]
            if read:
                return [row for rows in read for row in rows]
        readers = {".json": _json_rows, ".parquet": _parquet_rows}
        if folder.is_file() and (reader := readers.get(folder.suffix.lower())):
            return reader(folder)
        items = manifest_items(folder)
        return [Row(item) for item in items] if items and all(item.extra.keys() >= ASKED for item in items) else None

    def check(self, entries: Sequence[Entry], path: str) -> None:
        for entry in entries:
            if not (entry.question and entry.choices):
                raise AudioError(f"{path}: item {entry.id} has no question or no choices, so this is no MMAU.")


def _json_rows(path: Path) -> list[Row] | None:
    try:
        rows = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise AudioError(f"Cannot read {path} as JSON: {error}.") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row.keys() >= ASKED for row in rows):
        return None
    return _rows_of_files(path, map(as_texts, rows))


def _parquet_rows(path: Path) -> list[Row] | None:
    if (read := parquet_rows(path, ASKED)) is None:
        return None
    inside, table = read
    texts = [as_texts(row) for row in table]
    shard = SHARD.fullmatch(path.stem)
    split = shard[1] if shard else ""
    if not inside:
        return _rows_of_files(path, texts, split)
    return rows_inside(path, texts, split)


def _rows_of_files(path: Path, rows: Iterable[dict[str, str]], split: str = "") -> list[Row]:
    """Audio files are named relative to the table's folder or the one above it, or lie beside the table."""
    numbered = ((f"row {number}", row) for number, row in enumerate(rows, start=1))
    elsewhere = lambda name: [(path.parent.parent, name), (path.parent, Path(name).name)]
    return [Row(located.item, split) for located in table_items(path, numbered, elsewhere)]


KIND = MMAU()
