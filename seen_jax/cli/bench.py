"""Time this package beside the way a researcher would do the same with PyTorch hooks, on this machine.

Both sides take turns on the same checkpoint, clips and prompts, and must give the same answers. What counts are ratios:
the median over the turns, with the smallest and the largest.
"""

from __future__ import annotations

from typing import Any

from seen_jax.cli._output import Result, check_file, progress, table
from seen_jax.cli._parser import Parser
from seen_jax.files import write_file

EXAMPLES = """
seen-jax bench
seen-jax bench --suite evaluate encoder --json
"""
SUITES = (
    "evaluate", "sweep", "calibration", "scoring", "overhead", "encoder", "compile", "loading", "import", "demo",
    "memory", "card",
)  # fmt: skip


def options(parser: Parser) -> None:
    from jsonargparse.typing import PositiveInt

    parser.add_argument(
        "--suite",
        nargs="+",
        choices=SUITES,
        help=f"one of {', '.join(SUITES)}; or several (default: all but card)",
    )
    parser.add_argument("--runs", type=PositiveInt, default=5, help="turns that count (default 5)")
    parser.add_argument("--items", type=PositiveInt, default=32, help="items of an evaluation (default 32)")
    parser.add_argument("--batch-size", type=PositiveInt, default=16, help="items at once (default 16)")
    parser.add_argument("--out", metavar="FILE", help="write the same as --json into a .json file")
    parser.add_argument("--overwrite", action="store_true", help="replace that file if it is there")


def run(args: Any) -> Result:
    import dataclasses
    import json

    from seen_jax.bench.card import card
    from seen_jax.bench.encoders import encoders
    from seen_jax.bench.processes import compiling, demo, imports, loading, memory
    from seen_jax.bench.roofline import machine
    from seen_jax.bench.suites import Bench, calibration, evaluate, overhead, scoring, sweep
    from seen_jax.models.load import load

    out = check_file(args.out, (".json",), args.overwrite)
    inside = (evaluate, sweep, calibration, scoring, overhead, encoders, compiling, loading)
    suites = dict(zip(SUITES, (*inside, imports, demo, memory, card), strict=True))
    timed = {}
    with progress() as tick:
        bench = Bench(
            load("seen-tiny"),
            args["items"],  # args.items is a method
            args.batch_size,
            args.runs,
            tick,
        )
        for name in dict.fromkeys(args.suite or SUITES[:-1]):
            timed[name] = suites[name](bench)
    data = {
        "ratios": {name: r.median for one in timed.values() for name, r in one.ratios.items()},
        "spread": {name: [r.low, r.high] for one in timed.values() for name, r in one.ratios.items()},
        "best": {name: r.best for one in timed.values() for name, r in one.ratios.items()},
        "values": {name: value for one in timed.values() for name, value in one.values.items()},
        "machine": machine(),
        "runs": args.runs,
        "suites": {name: dataclasses.asdict(one) for name, one in timed.items()},
    }
    if out is not None:
        write_file(out, json.dumps(data, indent=1) + "\n")
    rows = [
        [name.replace("_", " "), f"{r.median:.2f}", f"{r.low:.2f} to {r.high:.2f}", f"{r.best:.2f}"]
        for one in timed.values()
        for name, r in one.ratios.items()
    ]
    lines = [
        [name, f"{r.seconds:.3g}", f"{r.operations / r.seconds / 1e9:.0f}", f"{100 * r.share:.0f} %"]
        for one in timed.values()
        for name, r in one.rooflines.items()
    ]
    values = [[name, f"{value:.3g}"] for name, value in data["values"].items()]
    view: list[Any] = [data["machine"]]
    view += [table(["ratio", "#median", "#turns", "#best turns"], rows)] if rows else []
    view += [table(["of the machine's limit", "#seconds", "#GFLOP/s", "#share"], lines)] if lines else []
    view += [table(["measured", "#value"], values)] if values else []
    return Result(data, view)
