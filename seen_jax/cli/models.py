"""List the supported model families, or the sites of one model.

Without NAME: every family, with the layers of its published size. With the NAME of a model folder, a hub name,
seen-tiny or a family: its sites, layers, widths and number of parameters. No weights are read."""

import math
from typing import Any

from seen_jax.cli._output import Result, table
from seen_jax.cli._parser import Parser
from seen_jax.models.checkpoint import parameter_shapes, read_config
from seen_jax.models.family import published_config
from seen_jax.models.folders import find_folder
from seen_jax.models.sites import DESCRIPTIONS, SITES
from seen_jax.registry import FAMILIES

EXAMPLES = """seen-jax models
seen-jax models seen-tiny --json"""


def options(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model folder, hub name, seen-tiny, or a family")


def run(args: Any) -> Result:
    if args.name is None:
        entries = [_entry(name, family, published_config(family)) for name, family in FAMILIES.items()]
        shapes = lambda e: "\n".join(f"{site} {e['layers'][site]} x {e['widths'][site]}" for site in SITES)
        rows = [[e["name"], ", ".join(e["model_types"]), shapes(e), e["verified"]] for e in entries]
        return Result(entries, [table(["family", "model_type", "layers x width as published", "verified"], rows)])
    if args.name in FAMILIES:
        config, family = published_config(FAMILIES[args.name]), FAMILIES[args.name]
    else:
        config, family = read_config(find_folder(args.name))
    entry = _entry(args.name, family, config)
    rows = [[site, entry["layers"][site], entry["widths"][site], DESCRIPTIONS[site]] for site in SITES]
    head = f"{entry['name']}: {entry['family']}, {entry['parameters']:,} parameters"
    facts = f"audio up to {entry['max_audio_seconds']:.0f} s per clip; verified: {entry['verified']}"
    return Result([entry], [head, table(["site", "#layers", "#width", "what it is"], rows), facts])


def _entry(name: str, family: Any, config: Any) -> dict[str, Any]:
    layers, widths = ({site: config.site_shape(site)[i] for site in SITES} for i in (0, 1))
    entry = {"name": name, "family": family.name, "model_types": list(family.model_types), "sites": list(SITES)}
    parameters = sum(math.prod(shape) for shape in parameter_shapes(config).values())
    entry |= {"layers": layers, "widths": widths, "parameters": parameters}
    return entry | {"max_audio_seconds": family.framing.seconds, "verified": family.verified}
