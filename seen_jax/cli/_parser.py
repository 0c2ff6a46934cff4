"""The parser of every command, and the options that several commands share. Nothing heavy is imported here."""

import argparse
import difflib
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt, PositiveInt

from seen_jax.cli._output import note
from seen_jax.config import convert
from seen_jax.errors import ConfigError

DTYPES = ("auto", "float32", "bfloat16", "float16")
WEIGHTS = ("int8", "int8-all", "int4")
NOISE = "white (gauss), pink, brown, hum, babble, impulses, engine, rain, alarm, a file, a folder, or CORPUS#SUBSET"
SHIPPED = "shipped"  # the value of --blind without a folder
HUB, RELEASED = "hub:", "released:"  # beginnings of names of bases that are not local
BASIS = "a calibration, a saved noise basis, a released .pt list, hub:ORG/NAME[@REVISION], or released:MODEL/NOISE"
MOST = 2**63 - 1  # the largest seed that JAX takes
AUDIO = "audio files, folders, globs, or CSV/JSONL manifests"


def typed(hint: Any) -> Callable[[Any], Any]:
    """A type for `add_argument`: the values and errors are those of configuration files."""

    def parse(value: Any) -> Any:
        try:
            return convert(hint, value, "it")
        except ConfigError as e:
            raise argparse.ArgumentTypeError(str(e).rstrip(".")) from None

    return parse


def seed(value: Any) -> int:
    """The type of --seed."""
    number: int = INDEX(value)
    if number > MOST:
        raise argparse.ArgumentTypeError(f"it is {number}, expected an int from 0 to {MOST}")
    return number


COUNT, INDEX, INT, NUMBER = typed(PositiveInt), typed(NonNegativeInt), typed(int), typed(float)
NUMBERS = typed(tuple[float, ...])


class Parser(ArgumentParser):
    """One `error:` line and exit status 2 for wrong usage; a misspelt option gets the nearest right one."""

    def __init__(self, prog: str, description: str, examples: str) -> None:
        epilog = "example:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines())
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, epilog=epilog, formatter_class=layout, allow_abbrev=False)
        self._negative_number_matcher = re.compile(r"-(\d|\.\d|inf|nan)")  # so that `-10,0` is a value, not an option
        self.add_argument("--json", action="store_true", help="print the result as JSON on stdout and nothing else")
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def add_fields(self, defaults: Mapping[str, Any]) -> None:
        """List the fields of a configuration in the help, {name: default}."""
        fields = "\n".join(f"  --{name} (default {value})" for name, value in defaults.items())
        self.epilog = f"fields:\n{fields}\n\n{self.epilog}"

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = re.sub(r"argument (--[\w.-]+): it is", r"\1 is", " ".join(message.split()))
        if unknown := re.match(r"unrecognized arguments: (--[\w.-]+)", text, re.IGNORECASE):
            near = difflib.get_close_matches(unknown[1], self.options(), n=1)
            text += f". Did you mean {near[0]}?" if near else ""
        note(f"error: {text}", f"Run `{self.prog} --help` for the options.")
        raise SystemExit(2)

    def options(self) -> list[str]:
        """Every long option that this parser knows."""
        return ["--help", *re.findall(r"--[\w.-]+", self.format_usage())]

    def add_model(self) -> None:
        self.add_argument("--model", default="seen-tiny", help="folder, hub name, or seen-tiny (default)")
        self.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub name (default: main)")
        self.add_argument(
            "--local-files-only", action="store_true", help="use earlier downloads, and ask the hub nothing"
        )
        text = "of parameters and activations; auto (default): float32 on a CPU, bfloat16 or float16 on an accelerator"
        self.add_argument("--dtype", default="auto", choices=DTYPES, help=text)
        text = "store the decoder's matrices in 8 or 4 bits; int8-all: those of the encoder too"
        self.add_argument("--weights", choices=WEIGHTS, help=text)
        self.add_argument("--batch-size", type=COUNT, default=8, help="clips per forward pass (default 8)")
        self.add_argument("--mesh.data", type=INT, default=1, metavar="N", help="devices that share a batch; -1: all")
        self.add_argument("--mesh.tensor", type=INT, default=1, metavar="M", help="devices that share the weights")

    def add_inputs(self, scores: bool) -> None:
        """What `score` and `generate` read, and where their result goes. scores: along a basis, or blindly."""
        self.add_argument("audio", nargs="+", metavar="AUDIO", help=AUDIO)
        measure: Any = self.add_mutually_exclusive_group(required=True) if scores else self
        measure.add_argument("--basis", metavar="FOLDER", help=BASIS)
        if scores:
            text = "score without a basis, by the blind model of `seen-jax blind` in FOLDER, or seen-tiny's own"
            measure.add_argument("--blind", nargs="?", const=SHIPPED, metavar="FOLDER", help=text)
        text = "the model that a .pt list was made for, where that is not known"
        self.add_argument("--of-model", metavar="NAME", help=text)
        text = "use a basis of the right shape, whichever model's weights it was made of"
        self.add_argument("--any-model", action="store_true", help=text)
        self.add_argument("--noise", metavar="SPEC", help=f"mix every clip with this noise: {NOISE}")
        text = "write the result into a .json file, or its rows into a .csv file"
        self.add_argument("--out", metavar="FILE", help=text)
        self.add_argument("--overwrite", action="store_true", help="replace that file if it is there")
        self.add_strict()
        self.add_model()
        self.add_selection()

    def add_strict(self) -> None:
        self.add_argument(
            "--strict", action="store_true", help="fail where a clip cannot be used, instead of leaving it out"
        )

    def add_selection(self) -> None:
        """An option for each field of `Selection`, explained by its docstring."""
        from seen_jax.subspace import Selection

        section = (inspect.getdoc(Selection) or "").partition("Attributes:\n")[2]
        texts = dict(re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE))
        group = self.add_argument_group("selection", "which directions of a calibration make the basis, and where")
        for name, hint in typing.get_type_hints(Selection).items():
            default, words = getattr(Selection, name), {bool: "true|false"}.get(hint, name.upper())
            if typing.get_origin(hint) is typing.Literal:
                words = "|".join(typing.get_args(hint))
            kind: Any = {"action": "store_true"} if default is False else {"type": typed(hint), "metavar": words}
            kind |= {"dest": f"selection.{name}", "default": argparse.SUPPRESS}
            text = f"{' '.join(texts[name].split()).rstrip('.')} (default {default})".replace("%", "%%")
            group.add_argument(f"--{name.replace('_', '-')}", help=text, **kind)


def selection_fields(args: Any) -> dict[str, Any]:
    """The fields of `Selection` that were given."""
    return dict(args.get("selection") or {})


def split_overrides(parser: Parser, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(arguments of the command itself, overrides of configuration fields with their values)."""
    split: tuple[list[str], list[str]] = ([], [])
    known, value_of_override = parser.options(), False
    sections = {name.partition(".")[0] for name in known if "." in name}  # a misspelt --hosts.X is no override
    for token in argv:
        name, equals, _ = token.partition("=")
        option, unknown = token.startswith("--"), name not in known and name.partition(".")[0] not in sections
        override = unknown if option else value_of_override
        split[override].append(token)
        value_of_override = option and override and not equals
    return split
