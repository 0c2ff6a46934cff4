"""Show the card of a calibration or noise basis: the README that it has on the hub, made anew from what it holds.

NAME is a folder, a released .pt list, hub:ORG/NAME, or released:NAME for a basis of the paper's authors."""

from dataclasses import asdict
from typing import Any

from seen_jax.cli._inputs import find_artefact, read_basis
from seen_jax.cli._output import Result, Verbatim
from seen_jax.cli._parser import BASIS, HUB, Parser
from seen_jax.subspace.card import readme

EXAMPLES = """seen-jax card calibrations/white
seen-jax card hub:org/basis"""


def options(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help=BASIS)


def run(args: Any) -> Result:
    basis, calibration = read_basis(find_artefact(args.name), {})
    facts = (calibration or basis).facts()
    repo = args.name.removeprefix(HUB).partition("@")[0] if args.name.startswith(HUB) else "org/name"
    return Result(asdict(facts), [Verbatim(readme(facts, repo))])
