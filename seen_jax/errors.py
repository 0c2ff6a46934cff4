"""Errors that a user can act on. The command line prints their message and exits 1, without a traceback."""

from collections.abc import Iterable

LONGEST = 600  # characters of a message


def one_line(text: object) -> str:
    """A text that may hold anything, in one line: what cannot be printed is escaped, and never reaches a terminal.

    >>> one_line("two\\nlines\\x1b[2J")
    'two lines\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(str(text).split()))


class SeenError(Exception):
    """Base of every error that seen_jax raises on purpose: what was wrong, where, and what to do, in one line.

    Names and texts from files may hold anything: what cannot be printed is escaped, and what is too long is cut.
    listed: things that the message is about, each in a line of its own below it.

    >>> str(SeenError("there is no file\\n\\x1b[2J.wav"))
    'there is no file \\\\x1b[2J.wav'
    """

    def __init__(self, message: str, listed: Iterable[str] = ()) -> None:
        line, half = one_line(message), LONGEST // 2
        line = line if len(line) <= LONGEST else f"{line[:half]} ... {line[-half:]}"
        super().__init__("\n  ".join([line, *map(one_line, listed)]))


class AudioError(SeenError):
    """An audio file, folder, manifest or waveform that cannot be used."""


class CheckpointError(SeenError):
    """A model folder that is missing, damaged, unsupported or inconsistent."""


class ConfigError(SeenError):
    """A configuration or argument that does not make sense."""


class BasisError(SeenError):
    """A calibration or noise basis that is damaged or does not fit what it is used with."""


# Where the documentation explains an error: (class, words of its message, page). The first that applies counts.
PAGES: tuple[tuple[type[SeenError], str, str], ...] = (
    (BasisError, "does not say which model", "docs/models.md#bases-that-the-papers-authors-released"),
    (BasisError, "released", "docs/models.md#bases-that-the-papers-authors-released"),
    (BasisError, "was made for", "docs/howto.md#use-a-basis-with-another-copy-of-its-model"),
    (BasisError, "on the hub", "docs/howto.md#share-a-basis"),
    (BasisError, "card and tensors are not those", "docs/howto.md#share-a-basis"),
    (CheckpointError, "", "docs/models.md#loading"),
    (SeenError, "out of memory", "docs/hardware.md#know-before-loading"),
    (ConfigError, "GiB", "docs/hardware.md#know-before-loading"),
    (ConfigError, "pip install", "docs/howto.md#find-out-what-is-missing"),
    (AudioError, "on the hub", "docs/howto.md#use-data-from-the-hub"),
    (AudioError, "clips can be used", "docs/reliability.md#promises"),
    (AudioError, "data set", "docs/howto.md#run-the-papers-whole-experiment"),
)


def page_of(error: SeenError) -> str | None:
    """The page of the documentation that explains an error, if one does: the command line names it.

    >>> page_of(BasisError("org/x was not found on the hub"))
    'docs/howto.md#share-a-basis'
    """
    pages = (page for kind, words, page in PAGES if isinstance(error, kind) and words in str(error))
    return next(pages, None)
