"""Tables in parquet files: columns of text as rows of a manifest, and audio that is stored inside."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.errors import AudioError, ConfigError


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


def _audio_column(file: Any) -> str | None:
    """The column of {bytes, path} structs, as `datasets` stores audio; one named "audio" first."""
    arrow, schema = _library(), file.schema_arrow
    structs = [field.name for field in schema if arrow.types.is_struct(field.type)]
    audio = [name for name in structs if schema.field(name).type.get_field_index("bytes") >= 0]
    return "audio" if "audio" in audio else next(iter(audio), None)


def parquet_rows(path: Path, needed: set[str]) -> tuple[bool, list[dict[str, Any]]] | None:
    """(whether the audio is inside, the rows without it; of an audio struct its `path` is kept as "audio"), or None if
    the file lacks one of the needed columns."""
    with _open(path) as file:
        if not needed <= set(file.schema_arrow.names):
            return None
        inside = _audio_column(file)
        names = [name for name in file.schema_arrow.names if name != inside]
        if inside and file.schema_arrow.field(inside).type.get_field_index("path") >= 0:
            names.append(f"{inside}.path")
        rows = file.read(names).to_pylist()
    if inside:
        for row in rows:
            row["audio"] = (row.pop(inside, None) or {}).get("path")
    return inside is not None, rows


def parquet_audio(path: Path, row: int) -> tuple[bytes, str]:
    """The encoded audio in a row, and a name for messages. A struct without bytes names a file beside the table."""
    name, modified = f"{path} row {row}", path.stat().st_mtime_ns if path.exists() else 0  # opening says it is missing
    starts = _group_starts(path, modified)
    group = int(np.searchsorted(starts, row, side="right")) - 1
    struct = _group(path, modified, group)[row - int(starts[group])].as_py() or {}
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
def _group(path: Path, _time: int, group: int) -> Any:
    with _open(path) as file:
        return file.read_row_group(group, columns=[_audio_column(file)]).column(0)
