"""The README of a calibration or a noise basis, generated from what its own card says. L layers."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from seen_jax.errors import one_line

FIGURE = "layers.png"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PAPER = "https://arxiv.org/abs/2601.07331"
CITE = """@article{zhang2026see,
  title = {SEE: Signal Embedding Energy for Quantifying Noise Interference in Large Audio Language Models},
  author = {Zhang, Yuanhe and Tian, Jiayu and Zhang, Yibo and Yan, Shilinlu and Lin, Liang and Zhou, Zhenhong and
            Li, Sun and Su, Sen},
  journal = {arXiv preprint arXiv:2601.07331},
  year = {2026}
}"""
WHAT = {
    "noise basis": "Per layer, orthonormal directions of a model's activations that only noise uses. SEE is the share"
    " of an input's energy along them; SEEN projects them out during the forward pass.",
    "calibration": "Pooled activations of clean and of noise-only clips at one site of a model, from which a noise"
    " basis is selected without running the model again.",
}
READS = {"noise basis": "NoiseBasis", "calibration": "Calibration"}


@dataclass(frozen=True)
class Facts:
    """What a README says. kind: "noise basis" or "calibration". width: of the site. card: as saved. ranks: [L], of the
    default selection where it is a calibration. layers: the kept ones. columns: {what: [L] numbers}, such as SEE."""

    kind: str
    site: str
    width: int
    card: Mapping[str, Any]
    ranks: Sequence[int]
    layers: Sequence[int]
    columns: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        noise, model = (self.card.get(key) or f"an unknown {key}" for key in ("noise", "model"))
        return f"{self.kind.capitalize()} of {noise} in {self.card.get('of_model') or model}"


def public_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card as others may see it: the model's name without the folders of this machine."""
    model = str(card.get("model") or "")
    keep = HUB_NAME.fullmatch(model) and not Path(model).exists()
    return {**card, **({} if keep or not model else {"model": re.split(r"[/\\]", model.rstrip("/\\"))[-1]})}


def readme(facts: Facts, repo: str = "org/name") -> str:
    """Markdown with the metadata that the hub reads. repo: in the example of use."""
    card, licence = facts.card, facts.card.get("licence")
    about: dict[str, Any] = {"library_name": "seen-jax", "tags": ["seen-jax", facts.kind.replace(" ", "-"), "audio"]}
    base = str(card.get("of_model") or card.get("model") or "")
    about |= ({"license": licence} if licence else {}) | ({"base_model": base} if HUB_NAME.fullmatch(base) else {})
    fetch = f'{READS[facts.kind]}.from_pretrained("{repo}")  # add revision="COMMIT" to pin it'
    then = "basis = calibration.select()\n" if facts.kind == "calibration" else ""
    use = f"import seen_jax\n\n{READS[facts.kind].removeprefix('Noise').lower()} = seen_jax.{fetch}\n{then}"
    use += "seen_jax.score(model, clips, basis)  # of the model above; another one is refused"
    stated = f"{_plain(licence)}." if licence else "Not stated by those who pushed it; that of the model may apply too."
    parts = [
        f"---\n{yaml.safe_dump(about, sort_keys=False)}---",
        f"# {_plain(facts.title)}",
        f"{WHAT[facts.kind]} Made by seen-jax; method: [arXiv 2601.07331]({PAPER}).",
        facts_table(facts),
        "## Layers and SEE",
        f"![ranks and SEE by layer]({FIGURE})",
        layers_table(facts),
        *([] if _see(facts) else ["SEE was not measured for this card."]),
        f"## Use\n\n```python\n{use}\n```",
        "Nothing in this repository is unpickled or run. The digest in card.json shows damage; only a pinned revision"
        " shows that nobody has replaced both.",
        f"## Licence\n\n{stated}",
        f"## Cite\n\n```bibtex\n{CITE}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def facts_table(facts: Facts) -> str:
    """Where a basis or calibration comes from, as a Markdown table of two columns."""
    return _table(["", ""], _rows(facts))


def draw(facts: Facts, path: Path) -> None:
    """A PNG of the ranks of every layer, and of SEE where it is known."""
    from matplotlib.figure import Figure

    figure, see = Figure((7, 4), layout="constrained"), _see(facts)
    panels = figure.subplots(1 + bool(see), 1, sharex=True, squeeze=False)[:, 0]
    kept = ["#009E73" if layer in facts.layers else "#8a8a8a" for layer in range(len(facts.ranks))]
    panels[0].bar(range(len(facts.ranks)), facts.ranks, color=kept)
    panels[0].set_ylabel("rank (kept in green)")
    for name, values in see.items():
        panels[-1].plot(range(len(values)), [100 * x for x in values], marker="o", markersize=3, label=name)
    if see:
        panels[-1].set_ylabel("SEE (%)")
        panels[-1].legend(frameon=False)
    panels[-1].set_xlabel("layer")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)


def _see(facts: Facts) -> dict[str, Sequence[float]]:
    return {name: values for name, values in facts.columns.items() if name.startswith("SEE")}


def _rows(facts: Facts) -> list[list[Any]]:
    card = facts.card
    selection = ", ".join(f"{name} {value}" for name, value in (card.get("selection") or {}).items())
    versions = ", ".join(f"{name} {version}" for name, version in (card.get("versions") or {}).items())
    stored = (
        f"{card.get('fingerprint')}, stored as {card.get('stored') or 'unknown'}" if card.get("fingerprint") else None
    )
    place = card.get("localization") or {}
    first = None if place.get("first") is None else f"{place['first']}{'' if place.get('found') else ' (by default)'}"
    rows: list[list[Any]] = [
        ["model", card.get("of_model") or card.get("model")],
        ["its weights", stored],
        ["site", f"{facts.site}, {len(facts.ranks)} layers of width {facts.width}"],
        ["noise", card.get("noise")],
        ["SNR of calibration (dB)", card.get("snr_db")],
        ["clips", card.get("clips")],
        ["selection", selection or ("the default one" if facts.kind == "calibration" else None)],
        ["l*, the first layer", first],
        ["kept layers", ", ".join(map(str, facts.layers))],
        ["ranks", f"{sum(facts.ranks)} directions in all, up to {max(facts.ranks)} per layer"],
        ["released as", card.get("released")],
        ["made", f"{card['date']} with {versions}" if card.get("date") else None],
    ]
    return [[name, "not known" if value is None else value] for name, value in rows if name != "released as" or value]


def layers_table(facts: Facts) -> str:
    """The layers with their ranks and the numbers of `Facts.columns`, as a Markdown table."""
    number = lambda x: "-" if not math.isfinite(x) else f"{x:.4g}"
    rows = []
    for layer, rank in enumerate(facts.ranks):
        measured = (
            f"{100 * v[layer]:.2f} %" if k.startswith("SEE") else number(v[layer]) for k, v in facts.columns.items()
        )
        rows.append([layer, "yes" if layer in facts.layers else "", rank, *measured])
    return _table(["layer", "kept", "rank", *facts.columns], rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    line = lambda cells: f"| {' | '.join(map(_plain, cells))} |"
    return "\n".join([line(columns), "|" + " --- |" * len(columns), *map(line, rows)])


def _plain(value: Any) -> str:
    """Text of a card as text of Markdown: one line, and nothing in it is markup."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", one_line(value))
