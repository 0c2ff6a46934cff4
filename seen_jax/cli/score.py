"""Measure SEE of every clip: the share of the activation energy that lies along the noise directions of a basis.

With --noise and --snr every clip is also mixed with that noise at each SNR, and the mean SEE per SNR is shown with its
trend: whether SEE really rises with the noise in this model, at these layers, for this selection.

--blind needs no basis: it is the risk that noise changed the answer to the prompt, by a model's blind model."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr

from seen_jax import api
from seen_jax.cli._inputs import read_inputs
from seen_jax.cli._output import OUT, Result, check_file, percent, progress, table, write_out
from seen_jax.cli._parser import NUMBERS, SHIPPED, Parser, seed, selection_fields
from seen_jax.cli._report import layer_text
from seen_jax.errors import ConfigError
from seen_jax.progress import shifted
from seen_jax.subspace import BlindModel

EXAMPLES = """seen-jax score clips/ --basis calibrations/white
seen-jax score clips/ --blind --prompt "transcribe the speech" --out risks.csv
seen-jax score clips/ --basis calibrations/white --method complement --noise white --snr -10,0,10,20 --out scores.csv"""
SNRS = (-10.0, -5.0, 0.0, 5.0, 10.0, 20.0, 30.0)
SHOWN = 6  # layers in the table
CLEAR = 0.5  # |Spearman| from which SEE is said to follow the noise


def options(parser: Parser) -> None:
    parser.add_argument("--snr", type=NUMBERS, default=SNRS, metavar="DB,DB", help="SNRs (-10,-5,0,5,10,20,30)")
    parser.add_argument("--seed", type=seed, default=0, help="of the noise (default 0)")
    parser.add_argument("--prompt", help="asked about every clip; matters at decoder sites and with --blind")
    parser.add_inputs(scores=True)


def run(args: Any) -> Result:
    out = check_file(args.out, OUT, args.overwrite)
    if args.blind:
        return _blind(args, out)
    snrs = sorted(set(args.snr)) if args.noise else []
    rows: list[dict[str, Any]] = []
    with progress() as report:
        inputs = read_inputs(args, selection_fields(args), snrs, report, answers=False)
        basis = inputs.basis
        assert basis is not None  # --basis or --blind is required
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


def _blind(args: Any, out: Path | None) -> Result:
    """Blind scores of the clips as they are and, with --noise, at every SNR."""
    snrs = sorted(set(args.snr)) if args.noise else []
    if selection_fields(args):
        raise ConfigError("--blind has no directions to select: leave out the options of a selection.")
    with progress() as report:
        blind = None if args.blind == SHIPPED else BlindModel.load(args.blind)
        inputs = read_inputs(args, {}, snrs, report)
        prompts = [args.prompt or item.prompt or api.DEFAULT_PROMPT for item in inputs.items]
        rows: list[dict[str, Any]] = []
        for i, snr in enumerate([None, *snrs]):
            tick = shifted(report, i * len(inputs.clips), (len(snrs) + 1) * len(inputs.clips))
            options: Any = {"batch_size": args.batch_size, "progress": tick}
            scores = api.blind_score(inputs.model, inputs.waves(snr), prompts, blind, **options)
            for item, prompt, score in zip(inputs.items, prompts, scores, strict=True):
                row = {"id": item.id, "path": str(item.path), "snr_db": snr, "prompt": prompt, "answer": score.answer}
                rows.append(row | {"risk": score.risk, "encoder_risk": score.encoder_risk})
    means = [{"snr_db": snr, "risk": fmean(r["risk"] for r in rows if r["snr_db"] == snr)} for snr in [None, *snrs]]
    data = inputs.facts() | {"blind": args.blind, "clips": rows, "means": means}
    names = ["clip", "#SNR (dB)", "answer", "#risk", "#of the encoder"]
    risks = lambda row: [percent(row["risk"]), percent(row["encoder_risk"])]
    level = lambda snr: "as given" if snr is None else f"{snr:g}"
    lines = [[row["id"], level(row["snr_db"]), row["answer"], *risks(row)] for row in rows]
    title = f"{data['model']}: risk that noise changed the answer"
    return write_out(out, Result(data, [title, table(names, lines)]), rows)


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
