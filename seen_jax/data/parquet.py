"""Tables in parquet files: columns of text as rows of a manifest, and audio that is stored inside."""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.errors import AudioError, ConfigError

SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")  # as `datasets` names the files of a split


def _library() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("parquet files need pyarrow: pip install 'seen-jax[parquet]'.") from None
    return pyarrow


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A parquet file; whatever pyarrow raises about it while it is open becomes an AudioError."""
    arrow = _library()
    try:
        with arrow.parquet.ParquetFile(path, memory_map=True) as file:
            yield file
    except AudioError:
        raise
    except (OSError, ValueError, TypeError, KeyError, MemoryError, arrow.ArrowException) as error:
        raise AudioError(f"Cannot read {path} as parquet: {' '.join(str(error).split()).rstrip('.')}.") from error


def _encoded(file: Any) -> list[str]:
    """The columns of {bytes, path} structs, as `datasets` stores audio and images."""
    arrow, schema = _library(), file.schema_arrow
    structs = [field.name for field in schema if arrow.types.is_struct(field.type)]
    return [name for name in structs if schema.field(name).type.get_field_index("bytes") >= 0]


def _audio_column(file: Any, wanted: str | None = None) -> str | None:
    """The column that holds the audio: the wanted one, or else "audio", or else the first that can."""
    audio = _encoded(file)
    if wanted is not None:
        return wanted if wanted in audio else None
    return "audio" if "audio" in audio else next(iter(audio), None)


def column_names(path: Path) -> list[str]:
    """The names of all columns."""
    with _open(path) as file:
        return list(file.schema_arrow.names)


def parquet_rows(path: Path, needed: set[str], audio: str | None = None) -> tuple[bool, list[dict[str, Any]]] | None:
    """(whether the audio is inside, the rows without it; of an audio struct its `path` is kept as "audio"), or None if
    the file lacks one of the needed columns. audio: the name of its column, where that is known."""
    with _open(path) as file:
        if not needed <= set(file.schema_arrow.names):
            return None
        inside, large = _audio_column(file, audio), _encoded(file)
        names = [name for name in file.schema_arrow.names if name not in large]
        if inside and file.schema_arrow.field(inside).type.get_field_index("path") >= 0:
            names.append(f"{inside}.path")
        rows = file.read(names).to_pylist()
    if inside:
        for row in rows:
            row["audio"] = (row.pop(inside, None) or {}).get("path")
    return inside is not None, rows


def parquet_audio(path: Path, row: int, column: str | None = None) -> tuple[bytes, str]:
    """The encoded audio in a row, and a name for messages. A struct without bytes names a file beside the table.
    column: which one holds the audio, where that is known."""
    name, modified = f"{path} row {row}", path.stat().st_mtime_ns if path.exists() else 0  # opening says it is missing
    starts = _group_starts(path, modified)
    group = int(np.searchsorted(starts, row, side="right")) - 1
    struct = _group(path, modified, group, column)[row - int(starts[group])].as_py() or {}
    if struct.get("bytes"):
        return struct["bytes"], name
    file = path.parent / (struct.get("path") or "")
    if not struct.get("path") or not file.is_file():
        raise AudioError(f"{name} holds neither audio bytes nor the path of an existing file ({struct.get('path')!r}).")
    return file.read_bytes(), str(file)


@functools.lru_cache(maxsize=64)
def _group_starts(path: Path, _time: int) -> np.ndarray:
    with _open(path) as file:
        return np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups - 1))])


@functools.lru_cache(maxsize=2)  # neighbouring rows are mostly read together; a group may have 100 MB
def _group(path: Path, _time: int, group: int, column: str | None) -> Any:
    with _open(path) as file:
        return file.read_row_group(group, columns=[_audio_column(file, column)]).column(0)
