"""The parser of every command, and the options that several commands share. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

SITE = "encoder.mlp_act"
DTYPES = ("float32", "bfloat16", "float16")
SPEC = "a synthetic noise (white or gauss, pink, brown, hum, babble, impulses, engine, rain, alarm), a file or a folder"
BASIS = "a calibration, a saved noise basis, or a released .pt list"
AUDIO = "audio files, folders, globs, or CSV/JSONL manifests"

LAYERS = ("auto", "all", "first_third", "middle_third", "last_third")


def layers(text: str | tuple[int, ...]) -> str | tuple[int, ...]:
    """The type of --layers: a name, or `2,3`. What is converted already stays as it is: jsonargparse asks twice."""
    if isinstance(text, tuple) or text in LAYERS:
        return text
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"expected {', '.join(LAYERS)} or indices such as 2,3, not '{text}'")
    return tuple(int(i) for i in text.split(","))


def numbers(text: str | tuple[float, ...]) -> tuple[float, ...]:
    """The type of an option that takes `-10,0,10`."""
    try:
        return text if isinstance(text, tuple) else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers with commas between them, not '{text}'") from None


def shard(text: str | tuple[int, int]) -> tuple[int, int]:
    """The type of --shard: `2/4`, the second of four parts."""
    if isinstance(text, tuple):
        return text
    if not (found := re.fullmatch(r"(\d+)/(\d+)", text)) or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"expected a part of several such as 2/4, not '{text}'")
    return int(found[1]), int(found[2])


# Field of `Selection`: (type, metavar, help). A value that is not given stays what `Selection` has as its default.
SELECTION: dict[str, tuple[Any, str | None, str]] = {
    "method": (str, "threshold|complement", "reject directions near semantic ones, or project the semantic ones out"),
    "delta": (float, None, "a direction is noise-only below this |cos| with semantic ones (default 0.1)"),
    "semantic_alpha": (float, None, "share of the clean energy that counts as semantic (default 0.95)"),
    "noise_alpha": (float, None, "the same cut on the noise side (default: all directions)"),
    "energy": (str, "sigma2|sigma", "energy of a direction: its singular value squared, or as it is"),
    "center": (None, None, "subtract the mean over the clips before the SVD"),
    "noise_source": (str, "pure|difference", "noise clips by themselves, or noisy minus clean activations"),
    "remainder": (float, None, "complement: shortest remainder of a direction that is kept (default 0.3)"),
    "absolute": (bool, "true|false", "compare |cos|, or cos as one printed equation does (default true)"),
    "layers": (layers, "LAYERS", f"one of {', '.join(LAYERS)}, or indices such as 2,3 (default auto)"),
}

# jsonargparse's wording of a wrong value -> this program's.
_REWORD = (
    (r'Parser key "([\w.]+)":\s*', lambda m: f"--{m[1].replace('_', '-')}: "),
    (r"Expected a <class '(\w+)'>\. Got value: (.*)", r"expected \1, not '\2'"),
    (r"Not of type \w+Int: (.*) does not conform to restriction v(>=?)0", r"expected a whole number \2 0, not '\1'"),
    (r"Not of type \w+Int: invalid literal .*: (.*)", r"expected a whole number, not \1"),
)


class Parser(ArgumentParser):
    """One `error:` line and exit status 2 for wrong usage; a misspelt option gets the nearest right one."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = " ".join(message.split())
        for pattern, reworded in _REWORD:
            text = re.sub(pattern, reworded, text)
        if unknown := re.match(r"unrecognized arguments: (--[\w.-]+)", text, re.IGNORECASE):
            near = difflib.get_close_matches(unknown[1], self.options(), n=1)
            text += f". Did you mean {near[0]}?" if near else ""
        print(f"error: {text}\nRun `{self.prog} --help` for the options.", file=sys.stderr)
        raise SystemExit(2)

    def options(self) -> list[str]:
        """Every long option that this parser knows."""
        return ["--help", *re.findall(r"--[\w.-]+", self.format_usage())]


def make_parser(prog: str, description: str, examples: str) -> Parser:
    """An empty parser with the options that every command has."""
    parser = Parser(
        prog=prog,
        description=description,
        epilog="example:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout and nothing else")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_model(parser: Parser) -> None:
    parser.add_argument("--model", default="seen-tiny", help="folder, hub name, or seen-tiny (default)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of parameters and activations")
    parser.add_argument("--batch-size", type=PositiveInt, default=8, help="clips per forward pass (default 8)")
    parser.add_argument(
        "--mesh.data", type=int, default=1, metavar="N", help="devices that share a batch; -1: all (default 1)"
    )
    parser.add_argument(
        "--mesh.tensor", type=int, default=1, metavar="M", help="devices that share the weights (default 1)"
    )


def add_basis(parser: Parser, required: bool) -> None:
    parser.add_argument("--basis", metavar="FOLDER", required=required, help=BASIS)
    add_selection(parser)


def add_selection(parser: Parser) -> None:
    group = parser.add_argument_group("selection", "which directions of a calibration make the basis, at which layers")
    for name, (kind, metavar, text) in SELECTION.items():
        option = f"--{name.replace('_', '-')}"
        if kind is None:
            group.add_argument(option, action="store_true", default=None, help=text)
        elif kind is str:
            choices = str(metavar).split("|")
            group.add_argument(option, choices=choices, default=None, metavar=metavar, help=text)
        else:
            group.add_argument(option, type=kind, default=None, metavar=metavar, help=text)


def selection_fields(args: Any) -> dict[str, Any]:
    """The fields of `Selection` that were given."""
    return {name: args[name] for name in SELECTION if args[name] is not None}


def attach_negative(argv: Sequence[str]) -> list[str]:
    """`--snr -10,0` as `--snr=-10,0`, for argparse takes a lone `-10,0` for an option."""
    out: list[str] = []
    for token in argv:
        value = re.match(r"-(\d|\.\d|inf|nan)", token)
        if value and out and out[-1].startswith("--") and "=" not in out[-1]:
            out[-1] += f"={token}"
        else:
            out.append(token)
    return out


def split_overrides(parser: Parser, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(arguments of the command itself, overrides of configuration fields with their values)."""
    own, overrides, rest = [], [], list(argv)
    known = parser.options()
    groups = {name.partition(".")[0] for name in known if "." in name}
    while rest:
        token = rest.pop(0)
        name = token.partition("=")[0]
        if not token.startswith("--") or name in known or name.partition(".")[0] in groups:
            own.append(token)
            continue
        overrides.append(token)
        if "=" not in token and rest and not rest[0].startswith("--"):
            overrides.append(rest.pop(0))
    return own, overrides
