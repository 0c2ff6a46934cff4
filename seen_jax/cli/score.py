"""Measure SEE of every clip: the share of the activation energy that lies along the noise directions of a basis.

With --noise and --snr every clip is also mixed with that noise at each SNR, and the mean SEE per SNR is shown with its
trend: whether SEE really rises with the noise in this model, at these layers, for this selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seen_jax.cli._output import Result, check_file, csv_text, note, percent, progress, table, write_whole
from seen_jax.cli._parser import AUDIO, SPEC, Parser, add_basis, add_model, numbers, selection_fields

EXAMPLES = """
seen-jax score clips/ --basis calibrations/white
seen-jax score clips/ --basis calibrations/white --method complement --noise white --snr -10,0,10,20 --out scores.csv
"""
SNRS = (-10.0, -5.0, 0.0, 5.0, 10.0, 20.0, 30.0)
SHOWN = 6  # layers in the table
CLEAR = 0.5  # |Spearman| from which SEE is said to follow the noise


def options(parser: Parser) -> None:
    from jsonargparse.typing import NonNegativeInt

    parser.add_argument("audio", nargs="+", metavar="AUDIO", help=AUDIO)
    parser.add_argument("--noise", metavar="SPEC", help=f"also mix every clip with {SPEC}")
    parser.add_argument("--snr", type=numbers, default=SNRS, metavar="DB,DB", help="SNRs (-10,-5,0,5,10,20,30)")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="of the noise (default 0)")
    parser.add_argument("--prompt", help="asked about every clip; matters at decoder sites only")
    parser.add_argument("--out", metavar="FILE", help="write all numbers into a .csv or .json file")
    parser.add_argument("--overwrite", action="store_true", help="replace that file if it is there")
    add_model(parser)
    add_basis(parser, required=True)


def run(args: Any) -> Result:
    from seen_jax import api
    from seen_jax.cli import _inputs as inputs

    out = check_file(args.out, (".csv", ".json"), args.overwrite) if args.out else None
    folder = inputs.find_artefact(args.basis)
    basis = inputs.read_basis(folder, selection_fields(args), args.model)
    noise = inputs.read_noise(args.noise) if args.noise else None
    clips = inputs.read_clips(args.audio)
    snrs: list[float | None] = [None]
    if noise is not None:
        inputs.check_mixable(clips, args.snr)
        snrs += sorted(set(args.snr))
    model = inputs.load_model(args, clips)
    inputs.check_basis(model, basis, folder)
    rows: list[dict[str, Any]] = []
    with progress("scoring") as tick:
        for i, snr in enumerate(snrs):
            waves = inputs.mixed(clips, noise, snr, args.seed)
            step = lambda done, total, i=i: tick(i * total + done, len(snrs) * total)  # noqa: E731
            scores = api.score(model, waves, basis, args.prompt or api.DEFAULT_PROMPT, args.batch_size, step)
            rows += [_row(clip, snr, score) for clip, score in zip(clips, scores, strict=True)]
    see = [_mean([r["see"] for r in rows if r["snr_db"] == snr]) for snr in snrs]
    data = {
        "model": model.name,
        "basis": str(folder),
        "site": basis.site,
        "layers": list(basis.layers),
        "ranks": list(basis.ranks),
        "noise": noise.name if noise else None,
        "clips": rows,
        "means": [{"snr_db": snr, "see": value} for snr, value in zip(snrs, see, strict=True)],
        "trend": trend([snr for snr in snrs if snr is not None], see[1:]) if noise else None,
    }
    result = Result(data, _view(data, [r for r in rows if r["snr_db"] is None]))
    if out is not None:
        write_whole(out, result.text(True) if out.suffix.lower() == ".json" else csv_text([_flat(r) for r in rows]))
        note(f"written: {out}")
    return result


def trend(snrs_db: Sequence[float], see: Sequence[float]) -> dict[str, Any]:
    """Spearman correlation of mean SEE with the SNR, and what it says; null where it is undefined."""
    if len(snrs_db) < 3:
        return {"spearman": None, "words": "no trend: it takes at least three SNRs."}
    if len(set(see)) == 1:
        return {"spearman": None, "words": "SEE is the same at every SNR: this basis does not see the noise."}
    from scipy.stats import spearmanr

    rho = float(spearmanr(snrs_db, see).statistic)
    if rho <= -CLEAR:
        words = "SEE rises with noise"
    elif rho >= CLEAR:
        words = "SEE falls with noise: this basis does not measure it"
    else:
        words = "SEE neither rises nor falls clearly with noise"
    return {"spearman": rho, "words": f"{words} (Spearman correlation of mean SEE with the SNR: {rho:+.2f})."}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _row(clip: Any, snr: float | None, score: Any) -> dict[str, Any]:
    per_layer = {"per_layer": list(score.per_layer), "energy": list(score.energy)}
    return {"id": clip.id, "path": str(clip.path), "snr_db": snr, "see": score.see, **per_layer}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the CSV file: one column per layer."""
    flat = {key: row[key] for key in ("id", "path", "snr_db", "see")}
    flat |= {f"see_layer_{i}": value for i, value in enumerate(row["per_layer"])}
    return flat | {f"energy_layer_{i}": value for i, value in enumerate(row["energy"])}


def _view(data: dict[str, Any], clean: Sequence[dict[str, Any]]) -> list[Any]:
    from seen_jax.cli._report import layer_text

    title = f"{data['model']}, {data['site']}, layers {layer_text(data['layers'])}, basis {data['basis']}"
    shown = data["layers"][-SHOWN:]
    rows = [[r["id"], percent(r["see"]), *(percent(r["per_layer"][i]) for i in shown)] for r in clean]
    view = [title, table(["clip", "#SEE", *(f"#layer {i}" for i in shown)], rows)]
    if len(shown) < len(data["layers"]):
        view.append(f"the last {SHOWN} of {len(data['layers'])} layers; --json and --out have them all\n")
    if data["noise"] is None:
        return [*view, f"mean SEE {percent(data['means'][0]['see'])} over {len(clean)} clips"]
    sweep = [["as given" if m["snr_db"] is None else f"{m['snr_db']:g}", percent(m["see"])] for m in data["means"]]
    return [*view, f"with {data['noise']}", table(["#SNR (dB)", "#mean SEE"], sweep), data["trend"]["words"]]
