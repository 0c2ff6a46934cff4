"""Sections of an experiment's report about its results, also beside those that the paper and its files report.

`cells` are its conditions with three more columns: place (the task), audio (the SNR) and band, as they are written."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from seen_jax.evaluate.metrics import COSINES
from seen_jax.evaluate.tables import ALL, BENDS, UP_TO
from seen_jax.mitigations.base import NONE, SEEN
from seen_jax.models.sites import ENCODER_MLP_ACT
from seen_jax.report import figures, score_figures
from seen_jax.report import format as text
from seen_jax.report.blocks import Block, Grid, Notice, Text
from seen_jax.report.format import BANDS, MOST_ROWS, Target, crossed, grid, number, plain, pooled_by, share
from seen_jax.report.style import in_words, level, places

CORRELATED = (
    "Intervals: bootstrap over the items, at the same SNRs. The last two columns need no model: the correlation of GSR "
    "with the SNR in dB, and with the noise's share of the amplitude, 1 / (1 + 10^(SNR / 20)). SEE tells more than the "
    "SNR only where its r is farther from 0."
)
TESTS = (
    "Difference: on the same answers, in points, with its 95 % bootstrap interval over the items. Fixed, broken: "
    "answers that equal the clean one only with, only without. p: McNemar's exact test, which takes every answer for "
    "an observation of its own though one item is used at several SNRs, and is not corrected for the number of "
    "comparisons: where it and the interval disagree, the interval is the one to trust."
)
NOTE = (
    "The paper's models, data, recordings and number of items are not ours: its figures are here for orientation and "
    "enter nothing else on this page. A dash: it reports nothing for this model, site, task or noise. Its SEE is noisy "
    "at \N{MINUS SIGN}10 dB, where it says nothing else; ours is at the lowest SNR that was run."
)
KINDS = ("pearson", "spearman")
ZERO = "After an edit of strength 1 SEE is 0 by construction: it is not a result."
TRUTHS = {
    "accuracy": "Right choices against SNR, mean over tasks and noises.",
    "wer": "Word error rate against the reference, mean over noises and data sets.",
    "wer_clean": "Word error rate against the model's own clean transcript.",
}
Tables = Mapping[str, pd.DataFrame]


def overview(target: Target, overall: pd.DataFrame) -> list[Block]:
    few = overall["mitigation"].nunique() <= figures.MOST_BANDS
    bands = "; bands: 95 % bootstrap intervals over the items" * few
    caption = f"GSR against SNR over all tasks and noises{bands}."
    return target.picture("overall", caption, figures.line_sweep, overall, "snr_db", "gsr", "mitigation")


def see_and_gsr(target: Target, cells: pd.DataFrame, correlations: pd.DataFrame) -> list[Block]:
    """The grid, and the correlation of every task and noise beside those that need no model."""
    caption = "GSR against SEE, one point per SNR, without mitigation; least squares with a 95 % band."
    blocks = target.picture("see_gsr_grid", caption, score_figures.see_gsr_grid, cells)
    rows, between = correlations.assign(task=places(correlations)), "95 % interval"
    if len(rows) > MOST_ROWS:
        groups, between = rows[rows["task"] != ALL].groupby("noise", sort=False), "lowest to highest task"
        ends = {f"{k}_{end}": (k, how) for k in KINDS for end, how in (("low", "min"), ("high", "max"))}
        means = {name: (name, "mean") for name in ("cells", *KINDS, "pearson_snr", "pearson_share")}
        rows = groups.agg(**means, **ends).reset_index().assign(task="mean")
    columns: dict[str, Any] = {"task": ("task", str), "noise": ("noise", str), "cells": ("SNRs", plain)}
    for kind in KINDS:
        rows[f"{kind}_between"] = list(map(text.interval, rows[f"{kind}_low"], rows[f"{kind}_high"]))
        columns |= {kind: (f"{kind.title()} r of SEE", number), f"{kind}_between": (between, str)}
    columns |= {"pearson_snr": ("r of SNR", number), "pearson_share": ("r of noise share", number)}
    return [*blocks, grid(rows, columns, 2), Text(CORRELATED, note=True), *target.link("correlations")]


def see_and_snr(target: Target, cells: pd.DataFrame) -> list[Block]:
    blocks = target.picture("see_vs_snr", "SEE against SNR; dashed: clean audio.", score_figures.see_vs_snr, cells)
    means = pooled_by(cells[cells["mitigation"] == NONE], "see", ["noise", "audio"])
    return [*blocks, crossed(means, text.see, title="SEE (%), mean over the items of all tasks")]


def ranks_text(basis: Mapping[str, Any]) -> str:
    return " ".join(str(basis["ranks"][layer]) for layer in basis["layers"])


def noise_bases(target: Target, bases: pd.DataFrame, diagnoses: pd.DataFrame) -> list[Block]:
    """What the diagnosis of the calibrations says, and the ranks of every basis."""
    by: Any = diagnoses.groupby(["code", "severity", "message", "site"], sort=False) if len(diagnoses) else ()
    blocks: list[Block] = []
    for (code, severity, message, site), part in by:
        blocks.append(Notice(code, severity, f"{', '.join(part['noise'])} at {site}: {message}."))
    used: dict[tuple[str, ...], list[str]] = {}
    basis: Any
    for basis in bases.to_dict("records"):
        kept = list(basis["layers"])
        run = len(kept) > 2 and kept == [*range(kept[0], kept[-1] + 1)]
        star = plain(basis["first_layer"]) if basis["localised"] else "not found"
        shown = (star if basis["calibrated"] else "unseen noise", f"{kept[0]} to {kept[-1]}" if run else plain(kept))
        key = (basis["noise"], basis["site"], *shown, ranks_text(basis))
        used.setdefault(key, []).append(in_words(basis["mitigation"]))
    rows = [[noise, site, ", ".join(names), *rest] for (noise, site, *rest), names in used.items()]
    header = ["noise", "site", "used by", "l*", "kept layers", "their ranks"]
    return [*blocks, Grid(header, rows[:MOST_ROWS], 3), *target.link("bases")]


def both_directions(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Every pair of mitigations in both orders, indexed by mitigation, against and group."""
    swaps = (("mitigation", "against"), ("gsr", "gsr_against"), ("only_mitigation", "only_against"))
    c = comparisons.rename(columns={a: b for pair in swaps for a, b in (pair, pair[::-1])})
    turned = c.assign(difference=-c["difference"], low=-c["high"], high=-c["low"])
    return pd.concat([comparisons, turned]).set_index(["mitigation", "against", "group"])


def of_mitigations(target: Target, cells: pd.DataFrame, tables: Tables, seen: Sequence[str]) -> list[Block]:
    """Bars, radar, comparisons on the same answers, and SEE under each. seen: the mitigations that are SEEN alone."""
    overall, pairs = tables["overall"], both_directions(tables["comparisons"])
    names = cells["mitigation"].unique().tolist()[1:]
    groups = {str(name): part["snr_db"].unique().tolist() for name, part in cells.groupby("band", sort=False)}
    caption = "GSR per mitigation, mean over the noises; whiskers: 95 % Wilson intervals."
    blocks = target.picture("mitigation_bars", caption, score_figures.mitigation_bars, cells, groups)
    caption = "Mean GSR of noisy audio over the SNRs, one axis per task and noise."
    blocks += target.picture("denoiser_radar", caption, score_figures.denoiser_radar, cells)
    gsr = overall.assign(audio=overall["snr_db"].map(level)).set_index(["mitigation", "audio"])["gsr"]
    blocks.append(crossed(gsr, share, in_words, "GSR (%) over all tasks and noises"))
    keys = [(name, NONE, group) for name in names for group in BANDS]
    blocks += tested(pairs, keys, "Each mitigation against nothing")
    keys = [(name, other, UP_TO) for name in seen for other in names if other != name]
    blocks += tested(pairs, keys, "SEEN against each other mitigation, up to 10 dB")
    gains = pairs["difference"].to_dict()
    best = max(names, key=lambda name: gains.get((name, NONE, UP_TO), float("-inf")))
    if best not in seen:
        keys = [(best, name, UP_TO) for name in names if name != best]
        blocks += tested(pairs, keys, "The mitigation that gains most against each other one, up to 10 dB")
    blocks.append(Text(TESTS, note=True))
    noises = cells["noise"].unique()
    rows = [[in_words(n), *(text.points(gains.get((n, NONE, f"{x} <= {BENDS:g} dB"))) for x in noises)] for n in names]
    blocks.append(Grid(["mitigation", *noises], rows, title="GSR gain up to 10 dB (points), per noise"))
    after = cells.assign(band="after the edit, " + cells["band"], see=cells["see_after"])
    means = pooled_by(pd.concat([cells, after]), "see", ["mitigation", "band"])
    blocks.append(crossed(means, text.see, in_words, "SEE (%) of what the model hears, and after SEEN's edit"))
    return [*blocks, Text(ZERO, note=True), *target.link("comparisons")]


def tested(pairs: pd.DataFrame, keys: Sequence[tuple[str, str, str]], title: str) -> list[Block]:
    """A table of comparisons. pairs: of `both_directions`; keys: into its index."""
    rows: list[list[str]] = []
    records: Any = pairs.to_dict("index")
    for mitigation, against, group in (key for key in keys if key in records):
        c = records[mitigation, against, group]
        names = [in_words(mitigation), BANDS[group] if against == NONE else in_words(against)]
        shares = [share(c["gsr_against"]), share(c["gsr"]), text.points(c["difference"])]
        counts = [plain(c["only_mitigation"]), plain(c["only_against"]), text.p_value(c["p"])]
        rows.append([*names, *shares, text.interval(c["low"], c["high"], text.points), *counts])
    if not rows:
        return []
    named = ["audio", "nothing (%)"] if keys[0][1] == NONE else ["against", "other (%)"]
    header = ["mitigation", *named, "mitigation (%)", "difference", "95 % interval", "fixed", "broken", "p"]
    return [Grid(header, rows[:MOST_ROWS], 2, title)]


def clean_damage(cells: pd.DataFrame) -> list[Block]:
    clean = cells[cells["snr_db"].isna() & (cells["mitigation"] != NONE) & cells["gsr"].notna()]
    by_task = crossed(pooled_by(clean, "gsr", ["mitigation", "place"]), share, in_words)
    rows = []
    for row, (_, part) in zip(by_task.rows, clean.groupby("mitigation", sort=False), strict=True):
        worst = part.sort_values("gsr", kind="stable").to_dict("records")[0]
        cell = f"{share(worst['gsr'])} ({worst['place']}, {worst['noise']})"
        rows.append([row[0], share(text.pooled(part, "gsr")), *row[1:], cell, plain(part["broken"].sum())])
    lead = "Clean audio under a mitigation: the share of answers that stay as they were. Bases differ per noise."
    return [Text(lead), Grid(["mitigation", "GSR (%)", *by_task.header[1:], "lowest cell", "answers changed"], rows)]


def accuracy(target: Target, cells: pd.DataFrame) -> list[Block]:
    """Scores against the ground truth, and word errors against the model's own clean transcript too."""
    lead = "Against the ground truth, where GSR is against the model's own clean answers: the two are never mixed."
    blocks: list[Block] = [Text(lead)]
    noisy = cells[cells["snr_db"].notna()]
    for key, caption in TRUTHS.items():
        if noisy[key].notna().any():
            blocks += target.picture(key, caption, figures.line_sweep, noisy, "snr_db", key, "mitigation")
    choices, spoken = cells[cells["accuracy"].notna()], cells[cells["wer"].notna()]
    if len(choices):
        turned = noisy.groupby("mitigation", sort=False)[["fixed_truth", "broken_truth"]].sum(min_count=1)
        shares = pooled_by(choices, "accuracy", ["mitigation", "band"]).unstack(sort=False).add_prefix("right, ")
        rows = [[in_words(m), *map(share, values), *map(plain, turned.loc[m])] for m, *values in shares.itertuples()]
        header = ["mitigation", *(f"{name} (%)" for name in shares), "noisy: made right", "made wrong"]
        blocks.append(Grid(header, rows, title="Multiple choice"))
    if len(spoken):
        kinds = {"wer": "WER, ", "wer_whisper": "WER in Whisper's words, ", "wer_clean": "against own clean, "}
        kinds = {key: prefix for key, prefix in kinds.items() if key in spoken and spoken[key].notna().any()}
        both = pd.concat([spoken.assign(band=prefix + spoken["band"], wer=spoken[k]) for k, prefix in kinds.items()])
        rates = pooled_by(both, "wer", ["mitigation", "band"])
        blocks.append(crossed(rates, share, in_words, "Transcription: word error rate (%)"))
    return [*blocks, *target.link("conditions")]


def cosines(target: Target, similarities: pd.DataFrame) -> list[Block]:
    lead = "Between activations pooled over frames, mean over layers, items, tasks and noises. act: clean; "
    lead += "deact: clean with SEEN; act_noise and deact_noise: noisy."
    blocks: list[Block] = [Text(lead)]
    names = {pair: pair.replace("-", " · ") for pair in COSINES}
    for mitigation, part in similarities.rename(columns=names).groupby("mitigation", sort=False):
        means: Any = part.groupby("snr_db")[[*names.values()]].mean().rename_axis("SNR").rename_axis(columns="pair")
        rows = means.stack().rename("cosine").reset_index().rename(columns={"SNR": "snr_db"})
        name = "cosines" if mitigation == SEEN else f"cosines_{mitigation}"
        caption = f"Cosine similarities against SNR, {in_words(mitigation)}."
        blocks += target.picture(name, caption, figures.line_sweep, rows, "snr_db", "cosine", "pair")
        form = lambda x: number(x, 3).removeprefix("+")
        blocks.append(crossed(means.stack(), form, level, in_words(mitigation)))
    return [*blocks, *target.link("similarities")]


def layers(target: Target, table: pd.DataFrame) -> list[Block]:
    """SEE of every layer, clean and at the lowest SNR, and the raw energy there."""
    part = table[table["mitigation"] == NONE]
    part = part[part["snr_db"].isna() | (part["snr_db"] == part["snr_db"].min())]
    means = part.groupby(["noise", "snr_db", "layer"], sort=False, dropna=False)[["see", "energy"]].mean().reset_index()
    caption = "SEE without mitigation of every layer with noise directions, kept or not, mean over the tasks."
    drawn = means[means["energy"] > 0]  # a layer without directions has no SEE to speak of
    blocks = target.picture("see_by_layer", caption, figures.see_by_layer, drawn) if len(drawn) else []
    energy = means.groupby(["noise", means["snr_db"].map(level)], sort=False)["energy"]
    rows = [[noise, audio, " ".join(f"{x:.3g}" for x in values)] for (noise, audio), values in energy]
    header = ["noise", "audio", "projected energy, first to last layer"]
    return [*blocks, Grid(header, rows[:MOST_ROWS], 2), *target.link("layers")]


def unanswered(target: Target, cells: pd.DataFrame, failed: pd.DataFrame) -> list[Block]:
    """Items that could not be asked and why; answers without a letter, and nonsense."""
    headers = {"items": "answers", "choices": "choices", "unparseable": "no letter", "nonsense": "empty or looping"}
    counted = cells.assign(choices=cells["items"].where(cells["unparseable"].notna()))
    sums = counted.groupby(["mitigation", "band"], sort=False)[[*headers]].sum(min_count=1).reset_index()
    columns: dict[str, Any] = {"mitigation": ("mitigation", in_words), "band": ("audio", str)}
    table = grid(sums, columns | {key: (header, plain) for key, header in headers.items()}, 2)
    if failed.empty:
        return [Text("Every item could be asked."), table]
    once = failed.assign(task=places(failed)).drop_duplicates(["dataset", "item", "why"])
    reasons = once.value_counts(["task", "why"]).head(MOST_ROWS).rename("items").reset_index()
    items = len(failed.drop_duplicates(["dataset", "item"]))
    lead = f"{items} items could not be asked with every noise and are left out of the scores."
    shown = grid(reasons, {name: (name, str) for name in ("task", "why", "items")}, 2)
    return [Text(lead), shown, *target.link("failures"), table]


def published() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("published.yaml").read_text("utf-8"))


def model_of_paper(name: str, paper: Mapping[str, Any]) -> str | None:
    """Which of the paper's models has this name or folder, if any."""
    bare = lambda known: re.sub(r"[^a-z0-9]", "", known.lower())
    return next((known for known in paper["clean_gsr"] if bare(known) in bare(name)), None)


def beside(
    identity: Mapping[str, Any], name: str, tables: Mapping[str, pd.DataFrame], seen: list[str], denoisers: list[str]
) -> list[Block]:
    """A table of what the paper reports, ours in one column, the paper's in another; a dash where it has nothing. name:
    of the model. seen, denoisers: the mitigations that are SEEN alone, and a denoiser alone."""
    paper, cells, correlations = published(), tables["conditions"], tables["correlations"]
    model, at_site = model_of_paper(name, paper), identity["site"] == ENCODER_MLP_ACT
    r = correlations.loc[correlations["task"] != ALL, "pearson"]
    ranges = ((r.mean(), r.min(), r.max()), (paper["pearson"][key] for key in ("mean", "lowest", "highest")))
    texts = [f"{number(mean)} ({text.interval(low, high)})" for mean, low, high in ranges]
    rows = [["Pearson r of SEE and GSR, mean (range)", "all", *texts, paper["source"]]]
    add = lambda what, where, ours, theirs=text.NOTHING, source=paper["source"]: rows.append(
        [what, where, ours, theirs, text.NOTHING if theirs == text.NOTHING else source]
    )
    known = {noise: paper["noises"].get(noise, noise) for noise in cells["noise"].unique()}
    for noise, part in cells[cells["mitigation"] == NONE].groupby("noise", sort=False):
        pair = paper["see"].get(known[noise]) if at_site else None
        theirs = " → ".join(map(text.see, pair)) if pair else text.NOTHING
        add("SEE, clean → noisiest (%)", noise, " → ".join(map(text.see, text.see_ends(part)[1])), theirs)
    pairs = both_directions(tables["comparisons"])["difference"]
    for mitigation in seen:
        clean = cells[(cells["mitigation"] == mitigation) & cells["snr_db"].isna()]
        tasks: Any = pooled_by(clean, "gsr", ["place", "task"]).items() if len(clean) else ()
        for (place, task), gsr in tasks:
            value = paper["clean_gsr"].get(model, {}).get(task)
            add(f"GSR of clean audio with {in_words(mitigation)}", place, text.percent(gsr), text.percent(value))
        gains = pairs[pairs.index.isin([(mitigation, denoiser, UP_TO) for denoiser in denoisers])]
        if len(gains):
            what = f"gain of {in_words(mitigation)} over the denoisers, mean"
            add(what, "all", f"{text.points(gains.mean())} points", text.percent(paper["gain_over_denoisers"]))
    bases: Any = tables["bases"].to_dict("records")
    for basis in (basis for basis in bases if basis["mitigation"] == NONE):
        ranks = paper["ranks"].get(model, {}).get(known.get(basis["noise"], basis["noise"])) if at_site else None
        theirs = f"{plain(ranks)} (layers {paper['layers'][model]})" if ranks else text.NOTHING
        add("ranks of the kept layers", basis["noise"], ranks_text(basis), theirs, paper["released"])
    return [Text(NOTE), Grid(["what", "where", "ours", "the paper", "source"], rows, 2)]
