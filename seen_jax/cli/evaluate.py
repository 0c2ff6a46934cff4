"""Run a whole experiment: every item under every noise, SNR and mitigation; tables and a report come out.

CONFIG is a YAML file such as configs/paper_tiny.yaml; each of its fields can be overridden, as in --snrs -10,0,10. A
run that was interrupted goes on where it was when the same command is given again; what is done is never done twice.
"""

from __future__ import annotations

from typing import Any

from seen_jax.cli._output import Result, check_writable, percent, stages, table
from seen_jax.cli._parser import Parser

EXAMPLES = "seen-jax evaluate configs/paper_tiny.yaml --limit 2 --out runs/look"
TAKES_OVERRIDES = True


def options(parser: Parser) -> None:
    from jsonargparse.typing import PositiveInt

    from seen_jax.config import dotted_defaults
    from seen_jax.evaluate.experiment import ExperimentConfig

    parser.add_argument("config", metavar="CONFIG", help="a YAML file, for instance configs/paper_tiny.yaml")
    parser.add_argument("--out", metavar="FOLDER", help="where everything goes (default: the file's `out`)")
    parser.add_argument("--limit", metavar="N", type=PositiveInt, help="only N items of each task, for a quick look")
    fields = [f"  --{key} (default {value})" for key, value in dotted_defaults(ExperimentConfig).items()]
    parser.epilog = "fields:\n" + "\n".join(fields) + f"\n\n{parser.epilog}"


def run(args: Any) -> Result:
    from seen_jax.config import load_config
    from seen_jax.evaluate.experiment import ExperimentConfig
    from seen_jax.evaluate.whole import evaluate

    own = [f"--out={args.out}"] * (args.out is not None) + [f"--limit={args.limit}"] * (args.limit is not None)
    config = load_config(ExperimentConfig, args.config, [*own, *args.overrides])
    check_writable(config.folder())
    with stages() as report:
        summary = evaluate(config, report)
    rows = [[m["name"], percent(m["gsr_clean"]), _points(m)] for m in summary["mitigations"]]
    head = f"{summary['model']}: {summary['answers']} answers, {summary['failed']} items failed"
    columns = ["mitigation", "#clean GSR", "#gain in GSR at 10 dB and below, points"]
    return Result(summary, [head, table(columns, rows), f"open {summary.get('page', summary['out'])}"])


def _points(mitigation: dict[str, Any]) -> str:
    if mitigation["low"] is None:
        return ""
    gain, low, high = (100 * mitigation[key] for key in ("gain", "low", "high"))
    return f"{gain:+.1f} ({low:+.1f} to {high:+.1f})"
