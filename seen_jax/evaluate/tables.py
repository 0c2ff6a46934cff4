"""Trials (what one item got as an answer under one condition) and the tables that are made of those of an experiment:
scores per condition, mitigations compared on the same items, SEE against GSR."""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from seen_jax.errors import ConfigError
from seen_jax.evaluate import metrics
from seen_jax.evaluate.metrics import COSINES, Kind
from seen_jax.files import csv_quoting
from seen_jax.mitigations.base import NONE

TRANSCRIPTION, ALL = "transcription", "all"
BENDS = 10.0  # dB: where the paper's score curves bend
CLEAN, UP_TO, ABOVE = "clean", f"noisy <= {BENDS:g} dB", f"noisy > {BENDS:g} dB"  # the bands of SNRs
ITEM = ["dataset", "task", "item"]
CELL = ["dataset", "task", "noise", "snr_db", "mitigation"]
COUNTED = ["ok", "same", "same_plain", "fixed", "broken", "choice", "correct", "fixed_truth", "broken_truth"]
WHISPER = "_whisper"
WORDS = (("reference", ""), ("reference", WHISPER), ("output_clean", "_clean"))  # (held against, end of its columns)
COUNTED += ["unparseable", "nonsense", "spoken", *(f"{name}{end}" for _, end in WORDS for name in ("words", "errors"))]
ANSWER = ["dataset", "task", "item", "noise", "snr_db", "mitigation", "output", "letter", "right", "reference"]
KINDS: tuple[Kind, ...] = ("pearson", "spearman")
TUPLES = ("layers", "layers_after", "energy")  # of a trial


@dataclasses.dataclass(frozen=True)
class Trial:
    """One item under one condition: a noise, an SNR and a mitigation."""

    dataset: str
    task: str
    item: str
    noise: str  # names the basis too, also for clean audio
    snr_db: float | None  # None for clean audio
    mitigation: str
    output: str = ""
    letter: str | None = None  # that the output names; None without choices
    right: str | None = None  # the right letter, if there are choices
    reference: str | None = None  # the right transcript, if there is one
    see: float = math.nan  # mean over the kept layers before the edit, from 0 to 1
    see_after: float = math.nan  # after the edit of the same forward pass
    layers: tuple[float, ...] = ()  # SEE of every layer
    layers_after: tuple[float, ...] = ()
    energy: tuple[float, ...] = ()  # that projects onto each layer's basis, raw
    cosines: dict[str, float] | None = None  # by the names of `metrics.COSINES`; None where they are not measured
    failed: str | None = None  # why the item could not be asked; then nothing else is known about it

    @property
    def answer(self) -> str:
        """What GSR compares; see `metrics.answer`."""
        return metrics.answer(self.output, self.letter)

    def to_json(self) -> dict[str, Any]:
        """JSON values of all fields but those that say nothing; NaN becomes None."""
        values = {name: _json(value) for name, value in vars(self).items()}
        return {name: value for name, value in values.items() if value or name not in ("cosines", "failed", *TUPLES)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Trial":
        """The trial that `to_json` wrote. Raises TypeError for unknown or missing fields."""
        number = lambda x: math.nan if x is None else x
        means = {name: number(values.get(name)) for name in ("see", "see_after")}
        return cls(**{**values, **means, **{name: tuple(map(number, values.get(name, ()))) for name in TUPLES}})


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_tables(trials: Sequence[Trial], seed: int = 0) -> dict[str, pd.DataFrame]:
    """All tables of some trials by name; the order of the trials does not matter. Every table has NaN (or NA, in
    columns of integers) where a value is undefined, and an `snr_db` of NaN means clean audio. Shares lie between 0 and
    1. Rows are sorted by name and SNR, "none" before the other mitigations.
    They are conditions, correlations, comparisons, overall, similarities and layers, for which see the functions of
    these names; failures: items that could not be asked, each once; answers: every answer. seed: of the bootstrap
    intervals. Raises ConfigError for two trials of one item under one condition."""
    frame = _frame(trials)
    scored = _scored(frame)
    known = scored[scored["ok"]]
    cells = conditions(scored)
    failed = frame.loc[frame["failed"].notna(), [*ITEM, "noise", "failed"]].rename(columns={"failed": "why"})
    answers = frame.loc[frame["failed"].isna(), [*ANSWER, "see", "see_after"]].reset_index(drop=True)
    tables = {"conditions": cells, "correlations": correlations(scored, seed), "comparisons": comparisons(known, seed)}
    tables |= {"overall": overall(known, seed), "similarities": similarities(frame), "layers": layers(known)}
    return {**tables, "failures": failed.drop_duplicates(ignore_index=True), "answers": answers}


def to_csv(table: pd.DataFrame) -> str:
    """A table as CSV text: missing values are empty, lists and dicts are JSON, floats are written in full."""
    text = table.map(lambda value: json.dumps(value) if isinstance(value, list | tuple | dict) else value)
    return text.to_csv(index=False, lineterminator="\n", quoting=csv_quoting(text.to_numpy().ravel()))


def json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values, None where a value is missing."""
    rows: list[Any] = table.astype(object).where(table.notna(), None).to_dict("records")
    return rows


def band(snr_db: pd.Series) -> pd.Series:
    """The band of each SNR: CLEAN (NaN), UP_TO or ABOVE, 10 dB, where the paper's score curves bend."""
    return pd.Series(np.select([snr_db.isna(), snr_db <= BENDS], [CLEAN, UP_TO], ABOVE), snr_db.index)


def _frame(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row per trial, sorted, with its `answer`."""
    snr = lambda t: -math.inf if t.snr_db is None else t.snr_db
    key = lambda t: (t.dataset, t.task, t.noise, snr(t), t.mitigation != NONE, t.mitigation, t.item)
    rows = sorted(trials, key=key)
    columns = [*(field.name for field in dataclasses.fields(Trial)), "answer"]
    frame = pd.DataFrame([(*vars(t).values(), t.answer) for t in rows], columns=columns)
    frame = frame.astype({"snr_db": float, "see": float, "see_after": float})
    if len(twice := frame[frame.duplicated([*CELL, "item"])]):
        row = twice.iloc[0]
        where = f"{row['dataset']}, {row['noise']}, {row['snr_db']:g} dB, {row['mitigation']}"
        raise ConfigError(f"the item {row['item']} was answered twice under one condition ({where}): keep one of them")
    return frame


def _scored(frame: pd.DataFrame) -> pd.DataFrame:
    """The trials beside the clean one without mitigation (`_clean`) and the noisy one without mitigation (`_plain`).
    `ok`: all three could be asked. The other columns are False or 0 where they could not."""
    plain = frame[frame["mitigation"] == NONE]
    clean = plain[plain["snr_db"].isna()]
    keys, condition = [*ITEM, "noise"], [*ITEM, "noise", "snr_db"]
    joined = frame.merge(clean[[*keys, "answer", "output", "failed"]], "left", keys, suffixes=("", "_clean"))
    others = plain[[*condition, "answer", "letter", "failed"]]
    joined = joined.merge(others, "left", condition, suffixes=("", "_plain"))
    both = joined["answer_clean"].notna() & joined["answer_plain"].notna()
    joined["ok"] = ok = both & joined[["failed", "failed_clean", "failed_plain"]].isna().all(axis=1)
    choice = ok & joined["right"].notna()
    spoken = ok & joined["reference"].notna() & (joined["task"] == TRANSCRIPTION)
    joined[[f"{name}{end}" for _, end in WORDS for name in ("words", "errors")]] = 0
    same, same_plain = (ok & (joined[name] == joined["answer_clean"]) for name in ("answer", "answer_plain"))
    correct, correct_plain = (choice & (joined[name] == joined["right"]) for name in ("letter", "letter_plain"))
    joined["same"], joined["same_plain"] = same, same_plain
    joined["fixed"], joined["broken"] = same & ~same_plain, same_plain & ~same
    joined["fixed_truth"], joined["broken_truth"] = correct & ~correct_plain, correct_plain & ~correct
    joined["choice"], joined["correct"], joined["spoken"] = choice, correct, spoken
    joined["unparseable"] = choice & joined["letter"].isna()
    joined["nonsense"] = ok & joined["output"].map(metrics.nonsense).astype(bool)
    joined["energies"] = joined["energy"]
    joined["energy"] = [float(np.mean(values)) if values else math.nan for values in joined["energies"]]
    measured = ["see", "see_after", "energy"]
    joined[measured] = joined[measured].where(ok)
    outputs = joined.loc[spoken, "output"].tolist()
    for against, end in WORDS:
        words = metrics.whisper_words() if end == WHISPER else metrics.plain_words
        if words is None:
            continue
        errors, count = metrics.word_errors(joined.loc[spoken, against].tolist(), outputs, words)
        joined.loc[spoken, f"errors{end}"], joined.loc[spoken, f"words{end}"] = errors, count
    return joined


def conditions(scored: pd.DataFrame) -> pd.DataFrame:
    """Scores per dataset, task, noise, SNR and mitigation: items, failed; gsr and, of choices, accuracy, each with
    its Wilson interval; wer against the reference, wer_whisper the same in the words of Whisper's normaliser (missing
    without the extra `whisper`), wer_clean against the model's own clean output; see, see_after and energy, means over
    the items; against the clean answer: fixed and broken by the mitigation, and influence, the share that the noise
    changed; fixed_truth and broken_truth against the right letters; unparseable: choices without a letter; nonsense:
    empty or looping outputs."""
    groups = scored.groupby(CELL, dropna=False, sort=False)
    n, means = groups[COUNTED].sum().astype("int64"), groups[["see", "see_after", "energy"]].mean()
    n["size"] = groups.size()
    n = n.rename(columns={"ok": "items"})
    whole: Any = n.astype("Int64")
    mitigated = (n.index.get_level_values("mitigation") != NONE) & (n["items"] > 0)
    choices = n["choice"] > 0

    def wilson(name: str, hits: str, of: str) -> pd.DataFrame:
        bounds = map(metrics.wilson, n[hits].tolist(), n[of].tolist())
        return pd.DataFrame(list(bounds), n.index, [name, f"{name}_low", f"{name}_high"])

    def wer(end: str) -> pd.Series:
        """NaN where there is no transcript; 0 or 1 where no reference has words."""
        errors, words = n[f"errors{end}"], n[f"words{end}"]
        known = (n["spoken"] > 0) & (end != WHISPER or metrics.whisper_words() is not None)
        return (errors / words).where(words > 0, (errors > 0).astype(float)).where(known)

    columns = {
        "items": n["items"],
        "failed": n["size"] - n["items"],
        **wilson("gsr", "same", "items"),
        **wilson("accuracy", "correct", "choice"),
        "wer": wer(""),
        "wer_whisper": wer(WHISPER),
        "wer_clean": wer("_clean"),
        **means,
        **whole[["fixed", "broken"]].where(mitigated),
        "influence": 1 - n["same_plain"] / n["items"],
        **whole[["fixed_truth", "broken_truth"]].where(mitigated & choices),
        "unparseable": whole["unparseable"].where(choices),
        "nonsense": n["nonsense"],
    }
    return pd.DataFrame(columns, n.index).reset_index()


def correlations(scored: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """SEE against GSR over the SNRs, without mitigation: per data set, task and noise; per noise, over all items of
    all tasks ("all"); and over all cells at once. cells: how many; pearson and spearman with 95 % bootstrap intervals
    over the items. Beside them what needs no model: the correlation of GSR with the SNR itself (`_snr`), and with the
    noise's share of the amplitude (`_share`), 1 / (1 + 10^(SNR / 20))."""
    kept = scored[(scored["mitigation"] == NONE) & scored["snr_db"].notna() & scored["ok"] & scored["see"].notna()]
    keys = CELL[:3]
    groups: list[tuple[Any, pd.DataFrame, list[str]]] = [(k, x, CELL[3:4]) for k, x in kept.groupby(keys, sort=False)]
    if len(groups) > kept["noise"].nunique():
        groups += [((ALL, ALL, noise), x, CELL[3:4]) for noise, x in kept.groupby("noise", sort=False)]
    groups += [((ALL,) * 3, kept, CELL[:4])] * bool(len(kept))
    rows: list[dict[str, Any]] = []
    for key, part, points in groups:
        numbered = part.assign(number=part.groupby(ITEM, sort=False).ngroup(), same=part["same"].astype(float))
        wide = numbered.pivot(index="number", columns=points, values=["see", "same"])
        see, same = (wide[name].to_numpy(float) for name in ("see", "same"))
        snr, gsr = wide["same"].columns.get_level_values("snr_db").to_numpy(float), np.nanmean(same, axis=0)
        row: dict[str, Any] = {**dict(zip(keys, key, strict=True)), "cells": len(gsr)}
        others = {"snr": snr, "share": 1 / (1 + 10 ** (snr / 20))}
        for kind in KINDS:
            names = (kind, f"{kind}_low", f"{kind}_high")
            row |= dict(zip(names, metrics.correlation_of_means(see, same, kind, seed), strict=True))
            row |= {f"{kind}_{name}": metrics.correlation(x, gsr, kind) for name, x in others.items()}
        rows.append(row)
    intervals = [f"{kind}{end}" for kind in KINDS for end in ("", "_low", "_high")]
    baselines = [f"{kind}_{name}" for kind in KINDS for name in ("snr", "share")]
    return pd.DataFrame(rows, columns=[*keys, "cells", *intervals, *baselines])


def comparisons(scored: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Every mitigation against every earlier one on the same trials: gain of GSR, its interval, and McNemar's test.
    Groups: the three bands, each SNR, and each noise up to 10 dB. difference: GSR of `mitigation` less that of
    `against`; low, high: its 95 % bootstrap interval over the items; only_mitigation, only_against: answers that
    only one of them keeps."""
    hits = scored.pivot(index=[*ITEM, "noise", "snr_db"], columns="mitigation", values="same")
    items = hits.groupby(ITEM, sort=False).ngroup().to_numpy()
    where = hits.index.to_frame(index=False)
    bands = band(where["snr_db"])
    low = bands == UP_TO
    groups = {name: bands == name for name in (CLEAN, UP_TO, ABOVE)}
    groups |= {f"{snr:g} dB": where["snr_db"] == snr for snr in sorted(where["snr_db"].dropna().unique())}
    groups |= {f"{noise} <= {BENDS:g} dB": low & (where["noise"] == noise) for noise in where["noise"].unique()}
    rows = []
    names = sorted(hits.columns, key=lambda name: (name != NONE, name))
    for against, mitigation in sorted(itertools.combinations(names, 2), key=lambda pair: names.index(pair[1])):
        both = hits[[against, mitigation]].notna().all(axis=1).to_numpy()
        for group, chosen in groups.items():
            index = np.flatnonzero(chosen.to_numpy() & both)
            if not len(index):
                continue
            first, second = (hits[name].to_numpy()[index].astype(bool) for name in (against, mitigation))
            gain = metrics.mean_interval(second.astype(float) - first, items[index], seed)
            only_against, only_mitigation, p = metrics.mcnemar(first, second)
            shares = (float(second.mean()), float(first.mean()))
            rows.append((mitigation, against, group, len(index), *shares, *gain, only_mitigation, only_against, p))
    columns = ["mitigation", "against", "group", "answers", "gsr", "gsr_against", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "only_mitigation", "only_against", "p"])


def overall(scored: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """GSR of every mitigation over all data, tasks and noises, clean and per SNR; bootstrap intervals over items."""
    rows = []
    for key, part in scored.groupby(["mitigation", "snr_db"], dropna=False, sort=False):
        items = part.groupby(ITEM, sort=False).ngroup().to_numpy()
        rows.append((*key, len(part), *metrics.mean_interval(part["same"].to_numpy(), items, seed)))
    return pd.DataFrame(rows, columns=["mitigation", "snr_db", "answers", "gsr", "gsr_low", "gsr_high"])


def similarities(frame: pd.DataFrame) -> pd.DataFrame:
    """Means of the six cosines per dataset, task, noise, SNR and mitigation, where they were measured."""
    kept = frame[frame["cosines"].notna()]
    values = pd.DataFrame(kept["cosines"].tolist(), kept.index, list(COSINES), dtype=float)
    return kept[CELL].join(values).groupby(CELL, dropna=False, sort=False).mean().reset_index()


def layers(scored: pd.DataFrame) -> pd.DataFrame:
    """Mean SEE and raw projected energy of every layer, before and after the mitigation."""
    rows = []
    for key, part in scored.groupby(CELL, dropna=False, sort=False):
        means = [np.mean(part[name].tolist(), axis=0) for name in ("layers", "layers_after", "energies")]
        rows += [(*key, layer, *map(float, values)) for layer, values in enumerate(zip(*means, strict=True))]
    return pd.DataFrame(rows, columns=[*CELL, "layer", "see", "see_after", "energy"])
