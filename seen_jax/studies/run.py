"""Runs the studies of an experiment; each is a file once it is done, so that an interrupted run can be resumed."""

import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd

from seen_jax.errors import ConfigError
from seen_jax.evaluate.prepare import Experiment
from seen_jax.evaluate.tables import json_rows
from seen_jax.files import to_json, write_file
from seen_jax.progress import Progress, silent
from seen_jax.registry import STUDIES
from seen_jax.studies.lab import open_lab
from seen_jax.studies.measure import Measurements, measure


def run_studies(experiment: Experiment, progress: Progress = silent) -> dict[str, pd.DataFrame]:
    """The rows of the studies that the experiment names, each from folder/studies/NAME.json if it is there. Shares
    are 0 to 1, SNRs in dB; what is not defined is missing. A study is written when it is done. ConfigError for a
    study that cannot be made of this experiment, for damaged files and for a full disk."""
    config, folder = experiment.config, experiment.config.folder() / "studies"
    studies = {name: STUDIES[name] for name in config.studies}
    records = {name: _read(folder / f"{name}.json", config.study_items) for name in studies}
    pending = [name for name in studies if records[name] is None]
    for name in pending:
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
            records[name] = json_rows(studies[name].rows(lab, cases[name], measured))
            write_file(folder / f"{name}.json", to_json({"items": config.study_items, "rows": records[name]}))
        progress("studies", len(pending), len(pending))
    return {name: pd.DataFrame(rows) for name, rows in records.items()}


def _read(path: Path, items: int) -> list[dict[str, Any]] | None:
    """The rows of a study that is done, unless it was done with another number of items."""
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text("utf-8"))
        return values["rows"] if values["items"] == items else None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): move it away to make it again") from None
