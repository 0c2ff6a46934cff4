"""Show the whole method on the embedded model: calibrate, measure, remove, compare; the result is one web page.

Fields of the demo's configuration can be given in a YAML file (--config) and overridden by name, as in --model FOLDER.
"""

from __future__ import annotations

from typing import Any

from seen_jax.cli._output import Result, check_writable, progress, table
from seen_jax.cli._parser import Parser

EXAMPLES = "seen-jax demo --out seen-demo --quick"
TAKES_OVERRIDES = True
QUICK = ("--noises=white", "--snrs=-10,0,10", "--items_per_task=3", "--calibration_clips=12")


def options(parser: Parser) -> None:
    parser.add_argument("--out", metavar="FOLDER", help="where the page and its data go (default seen-demo)")
    parser.add_argument("--quick", action="store_true", help=f"a small one: {' '.join(QUICK)}")
    parser.add_argument("--config", metavar="FILE", help="a YAML file, for instance configs/demo.yaml")


def run(args: Any) -> Result:
    from pathlib import Path

    from seen_jax.config import load_config
    from seen_jax.evaluate.demo import DemoConfig, run_demo

    own = [f"--out={args.out}"] * (args.out is not None) + list(QUICK) * args.quick
    config = load_config(DemoConfig, args.config, [*own, *args.overrides])
    check_writable(Path(config.out).expanduser())
    with progress("demo") as tick:
        summary = run_demo(config, tick)
    rows = [
        [name.replace("_", " "), f"{value:.3g}"] for name, value in summary["headline"].items() if value is not None
    ]
    return Result(summary, [table(["mean over noises", "#value"], rows), f"open {summary['page']}"])
