"""The report of an experiment: index.html, self-contained, and report.md with its figures in files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seen_jax.errors import ConfigError
from seen_jax.evaluate.config import NONE, SEEN
from seen_jax.evaluate.findings import UP_TO, experiment_signatures
from seen_jax.evaluate.report import number, percent
from seen_jax.evaluate.tables import Table
from seen_jax.report import studies as paper_studies
from seen_jax.report.blocks import Block, Facts, Grid, Link, Notice, Numbers, Section, Text, to_html, to_markdown
from seen_jax.report.figures import in_words
from seen_jax.report.format import (
    MOST_ROWS,
    Target,
    bands,
    distinct,
    finite,
    interval,
    level,
    mean,
    place,
    plain,
    points,
    pooled,
    total,
    where,
)
from seen_jax.report.published import beside
from seen_jax.report.sections import (
    accuracy,
    clean_damage,
    compared,
    cosines,
    layers,
    localisation,
    mitigations,
    overview,
    see_and_gsr,
    see_and_snr,
)

PAGE, MARKDOWN = "index.html", "report.md"
LEAD = (
    "SEE is the share of a model's activation energy that lies along directions learnt from noise. SEEN takes that "
    "part out during the forward pass. GSR is the share of answers that equal the model's own answer to the clean "
    "clip. (Method: arXiv 2601.07331.)"
)
TABLES = {
    "conditions": "scores of every data set, task, noise, SNR and mitigation",
    "correlations": "SEE against GSR per task and noise",
    "comparisons": "every mitigation against every other one on the same answers",
    "overall": "GSR of every mitigation, clean and per SNR",
    "similarities": "cosines between activations",
    "layers": "SEE and projected energy of every layer",
    "bases": "ranks and kept layers",
    "failures": "items that could not be asked",
    "answers": "every answer",
}


def write_report(
    folder: Path, manifest: Mapping[str, Any], tables: Mapping[str, Table], studies: Mapping[str, Table]
) -> Path:
    """Write index.html, report.md and figures/ into the folder of an experiment; returns the path of the page.

    manifest: what manifest.json holds. tables: those of `seen_jax.evaluate.tables`, failures and bases, by name;
    studies: likewise. What is missing or empty has no section. ConfigError where the folder cannot be written.
    """
    identity, target = manifest["identity"], Target(folder)
    tables = {name: arranged(finite(tables.get(name, [])), identity) for name in TABLES}
    studies = {name: finite(rows) for name, rows in studies.items()}
    cells = tables["conditions"]
    arms = [arm["name"] for arm in identity["mitigations"] if arm["seen"] and not arm["denoiser"]]
    denoisers = [arm["name"] for arm in identity["mitigations"] if arm["denoiser"] and not arm["seen"]]
    parts: dict[str, list[Block]] = {}
    try:
        if cells:
            parts["In short"] = [*headline(tables, arms), *findings(tables, arms), *overview(target, tables)]
        parts["What was run"] = [Facts(settings(manifest, tables))]
        if cells:
            parts["SEE against GSR"] = see_and_gsr(target, cells, tables["correlations"])
            parts["SEE against SNR"] = see_and_snr(target, cells)
        if tables["bases"] or studies.get("localisation"):
            parts["Layers and ranks of the bases"] = localisation(
                target, tables["bases"], studies.get("localisation", [])
            )
        if len(distinct(cells, "mitigation")) > 1:
            parts["Mitigations"] = mitigations(target, tables, arms)
            parts["Clean damage"] = clean_damage(cells)
        if any(c[key] is not None for c in cells for key in ("accuracy", "wer", "wer_clean")):
            parts["Accuracy and word errors"] = accuracy(target, cells)
        if tables["similarities"]:
            parts["Cosines of activations"] = cosines(target, tables["similarities"])
        if tables["layers"]:
            parts["SEE of every layer"] = layers(target, tables["layers"])
        sections = [Section(title, blocks) for title, blocks in parts.items()]
        sections += paper_studies.sections(target, studies)
        if cells:
            published = beside(identity, manifest["model"]["name"], tables, arms, denoisers)
            sections.append(Section("Beside the paper", published))
            sections.append(Section("Failures", failures(target, cells, tables["failures"])))
        if links := files(target):
            sections.append(Section("Files", links))
        title = f"How noise reaches {manifest['model']['name']}, and what helps"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKDOWN).write_text(to_markdown(title, LEAD, sections), "utf-8")
        (folder / PAGE).write_text(to_html(title, LEAD, sections), "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the report in {folder}: {error.strerror or error}") from None
    return folder / PAGE


def arranged(rows: Table, identity: Mapping[str, Any]) -> Table:
    """Rows with the mitigations and noises in the order of the experiment, SEEN second as in the figures."""
    names = [arm["name"] for arm in identity["mitigations"]]
    order = {"mitigation": sorted(names, key=lambda n: (NONE, SEEN).index(n) if n in (NONE, SEEN) else 2)}
    order["noise"] = [noise["name"] or noise["spec"] for noise in identity["noises"]]
    for key, known in reversed(order.items()):
        place_of = {name: i for i, name in enumerate(known)}
        if rows and key in rows[0]:
            rows = sorted(rows, key=lambda row: place_of.get(row[key], len(place_of)))
    return rows


def headline(tables: Mapping[str, Table], arms: list[str]) -> list[Block]:
    """The few numbers that say how it went."""
    cells = tables["conditions"]
    own = [c["pearson"] for c in tables["correlations"] if c["noise"] != "all"]
    defined = [r for r in own if r is not None]
    plain_cells = where(cells, mitigation=NONE)
    lowest = min((c["snr_db"] for c in plain_cells if c["snr_db"] is not None), default=None)
    quiet, loud = (pooled(where(plain_cells, snr_db=snr), "see") for snr in (None, lowest))
    spread = f"; {interval(min(defined), max(defined), number)}" if defined else ""
    missing = f"; undefined in {len(own) - len(defined)}" if len(defined) < len(own) else ""
    found = [
        (
            number(mean(defined)),
            f"Pearson r of SEE and GSR, mean over {len(defined)} cells of task and noise{spread}{missing}",
        ),
        (f"{percent(quiet, 2)} → {percent(loud, 2)}", f"SEE, clean → {level(lowest)}"),
    ]
    pairs = {m: compared(tables["comparisons"], m, NONE, UP_TO) for m in distinct(cells, "mitigation")}
    gains = {m: c for m, c in pairs.items() if c is not None}
    for arm in arms:
        if arm in gains:
            c = gains[arm]
            change = f"{points(c['difference'])} points ({interval(c['low'], c['high'], points)})"
            found.append(
                (f"{percent(c['gsr_against'])} → {percent(c['gsr'])}",
                 f"GSR up to 10 dB, without → with {in_words(arm)}: {change}")
            )  # fmt: skip
        damage = pooled(where(cells, mitigation=arm, snr_db=None), "gsr")
        found.append((percent(damage), f"GSR of clean audio with {in_words(arm)}: 100 % would be untouched"))
    if gains:
        best = max(gains, key=lambda m: gains[m]["difference"])
        c = gains[best]
        text = (
            f"{points(c['difference'])} points of GSR up to 10 dB ({interval(c['low'], c['high'], points)}), clean GSR "
        )
        text += percent(pooled(where(cells, mitigation=best, snr_db=None), "gsr"))
        found.append((in_words(best), f"gains most of {len(gains)} mitigations: {text}"))
    return [Numbers(found)]


def findings(tables: Mapping[str, Table], arms: list[str]) -> list[Block]:
    """Failure signatures of the method, named in words."""
    names = ("conditions", "correlations", "comparisons", "bases")
    conditions, correlations, comparisons, bases = (tables[name] for name in names)
    found = experiment_signatures(conditions, correlations, comparisons, bases, arms)
    return [Notice(f.code, f.severity, f.message + ".") for f in found]


def settings(manifest: Mapping[str, Any], tables: Mapping[str, Table]) -> dict[str, str]:
    """What was run, in words."""
    identity, model, cells = manifest["identity"], manifest["model"], tables["conditions"]
    seen = {(c["dataset"], c["task"]): c["items"] + c["failed"] for c in cells}
    data = [f"{dataset}: {task} ({n} items)" for (dataset, task), n in seen.items()]
    unseen = {b["noise"] for b in tables["bases"] if not b["calibrated"]}
    noises = distinct(tables["bases"], "noise") or [n["name"] or n["spec"] for n in identity["noises"]]
    calibration, selection = identity["calibration"], identity["selection"]
    clips = f"{calibration['clips']} clips of {calibration['dataset']['name'] or calibration['dataset']['path']}, "
    facts = {
        "Model": f"{model['name']} (family {model['family']}, {identity['dtype']}, weights {model['fingerprint']})",
        "Data": "; ".join(data),
        "Noises": ", ".join(n + (" (unseen: the union of the other bases)" if n in unseen else "") for n in noises),
        "SNRs": ", ".join(map(level, identity["snrs"])),
        "Mitigations": "; ".join(mitigation(arm) for arm in identity["mitigations"]),
        "Site": identity["site"],
        "Reading": ", ".join(f"{k.replace('_', ' ')} {plain(v)}" for k, v in selection.items() if v is not None),
        "SEEN strength": plain(identity["strength"]),
        "Calibration": clips + f"with noise at {level(calibration['snr_db'])}",
        "Questions": ("in the model's own words" if identity["task_prompts"] else "as the data set words them")
        + (", choices in another order" if identity["permute_choices"] else ""),
        "Seed, batch, new tokens": ", ".join(str(identity[k]) for k in ("seed", "batch_size", "max_new_tokens")),
        "Versions": ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
        "Device": manifest["device"],
        "Command": manifest.get("command", ""),
        "Begun": manifest.get("created", ""),
    }
    return {name: fact for name, fact in facts.items() if fact}


def mitigation(arm: Mapping[str, Any]) -> str:
    """A mitigation with what it sets itself."""
    own = {**arm["options"], "site": arm["site"], "strength": arm["strength"], **(arm["selection"] or {})}
    if restoration := arm.get("restoration"):
        own |= {**restoration, "dataset": restoration["dataset"]["path"]}
    text = ", ".join(f"{k.replace('_', ' ')} {plain(v)}" for k, v in own.items() if v is not None)
    return in_words(arm["name"]) + (f" ({text})" if text else "")


def failures(target: Target, cells: Table, failed: Table) -> list[Block]:
    """Items that could not be asked and why; answers without a letter, and nonsense."""
    rows = []
    for name in distinct(cells, "mitigation"):
        for band, own in bands(where(cells, mitigation=name)).items():
            choices = total(c["items"] for c in own if c["unparseable"] is not None)
            counts = [sum(c["items"] for c in own), choices, total(c["unparseable"] for c in own)]
            rows.append([in_words(name), band, *map(plain, counts), plain(sum(c["nonsense"] for c in own))])
    header = ["mitigation", "audio", "answers", "choices", "no letter found", "empty or looping"]
    blocks: list[Block] = [Grid(header, rows, 2)]
    if not failed:
        return [Text("Every item could be asked."), *blocks]
    once = {(f["dataset"], f["item"], f["why"]): f for f in failed}
    reasons = Counter((place(f, cells), f["why"]) for f in once.values())
    shown = [[task, why, str(n)] for (task, why), n in reasons.most_common(MOST_ROWS)]
    items = len({(f["dataset"], f["item"]) for f in failed})
    text = f"{items} items could not be asked with every noise and are left out of the scores."
    return [Text(text), Grid(["task", "why", "items"], shown, 2), *target.link("failures"), *blocks]


def files(target: Target) -> list[Block]:
    """Links to the tables that are there, and what they hold."""
    paths = sorted(f"tables/{path.name}" for path in (target.folder / "tables").glob("*.csv"))
    about = {f"tables/{name}.csv": f": {what}" for name, what in TABLES.items()}
    return [Link(path, path + about.get(path, "")) for path in paths]
