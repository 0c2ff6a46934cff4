"""The command line `seen-jax`. Each command is a module here: its docstring is its help, `options` its options, `run`
its work. Exit status: 0 done, 1 an error (one `error:` line), 2 wrong usage, 130 interrupted, 141 closed pipe, 143
terminated."""

import contextlib
import ctypes
import difflib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from seen_jax import __version__
from seen_jax.cli import _signals as signals
from seen_jax.cli._output import note
from seen_jax.errors import ConfigError, SeenError, one_line, page_of
from seen_jax.files import remove_unfinished

COMMANDS = {
    "demo": "the whole method on the embedded model, as one web page",
    "calibrate": "find where noise lives in a model: pool activations of clean and noise clips",
    "merge": "join calibrations of different clips, such as those of several machines, into one",
    "blind": "fit a blind score, which needs no noise clips and no clean reference, to a model",
    "inspect": "show a calibration or noise basis: layers, ranks, curves, findings",
    "card": "show the card of a calibration or noise basis, as its README on the hub",
    "score": "measure SEE, the share of noise energy inside the model, of every clip",
    "generate": "answer a prompt about every clip, with and without SEEN",
    "evaluate": "run a whole experiment over noises, SNRs and mitigations; resumable",
    "app": "try the method in a browser: noise, SEE over time, and answers with and without SEEN",
    "train": "train a small audio language model from scratch",
    "bench": "time this package beside PyTorch with hooks, on this machine",
    "doctor": "say what is here: versions, devices, memory, caches, and what is missing for which command",
    "completion": "print the completion of commands and options for a shell",
    "models": "list the supported model families, or the sites of one model",
}
M_ARENA_MAX = -8  # of glibc's malloc.h
USAGE = "usage: seen-jax COMMAND [options], seen-jax --help, seen-jax --version"
FIRST = """seen-jax measures (SEE) and removes (SEEN) noise inside audio language models. Three things to do first:

  seen-jax demo                                            see the whole method on the embedded model: a web page
  seen-jax calibrate clean/ --noise white --out cal        find where noise lives in a model, with clips of yours
  seen-jax generate noisy/ --basis cal                     answer about noisy clips, with and without SEEN

`seen-jax doctor` says what is missing on this machine, `seen-jax --help` lists every command.
"""


def console() -> NoReturn:
    """The program `seen-jax`: `main` in a process of its own."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:  # a closed stream: the next file that is opened would have
        pass  # its number, and libraries would write into it
    os.close(number)
    sys.stdout, sys.stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")
    signals.end_at_second()
    status = main()
    if not signals.status():
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
            status = status or 141
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)  # threads of JAX and `prefetch` still run: what they use would be taken away beneath them


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries have no such setting
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)  # without this, the memory of a long run grows by about 20 %
    with signals.caught():
        try:
            return _run(argv[0], argv[1:]) if argv and argv[0] in COMMANDS else _top(argv)
        except SystemExit as e:
            return e.code if isinstance(e.code, int) else 1
        except KeyboardInterrupt:
            return _interrupted()
        except BrokenPipeError:  # the reader left, as in `seen-jax score ... | head`: no error, but no more output
            _drop_output()
            return 141
        except Exception as e:
            if signals.status():  # it broke off what JAX was doing
                return _interrupted()
            if "--debug" in argv:
                traceback.print_exc()
            note(f"error: {_describe(e)}")
            return 1


def _interrupted() -> int:
    remove_unfinished()
    status = signals.status() or 130
    note("interrupted" if status == 130 else "terminated")
    return status


def _top(argv: list[str]) -> int:
    """A command line without a command: help, version, or a mistake."""
    if argv and argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"{USAGE}\n\nMeasure (SEE) and remove (SEEN) noise inside audio language models.\n\ncommands:"]
        lines += [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
        _write("\n".join(lines) + "\n\n`seen-jax COMMAND --help` shows the options of a command and an example.\n")
        return 0
    if argv and argv[0] == "--version":
        _write(f"seen-jax {__version__}\n")
        return 0
    if not argv:
        _write(FIRST)
        return 0
    if argv[0].startswith("-"):
        problem = f"unknown option {argv[0]} (a command's options follow the command)"
    else:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"commands are {', '.join(COMMANDS)}"
        problem = f"unknown command '{argv[0]}': {hint}"
    note(f"error: {problem}", USAGE)
    return 2


def _run(name: str, argv: list[str]) -> int:
    from seen_jax.cli._parser import Parser, split_overrides

    with _everything_on_stderr():
        command = importlib.import_module(f"seen_jax.cli.{name}")
    parser = Parser(f"seen-jax {name}", command.__doc__ or "", command.EXAMPLES)
    command.options(parser)
    argv, overrides = split_overrides(parser, argv) if hasattr(command, "TAKES_OVERRIDES") else (argv, [])
    args = parser.parse_args(argv)
    args.overrides = overrides
    try:
        with _everything_on_stderr():
            result = command.run(args)
    except Exception as e:
        if not isinstance(e, MemoryError) and "RESOURCE_EXHAUSTED" not in str(e):
            raise
        from seen_jax.cli._memory import out_of_memory

        raise SeenError(out_of_memory(args)) from e
    signals.check()
    _write(result.text(args.json, getattr(sys.stdout, "encoding", None) or "utf-8"))
    return 0


def _write(text: str) -> None:
    """The result, which may have taken hours. Raises ConfigError where stdout takes nothing more."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        _drop_output()
        raise ConfigError(f"cannot write the result to stdout: {e.strerror or e}; free space, or give --out") from None


def _drop_output() -> None:
    """Send what Python still holds for stdout nowhere: it would fail once more at the end of the process."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _everything_on_stderr() -> Iterator[None]:
    """Send what commands and libraries print to stderr, for stdout holds the result; a warning is one line."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    def show(message: Any, category: Any, *_: Any, **__: Any) -> None:
        note(f"warning: {message}")

    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _describe(e: Exception) -> str:
    if isinstance(e, SeenError):
        page = page_of(e)
        return f"{e} (see {page})" if page else str(e)
    if isinstance(e, OSError) and e.strerror:
        return one_line(f"{e.filename or 'a file'}: {e.strerror}; is its name right, and may it be used?")
    first = one_line(next(iter(str(e).strip().splitlines()), ""))
    return f"unexpected {type(e).__name__}: {first}; run again with --debug for the traceback"
