"""The suite `tpu` of `seen-jax bench`: its options, its rows and its goals as tables."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from seen_jax.cli._output import Result, check_file, progress, table
from seen_jax.cli._parser import Parser
from seen_jax.errors import ConfigError
from seen_jax.models.devices import GIB

HEAD = "What XLA's compiler estimates for chips that are not here; nothing was measured."


def options(parser: Parser) -> None:
    group = parser.add_argument_group("of the suite tpu")
    add = group.add_argument
    add(
        "--models",
        nargs="+",
        metavar="NAME",
        help="families or seen-tiny (default: the paper's, two more, seen-tiny)",
    )
    add("--machines", nargs="+", metavar="NAME", help="v5e-1, v5e-4, v6e-1, v4-8 (default: all)")
    add("--precisions", nargs="+", metavar="NAME", help="in which weights are kept (default: all)")
    add("--programs", nargs="+", metavar="NAME", help="such as score, generate, 'four answers' (default: all)")


def run(args: Any) -> Result:
    from seen_jax.bench import tpu

    if set(args.suite) != {"tpu"}:
        raise ConfigError("the suite tpu runs alone: leave out the others.")
    out = check_file(args.out, (".json",), overwrite=True)
    if out is not None and args.overwrite:
        out.unlink(missing_ok=True)
    models = _chosen(args, "models", tpu.known(), tpu.MODELS)
    machines, kinds = _chosen(args, "machines", tpu.MACHINES), _chosen(args, "precisions", tpu.PRECISIONS)
    programs = _chosen(args, "programs", tpu.PROGRAMS)
    tpu.compiler_alone()
    with progress() as tick:
        rows = tpu.tpu(models, machines, kinds, programs, out, tick)
    groups: dict[tuple[str, ...], list[tpu.Row]] = {}
    for row in rows:
        groups.setdefault(row.key[:3], []).append(row)
    goals = [(key, goal) for key, part in groups.items() if key[0] != tpu.TINY for goal in tpu.goals(part)]
    of = lambda key: dict(zip(("model", "machine", "precision"), key, strict=True))
    data = {"rows": [dataclasses.asdict(row) for row in rows]}
    data["goals"] = [of(key) | dataclasses.asdict(goal) for key, goal in goals]
    return Result(data, [HEAD, _programs(rows), *([_goals(goals)] if goals else [])])


def _chosen(args: Any, option: str, known: Iterable[str], default: Iterable[str] | None = None) -> tuple[str, ...]:
    """The names that an option gives. ConfigError for an unknown one."""
    names = tuple(args.get(option) or default or known)
    if unknown := [name for name in names if name not in tuple(known)]:
        raise ConfigError(f"--{option}: unknown '{unknown[0]}'. Known: {', '.join(known)}.")
    return names


def _programs(rows: Sequence[Any]) -> Any:
    columns = (
        "model",
        "machine",
        "in",
        "program",
        "#clips",
        "chips",
        "#GiB",
        "#of",
        "fits",
        "#seconds",
        "#ms per token",
    )
    lines = []
    for r in rows:
        memory = f"{r.bytes / GIB:.2f}", f"{r.available / GIB:.2f}", "yes" if r.fits else "no"
        time = f"{r.seconds:.3g}" if r.fits else None, f"{1e3 * r.loop:.2f}" if r.loop else None
        lines.append([r.model, r.machine, r.precision, r.program, r.clips, f"{r.data} x {r.tensor}", *memory, *time])
    return table(columns, lines)


def _goals(goals: Sequence[Any]) -> Any:
    number = lambda x: None if x is None else f"{x:.3g}"
    lines = [[*key, g.name, number(g.value), number(g.limit), "yes" if g.reached else "no"] for key, g in goals]
    return table(("model", "machine", "in", "goal", "#value", "#limit", "reached"), lines)
