"""Print the completion of commands and options for a shell, made anew from this version's options.

It goes into the file that the shell reads, as in the examples; a new shell then completes `seen-jax`."""

import argparse
import importlib
from typing import Any

from seen_jax.cli._output import Result, Verbatim
from seen_jax.cli._parser import Parser
from seen_jax.errors import ConfigError

EXAMPLES = """seen-jax completion bash > ~/.local/share/bash-completion/completions/seen-jax
seen-jax completion zsh > "${fpath[1]}/_seen-jax\""""
SHELLS = ("bash", "zsh", "tcsh")


def options(parser: Parser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="whose completion")


def run(args: Any) -> Result:
    try:
        import shtab
    except ImportError:
        raise ConfigError('completion needs shtab: pip install "seen-jax[completion]".') from None
    script = shtab.complete(_parser(), args.shell)
    return Result({"shell": args.shell, "script": script}, [Verbatim(script + "\n")])


def _parser() -> argparse.ArgumentParser:
    """All commands in one parser of the standard library, with names and choices of their options alone."""
    from seen_jax.cli import COMMANDS

    whole = argparse.ArgumentParser("seen-jax")
    whole.add_argument("--version", action="store_true", help="show the version")
    commands = whole.add_subparsers()
    for name, text in COMMANDS.items():
        command = importlib.import_module(f"seen_jax.cli.{name}")
        parser = Parser(f"seen-jax {name}", "", command.EXAMPLES)
        command.options(parser)
        plain = commands.add_parser(name, help=text, add_help=True)
        for action in parser._actions:
            _add(plain, action)
    return whole


def _add(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    """The same option or argument, where shells complete files unless there are choices."""
    import shtab

    about: dict[str, Any] = {"help": None if action.help == argparse.SUPPRESS else action.help}
    if "--help" in action.option_strings:
        return
    if action.nargs == 0:
        about["action"] = "store_true"
    else:
        about |= {"choices": action.choices, "metavar": action.metavar, "nargs": action.nargs}
    added = parser.add_argument(*(action.option_strings or [action.dest]), **about)
    if action.nargs != 0 and action.choices is None:
        added.complete = shtab.FILE  # type: ignore[attr-defined]
