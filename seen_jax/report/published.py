"""Our figures beside those that the paper and its released files report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from seen_jax.evaluate.tables import ALL, UP_TO
from seen_jax.evaluate.trials import NONE
from seen_jax.models.sites import ENCODER_MLP_ACT
from seen_jax.report.blocks import Block, Grid, Text
from seen_jax.report.format import NOTHING, interval, number, percent, plain, points, pooled_by, see, see_ends
from seen_jax.report.sections import both_directions, ranks_text
from seen_jax.report.style import in_words

PUBLISHED = Path(__file__).with_name("published.yaml")
NOTE = (
    "The paper's models, data, recordings and number of items are not ours: its figures are here for orientation and "
    "enter nothing else on this page. A dash: it reports nothing for this model, site, task or noise. Its SEE is noisy "
    "at \N{MINUS SIGN}10 dB, where it says nothing else; ours is at the lowest SNR that was run."
)


def published() -> dict[str, Any]:
    import yaml

    return yaml.safe_load(PUBLISHED.read_text("utf-8"))


def model_of_paper(name: str, paper: Mapping[str, Any]) -> str | None:
    """Which of the paper's models has this name or folder, if any."""
    bare = lambda text: re.sub(r"[^a-z0-9]", "", text.lower())
    return next((known for known in paper["clean_gsr"] if bare(known) in bare(name)), None)


def beside(
    identity: Mapping[str, Any],
    name: str,
    tables: Mapping[str, pd.DataFrame],
    seen: Sequence[str],
    denoisers: Sequence[str],
) -> list[Block]:
    """A table of what the paper reports, ours in one column, the paper's in another; a dash where it has nothing.

    Args:
        name: of the model. seen, denoisers: the mitigations that are SEEN alone, and a denoiser alone.
    """
    paper, cells, correlations = published(), tables["conditions"], tables["correlations"]
    model, at_site = model_of_paper(name, paper), identity["site"] == ENCODER_MLP_ACT
    r = correlations.loc[correlations["task"] != ALL, "pearson"]
    ranges = ((r.mean(), r.min(), r.max()), (paper["pearson"][key] for key in ("mean", "lowest", "highest")))
    texts = [f"{number(mean)} ({interval(low, high)})" for mean, low, high in ranges]
    rows = [["Pearson r of SEE and GSR, mean (range)", "all", *texts, paper["source"]]]
    add = lambda what, where, ours, theirs=NOTHING, source=paper["source"]: rows.append(
        [what, where, ours, theirs, NOTHING if theirs == NOTHING else source]
    )
    known = {noise: paper["noises"].get(noise, noise) for noise in cells["noise"].unique()}
    for noise, part in cells[cells["mitigation"] == NONE].groupby("noise", sort=False):
        figures = paper["see"].get(known[noise]) if at_site else None
        theirs = " → ".join(map(see, figures)) if figures else NOTHING
        add("SEE, clean → noisiest (%)", noise, " → ".join(map(see, see_ends(part)[1])), theirs)
    pairs = both_directions(tables["comparisons"])["difference"]
    for mitigation in seen:
        clean = cells[(cells["mitigation"] == mitigation) & cells["snr_db"].isna()]
        tasks: Any = pooled_by(clean, "gsr", ["place", "task"]).items() if len(clean) else ()
        for (place, task), gsr in tasks:
            value = paper["clean_gsr"].get(model, {}).get(task)
            add(f"GSR of clean audio with {in_words(mitigation)}", place, percent(gsr), percent(value))
        gains = pairs[pairs.index.isin([(mitigation, denoiser, UP_TO) for denoiser in denoisers])]
        if len(gains):
            what = f"gain of {in_words(mitigation)} over the denoisers, mean"
            add(what, "all", f"{points(gains.mean())} points", percent(paper["gain_over_denoisers"]))
    basis: Any
    for basis in tables["bases"].to_dict("records"):
        if basis["mitigation"] == NONE:
            ranks = paper["ranks"].get(model, {}).get(known.get(basis["noise"], basis["noise"])) if at_site else None
            theirs = f"{plain(ranks)} (layers {paper['layers'][model]})" if ranks else NOTHING
            add("ranks of the kept layers", basis["noise"], ranks_text(basis), theirs, paper["released"])
    return [Text(NOTE), Grid(["what", "where", "ours", "the paper", "source"], rows, 2)]
