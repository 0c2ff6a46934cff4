"""Data sets on the Hugging Face hub: the parquet files of a split, as they lie there or as the hub converts them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from seen_jax.audio.find import as_texts
from seen_jax.data.base import Row, rows_inside
from seen_jax.data.parquet import SHARD, column_names, parquet_rows
from seen_jax.errors import AudioError, ConfigError
from seen_jax.hub import Hub

CONVERTED = "refs/convert/parquet"  # where the hub itself keeps a copy of most data sets as parquet files
NUMBERED = re.compile(r"\d+|part[-.]\d+.*")  # names of files that lie in a folder of their split
NAMES = ("audio", "id", "text", "question", "prompt", "choices", "answer", "letter", "task", "start", "seconds")


@dataclasses.dataclass(frozen=True)
class Source:
    """What of the hub is meant. split, subset: None where there is only one. revision: branch, tag or commit. columns:
    {a name in `NAMES`: what the data set calls that column}."""

    name: str
    split: str | None = None
    subset: str | None = None
    revision: str | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def rows(self) -> list[Row]:
        """All items of the split, in order, after its files are downloaded, once. Raises AudioError: no such data set,
        one without parquet files or audio in them. ConfigError: a subset, split or column that it does not have."""
        folder, files = self._files()
        rows = [row for file in files for row in self._rows(folder / file)]
        ids = [row.item.id for row in rows]
        if len(set(ids)) == len(ids):
            return rows
        number = lambda i, row: dataclasses.replace(row, item=dataclasses.replace(row.item, id=f"{i:06d}"))
        return [number(i, row) for i, row in enumerate(rows)]

    def _files(self) -> tuple[Path, list[str]]:
        """(the local folder of the repository, the files of the split in it)."""
        problem = None
        for revision in [self.revision] if self.revision else [None, CONVERTED]:
            hub, folder = Hub(revision, kind="dataset", what="data set", error=AudioError), None
            try:
                files = hub.files(self.name)
                if files is None:  # the hub cannot be asked: what an earlier download left
                    folder = hub.fetch(self.name, None)
                    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")]
            except AudioError as e:
                problem = problem or e
                continue
            if tables := sorted(file for file in files if file.endswith(".parquet")):
                chosen = self._chosen(tables)
                return folder or hub.fetch(self.name, chosen), chosen
            kinds = "its files are of other kinds: download it and name the folder as `path`"
            problem = AudioError(f"{self.name} has no parquet files on the hub ({kinds}).")
        raise problem or AudioError(self.name)

    def _chosen(self, tables: Sequence[str]) -> list[str]:
        """The files of the subset and split."""
        places = {table: place(table) for table in tables}
        for i, what, asked in ((0, "subset", self.subset), (1, "split", self.split)):
            names = ", ".join(sorted({p[i] or "(none)" for p in places.values()})[:20])
            places = {table: p for table, p in places.items() if asked is None or plain(p[i]) == plain(asked)}
            if not places:
                raise ConfigError(f"{self.name} has no {what} {asked!r}; it has {names}.")
        for i, what in ((1, "split"), (0, "subset")):
            if len(names_of := {p[i] or "(none)" for p in places.values()}) > 1:
                raise ConfigError(
                    f"{self.name} has more than one {what}: choose one of {', '.join(sorted(names_of)[:20])}."
                )
        return list(places)

    def _rows(self, path: Path) -> list[Row]:
        """The rows of one file, with our names for its columns."""
        lower = {name.strip().lower(): name for name in column_names(path)}
        for ours, theirs in self.columns.items():
            if theirs.lower() not in lower:
                known = ", ".join(lower.values())
                raise ConfigError(f"{self.name} has no column {theirs!r} to be its {ours!r}; it has {known}.")
        audio = lower.get(self.columns.get("audio", "").lower())
        inside, table = parquet_rows(path, set(), audio) or (False, [])
        if not inside:
            where = f"the column {audio!r} of {self.name}" if audio else f"{self.name}: no column"
            raise AudioError(f"{where} holds no audio as the hub stores it ({{bytes, path}}).")
        others = {ours: theirs.lower() for ours, theirs in self.columns.items() if ours != "audio"}
        split, rows = place(path.as_posix())[1], []
        for row in map(as_texts, table):
            renamed = {ours: row[theirs] for ours, theirs in others.items()}
            rows.append({k: v for k, v in row.items() if k not in (*others.values(), "split")} | renamed)
        return rows_inside(path, rows, split, audio)


def place(file: str) -> tuple[str, str]:
    """(subset, split) of a parquet file by its name, such as data/test-00000-of-00002.parquet, SUBSET/test.parquet or
    SUBSET/SPLIT/0000.parquet; the subset is "" where there is none.

    >>> place("clean/test/0000.parquet"), place("data/test-00000-of-00001.parquet")
    (('clean', 'test'), ('', 'test'))
    """
    path = PurePosixPath(file)
    folders, shard = [part for part in path.parts[:-1] if part != "data"], SHARD.fullmatch(path.stem)
    split = shard[1] if shard else path.stem
    if NUMBERED.fullmatch(split) and folders:
        split = folders.pop()
    return "/".join(folders), split


def plain(split: str) -> str:
    """The name of a split for comparisons: data sets write test-mini and test_mini."""
    return split.replace("_", "-").lower()


def check_columns(columns: Mapping[str, str]) -> None:
    """ConfigError for a name on our side that nothing reads."""
    if unknown := [name for name in columns if name not in NAMES]:
        raise ConfigError(f"columns: {unknown[0]!r} is none of our names, which are {', '.join(NAMES)}")
