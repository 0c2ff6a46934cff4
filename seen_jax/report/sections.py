"""Sections of an experiment's report about its results."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from seen_jax.evaluate.config import NONE, SEEN
from seen_jax.evaluate.findings import UP_TO
from seen_jax.evaluate.metrics import COSINES
from seen_jax.evaluate.report import NOTHING, number
from seen_jax.evaluate.tables import Table
from seen_jax.report import figures as plots
from seen_jax.report.blocks import Block, Grid, Text
from seen_jax.report.figures import in_words
from seen_jax.report.format import (
    MOST_ROWS,
    Target,
    bands,
    distinct,
    folded,
    interval,
    level,
    mean,
    p_value,
    place,
    plain,
    points,
    pooled,
    see,
    share,
    total,
    where,
)

GROUPS = {"clean": "clean", UP_TO: "≤ 10 dB", "noisy > 10 dB": "> 10 dB"}
TESTS = (
    "Difference: on the same answers, in points, with its 95 % bootstrap interval over the items. Fixed, broken: "
    "answers that equal the clean one only with, only without. p: McNemar's exact test, which takes every answer for "
    "an observation of its own though one item is heard at several SNRs, and is not corrected for the number of "
    "comparisons: where it and the interval disagree, the interval is the one to trust."
)


def overview(target: Target, tables: Mapping[str, Table]) -> list[Block]:
    """GSR against SNR over all data."""
    rows = [r for r in tables["overall"] if r["snr_db"] is not None]
    caption = "GSR against SNR over all tasks and noises."
    if len(distinct(rows, "mitigation")) <= plots.MOST_BANDS:
        caption = f"{caption[:-1]}; bands: 95 % bootstrap intervals over the items."
    named = [{**r, "mitigation": in_words(r["mitigation"])} for r in rows]
    draw = lambda: plots.line_sweep(named, "snr_db", "gsr", "mitigation")  # noqa: E731
    return target.picture("overall", caption, draw) if rows else []


def see_and_gsr(target: Target, cells: Table, correlations: Table) -> list[Block]:
    """The grid, and the correlation of every task and noise with its interval."""
    caption = "GSR against SEE, one point per SNR, without mitigation; least squares with a 95 % band."
    blocks = target.picture("see_gsr_grid", caption, lambda: plots.see_gsr_grid(cells))
    own = [c for c in correlations if c["noise"] != "all"]
    header = ["task", "noise", "SNRs", "Pearson r", "95 % interval", "Spearman r", "95 % interval"]
    if len(own) <= MOST_ROWS:
        rows = [
            [place(c, own) if c in own else "all", c["noise"], plain(c["cells"]), *coefficients(c)]
            for c in correlations
        ]
        blocks.append(Grid(header, rows, 2))
    else:
        rows = []
        for noise in distinct(correlations, "noise"):
            part = where(correlations, noise=noise)
            texts = []
            for kind in ("pearson", "spearman"):
                values = [c[kind] for c in part if c[kind] is not None]
                texts += [number(mean(values)), interval(min(values), max(values), number) if values else NOTHING]
            rows.append([noise, str(len(part)), *texts])
        header = ["noise", "tasks", "mean Pearson r", "lowest to highest", "mean Spearman r", "lowest to highest"]
        blocks.append(Grid(header, rows))
    note = (
        "Intervals: bootstrap over the SNRs, which are few: they are wide, and reach ±1 where resamples repeat points."
    )
    return [*blocks, Text(note, note=True), *target.link("correlations")]


def coefficients(c: Mapping[str, Any]) -> list[str]:
    return [
        text
        for kind in ("pearson", "spearman")
        for text in (number(c[kind]), interval(c[f"{kind}_low"], c[f"{kind}_high"], number))
    ]


def see_and_snr(target: Target, cells: Table) -> list[Block]:
    own = where(cells, mitigation=NONE)
    blocks = target.picture("see_vs_snr", "SEE against SNR; dashed: clean audio.", lambda: plots.see_vs_snr(cells))
    levels = by_level(own)
    rows = [
        [noise, *(see(pooled(where(own, noise=noise, snr_db=snr), "see")) for snr in levels)]
        for noise in distinct(own, "noise")
    ]
    return [*blocks, Grid(["noise", *map(level, levels)], rows, title="SEE (%), mean over the items of all tasks")]


def by_level(cells: Table) -> list[float | None]:
    """SNRs, clean audio first."""
    return sorted(distinct(cells, "snr_db"), key=lambda snr: float("-inf") if snr is None else snr)


def ranks(basis: Mapping[str, Any]) -> str:
    return " ".join(str(basis["ranks"][layer]) for layer in basis["layers"])


def localisation(target: Target, bases: Table, curves: Table) -> list[Block]:
    """Curves over the layers, and the ranks of every basis."""
    blocks: list[Block] = []
    for site in distinct(curves, "site"):
        caption = (
            f"{site}: distance and direction between clean and noise activations; star: l*, the first layer to keep."
        )
        name = f"localisation_{site.replace('.', '_')}"
        blocks += target.picture(name, caption, lambda site=site: plots.layer_curves(where(curves, site=site)))  # type: ignore[misc]
    groups: dict[tuple[str, ...], list[str]] = {}
    for b in bases:
        star = str(b["first_layer"]) if b["localised"] else "not found" if b["calibrated"] else "unseen noise"
        kept = b["layers"]
        run = f"{kept[0]} to {kept[-1]}" if len(kept) > 2 and kept == [*range(kept[0], kept[-1] + 1)] else plain(kept)
        groups.setdefault((b["noise"], b["site"], star, run, ranks(b)), []).append(in_words(b["mitigation"]))
    rows = [[noise, site, ", ".join(names), *rest] for (noise, site, *rest), names in groups.items()]
    if rows:
        header = ["noise", "site", "used by", "l*", "kept layers", "their ranks"]
        blocks += [Grid(header, rows[:MOST_ROWS], 3), *target.link("bases")]
    return blocks


def compared(comparisons: Table, mitigation: str, against: str, group: str) -> dict[str, Any] | None:
    """The row of a pair of mitigations, whichever of them the table names first."""
    for c in where(comparisons, group=group):
        if (c["mitigation"], c["against"]) == (mitigation, against):
            return c
        if (c["against"], c["mitigation"]) == (mitigation, against):
            turned = {
                "mitigation": mitigation,
                "against": against,
                "gsr": c["gsr_against"],
                "gsr_against": c["gsr"],
                "difference": -c["difference"],
                "low": None if c["high"] is None else -c["high"],
                "high": None if c["low"] is None else -c["low"],
                "only_mitigation": c["only_against"],
                "only_against": c["only_mitigation"],
            }
            return {**c, **turned}
    return None


def mitigations(target: Target, tables: Mapping[str, Table], arms: Sequence[str]) -> list[Block]:
    """Bars, radar, and comparisons on the same answers: with nothing, with SEEN, per noise; and SEE under each."""
    cells, comparisons = tables["conditions"], tables["comparisons"]
    names = distinct(cells, "mitigation")
    names = [NONE, *(n for n in names if n != NONE)]
    groups = {name: distinct(own, "snr_db") for name, own in bands(cells).items()}
    caption = "GSR per mitigation, mean over the noises; whiskers: 95 % Wilson intervals."
    blocks = target.picture("mitigation_bars", caption, lambda: plots.mitigation_bars(cells, groups))
    caption = "Mean GSR of noisy audio over the SNRs, one axis per task and noise."
    blocks += target.picture("denoiser_radar", caption, lambda: plots.denoiser_radar(cells))
    index = {(r["mitigation"], r["snr_db"]): r["gsr"] for r in tables["overall"]}
    levels = by_level(cells)
    if index:
        rows = [[in_words(n), *(share(index.get((n, snr))) for snr in levels)] for n in names]
        blocks.append(Grid(["mitigation", *map(level, levels)], rows, title="GSR (%) over all tasks and noises"))
    against_none = [(n, NONE, g) for n in names[1:] for g in GROUPS]
    blocks += tested(comparisons, against_none, "Each mitigation against nothing")
    seen = [(arm, n, UP_TO) for arm in arms for n in names if n not in (NONE, arm)]
    blocks += tested(comparisons, seen, "SEEN against each other mitigation, up to 10 dB")
    gains = {n: c["difference"] for n in names[1:] if (c := compared(comparisons, n, NONE, UP_TO))}
    best = max(gains, key=lambda n: gains[n], default=NONE)
    if best not in (NONE, *arms):
        others = [(best, n, UP_TO) for n in names[1:] if n != best]
        blocks += tested(comparisons, others, "The mitigation that gains most against each other one, up to 10 dB")
    if comparisons:
        blocks.append(Text(TESTS, note=True))
        noises = distinct(cells, "noise")
        rows = []
        for n in names[1:]:
            own = [compared(comparisons, n, NONE, f"{noise} <= 10 dB") for noise in noises]
            rows.append([in_words(n), *(points(c["difference"]) if c else NOTHING for c in own)])
        blocks.append(Grid(["mitigation", *noises], rows, title="GSR gain up to 10 dB (points), per noise"))
    header = ["mitigation", *(f"{what}{band}" for what in ("", "after the edit, ") for band in bands(cells))]
    rows = [
        [
            in_words(n),
            *(
                see(pooled(own, key))
                for key in ("see", "see_after")
                for own in bands(where(cells, mitigation=n)).values()
            ),
        ]
        for n in names
    ]
    blocks.append(Grid(header, rows, title="SEE (%) of what the model hears, and after SEEN's edit"))
    blocks.append(Text("After an edit of strength 1 SEE is 0 by construction: it is not a result.", note=True))
    return blocks + target.link("comparisons")


def tested(comparisons: Table, pairs: Sequence[tuple[str, str, str]], title: str) -> list[Block]:
    rows = []
    for mitigation, against, group in pairs:
        c = compared(comparisons, mitigation, against, group)
        if c is not None:
            names = [in_words(mitigation), GROUPS[group] if against == NONE else in_words(against)]
            shares = [share(c["gsr_against"]), share(c["gsr"]), points(c["difference"])]
            counts = [plain(c["only_mitigation"]), plain(c["only_against"]), p_value(c["p"])]
            rows.append([*names, *shares, interval(c["low"], c["high"], points), *counts])
    if not rows:
        return []
    named = ["audio", "nothing (%)"] if pairs[0][1] == NONE else ["against", "other (%)"]
    header = ["mitigation", *named, "mitigation (%)", "difference", "95 % interval", "fixed", "broken", "p"]
    return [Grid(header, rows[:MOST_ROWS], 2, title)]


def clean_damage(cells: Table) -> list[Block]:
    """GSR of clean audio under every mitigation."""
    quiet = where(cells, snr_db=None)
    places = {place(c, quiet): (c["dataset"], c["task"]) for c in quiet}
    rows = []
    for name in distinct(quiet, "mitigation"):
        own = where(quiet, mitigation=name)
        parts = [pooled(where(own, dataset=d, task=t), "gsr") for d, t in places.values()]
        worst = min((c for c in own if c["gsr"] is not None), key=lambda c: c["gsr"], default=None)
        cell = f"{share(worst['gsr'])} ({place(worst, quiet)}, {worst['noise']})" if worst else NOTHING
        if name != NONE:
            rows.append(
                [in_words(name), *map(share, [pooled(own, "gsr"), *parts]), cell, plain(total_of(own, "broken"))]
            )
    text = "Clean audio under a mitigation: the share of answers that stay as they were. Bases differ per noise."
    header = ["mitigation", "GSR (%)", *places, "lowest cell", "answers changed"]
    return [Text(text), Grid(header, rows)]


def total_of(cells: Table, key: str) -> int | None:
    return total(c[key] for c in cells)


def accuracy(target: Target, cells: Table) -> list[Block]:
    """Scores against the ground truth, and word errors against the own clean transcript too."""
    blocks: list[Block] = [
        Text("Against the ground truth, where GSR is against the model's own clean answers: the two are never mixed.")
    ]
    chosen = [c for c in cells if c["accuracy"] is not None]
    spoken = [c for c in cells if c["wer"] is not None]
    noisy = lambda own: [c for c in own if c["snr_db"] is not None]  # noqa: E731
    for key, part, what in (
        ("accuracy", chosen, "Right choices against SNR, mean over tasks and noises."),
        ("wer", spoken, "Word error rate against the reference, mean over noises and data sets."),
        ("wer_clean", spoken, "Word error rate against the model's own clean transcript."),
    ):
        if noisy(part):
            means, _ = folded(noisy(part), ("mitigation", "snr_db"), (key,), len(part))
            named = [{**r, "mitigation": in_words(r["mitigation"])} for r in means]
            draw = lambda named=named, key=key: plots.line_sweep(named, "snr_db", key, "mitigation")  # noqa: E731
            blocks += target.picture(key, what, draw)
    if chosen:
        names = list(bands(chosen))
        rows = []
        for name in distinct(chosen, "mitigation"):
            own = where(chosen, mitigation=name)
            turned = [total_of([c for c in own if c["snr_db"] is not None], k) for k in ("fixed_truth", "broken_truth")]
            shares = [share(pooled(part, "accuracy")) for part in bands(own).values()]
            rows.append([in_words(name), *shares, *map(plain, turned)])
        header = ["mitigation", *(f"right, {n} (%)" for n in names), "noisy: made right", "made wrong"]
        blocks.append(Grid(header, rows, title="Multiple choice"))
    if spoken:
        names = list(bands(spoken))
        rows = [
            [in_words(name), *(share(pooled(part, k)) for k in ("wer", "wer_clean")
                            for part in bands(where(spoken, mitigation=name)).values())]
            for name in distinct(spoken, "mitigation")
        ]  # fmt: skip
        header = ["mitigation", *(f"WER, {n}" for n in names), *(f"against own clean, {n}" for n in names)]
        blocks.append(Grid(header, rows, title="Transcription: word error rate (%)"))
    return blocks + target.link("conditions")


def cosines(target: Target, similarities: Table) -> list[Block]:
    """Means of the six similarities by SNR."""
    text = (
        "Between activations pooled over frames, mean over layers, items, tasks and noises. act: clean; deact: clean "
        "with SEEN; act_noise and deact_noise: noisy."
    )
    blocks: list[Block] = [Text(text)]
    arms = distinct(similarities, "mitigation")
    for arm in arms:
        own = where(similarities, mitigation=arm)
        rows, _ = folded(own, ("snr_db",), COSINES, len(own))
        rows.sort(key=lambda r: r["snr_db"])
        drawn = [
            {"snr_db": r["snr_db"], "cosine": r[pair], "pair": pair.replace("-", " · ")}
            for pair, r in itertools.product(COSINES, rows)
        ]
        name = "cosines" if arm == SEEN else f"cosines_{arm}"
        caption = f"Cosine similarities against SNR, {in_words(arm)}."
        blocks += target.picture(
            name, caption, lambda drawn=drawn: plots.line_sweep(drawn, "snr_db", "cosine", "pair")  # type: ignore[misc]
        )  # fmt: skip
        table = [[level(r["snr_db"]), *(number(r[pair], 3).removeprefix("+") for pair in COSINES)] for r in rows]
        blocks.append(Grid(["SNR", *(p.replace("-", " · ") for p in COSINES)], table, title=in_words(arm)))
    return blocks + target.link("similarities")


def layers(target: Target, table: Table) -> list[Block]:
    """SEE of every layer, clean and at the lowest SNR, and the raw energy there."""
    own = where(table, mitigation=NONE)
    lowest = min((r["snr_db"] for r in own if r["snr_db"] is not None), default=None)
    kept = [r for r in own if r["snr_db"] in (None, lowest)]
    rows, _ = folded(kept, ("noise", "snr_db", "layer"), ("see", "energy"), len(kept))
    caption = "SEE without mitigation of every layer with noise directions, kept or not, mean over the tasks."
    drawn = [r for r in rows if r["energy"] > 0]  # a layer without directions has no SEE to speak of
    blocks = target.picture("see_by_layer", caption, lambda: plots.see_by_layer(drawn)) if drawn else []
    header = ["noise", "audio", "projected energy, first to last layer"]
    texts = [
        [noise, level(snr), " ".join(f"{r['energy']:.3g}" for r in where(rows, noise=noise, snr_db=snr))]
        for noise in distinct(rows, "noise")
        for snr in dict.fromkeys((None, lowest))
    ]
    return [*blocks, Grid(header, texts, 2), *target.link("layers")]
