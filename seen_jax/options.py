"""Keyword options that the functions of the public surface share, their types and their defaults."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, overload, runtime_checkable

from seen_jax.audio.io import Clip, is_one_clip
from seen_jax.models.edits import Edits
from seen_jax.models.generate import Decoding
from seen_jax.models.model import Model
from seen_jax.models.processor import DEFAULT_PROMPT, Request
from seen_jax.progress import Progress, automatic
from seen_jax.subspace import Calibration

if TYPE_CHECKING:
    from seen_jax.gate import When

R = TypeVar("R")


@runtime_checkable
class PerClip(Protocol[R]):
    """A function of a model and audio, as callers see it: one result for one clip, a list for a list of clips."""

    @overload
    def __call__(self, model: Model, audio: Clip | Request, *args: Any, **options: Any) -> R: ...
    @overload
    def __call__(self, model: Model, audio: Sequence[Any], *args: Any, **options: Any) -> list[R]: ...


def one_or_many(function: Callable[..., list[R]]) -> PerClip[R]:
    """A function of a list of clips that also takes a single clip and then returns a single result."""

    @functools.wraps(function)
    def call(model: Model, audio: Any, *args: Any, **options: Any) -> Any:
        results = function(model, listed(audio), *args, **options)
        return results[0] if is_one_clip(audio) else results

    return call


class Options(TypedDict, total=False):
    batch_size: int
    progress: Progress


class CalibrateOptions(Options, total=False):
    prompt: str
    card: dict[str, Any] | None


class StreamOptions(CalibrateOptions, total=False):
    start: Calibration | None
    keep: Callable[[Calibration], object] | None
    seconds: float


class FitOptions(Options, total=False):
    seed: int
    card: dict[str, Any] | None


class GenerateOptions(Options, total=False):
    edits: Edits | None
    seed: int
    when: "When | None"


class PatchOptions(Options, total=False):
    outside: bool
    span: tuple[float, float] | None
    prompt: str | Sequence[str]
    decoding: Decoding | None


DEFAULTS: dict[str, Any] = {
    "batch_size": 8,
    "progress": automatic,
    "prompt": DEFAULT_PROMPT,
    "seconds": 60.0,
    "seed": 0,
}


def chosen_options(options: Mapping[str, Any], kind: Any, function: str) -> SimpleNamespace:
    """Keyword options with their defaults. TypeError for an unknown one, as Python raises it."""
    known = kind.__optional_keys__
    for name in options:
        if name not in known:
            raise TypeError(f"{function}() has no argument '{name}'; its options: {', '.join(sorted(known))}")
    return SimpleNamespace(**{name: options.get(name, DEFAULTS.get(name)) for name in known})


def listed(audio: Any) -> Sequence[Any]:
    """A list of clips, of one too."""
    return [audio] if is_one_clip(audio) else audio
