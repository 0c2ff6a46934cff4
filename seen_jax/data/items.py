"""What a model is asked: clips with a prompt and, where known, the right answer."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from seen_jax.audio.find import AudioItem, find_audio
from seen_jax.audio.io import decode_audio, read_audio
from seen_jax.data.letters import lettered, right_letter
from seen_jax.data.parquet import parquet_audio
from seen_jax.errors import AudioError, ConfigError
from seen_jax.models.processor import DEFAULT_PROMPT

CLIPS = Path(__file__).parent.parent / "assets" / "clips"
NO_WAVE = np.zeros(0, np.float32)  # of an item of which only the words are looked at
PREFIX = "seen-tiny/"
SUBSETS = ("calibration", "validation", "demo")


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
    question: str = ""


@dataclass(frozen=True)
class Entry:
    """An item whose audio is still on disk.

    path: the audio file, or the parquet file that has it in row `parquet_row`. choices: lettered ("A. text"), unless
    the prompt is the data set's own. prompt: the data set's own, or None. dataset: name of the set it comes from.
    start, seconds: of a segment of the audio, None for the whole.
    """

    id: str
    task: str
    path: Path
    question: str = ""
    choices: tuple[str, ...] = ()
    answer: str = ""
    letter: str = ""
    prompt: str | None = None
    dataset: str = ""
    start: float | None = None
    seconds: float | None = None
    parquet_row: int | None = None

    def wave(self) -> Float[np.ndarray, " samples"]:
        """The audio, 16 kHz mono float32, read anew. AudioError names the entry."""
        try:
            if self.parquet_row is None:
                return read_audio(self.path, start=self.start or 0.0, seconds=self.seconds)
            data, name = parquet_audio(self.path, self.parquet_row)
            return decode_audio(data, name, start=self.start or 0.0, seconds=self.seconds)
        except AudioError as error:
            raise AudioError(f"item {self.id}: {error}") from error

    def item(self, wave: Float[np.ndarray, " samples"] | None = None) -> Item:
        """The item with its audio, or with a wave in its place; without a prompt of its own it asks the question, or
        for a transcript."""
        prompt = self.prompt or "\n".join([self.question, *self.choices]).strip() or DEFAULT_PROMPT
        wave = self.wave() if wave is None else wave
        return Item(self.id, self.task, wave, prompt, self.answer, self.choices, self.letter, question=self.question)


def load_clips(subset: str, per_task: int | None = None) -> list[Item]:
    """The clips of a subset that ship with the package: "calibration", "validation" or "demo".

    per_task: only the first so many of each task. Raises ConfigError for an unknown subset or a number below 1.
    """
    if per_task is not None and per_task < 1:
        raise ConfigError(f"items per task must be 1 or more, not {per_task}")
    counts: Counter[str] = Counter()
    entries = []
    for entry in map(entry_of, clip_rows(subset)):
        counts[entry.task] += 1
        if per_task is None or counts[entry.task] <= per_task:
            entries.append(entry)
    return [entry.item() for entry in entries]


def clip_rows(subset: str) -> list[AudioItem]:
    """The rows of the package's manifest that belong to a subset. Raises ConfigError for an unknown subset."""
    if subset not in SUBSETS:
        known = ", ".join(PREFIX + name for name in SUBSETS)
        raise ConfigError(f"there are no clips {PREFIX + subset!r}: choose one of {known}")
    return [row for row in find_audio([CLIPS / "manifest.jsonl"]) if row.extra["subset"] == subset]


def entry_of(row: AudioItem, dataset: str = "", task: str | None = None, parquet_row: int | None = None) -> Entry:
    """One row of a table, its audio left where it is.

    Columns, all optional: `prompt` (used as it is) or `question` (followed by the choices), `task`, `choices` (a list),
    `letter`, `answer` (a letter, a choice or a text), `text` (a transcript), `start` and `seconds` (of a segment).

    Args:
        task: of rows that name none.

    Raises:
        AudioError: an answer that is none of the choices, or a segment that is no number; names the row.
    """
    extra, choices = row.extra, row.choices
    answer, prompt, question = extra.get("answer", row.text or ""), extra.get("prompt"), extra.get("question", "")
    try:
        letter = right_letter(extra.get("letter") or answer, choices)
        offered = choices if prompt else lettered(choices)
        start, seconds = (float(extra[key]) if extra.get(key) else None for key in ("start", "seconds"))
    except (AudioError, ValueError) as error:
        raise AudioError(f"item {row.id}: {error}") from None
    kind = "choice" if choices else "question" if (prompt or question) and not row.text else "transcription"
    return Entry(
        id=row.id,
        task=extra.get("task") or task or kind,
        path=row.path,
        question=question,
        choices=offered,
        answer=answer,
        letter=letter,
        prompt=prompt,
        dataset=dataset,
        start=start,
        seconds=seconds,
        parquet_row=parquet_row,
    )


def voices(items: Sequence[Item]) -> list[Float[np.ndarray, " _"]]:
    """The clips in which somebody speaks: what "babble" is made of."""
    return [item.wave for item in items if item.task in ("transcription", "speech")]
