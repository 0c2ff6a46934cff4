"""Run a whole experiment: every item under every noise, SNR and mitigation; tables and a report come out.

CONFIG is a YAML file such as configs/paper_tiny.yaml; each of its fields can be overridden, as in --snrs -10,0,10. A
run that was interrupted goes on where it was when the same command is given again; what is done is never done twice.

Several hosts that see the same folder share the work: give each of them the same command with its own --hosts.index, or
with --hosts.auto under SLURM and on TPU pods. The process with index 0 writes tables and report.
"""

from __future__ import annotations

from typing import Any

from seen_jax.cli._output import Result, check_writable, percent, stages, table
from seen_jax.cli._parser import Parser

EXAMPLES = "seen-jax evaluate configs/paper_tiny.yaml --limit 2 --out runs/look"
TAKES_OVERRIDES = True


def options(parser: Parser) -> None:
    from jsonargparse.typing import NonNegativeInt, PositiveInt

    from seen_jax.config import dotted_defaults
    from seen_jax.evaluate.config import ExperimentConfig

    parser.add_argument("config", metavar="CONFIG", help="a YAML file, for instance configs/paper_tiny.yaml")
    parser.add_argument("--out", metavar="FOLDER", help="where everything goes (default: the file's `out`)")
    parser.add_argument("--limit", metavar="N", type=PositiveInt, help="only N items of each task, for a quick look")
    group = parser.add_argument_group("several hosts", "processes that share the work, each with its own devices")
    group.add_argument("--hosts.coordinator", metavar="HOST:PORT", help="of process 0, which all others can reach")
    group.add_argument("--hosts.count", metavar="N", type=PositiveInt, help="how many processes there are")
    group.add_argument("--hosts.index", metavar="I", type=NonNegativeInt, help="which this one is, 0 to N - 1")
    group.add_argument("--hosts.auto", action="store_true", help="let jax find all three: SLURM, Open MPI, TPU pods")
    text = "seconds to wait for all of them to start (default 300)"
    group.add_argument("--hosts.timeout", metavar="S", type=PositiveInt, help=text)
    fields = [f"  --{key} (default {value})" for key, value in dotted_defaults(ExperimentConfig).items()]
    parser.epilog = "fields:\n" + "\n".join(fields) + f"\n\n{parser.epilog}"


def run(args: Any) -> Result:
    from seen_jax.config import load_config
    from seen_jax.evaluate.config import ExperimentConfig
    from seen_jax.experiment import evaluate

    own = [f"--out={args.out}"] * (args.out is not None) + [f"--limit={args.limit}"] * (args.limit is not None)
    config = load_config(ExperimentConfig, args.config, [*own, *args.overrides])
    check_writable(config.folder())
    hosts = _hosts(args.hosts)
    name = f"process {hosts.index} of {hosts.count}: " * (hosts.count > 1)
    with stages() as report:
        summary = evaluate(config, lambda stage, done, total: report(name + stage, done, total), hosts)
    if not hosts.leads:
        return Result(summary, [f"{name}its {summary['answers']} answers are there; process 0 writes the report"])
    rows = [[m["name"], percent(m["gsr_clean"]), _points(m)] for m in summary["mitigations"]]
    head = f"{summary['model']}: {summary['answers']} answers, {summary['failed']} items failed"
    columns = ["mitigation", "#clean GSR", "#gain in GSR at 10 dB and below, points"]
    return Result(summary, [head, table(columns, rows), f"open {summary.get('page', summary['out'])}"])


def _hosts(given: Any) -> Any:
    from seen_jax.errors import ConfigError
    from seen_jax.evaluate.hosts import ALONE, TIMEOUT, join

    fields = {name: given[name] for name in ("coordinator", "count", "index")}
    some = any(value is not None for value in fields.values())
    if given.auto and some:
        raise ConfigError("--hosts.auto finds out coordinator, count and index: leave those away, or --hosts.auto")
    return join(**fields, timeout=given.timeout or TIMEOUT) if given.auto or some else ALONE


def _points(mitigation: dict[str, Any]) -> str:
    if mitigation["low"] is None:
        return ""
    gain, low, high = (100 * mitigation[key] for key in ("gain", "low", "high"))
    return f"{gain:+.1f} ({low:+.1f} to {high:+.1f})"
