"""Show a calibration or noise basis: where it comes from, layers, ranks, localisation curves and findings.

The selection options show what another selection would make of the same calibration; nothing is changed.
"""

from __future__ import annotations

from typing import Any

from seen_jax.cli._output import Result, check_file, note, table, write_whole
from seen_jax.cli._parser import BASIS, Parser, add_selection, selection_fields

EXAMPLES = """
seen-jax inspect calibrations/white
seen-jax inspect calibrations/white --method complement --figure curves.png --overwrite
"""
FIGURES = (".png", ".pdf", ".svg")


def options(parser: Parser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help=BASIS)
    parser.add_argument("--figure", metavar="FILE", help="draw the curves into a .png, .pdf or .svg file")
    parser.add_argument("--overwrite", action="store_true", help="replace the figure if it is there")
    add_selection(parser)


def run(args: Any) -> Result:
    from seen_jax.cli import _inputs as inputs
    from seen_jax.cli import _report as report
    from seen_jax.errors import ConfigError
    from seen_jax.subspace import Calibration, Selection

    figure = check_file(args.figure, FIGURES, args.overwrite) if args.figure else None
    fields, folder = selection_fields(args), inputs.find_artefact(args.folder)
    if inputs.kind_of(folder) == "calibration":
        calibration = Calibration.load(folder)
        card = calibration.card
        entry = report.describe(calibration, calibration.select(Selection(**fields)))
    elif figure is not None:
        raise ConfigError(f"{folder} is a saved noise basis: only a calibration has curves to draw.")
    else:
        basis = inputs.read_basis(folder, fields)
        card, entry = basis.card, report.describe_basis(basis)
    if figure is not None:
        write_whole(figure, report.figure(entry, figure.suffix.lower()))
        note(f"drawn: {figure}")
    known: dict[str, Any] = {
        key: card[key] for key in ("model", "fingerprint", "snr_db", "seed", "date", "versions") if key in card
    }
    entry = {"folder": str(folder), **entry, **known}
    return Result(entry, view(entry))


def view(entry: dict[str, Any]) -> list[Any]:
    """An entry of `_report` for people: facts, layers, findings."""
    return [_facts(entry), _layers(entry), *_findings(entry)]


def _facts(entry: dict[str, Any]) -> Any:
    names = ("folder", "kind", "model", "fingerprint", "noise", "snr_db", "site", "clips", "width", "seed", "date")
    rows = [[name, entry[name]] for name in names if entry.get(name) is not None]
    selection = entry.get("selection") or {}
    rows.append(["selection", ", ".join(f"{name} {value}" for name, value in selection.items()) or "unknown"])
    if "first_layer" in entry:
        found = "" if entry["layer_found"] else ", the last third: no layer meets the rule"
        rows.append(["l*", f"{entry['first_layer']}{found}"])
    return table(["", ""], rows)


def _layers(entry: dict[str, Any]) -> Any:
    from seen_jax.cli._report import bar

    rows: list[list[Any]] = []
    for layer, rank in enumerate(entry["ranks"]):
        row = [layer, "yes" if layer in entry["layers"] else "", rank]
        if "magnitude" in entry:
            size, cosine = entry["magnitude"][layer], entry["direction"][layer]
            row += [f"{size:.4g}", bar(size, max(entry["magnitude"])), f"{cosine:.3f}", bar(max(cosine, 0.0), 1.0)]
        rows.append(row)
    curves = ["#magnitude", "", "#direction", ""] if "magnitude" in entry else []
    return table(["#layer", "kept", "#rank", *curves], rows)


def _findings(entry: dict[str, Any]) -> list[str]:
    from seen_jax.cli._report import findings_text

    return findings_text(entry["findings"]) if "findings" in entry else []
