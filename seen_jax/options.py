"""What the functions of the public surface share: keyword options with their types and defaults, and checks."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Protocol, TypedDict, TypeVar, overload, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from seen_jax.audio.io import Clip, as_wave, is_one_clip, is_silent
from seen_jax.errors import ConfigError, SeenError
from seen_jax.models.batching import Prepared
from seen_jax.models.edits import Edits
from seen_jax.models.generate import Decoding
from seen_jax.models.model import Model
from seen_jax.models.processor import DEFAULT_PROMPT, Request
from seen_jax.progress import Progress, silent
from seen_jax.subspace import Calibration

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


class GenerateOptions(Options, total=False):
    edits: Edits | None
    seed: int


class PatchOptions(Options, total=False):
    outside: bool
    span: tuple[float, float] | None
    prompt: str | Sequence[str]
    decoding: Decoding | None


DEFAULTS: dict[str, Any] = {"batch_size": 8, "progress": silent, "prompt": DEFAULT_PROMPT, "seconds": 60.0, "seed": 0}


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


def checked_requests(clips: Sequence[Any], prompt: str | Sequence[str]) -> list[Request]:
    """A request with checked waves for each clip. ConfigError for prompts that are not as many, AudioError for audio
    that cannot be used; silence gives a warning."""
    prompts = [prompt] * len(clips) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(clips):
        raise ConfigError(f"{len(prompts)} prompts for {len(clips)} clips: give one prompt, or one per clip.")
    requests = []
    for i, (clip, text) in enumerate(zip(clips, prompts, strict=True)):
        request = clip if isinstance(clip, Request) else Request([clip], text)
        names = [f"clip {i}" if len(request.audio) == 1 else f"clip {i}.{k}" for k in range(len(request.audio))]
        waves = list(map(as_wave, request.audio, names))
        if any(map(is_silent, waves)):
            warnings.warn(f"clip {i} is digital silence: its SEE and its answer mean little.", stacklevel=4)
        requests.append(request.with_audio(waves))
    return requests


def check_finite(
    model: Model, prepared: Prepared, finite: Bool[np.ndarray, " rows"], what: str = "the model's logits are"
) -> None:
    """Raise SeenError that names the first clip whose numbers are not finite."""
    if not finite.all():
        clip = min(prepared.rows[row] for row in np.flatnonzero(~finite))
        advice = "a weight or an edit is too large for the model"
        if model.lalm.dtype == jnp.float16:
            advice = "float16 ends at 65504: load the model with dtype bfloat16 or float32"
        raise SeenError(f"clip {clip}: {what} not finite (NaN or infinite): {advice}.")
