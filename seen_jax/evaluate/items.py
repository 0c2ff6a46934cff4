"""What a model is asked: clips with a prompt and, where known, the right answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from seen_jax.api import DEFAULT_PROMPT
from seen_jax.audio.io import AudioItem, find_audio, read_audio
from seen_jax.errors import AudioError, ConfigError

CLIPS = Path(__file__).parent.parent / "assets" / "clips"
SUBSETS = ("calibration", "validation", "demo")
LETTERS = "ABCD"  # what `answer_letter` finds


@dataclass(frozen=True, eq=False)
class Item:
    """One question about one clip.

    task: "transcription" is scored by word error rate, items with a letter by it, others by GSR alone. wave: 16 kHz
    mono float32. answer: transcript or answer text, "" if unknown. choices: offered texts in the order of the letters.
    letter: the right one, "" without choices.
    """

    id: str
    task: str
    wave: Float[np.ndarray, " samples"]
    prompt: str
    answer: str = ""
    choices: tuple[str, ...] = ()
    letter: str = ""


def load_clips(subset: str, per_task: int | None = None) -> list[Item]:
    """The clips of a subset that ship with the package: "calibration", "validation" or "demo".

    per_task: only the first so many of each task. Raises ConfigError for an unknown subset or a number below 1.
    """
    if subset not in SUBSETS:
        raise ConfigError(f"there are no clips {subset!r}: choose one of {', '.join(SUBSETS)}")
    if per_task is not None and per_task < 1:
        raise ConfigError(f"items per task must be 1 or more, not {per_task}")
    rows = [row for row in find_audio([CLIPS / "manifest.jsonl"]) if row.extra["subset"] == subset]
    seen: Counter[str] = Counter()
    kept = []
    for row in rows:
        seen[row.extra["task"]] += 1
        if per_task is None or seen[row.extra["task"]] <= per_task:
            kept.append(row)
    return [item_of(row) for row in kept]


def load_manifest(inputs: str | Path | Sequence[str | Path]) -> list[Item]:
    """A user's items: anything `find_audio` takes; prompts, choices and answers come from a manifest's columns.

    Columns, all optional: `prompt` (as it is) or `question` (to which the choices are added), `task`, `choices` (a
    list), `letter`, `answer` (a letter, or a choice, or a text), `text` (a transcript). Without a prompt the speech is
    to be transcribed. Raises AudioError for files that cannot be read, and answers that are none of the choices.
    """
    return [item_of(row) for row in find_audio(inputs if isinstance(inputs, list | tuple) else [str(inputs)])]


def item_of(row: AudioItem) -> Item:
    """One row of a manifest, its audio read and checked. Raises AudioError as `load_manifest`."""
    extra = row.extra
    choices = row.choices
    if len(choices) > len(LETTERS):
        raise AudioError(f"item {row.id}: {len(choices)} choices; at most {len(LETTERS)} have letters")
    answer = extra.get("answer", row.text or "")
    letter = extra.get("letter", "") or _letter(answer, choices, row.id)
    prompt = extra.get("prompt") or _ask(extra.get("question", ""), choices) or DEFAULT_PROMPT
    asked = "prompt" in extra or "question" in extra
    kind = "choice" if choices else "question" if asked and not row.text else "transcription"
    return Item(row.id, extra.get("task", kind), read_audio(row.path), prompt, answer, choices, letter)


def _letter(answer: str, choices: tuple[str, ...], name: str) -> str:
    if not choices or not answer:
        return ""
    if answer in tuple(LETTERS[: len(choices)]):
        return answer
    if answer in choices:
        return LETTERS[choices.index(answer)]
    raise AudioError(f"item {name}: the answer {answer[:80]!r} is neither a letter nor one of the choices")


def _ask(question: str, choices: tuple[str, ...]) -> str:
    if not question or not choices:
        return question
    lettered = all(re.match(rf"\(?{mark}[.):]", choice) for mark, choice in zip(LETTERS, choices, strict=False))
    lines = choices if lettered else [f"{mark}. {choice}" for mark, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question, *lines])


def voices(items: Sequence[Item]) -> list[Float[np.ndarray, " _"]]:
    """The clips in which somebody speaks: what "babble" is made of."""
    return [item.wave for item in items if item.task in ("transcription", "speech")]
