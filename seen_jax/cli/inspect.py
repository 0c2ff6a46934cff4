"""Show a calibration or noise basis: where it comes from, layers, ranks, localisation curves and findings.

The selection options show what another selection would make of the same calibration; nothing is changed.
"""

from __future__ import annotations

from typing import Any

from seen_jax.cli._output import Result, check_file, note
from seen_jax.cli._parser import BASIS, Parser, selection_fields

EXAMPLES = """
seen-jax inspect calibrations/white
seen-jax inspect calibrations/white --method complement --figure curves.png --overwrite
"""
FIGURES = (".png", ".pdf", ".svg")
ORIGIN = ("model", "fingerprint", "snr_db", "seed", "date", "versions")  # keys of a card


def options(parser: Parser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help=BASIS)
    parser.add_argument("--figure", metavar="FILE", help="draw the curves into a .png, .pdf or .svg file")
    parser.add_argument("--overwrite", action="store_true", help="replace the figure if it is there")
    parser.add_selection()


def run(args: Any) -> Result:
    from seen_jax.cli import _inputs as inputs
    from seen_jax.cli import _report as report
    from seen_jax.errors import ConfigError
    from seen_jax.files import write_file
    from seen_jax.subspace import Calibration, Selection

    path = check_file(args.figure, FIGURES, args.overwrite)
    folder, calibration = inputs.find_artefact(args.folder), None
    if inputs.kind_of(folder) == "calibration":
        calibration = Calibration.load(folder)
        basis = calibration.select(Selection(**selection_fields(args)))
    elif path is None:
        basis = inputs.read_basis(folder, selection_fields(args))
    else:
        raise ConfigError(f"{folder} is a saved noise basis: only a calibration has curves to draw.")
    card = (calibration or basis).card
    entry = {"folder": str(folder), **report.describe(basis, calibration)}
    entry |= {key: card[key] for key in ORIGIN if key in card}
    if path is not None:
        write_file(path, report.figure(entry, path.suffix.lower()))
        note(f"drawn: {path}")
    return Result(entry, report.view(entry))
