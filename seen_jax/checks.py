"""Checks that the functions of the public surface share: clips become requests, and numbers must be finite."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from seen_jax.audio import as_wave, is_silent
from seen_jax.errors import ConfigError, SeenError
from seen_jax.models.batching import Prepared
from seen_jax.models.model import Model
from seen_jax.models.processor import Request


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


def as_requests(clips: Sequence[Any], prompt: str | Sequence[str]) -> list[Request]:
    """A request with checked waves for each clip."""
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
