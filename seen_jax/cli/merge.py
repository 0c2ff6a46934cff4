"""Join calibrations of one noise whose clips differ, such as the --shard parts of several machines, into one.

The result is the calibration of all their clips at once. A clip that is in two of them is refused."""

import os
from pathlib import Path
from typing import Any

from seen_jax.cli._inputs import find_artefact, kind_of
from seen_jax.cli._output import Result, check_writable
from seen_jax.cli._parser import Parser
from seen_jax.cli._report import describe, view
from seen_jax.errors import BasisError, ConfigError
from seen_jax.subspace import Calibration

EXAMPLES = "seen-jax merge part1/white part2/white --out merged"


def options(parser: Parser) -> None:
    parser.add_argument("parts", nargs="+", metavar="FOLDER", help="calibrations of one model, site, noise and SNR")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the merged calibration goes")
    parser.add_argument("--overwrite", action="store_true", help="replace a calibration that is there")


def run(args: Any) -> Result:
    out = Path(os.path.expanduser(args.out))
    check_writable(out)
    if out.exists() and not args.overwrite:
        raise ConfigError(f"{out} exists: choose another --out, or replace it with --overwrite.")
    folders = [find_artefact(part) for part in args.parts]
    for folder in folders:
        if kind_of(folder) != "calibration":
            raise BasisError(f"{folder} is a noise basis: only calibrations can be merged.")
    merged = Calibration.load(folders[0])
    for folder in folders[1:]:  # two at a time are in memory
        try:
            merged = merged.merge(Calibration.load(folder))
        except BasisError as e:
            raise BasisError(f"{folder}: {e}") from None
    merged.save(out, overwrite=args.overwrite)
    entry = {"folder": str(out), **describe(merged.select(), merged)}
    return Result(entry, view(entry))
