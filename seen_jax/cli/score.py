"""Measure SEE of every clip: the share of the activation energy that lies along the noise directions of a basis.

With --noise and --snr every clip is also mixed with that noise at each SNR, and the mean SEE per SNR is shown with its
trend: whether SEE really rises with the noise in this model, at these layers, for this selection."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr

from seen_jax import api
from seen_jax.cli._inputs import read_inputs
from seen_jax.cli._output import OUT, Result, check_file, percent, progress, table, write_out
from seen_jax.cli._parser import NUMBERS, Parser, seed, selection_fields
from seen_jax.cli._report import layer_text
from seen_jax.progress import shifted

EXAMPLES = """seen-jax score clips/ --basis calibrations/white
seen-jax score clips/ --basis calibrations/white --method complement --noise white --snr -10,0,10,20 --out scores.csv"""
SNRS = (-10.0, -5.0, 0.0, 5.0, 10.0, 20.0, 30.0)
SHOWN = 6  # layers in the table
CLEAR = 0.5  # |Spearman| from which SEE is said to follow the noise


def options(parser: Parser) -> None:
    parser.add_argument("--snr", type=NUMBERS, default=SNRS, metavar="DB,DB", help="SNRs (-10,-5,0,5,10,20,30)")
    parser.add_argument("--seed", type=seed, default=0, help="of the noise (default 0)")
    parser.add_argument("--prompt", help="asked about every clip; matters at decoder sites only")
    parser.add_inputs(needs_basis=True)


def run(args: Any) -> Result:
    out = check_file(args.out, OUT, args.overwrite)
    snrs = sorted(set(args.snr)) if args.noise else []
    rows: list[dict[str, Any]] = []
    with progress() as report:
        inputs = read_inputs(args, selection_fields(args), snrs, report, answers=False)
        basis = inputs.basis
        assert basis is not None  # --basis is required
        for i, snr in enumerate([None, *snrs]):
            tick = shifted(report, i * len(inputs.clips), (len(snrs) + 1) * len(inputs.clips))
            options = {"prompt": args.prompt or api.DEFAULT_PROMPT, "batch_size": args.batch_size, "progress": tick}
            scores = api.score(inputs.model, inputs.waves(snr), basis, **options)
            for item, score in zip(inputs.items, scores, strict=True):
                row = {"id": item.id, "path": str(item.path), "snr_db": snr, "see": score.see}
                rows.append(row | {"per_layer": list(score.per_layer), "energy": list(score.energy)})
    means = [{"snr_db": snr, "see": fmean([r["see"] for r in rows if r["snr_db"] == snr])} for snr in [None, *snrs]]
    data = inputs.facts() | {"site": basis.site, "layers": list(basis.layers), "ranks": list(basis.ranks)}
    data |= {"clips": rows, "means": means}
    data["trend"] = trend(snrs, [mean["see"] for mean in means[1:]]) if args.noise else None
    view = _view(data, [row for row in rows if row["snr_db"] is None])
    return write_out(out, Result(data, view), [_flat(row) for row in rows])


def trend(snrs_db: Sequence[float], see: Sequence[float]) -> dict[str, Any]:
    """Spearman correlation of mean SEE with the SNR, and what it says; null where it is undefined."""
    if len(snrs_db) < 3:
        return {"spearman": None, "words": "no trend: it takes at least three SNRs."}
    if len(set(see)) == 1:
        return {"spearman": None, "words": "SEE is the same at every SNR: this basis does not see the noise."}
    rho = float(spearmanr(snrs_db, see).statistic)
    words = "SEE neither rises nor falls clearly with noise"
    if abs(rho) >= CLEAR:
        words = "SEE rises with noise" if rho < 0 else "SEE falls with noise: this basis does not measure it"
    return {"spearman": rho, "words": f"{words} (Spearman correlation of mean SEE with the SNR: {rho:+.2f})."}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the CSV file: one column per layer."""
    flat = {key: row[key] for key in ("id", "path", "snr_db", "see")}
    flat |= {f"see_layer_{i}": value for i, value in enumerate(row["per_layer"])}
    return flat | {f"energy_layer_{i}": value for i, value in enumerate(row["energy"])}


def _view(data: dict[str, Any], clean: Sequence[dict[str, Any]]) -> list[Any]:
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
