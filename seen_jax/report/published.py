"""Our figures beside those that the paper and its released files report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seen_jax.evaluate.config import NONE
from seen_jax.evaluate.findings import UP_TO
from seen_jax.evaluate.report import NOTHING, number, percent
from seen_jax.evaluate.tables import Table
from seen_jax.models.sites import ENCODER_MLP_ACT
from seen_jax.report.blocks import Block, Grid, Text
from seen_jax.report.figures import in_words
from seen_jax.report.format import distinct, interval, mean, place, plain, points, pooled, see, where
from seen_jax.report.sections import compared, ranks

PUBLISHED = Path(__file__).with_name("published.yaml")


def published() -> dict[str, Any]:
    import yaml

    return yaml.safe_load(PUBLISHED.read_text("utf-8"))


def model_of_paper(name: str, paper: Mapping[str, Any]) -> str | None:
    """Which of the paper's models has this name or folder, if any."""
    bare = lambda text: re.sub(r"[^a-z0-9]", "", text.lower())  # noqa: E731
    return next((known for known in paper["clean_gsr"] if bare(known) in bare(name)), None)


def beside(
    identity: Mapping[str, Any], name: str, tables: Mapping[str, Table], arms: Sequence[str], denoisers: Sequence[str]
) -> list[Block]:
    """A table of what the paper reports, ours in one column, the paper's in another; a dash where it has nothing."""
    paper, cells, rows = published(), tables["conditions"], []
    model = model_of_paper(name, paper)
    source, at_site = paper["source"], identity["site"] == ENCODER_MLP_ACT

    def add(what: str, where_: str, ours: str, theirs: str = NOTHING, from_: str = source) -> None:
        rows.append([what, where_, ours, theirs, NOTHING if theirs == NOTHING else from_])

    r = paper["pearson"]
    own = [c["pearson"] for c in tables["correlations"] if c["noise"] != "all" and c["pearson"] is not None]
    ours = f"{number(mean(own))} ({interval(min(own), max(own), number)})" if own else NOTHING
    theirs = f"{number(r['mean'])} ({interval(r['lowest'], r['highest'], number)})"
    add("Pearson r of SEE and GSR, mean (range)", "all", ours, theirs)
    plain_cells = where(cells, mitigation=NONE)
    lowest = min((c["snr_db"] for c in plain_cells if c["snr_db"] is not None), default=None)
    known = {noise: paper["noises"].get(noise, noise) for noise in distinct(cells, "noise")}
    for noise, name_ in known.items():
        pair = [pooled(where(plain_cells, noise=noise, snr_db=snr), "see") for snr in (None, lowest)]
        theirs = " → ".join(map(see, paper["see"][name_])) if at_site and name_ in paper["see"] else NOTHING
        add("SEE, clean → noisiest (%)", noise, " → ".join(map(see, pair)), theirs)
    for arm in arms:
        quiet = where(cells, mitigation=arm, snr_db=None)
        for task, part in {place(c, quiet): where(quiet, dataset=c["dataset"], task=c["task"]) for c in quiet}.items():
            value = paper["clean_gsr"].get(model, {}).get(part[0]["task"])
            add(f"GSR of clean audio with {in_words(arm)}", task, percent(pooled(part, "gsr")), percent(value))
        pairs = [compared(tables["comparisons"], arm, d, UP_TO) for d in denoisers]
        if gains := [c["difference"] for c in pairs if c is not None]:
            theirs = f"{percent(paper['gain_over_denoisers'])}"
            add(f"gain of {in_words(arm)} over the denoisers, mean", "all", f"{points(mean(gains))} points", theirs)
    for basis in tables["bases"]:
        if basis["mitigation"] == NONE:
            found = paper["ranks"].get(model, {}).get(known.get(basis["noise"], basis["noise"])) if at_site else None
            theirs = f"{plain(found)} (layers {paper['layers'][model]})" if found else NOTHING
            add("ranks of the kept layers", basis["noise"], ranks(basis), theirs, paper["released"])
    text = (
        "The paper's models, data, recordings and number of items are not ours: its figures are here for "
        "orientation and enter nothing else on this page. A dash: it reports nothing for this model, site, "
        "task or noise. "
        "Its SEE is noisy at \N{MINUS SIGN}10 dB, where it says nothing else; ours is at the lowest SNR that was run."
    )
    return [Text(text), Grid(["what", "where", "ours", "the paper", "source"], rows, 2)]
