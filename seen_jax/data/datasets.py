"""Load a data set of any kind, as entries whose audio is read one by one."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from seen_jax.data.base import Dataset, Row
from seen_jax.data.hub import Source, check_columns, plain
from seen_jax.data.items import Entry, entry_of
from seen_jax.errors import AudioError, ConfigError
from seen_jax.files import escaped
from seen_jax.registry import DATASETS

AUTO, ANY = "auto", "manifest"  # kinds: any that is recognised; the one that takes every row


@dataclass(frozen=True)
class DatasetConfig:
    """Which items to evaluate on.

    path: a file or folder of the kind, or "seen-tiny/demo" (validation, calibration) for the clips that ship, or
        "seen-tiny/test-50" (validation-50, train-50) for 50 new ones of each task, made once (extra `train`).
    hub: instead of a path, the name of a data set on the Hugging Face hub, of which the parquet files of `split` are
        downloaded once (extra `parquet`). revision: its branch, tag or commit. subset: where it has several.
    columns: of a data set on the hub, {our name: its name}: audio, id, text (a transcript), question, prompt, choices,
        answer, letter, task, start, seconds.
    kind: a name in `DATASETS`; "auto" tries all of them. mmau: multiple choice, as JSON list, parquet or manifest.
        librispeech: the official tree or a manifest with `text`. manifest: anything that `find_audio` takes.
    name: what tables call it; the name of the file or folder by default.
    task: only the items of this task; where the data names no task, that of all items.
    split: only this split, for instance "test-mini" or "test-clean".
    limit: at most so many items, after the choice of task and split.
    shuffle_seed: shuffle before skip and limit; None keeps the order of the data.
    skip: leave out so many items first, so that one data set can serve calibration and test."""

    path: str = ""
    kind: str = AUTO
    name: str | None = None
    task: str | None = None
    split: str | None = None
    limit: int | None = None
    shuffle_seed: int | None = None
    skip: int = 0
    hub: str | None = None
    revision: str | None = None
    subset: str | None = None
    columns: dict[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.hub):
            raise ConfigError("a data set needs either a `path` or the name of one on the `hub`")
        if only := [name for name in ("revision", "subset", "columns") if getattr(self, name) and not self.hub]:
            raise ConfigError(f"`{only[0]}` is of a data set on the `hub`, but {self.path} is a path")
        check_columns(self.columns)
        if self.kind != AUTO:
            DATASETS[self.kind]
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"the limit of a data set must be 1 or more, not {self.limit}")
        if self.shuffle_seed is not None and self.shuffle_seed < 0:
            raise ConfigError(f"the shuffle seed of a data set must not be negative, not {self.shuffle_seed}")
        if self.skip < 0:
            raise ConfigError(f"a data set cannot skip {self.skip} items")

    @property
    def source(self) -> str:
        """Where it comes from: the path, or its name on the hub."""
        return self.hub or self.path

    @property
    def label(self) -> str:
        """What the configuration calls it."""
        return self.name or self.source


def load_dataset(config: DatasetConfig) -> list[Entry]:
    """The entries of a data set, in its order unless shuffled. No audio is read. Raises AudioError: data that cannot be
    recognised or read, rows without a file, answers that are none of the choices, two entries of one id. ConfigError: a
    task or split that no item has, a missing pyarrow."""
    kind, rows = _recognise(config)
    if not rows:
        raise AudioError(f"{config.source} has no items.")
    if config.split is not None:
        splits = [row.item.extra.get("split", row.split) for row in rows]
        rows = [row for row, split in zip(rows, splits, strict=True) if plain(split) == plain(config.split)]
        if not rows:
            raise ConfigError(f"{config.source} has no split {config.split!r}; it has {_listed(splits)}.")
    name = config.name or config.hub or escaped(kind.label(config.path))
    entries = [entry_of(row.item, name, config.task, row.parquet_row, row.audio_column) for row in rows]
    if config.task is not None:
        tasks = [entry.task for entry in entries]
        entries = [entry for entry in entries if entry.task == config.task]
        if not entries:
            raise ConfigError(f"{config.source} has no items of task {config.task!r}; it has {_listed(tasks)}.")
    if repeated := [name for name, count in Counter(entry.id for entry in entries).items() if count > 1]:
        raise AudioError(f"{config.source}: two items have the id {repeated[0]!r}.")
    kind.check(entries, config.source)
    if config.shuffle_seed is not None:
        order = np.random.default_rng(config.shuffle_seed).permutation(len(entries))
        entries = [entries[i] for i in order]
    if config.skip >= len(entries):
        raise ConfigError(f"{config.source} has {len(entries)} items: skipping {config.skip} leaves none.")
    return entries[config.skip :][: config.limit]


def _recognise(config: DatasetConfig) -> tuple[Dataset, list[Row]]:
    """The kind of a data set, and all its rows."""
    if config.hub:
        rows = Source(config.hub, config.split, config.subset, config.revision, config.columns).rows()
        return DATASETS[ANY if config.kind == AUTO else config.kind], rows
    path = os.path.expanduser(config.path)
    kinds = sorted(DATASETS.values(), key=lambda kind: kind.order) if config.kind == AUTO else [DATASETS[config.kind]]
    for kind in kinds:
        if (rows := kind.rows(path)) is not None:
            return kind, rows
    looked_for = "; ".join(kind.looks_for for kind in kinds)
    if not os.path.exists(path):
        raise AudioError(f"There is no data set {path}. Looked for {looked_for}.")
    as_kind = "" if config.kind == AUTO else f" of kind {config.kind}"
    raise AudioError(f"{path} is no data set{as_kind} that can be recognised. Looked for {looked_for}.")


def _listed(names: Sequence[str]) -> str:
    unique = sorted(set(names))
    return ", ".join(name or "(none)" for name in unique[:10]) + (", ..." if len(unique) > 10 else "")
