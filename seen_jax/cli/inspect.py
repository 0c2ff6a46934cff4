"""Show a calibration or noise basis: where it comes from, layers, ranks, localisation curves and findings.

The selection options show what another selection would make of the same calibration; nothing is changed."""

import io
from typing import Any

from pandas import DataFrame

from seen_jax.cli._inputs import find_artefact, read_basis
from seen_jax.cli._output import Result, check_file, note
from seen_jax.cli._parser import BASIS, Parser, selection_fields
from seen_jax.cli._report import describe, view
from seen_jax.errors import ConfigError
from seen_jax.files import write_file

EXAMPLES = """seen-jax inspect calibrations/white
seen-jax inspect calibrations/white --method complement --figure curves.png --overwrite"""
FIGURES = (".png", ".pdf", ".svg")
UNDATED: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}  # the same figure, the same bytes
ORIGIN = ("model", "fingerprint", "snr_db", "seed", "date", "versions")  # keys of a card


def options(parser: Parser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help=BASIS)
    parser.add_argument("--figure", metavar="FILE", help="draw the curves into a .png, .pdf or .svg file")
    parser.add_argument("--overwrite", action="store_true", help="replace the figure if it is there")
    parser.add_selection()


def run(args: Any) -> Result:
    path = check_file(args.figure, FIGURES, args.overwrite)
    folder = find_artefact(args.folder)
    basis, calibration = read_basis(folder, selection_fields(args))
    if calibration is None and path is not None:
        raise ConfigError(f"{folder} is a saved noise basis: only a calibration has curves to draw.")
    card = (calibration or basis).card
    entry = {"folder": str(folder), **describe(basis, calibration)}
    entry |= {key: card[key] for key in ORIGIN if key in card}
    if path is not None:
        from matplotlib import rc_context

        from seen_jax.report.figures import layer_curves

        star = entry["first_layer"] if entry["layer_found"] else None
        curves = {key: entry[key] for key in ("noise", "magnitude", "direction", "ranks", "layers")}
        drawing, image = layer_curves(DataFrame([{**curves, "l_star": star}])), io.BytesIO()
        drawing.suptitle(f"{entry['noise']} at {entry['site']}")
        kind = path.suffix[1:].lower()
        with rc_context({"svg.hashsalt": "seen-jax"}):
            drawing.savefig(image, format=kind, metadata=UNDATED.get(kind))
        write_file(path, image.getvalue())
        note(f"drawn: {path}")
    return Result(entry, view(entry))
