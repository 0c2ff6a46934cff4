"""List the supported model families, or say what one model is and how much memory it takes.

Without NAME: every family, with its models on the hub, size, licence, and the devices that it fits. With the NAME of a
model folder, a hub name, seen-tiny or a family: its sites, layers, widths and number of parameters, and what each
device must hold for a batch of clips, with the whole model and with its encoder alone: an estimate by config.json, for
no weights are read or downloaded. With --device, also what to change where it does not fit."""

import dataclasses
from typing import Any

from seen_jax.cli._output import Result, table
from seen_jax.cli._parser import COUNT, DTYPES, NUMBER, WEIGHTS, Parser
from seen_jax.models import devices, memory
from seen_jax.models.devices import GIB
from seen_jax.models.family import published_config
from seen_jax.models.runtime import named_config
from seen_jax.models.sites import DESCRIPTIONS, SITES
from seen_jax.registry import FAMILIES

EXAMPLES = """seen-jax models
seen-jax models seen-tiny --json
seen-jax models qwen2_5_omni --device v5e-1 --batch-size 4 --seconds 30"""
LISTED = ("t4", "v5e-1", "v6e-1", "a100", "h100")  # where the list says whether a model fits
LIST_SECONDS = 30.0  # with one clip of this length
PARTS = (memory.WHOLE, memory.ENCODER)


def options(parser: Parser) -> None:
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="a model folder, hub name, seen-tiny, or a family")
    add("--device", choices=devices.NAMES, help="what it is to run on (default: all are listed); cpu: this machine")
    add("--batch-size", type=COUNT, default=8, help="clips at once (default 8)")
    add("--seconds", type=NUMBER, default=10.0, metavar="S", help="length of a clip (default 10)")
    add("--max-new-tokens", type=COUNT, default=memory.NEW, help=f"longest answer in tokens (default {memory.NEW})")
    add("--dtype", choices=DTYPES, help="of parameters and activations (default: the device's 16 bits)")
    add("--weights", choices=WEIGHTS, help="matrices in few bits, as for `seen-jax generate`")


def run(args: Any) -> Result:
    if args.name is None:
        entries = [_family(name, family) for name, family in FAMILIES.items()]
        columns = ["family", "on the hub", "licence", "#parameters", "#GB, 16 bits", "whole fits", "encoder fits"]
        rows = []
        for e in entries:
            fits = (", ".join(e["fits"][part]) or "none listed" for part in PARTS)
            size = [f"{e['parameters'] / 1e9:.1f} G", f"{e['bytes'] / 1e9:.1f}"]
            rows.append([e["name"], "\n".join(e["hub"]), e["licence"], *size, *fits])
        note = f"Fits: one clip of {LIST_SECONDS:.0f} s, in 16 bits, by estimate. `seen-jax models NAME` says more."
        note += " What counts of a licence is its model's page on the hub."
        return Result(entries, [table(columns, rows), note])
    config, family = named_config(args.name)
    entry = _entry(args.name, family, config)
    entry["memory"] = [_memory(config, args, name, part) for name in _devices(args) for part in PARTS]
    rows = [[site, entry["layers"][site], entry["widths"][site], DESCRIPTIONS[site]] for site in SITES]
    head = f"{entry['name']}: {entry['family']}, {entry['parameters']:,} parameters"
    facts = f"audio up to {entry['max_audio_seconds']:.0f} s per clip; verified: {entry['verified']}"
    return Result([entry], [head, table(["site", "#layers", "#width", "what it is"], rows), facts, *_view(entry, args)])


def _devices(args: Any) -> tuple[str, ...]:
    return (args.device,) if args.device else tuple(devices.DEVICES)


def _entry(name: str, family: Any, config: Any) -> dict[str, Any]:
    layers, widths = ({site: config.site_shape(site)[i] for site in SITES} for i in (0, 1))
    entry = {"name": name, "family": family.name, "model_types": list(family.model_types), "sites": list(SITES)}
    entry |= {"layers": layers, "widths": widths, "parameters": memory.count(config)}
    return entry | {"max_audio_seconds": family.framing.seconds, "verified": family.verified}


def _family(name: str, family: Any) -> dict[str, Any]:
    """An entry of the list."""
    config, fits = published_config(family), dict[str, list[str]]()
    for part in PARTS:
        work = lambda device, part=part: memory.Work(1, LIST_SECONDS, part, dtype=device.half)
        fits[part] = [n for n in LISTED if memory.fits(config, work(devices.device(n)), devices.device(n).memory)]
    entry = _entry(name, family, config) | {"hub": list(family.hub), "licence": family.licence, "fits": fits}
    return entry | {"bytes": memory.need(config, memory.Work(dtype="bfloat16")).weights}


def _memory(config: Any, args: Any, name: str, part: str) -> dict[str, Any]:
    """What a device must hold for the work that the options describe."""
    machine, clips = devices.device(name), {"clips": args.batch_size, "seconds": args.seconds}
    dtype = machine.half if args.dtype in (None, "auto") else args.dtype
    kept = {"dtype": dtype, "weights": args.weights, "new": args.max_new_tokens}
    work = memory.spread(config, memory.Work(part=part, **clips, **kept), machine)
    need = memory.need(config, work)
    fits, surely = (memory.fits(config, work, machine.memory, surely) for surely in (False, True))
    entry = {"device": name, **dataclasses.asdict(work), "need": dataclasses.asdict(need), "total": need.total}
    advice = [] if fits else memory.changes(config, work, machine.memory, machine.half)
    return entry | {"available": machine.memory, "fits": fits, "tight": fits and not surely, "changes": advice}


def _view(entry: dict[str, Any], args: Any) -> list[Any]:
    gib = lambda size: f"{size / GIB:.2f}"
    names, rows, advice = list(entry["memory"][0]["need"]), [], []
    for m in entry["memory"]:
        chips = m["device"] + (f" ({m['data']} x {m['tensor']})" if m["data"] * m["tensor"] > 1 else "")
        kept = f"{m['dtype']}, {m['weights']}" if m["weights"] else m["dtype"]
        sizes = map(gib, [*m["need"].values(), m["total"], m["available"]])
        rows.append([chips, m["part"], kept, *sizes, "tight" if m["tight"] else "yes" if m["fits"] else "no"])
        if args.device and not m["fits"]:
            use = " or ".join(m["changes"]) or "shorter clips or a smaller model"
            advice.append(f"{'Its encoder' if m['part'] == memory.ENCODER else 'It'} does not fit. Use {use}.")
    clips = "1 clip" if args.batch_size == 1 else f"{args.batch_size} clips"
    head = f"\nMemory of each device in GiB, estimated for {clips} of {args.seconds:g} s at once:"
    columns = ["device (data x tensor)", "loaded", "in", *(f"#{name}" for name in names), "#total", "#of", "fits"]
    return [head, table(columns, rows), *advice]
