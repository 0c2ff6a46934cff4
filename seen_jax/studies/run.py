"""Runs the studies of an experiment; each is a file once it is done, so that an interrupted run can be resumed."""

import dataclasses
import inspect
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from seen_jax.errors import ConfigError
from seen_jax.evaluate.prepare import Experiment
from seen_jax.evaluate.tables import json_rows
from seen_jax.files import digest, parse_json, to_json, write_file
from seen_jax.progress import Progress, silent
from seen_jax.registry import STUDIES
from seen_jax.studies.lab import Make, open_lab
from seen_jax.studies.measure import Measurements, measure


def run_studies(experiment: Experiment, progress: Progress = silent) -> dict[str, pd.DataFrame]:
    """The rows of the studies that the experiment names, each from folder/studies/NAME.json if it is there. Shares
    are 0 to 1, SNRs in dB; what is not defined is missing. A study is written when it is done. ConfigError for a
    study that cannot be made of this experiment, for damaged files and for a full disk."""
    config, folder = experiment.config, experiment.config.folder() / "studies"
    studies = {name: STUDIES[name] for name in config.studies}
    asked = {"items": config.study_items, "sites": config.study_sites and list(config.study_sites)}
    records = {name: _read(folder / f"{name}.json", {**asked, "code": _code(study)}) for name, study in studies.items()}
    pending = [name for name in studies if records[name] is None]
    for name in pending:
        sites = studies[name].sites
        if sites and config.study_sites is not None and not set(sites) & set(config.study_sites):
            raise ConfigError(f"the study {name!r} looks at {', '.join(sites)}: `study_sites` names none of them")
        studies[name].check(experiment)
    if pending:
        # Studies that are done count too: results must not depend on where a run was cut, and what is measured in one
        # matrix product (sites pooled together, directions of one pass) can change the last bits of all of them.
        sites = [site for study in studies.values() for site in study.sites]
        lab = open_lab(experiment, sites, max(study.clips for study in studies.values()), progress)
        cases = {name: list(study.cases(lab)) for name, study in studies.items()}
        measured = Measurements(config.snrs, {}, {})
        if any(studies[name].measures for name in pending):
            measured = measure(lab, list(itertools.chain(*cases.values())))
        for done, name in enumerate(pending):
            progress("studies", done, len(pending))
            settings = {**asked, "code": _code(studies[name])}
            parts = Parts(folder / name, settings)
            rows = json_rows(studies[name].rows(dataclasses.replace(lab, once=parts), cases[name], measured))
            _write(folder / f"{name}.json", settings, rows)
            records[name] = rows
            parts.remove()
        progress("studies", len(pending), len(pending))
    return {name: pd.DataFrame(rows) for name, rows in records.items()}


@dataclasses.dataclass
class Parts:
    """Parts of a study that takes minutes, each a file beside `path` until the whole study is one."""

    path: Path
    asked: Mapping[str, Any]

    def __call__(self, name: str, make: Make) -> list[dict[str, Any]]:
        """The rows of a part, made unless they are there."""
        path = self.path.with_name(f"{self.path.name}-{digest([name])}.json")
        rows = _read(path, self.asked)
        if rows is None:
            rows = make()
            _write(path, self.asked, rows)
        return rows

    def remove(self) -> None:
        for path in self.path.parent.glob(f"{self.path.name}-*.json"):
            path.unlink(missing_ok=True)


def _write(path: Path, asked: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    content = {**asked, "rows": rows}
    write_file(path, to_json({**content, "digest": digest([to_json(content)])}))


def _code(study: Any) -> str:
    """Identifies the source of a study's module: rows are made again after it was changed."""
    try:
        return digest([inspect.getsource(sys.modules[type(study).__module__])])
    except (OSError, TypeError):  # no source, as in an interactive session
        return ""


def _read(path: Path, asked: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of a study that is done, unless something else was asked: items, sites, or other code."""
    if not path.is_file():
        return None
    try:
        values = parse_json(path.read_bytes())
        if values.pop("digest", None) != digest([to_json(values)]):
            raise ValueError("it is not as it was written")
        return values["rows"] if all(values.get(key) == value for key, value in asked.items()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): move it away to make it again") from None
