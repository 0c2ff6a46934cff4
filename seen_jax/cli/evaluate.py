"""Run a whole experiment: every item under every noise, SNR and mitigation; tables and a report come out.

CONFIG is a YAML file such as configs/paper_tiny.yaml; override any of its fields, as in --snrs -10,0,10. Answers are
saved as they finish: rerun the command to resume.

Several hosts that see the same folder share the work: give each of them the same command with its own --hosts.index, or
with --hosts.auto under SLURM and on TPU pods. The process with index 0 writes tables and report."""

from collections.abc import Sequence
from typing import Any

from seen_jax.cli._output import Result, check_writable, percent, progress, table
from seen_jax.cli._parser import COUNT, INDEX, Parser
from seen_jax.config import dotted_defaults, load_config
from seen_jax.errors import ConfigError

EXAMPLES = "seen-jax evaluate configs/paper_tiny.yaml --limit 2 --out runs/look"
TAKES_OVERRIDES = True


def options(parser: Parser) -> None:
    from seen_jax.evaluate.config import ExperimentConfig

    parser.add_argument("config", metavar="CONFIG", help="a YAML file, for instance configs/paper_tiny.yaml")
    parser.add_argument("--out", metavar="FOLDER", help="where everything goes (default: the file's `out`)")
    parser.add_argument("--overwrite", action="store_true", help="replace another experiment that is there")
    parser.add_argument("--limit", metavar="N", type=COUNT, help="only N items of each task, for a quick look")
    group = parser.add_argument_group("several hosts", "processes that share the work, each with its own devices")
    group.add_argument("--hosts.coordinator", metavar="HOST:PORT", help="of process 0, which all others can reach")
    group.add_argument("--hosts.count", metavar="N", type=COUNT, help="how many processes there are")
    group.add_argument("--hosts.index", metavar="I", type=INDEX, help="which this one is, 0 to N - 1")
    group.add_argument("--hosts.auto", action="store_true", help="let jax find all three: SLURM, Open MPI, TPU pods")
    group.add_argument("--hosts.timeout", metavar="S", type=COUNT, help="seconds until all have started (default 300)")
    parser.add_fields(dotted_defaults(ExperimentConfig))


def run(args: Any) -> Result:
    from seen_jax.evaluate.hosts import TIMEOUT, join

    fields = {name: args.hosts[name] for name in ("coordinator", "count", "index")}
    given = any(value is not None for value in fields.values())
    if args.hosts.auto and given:
        raise ConfigError("--hosts.auto finds coordinator, count and index: leave those out, or leave out --hosts.auto")
    several = args.hosts.auto or given
    return run_experiment(args, (), join(**fields, timeout=args.hosts.timeout or TIMEOUT) if several else None)


def run_experiment(args: Any, overrides: Sequence[str], hosts: Any = None) -> Result:
    """What `evaluate` and `demo` do: the experiment of args.config, where args.overrides win over `overrides`."""
    from seen_jax.evaluate.config import ExperimentConfig
    from seen_jax.evaluate.hosts import ALONE

    hosts = hosts or ALONE
    given = [f"--{name}={args[name]}" for name in ("limit", "out") if args.get(name) is not None]
    config = load_config(ExperimentConfig, args.config, [*overrides, *given, *args.overrides])
    check_writable(config.folder())
    from seen_jax.experiment import evaluate

    process = f"process {hosts.index} of {hosts.count}: " if hosts.count > 1 else ""
    with progress() as report:
        tick = lambda stage, done, total: report(process + stage, done, total)
        summary = evaluate(config, tick, hosts, overwrite=args.overwrite)
    if not hosts.leads:
        return Result(summary, [f"{process}its {summary['answers']} answers are there; process 0 writes the report"])
    gain = lambda m: "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * m[key] for key in ("gain", "low", "high")))
    arms = summary["mitigations"]
    rows = [[m["name"], percent(m["gsr_clean"]), "" if m["low"] is None else gain(m)] for m in arms]
    head = f"{summary['model']}: {summary['answers']} answers, {summary['failed']} items failed"
    columns = ["mitigation", "#clean GSR", "#gain in GSR at 10 dB and below, points"]
    return Result(summary, [head, table(columns, rows), f"open {summary.get('page', summary['out'])}"])
