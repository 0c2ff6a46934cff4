"""List the supported model families, or the sites of one model.

Without NAME: every family, with the layers of its published size. With the NAME of a model folder, a hub
name, seen-tiny or a family: its sites, layers, widths and number of parameters. No weights are read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from seen_jax.cli._output import Result, table
from seen_jax.cli._parser import Parser

if TYPE_CHECKING:
    from seen_jax.models.family import Family

EXAMPLES = """
seen-jax models
seen-jax models seen-tiny --json
"""


def options(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model folder, hub name, seen-tiny, or a family")


def run(args: Any) -> Result:
    from seen_jax.models.checkpoint import read_config
    from seen_jax.models.family import published_config
    from seen_jax.models.folders import find_folder
    from seen_jax.registry import FAMILIES

    if args.name is None:
        entries = [_entry(name, family, published_config(family)) for name, family in FAMILIES.items()]
        rows = [[e["name"], ", ".join(e["model_types"]), _shapes(e), e["verified"]] for e in entries]
        return Result(entries, [table(["family", "model_type", "layers x width as published", "verified"], rows)])
    if args.name in FAMILIES:
        family = FAMILIES[args.name]
        config = published_config(family)
    else:
        config, family = read_config(find_folder(args.name))
    entry = _entry(args.name, family, config)
    return Result([entry], _view(entry))


def _entry(name: str, family: Family, config: Any) -> dict[str, Any]:
    from seen_jax.models.checkpoint import parameter_shapes
    from seen_jax.models.sites import SITES

    shapes = {site: config.site_shape(site) for site in SITES}
    return {
        "name": name,
        "family": family.name,
        "model_types": list(family.model_types),
        "sites": list(SITES),
        "layers": {site: layers for site, (layers, _) in shapes.items()},
        "widths": {site: width for site, (_, width) in shapes.items()},
        "parameters": sum(math.prod(shape) for shape in parameter_shapes(config).values()),
        "max_audio_seconds": family.framing.seconds,
        "verified": family.verified,
    }


def _shapes(entry: dict[str, Any]) -> str:
    return "\n".join(f"{site} {entry['layers'][site]} x {entry['widths'][site]}" for site in entry["sites"])


def _view(entry: dict[str, Any]) -> list[Any]:
    from seen_jax.models.sites import DESCRIPTIONS

    rows = [[site, entry["layers"][site], entry["widths"][site], DESCRIPTIONS[site]] for site in entry["sites"]]
    head = f"{entry['name']}: {entry['family']}, {entry['parameters']:,} parameters"
    facts = f"audio up to {entry['max_audio_seconds']:.0f} s per clip; verified: {entry['verified']}"
    return [head, table(["site", "#layers", "#width", "what it is"], rows), facts]
