"""Show the whole method on the embedded model: calibrate, measure, remove, compare; the result is one web page.

This is `seen-jax evaluate` with the configuration of the demo. Override any of its fields, as in --model FOLDER;
`seen-jax evaluate --help` lists them."""

from pathlib import Path
from typing import Any

from seen_jax.cli._output import Result
from seen_jax.cli._parser import Parser
from seen_jax.cli.evaluate import run_experiment

EXAMPLES = "seen-jax demo --out seen-demo --quick"
TAKES_OVERRIDES = True
CONFIG = Path(__file__).parents[1] / "assets" / "demo.yaml"
QUICK = ("--noises=white", "--snrs=-10,0,10", "--limit=3", "--calibration.clips=12")


def options(parser: Parser) -> None:
    parser.add_argument("--out", metavar="FOLDER", help="where the page and its data go (default: the file's `out`)")
    parser.add_argument("--overwrite", action="store_true", help="replace another experiment that is there")
    parser.add_argument("--quick", action="store_true", help=f"a small one: {' '.join(QUICK)}")
    parser.add_argument("--config", metavar="FILE", default=str(CONFIG), help="another YAML file")


def run(args: Any) -> Result:
    return run_experiment(args, QUICK if args.quick else ())
