"""The report of an experiment: index.html, self-contained, and report.md with its figures in files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from seen_jax.errors import ConfigError
from seen_jax.evaluate.findings import findings
from seen_jax.evaluate.tables import ALL, UP_TO, band
from seen_jax.files import write_file
from seen_jax.mitigations.base import NONE, SEEN
from seen_jax.report import format as text
from seen_jax.report import sections as results
from seen_jax.report.blocks import Block, Facts, Link, Notice, Numbers, Section, to_html, to_markdown
from seen_jax.report.format import BANDS, Target, percent, points, pooled
from seen_jax.report.players import ExampleClip, listen
from seen_jax.report.style import in_words, level, places

LEAD = "SEE is the share of a model's activation energy that lies along directions learnt from noise. SEEN takes that "
LEAD += "part out during the forward pass. GSR is the share of answers that equal the model's own answer to the clean "
LEAD += "clip. (Method: arXiv 2601.07331.)"
TABLES = {
    "conditions": "scores of every data set, task, noise, SNR and mitigation",
    "correlations": "SEE against GSR per task and noise, and what the SNR alone gives",
    "comparisons": "every mitigation against every other one on the same answers",
    "overall": "GSR of every mitigation, clean and per SNR",
    "similarities": "cosines between activations",
    "layers": "SEE and projected energy of every layer",
    "bases": "ranks and kept layers",
    "diagnoses": "what the diagnosis of the calibrations says",
    "failures": "items that could not be asked",
    "answers": "every answer",
}
STAGES = 8  # whose seconds are shown
SETTINGS = ["site", "selection", "strength", "calibration", "task_prompts", "permute_choices", "seed"]
SETTINGS += ["batch_size", "max_new_tokens"]  # of the manifest's identity: shown as they are


def write_report(
    folder: Path,
    manifest: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    sections: Sequence[Section] = (),
    examples: Sequence[ExampleClip] = (),
    headline: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write index.html, report.md and figures/ into the folder of an experiment, and return the path of the page.
    manifest: what manifest.json holds (`seen_jax.evaluate.prepare.make_manifest`), the `note`, and `seconds` per stage.
    tables: of `seen_jax.evaluate.tables.make_tables`; "bases" of `seen_jax.experiment.basis_table`; "diagnoses" of
    `seen_jax.evaluate.findings`. What is missing or empty has no section. sections: of the studies. examples: items to
    listen to. headline: of the studies, for the first screen. Raises ConfigError if the folder cannot be written."""
    target, identity, name = Target(folder), manifest["identity"], manifest["model"]["name"]
    arranged = {key: _arranged(tables[key], identity) if key in tables else pd.DataFrame() for key in TABLES}
    seen, denoisers = _alone(identity, "seen"), _alone(identity, "denoiser")
    title = f"How noise reaches {name}, and what helps"
    try:
        shown = [
            Section(heading, blocks) for heading, blocks in _results(target, manifest, arranged, examples, headline)
        ]
        shown += sections
        if len(cells := arranged["conditions"]):
            if cells["items"].sum():
                shown.append(Section("Beside the paper", results.beside(identity, name, arranged, seen, denoisers)))
            shown.append(Section("Failures", results.unanswered(target, cells, arranged["failures"])))
        about = {f"tables/{key}.csv": f": {what}" for key, what in TABLES.items()}
        if paths := [f"tables/{path.name}" for path in sorted((folder / "tables").glob("*.csv"))]:
            shown.append(Section("Files", [Link(path, path + about.get(path, "")) for path in paths]))
        write_file(folder / "report.md", to_markdown(title, LEAD, shown))
        return write_file(folder / "index.html", to_html(title, LEAD, shown))
    except OSError as error:
        raise ConfigError(f"cannot write the report in {folder}: {error.strerror or error}") from None


def _alone(identity: Mapping[str, Any], kind: str) -> list[str]:
    """The names of the mitigations that are of one kind and of no other."""
    return [m["name"] for m in identity["mitigations"] if [step["kind"] for step in m["steps"]] == [kind]]


def _arranged(table: pd.DataFrame, identity: Mapping[str, Any]) -> pd.DataFrame:
    """Rows with the noises and mitigations in the order of the experiment, nothing first and SEEN second; conditions
    get the columns that sections write: place, audio and band."""
    mitigations = sorted((m["name"] for m in identity["mitigations"]), key=lambda m: {NONE: 0, SEEN: 1}.get(m, 2))
    order = {"mitigation": mitigations, "noise": [noise["name"] or noise["spec"] for noise in identity["noises"]]}
    rank = lambda column: column.map({name: i for i, name in enumerate(order[column.name])})  # missing ones come last
    if keys := [key for key in order if key in table]:
        table = table.sort_values(keys, key=rank, kind="stable", ignore_index=True)
    if "accuracy" in table:
        bands = band(table["snr_db"]).map(BANDS)
        table = table.assign(place=places(table), audio=table["snr_db"].map(level), band=bands)
    return table


def _results(
    target: Target,
    manifest: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    examples: Sequence[ExampleClip],
    headline: Sequence[tuple[str, str]],
) -> Iterator[tuple[str, list[Block]]]:
    """Titles and blocks of the sections about the answers, those that there are."""
    cells, bases, seen = tables["conditions"], tables["bases"], _alone(manifest["identity"], "seen")
    answered = len(cells) and cells["items"].sum()  # else every item failed
    if answered:
        notices = [Notice(f.code, f.severity, f"{f.message}.") for f in findings(tables, bases, seen)]
        numbers = Numbers([*_headline(tables, seen), *headline])
        yield "In short", [numbers, *notices, *results.overview(target, tables["overall"])]
    yield "What was run", [Facts(_settings(manifest, tables))]
    if answered:
        yield "SEE against GSR", results.see_and_gsr(target, cells, tables["correlations"])
        yield "SEE against SNR", results.see_and_snr(target, cells)
    if examples:
        yield "Listen and compare", listen(target, examples)
    if len(bases):
        yield "Layers and ranks of the bases", results.noise_bases(target, bases, tables["diagnoses"])
    if answered:
        if cells["mitigation"].nunique() > 1:
            yield "Mitigations", results.of_mitigations(target, cells, tables, seen)
            yield "Clean damage", results.clean_damage(cells)
        if cells[["accuracy", "wer", "wer_clean"]].notna().any(axis=None):
            yield "Accuracy and word errors", results.accuracy(target, cells)
    if len(tables["similarities"]):
        yield "Cosines of activations", results.cosines(target, tables["similarities"])
    if len(tables["layers"]):
        yield "SEE of every layer", results.layers(target, tables["layers"])


def _headline(tables: Mapping[str, pd.DataFrame], seen: Sequence[str]) -> list[tuple[str, str]]:
    """The few numbers that say how it went."""
    cells, comparisons, correlations = tables["conditions"], tables["comparisons"], tables["correlations"]
    r = correlations.loc[correlations["task"] != ALL, "pearson"]
    what = f"Pearson r of SEE and GSR, mean over {r.count()} cells of task and noise"
    what += f"; {text.interval(r.min(), r.max())}" * bool(r.count()) + f"; undefined in {r.isna().sum()}" * r.hasnans
    lowest, sees = text.see_ends(cells[cells["mitigation"] == NONE])
    gsr = text.pooled_by(cells[cells["snr_db"].isna()], "gsr", ["mitigation"])
    see = " → ".join(percent(x, 2) for x in sees)
    numbers = [(text.number(r.mean()), what), (see, f"SEE, clean → {level(lowest)}")]
    gains = comparisons[(comparisons["against"] == NONE) & (comparisons["group"] == UP_TO)]
    by_name: Any = gains.set_index("mitigation").to_dict("index")
    gained = lambda c: f"{points(c['difference'])} points ({text.interval(c['low'], c['high'], points)})"
    for name in (name for name in seen if name in by_name):
        c, named = by_name[name], in_words(name)
        shares = f"{percent(c['gsr_against'])} → {percent(c['gsr'])}"
        numbers.append((shares, f"GSR up to 10 dB, without → with {named}: {gained(c)}"))
        numbers.append((percent(gsr[name]), f"GSR of clean audio with {named}: 100 % would be untouched"))
    if len(by_name) > 1:
        best = max(by_name, key=lambda name: by_name[name]["difference"])
        what = f"{gained(by_name[best])} of GSR up to 10 dB, clean GSR {percent(gsr[best])}"
        numbers.append((in_words(best), f"gains most of {len(by_name)} mitigations: {what}"))
    return numbers


def _settings(manifest: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """What was run: facts that need words, then the rest of the settings as they are."""
    identity, model, cells, bases = manifest["identity"], manifest["model"], tables["conditions"], tables["bases"]
    size = f"{model['parameters']:,} parameters, " if "parameters" in model else ""
    bits = f" with {identity['weights']} weights" if identity.get("weights") else ""
    weights = f"{size}{identity['dtype']}{bits}, weights {model['fingerprint']}"
    facts = {"Model": f"{model['name']} (family {model['family']}, {weights})"}
    if len(cells):
        clean = cells[(cells["mitigation"] == NONE) & cells["snr_db"].isna()]
        first = clean.drop_duplicates(["dataset", "task"])
        rows = zip(first["dataset"], first["task"], first["items"] + first["failed"], strict=True)
        facts["Data"] = "; ".join(f"{dataset}: {task} ({n} items)" for dataset, task, n in rows)
        scores = {"accuracy": "of the choices right", "wer": "word error rate"}
        known = [f"{percent(pooled(clean, key))} {what}" for key, what in scores.items() if clean[key].notna().any()]
        facts["Clean answers"] = ", ".join(known)
    unseen = set(bases.loc[~bases["calibrated"].astype(bool), "noise"]) if len(bases) else set()
    names = [noise["name"] or noise["spec"] for noise in identity["noises"]]
    facts["Noises"] = ", ".join(n + " (unseen: the union of the other bases)" * (n in unseen) for n in names)
    facts["SNRs"] = ", ".join(map(level, identity["snrs"]))
    shown = lambda step: _described({key: x for key, x in step.items() if key not in ("kind", "method")})
    named = [(in_words(m["name"]), "; ".join(filter(None, map(shown, m["steps"])))) for m in identity["mitigations"]]
    facts["Mitigations"] = "; ".join(name + f" ({options})" * bool(options) for name, options in named)
    facts |= {key.replace("_", " ").capitalize(): _described(identity.get(key)) for key in SETTINGS}
    facts["Note"] = text.plain(manifest.get("note"))
    facts["Versions"] = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    facts |= {key.title(): text.plain(manifest.get(key)) for key in ("device", "command", "created")}
    seconds = manifest["seconds"]
    longest = sorted(seconds, key=seconds.__getitem__)[-STAGES:]
    stages = [f"{stage} {seconds[stage]:.0f}" for stage in seconds if stage in longest]
    if rest := [value for stage, value in seconds.items() if stage not in longest]:
        stages.append(f"{len(rest)} other stages {sum(rest):.0f}")
    facts["Seconds"] = ", ".join(stages)
    return {name: fact for name, fact in facts.items() if fact not in ("", text.NOTHING)}


def _described(value: Any) -> str:
    """A setting in words: a data set by its name, other groups of settings by those that are set."""
    if not isinstance(value, Mapping):
        return text.plain(value)
    if "path" in value:
        return value["name"] or value["path"]
    settings = {key.replace("_", " "): x for key, x in value.items() if x is not None and x != {}}
    return ", ".join(f"{key} {_described(x)}" for key, x in settings.items())
