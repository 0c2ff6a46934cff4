"""What a folder asks of the tokens of an answer, as transformers' `generate` does: its generation_config.json."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from seen_jax.errors import CheckpointError, ConfigError

# Settings that change which tokens are picked and that the port does not have, and their values that change nothing.
REFUSED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), (1,)),
    **dict.fromkeys(("guidance_scale", "encoder_repetition_penalty"), (1,)),
    **dict.fromkeys(("penalty_alpha", "encoder_no_repeat_ngram_size", "min_length"), (0,)),
    **dict.fromkeys(("sequence_bias", "bad_words_ids", "force_words_ids", "constraints", "stop_strings"), ({}, [], "")),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids", "dola_layers"), ()),
    **dict.fromkeys(("exponential_decay_length_penalty", "watermarking_config", "max_time"), ()),
}
REFUSED_IF_SAMPLED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("min_p", "epsilon_cutoff", "eta_cutoff"), (0,)),
    "typical_p": (1,),
    "top_h": (),
}

_whole = lambda x: isinstance(x, int) and not isinstance(x, bool)
_number = lambda x: _whole(x) or isinstance(x, float)
_ids = lambda x: isinstance(x, list) and all(map(_whole, x))
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {  # of the values in JSON
    **dict.fromkeys(("repetition_penalty", "temperature", "top_p"), ("a number", _number)),
    **dict.fromkeys(("no_repeat_ngram_size", "min_new_tokens", "top_k"), ("a whole number", _whole)),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), ("a list of token ids", _ids)),
}


@dataclasses.dataclass(frozen=True)
class Constraints:
    """What the logits of every token go through before one is picked, in transformers' order; a setting that is off
    costs nothing.

    Attributes:
        repetition_penalty: divides the positive logits of ids that are there already, and multiplies the negative
            ones; 1 is off.
        no_repeat_ngram_size: no sequence of so many ids comes twice; 0 is off.
        min_new_tokens: the answer does not end before.
        suppress_tokens: ids that never come.
        begin_suppress_tokens: ids that do not come first.
        of_prompt: whether the ids of the prompt, audio places included, are there already for the first two.

    Raises:
        ConfigError: values out of range.

    >>> Constraints(repetition_penalty=1.1).no_repeat_ngram_size
    0
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    of_prompt: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(f"repetition_penalty must be a positive number, not {self.repetition_penalty}.")
        for name in ("no_repeat_ngram_size", "min_new_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 (off) or more, not {getattr(self, name)}.")

    @property
    def looks_back(self) -> bool:
        """Whether it matters which ids are there already."""
        return self.repetition_penalty != 1 or self.no_repeat_ngram_size > 0

    def history(self, tokens: Int[Array, "rows text"], lengths: Int[Array, " rows"], new: int) -> History | None:
        """The ids that are there before an answer of up to `new` tokens; None if they do not matter."""
        if not self.looks_back:
            return None
        if not self.of_prompt:
            tokens, lengths = tokens[:, :0], jnp.zeros_like(lengths)
        real = jnp.arange(tokens.shape[1]) < lengths[:, None]
        return History(jnp.pad(jnp.where(real, tokens, -1), ((0, 0), (0, new)), constant_values=-1), lengths)

    def apply(
        self, logits: Float[Array, "rows vocab"], stops: tuple[int, ...], i: Array | int, past: History | None
    ) -> Float[Array, "rows vocab"]:
        """The logits of the i-th new token; i is a Python number for the first. stops: ids that end an answer."""
        vocab = logits.shape[-1]
        if past is not None and self.repetition_penalty != 1:
            there = _marked(past.ids, vocab)
            penalised = jnp.where(logits < 0, logits * self.repetition_penalty, logits / self.repetition_penalty)
            logits = jnp.where(there, penalised, logits)
        if past is not None and self.no_repeat_ngram_size:
            logits = jnp.where(_marked(past.repeating(self.no_repeat_ngram_size, i), vocab), -jnp.inf, logits)
        if self.min_new_tokens:
            logits = jnp.where(_among(stops, vocab) & (i < self.min_new_tokens), -jnp.inf, logits)
        banned = self.suppress_tokens + (self.begin_suppress_tokens if isinstance(i, int) and i == 0 else ())
        return jnp.where(_among(banned, vocab), -jnp.inf, logits) if banned else logits


OFF = Constraints()


@struct.dataclass
class History:
    """The ids of prompts and what was answered so far."""

    ids: Any  # [rows, text + new], -1 behind the end
    lengths: Any  # [rows] of the prompts

    def grown(self, token: Int[Array, " rows"], i: Array | int) -> History:
        """With the i-th new token."""
        return dataclasses.replace(self, ids=self.ids.at[jnp.arange(len(token)), self.lengths + i].set(token))

    def repeating(self, size: int, i: Array | int) -> Int[Array, "rows windows"]:
        """The ids that would complete a sequence of `size` for the second time, -1 elsewhere, before the i-th token."""
        width = self.ids.shape[1] - size + 1
        if width < 1:
            return self.ids[:, :0]
        end = self.lengths[:, None] + i
        last = jnp.take_along_axis(self.ids, jnp.maximum(end - size + 1 + jnp.arange(size - 1), 0), axis=1)
        same = jnp.arange(width) + size <= end
        for k in range(size - 1):
            same &= self.ids[:, k : k + width] == last[:, k : k + 1]
        return jnp.where(same, self.ids[:, size - 1 :], -1)


def _marked(ids: Int[Array, "rows _"], vocab: int) -> Array:
    """[rows, vocab]: which ids are in a row; those outside the vocabulary are in none."""
    inside = jnp.where((ids >= 0) & (ids < vocab), ids, vocab)
    empty = jnp.zeros((len(ids), vocab + 1), bool)
    return empty.at[jnp.arange(len(ids))[:, None], inside].set(True)[:, :vocab]


def _among(ids: tuple[int, ...], vocab: int) -> np.ndarray:
    return np.isin(np.arange(vocab), ids)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a folder wants its answers drawn (do_sample), with transformers' defaults."""

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0


def read_settings(settings: Mapping[str, Any], of_prompt: bool, path: Path) -> tuple[Constraints, Sampling | None]:
    """The settings of a generation_config.json, or of a config.json that has them. Those that the port does not have
    are named in one warning.

    Args:
        of_prompt: see `Constraints`.
        path: of the file, for messages.

    Raises CheckpointError for values out of range.
    """
    sampled = settings.get("do_sample") is True
    refused = REFUSED | (REFUSED_IF_SAMPLED if sampled else {})
    asked = {k: settings[k] for k, off in refused.items() if settings.get(k) is not None and settings[k] not in off}
    if asked:
        named = ", ".join(f"{key} = {value!r}" for key, value in asked.items())
        warnings.warn(f"{path} asks for {named}, which is not supported: answers are made without it.", stacklevel=2)
    read: dict[str, Any] = {}
    for name, (kind, fits) in KINDS.items():
        value = settings.get(name)
        if value is not None and not fits(value):
            raise CheckpointError(f"{path}: {name} must be {kind}, not {value!r}.")
        if value is not None:
            read[name] = tuple(value) if isinstance(value, list) else value
    sampling = {field.name: read.pop(field.name) for field in dataclasses.fields(Sampling) if field.name in read}
    try:
        return Constraints(**read, of_prompt=of_prompt), Sampling(**sampling) if sampled else None
    except ConfigError as e:
        raise CheckpointError(f"{path}: {e}") from None
