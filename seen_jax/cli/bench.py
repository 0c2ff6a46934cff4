"""Time this package beside the way a researcher would do the same with PyTorch hooks, on this machine.

Both sides take turns on the same checkpoint, clips and prompts, and must give the same answers. What counts are ratios:
the median over the turns, with the smallest and the largest.

The suite `tpu` runs alone: it compiles the programs for TPUs that are not there (pip install "seen-jax[tpu]") and shows
the compiler's own estimate of memory and time. That takes up to a minute per program; with --out, the same command goes
on where it was interrupted."""

import dataclasses
import json
from typing import Any

from seen_jax.cli import _tpu
from seen_jax.cli._output import Result, check_file, progress, table
from seen_jax.cli._parser import COUNT, Parser
from seen_jax.files import write_file

EXAMPLES = """seen-jax bench
seen-jax bench --suite evaluate encoder --json
seen-jax bench --suite tpu --models qwen2_5_omni --machines v5e-1 v5e-4 --out tpu.json"""
SUITES = (
    "evaluate", "sweep", "calibration", "scoring", "overhead", "encoder", "compile", "loading", "import", "demo",
    "memory", "card", "tpu",
)  # fmt: skip
DEFAULT = SUITES[:-2]  # those that need no accelerator and no compiler for one


def options(parser: Parser) -> None:
    listed = f"one of {', '.join(SUITES)}; or several (default: all but card and tpu)"
    parser.add_argument("--suite", nargs="+", choices=SUITES, help=listed)
    parser.add_argument("--runs", type=COUNT, default=5, help="turns that count (default 5)")
    parser.add_argument("--items", type=COUNT, default=32, help="items of an evaluation (default 32)")
    parser.add_argument("--batch-size", type=COUNT, default=16, help="items at once (default 16)")
    parser.add_argument("--out", metavar="FILE", help="write the same as --json into a .json file")
    parser.add_argument("--overwrite", action="store_true", help="replace that file if it is there")
    _tpu.options(parser)


def run(args: Any) -> Result:
    return _tpu.run(args) if "tpu" in (args.suite or ()) else _timed(args)


def _timed(args: Any) -> Result:
    """The suites that measure."""
    from seen_jax.bench.card import card, encoders
    from seen_jax.bench.processes import compiling, demo, imports, loading, memory
    from seen_jax.bench.suites import Bench, calibration, evaluate, overhead, scoring, sweep
    from seen_jax.bench.timing import machine
    from seen_jax.models.load import load

    out = check_file(args.out, (".json",), args.overwrite)
    inside = (evaluate, sweep, calibration, scoring, overhead, encoders, compiling, loading)
    suites = dict(zip(SUITES[:-1], (*inside, imports, demo, memory, card), strict=True))
    seconds: dict[str, Any] = {}

    def keep(suite: str, times: Any) -> None:
        """An interrupted command leaves the seconds of what it has timed."""
        seconds[suite] = times
        if out is not None:
            write_file(out, json.dumps({"seconds": seconds, "machine": machine(), "runs": args.runs}, indent=1) + "\n")

    with progress() as tick:
        model = load("seen-tiny", "float32")
        bench = Bench(model, args["items"], args.batch_size, args.runs, tick, keep)  # args.items is a method
        timed = {name: suites[name](bench) for name in dict.fromkeys(args.suite or DEFAULT)}
    ratios = {name: ratio for one in timed.values() for name, ratio in one.ratios.items()}
    data = {
        "ratios": {name: ratio.median for name, ratio in ratios.items()},
        "spread": {name: [ratio.low, ratio.high] for name, ratio in ratios.items()},
        "best": {name: ratio.best for name, ratio in ratios.items()},
        "values": {name: value for one in timed.values() for name, value in one.values.items()},
        "machine": machine(), "runs": args.runs,
        "suites": {name: dataclasses.asdict(one) for name, one in timed.items()},
    }  # fmt: skip
    if out is not None:
        write_file(out, json.dumps(data, indent=1) + "\n")
    row = lambda r: [f"{r.median:.2f}", f"{r.low:.2f} to {r.high:.2f}", f"{r.best:.2f}"]
    line = lambda r: [f"{r.seconds:.3g}", f"{r.operations / r.seconds / 1e9:.0f}", f"{100 * r.share:.0f} %"]
    limits = {name: roofline for one in timed.values() for name, roofline in one.rooflines.items()}
    tables = {
        ("ratio", "#median", "#turns", "#best turns"): [[n.replace("_", " "), *row(r)] for n, r in ratios.items()],
        ("of the machine's limit", "#seconds", "#GFLOP/s", "#share"): [[n, *line(r)] for n, r in limits.items()],
        ("measured", "#value"): [[name, f"{value:.3g}"] for name, value in data["values"].items()],
    }
    return Result(data, [data["machine"], *(table(head, rows) for head, rows in tables.items() if rows)])
