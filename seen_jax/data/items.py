"""What a model is asked: clips with a prompt and, where known, the right answer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from seen_jax.audio.find import AudioItem, find_audio
from seen_jax.audio.io import decode_audio, read_audio
from seen_jax.data.letters import lettered, right_letter
from seen_jax.data.parquet import parquet_audio
from seen_jax.errors import AudioError, ConfigError
from seen_jax.files import escaped
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
    letter: the right one, "" without choices."""

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
    path: the audio file, or the parquet file that has it in row `parquet_row` of `audio_column` (None: the usual one).
    choices: lettered ("A. text"), unless the prompt is the data set's own. prompt: the data set's own, or None.
    dataset: name of the set it comes from. start, seconds: of a segment of the audio, None for the whole."""

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
    audio_column: str | None = None

    def wave(self) -> Float[np.ndarray, " samples"]:
        """The audio, 16 kHz mono float32, read anew. AudioError names the entry."""
        try:
            if self.parquet_row is None:
                return read_audio(self.path, 0, self.start or 0.0, self.seconds)
            encoded = parquet_audio(self.path, self.parquet_row, self.audio_column)
            return decode_audio(*encoded, 0, self.start or 0.0, self.seconds)
        except AudioError as error:
            raise AudioError(f"item {self.id}: {error}") from error

    def item(self, wave: Float[np.ndarray, " samples"] | None = None) -> Item:
        """The item with its audio, or with a wave in its place; without a prompt of its own it asks the question, or
        for a transcript."""
        prompt = self.prompt or "\n".join([self.question, *self.choices]).strip() or DEFAULT_PROMPT
        wave = self.wave() if wave is None else wave
        return Item(self.id, self.task, wave, prompt, self.answer, self.choices, self.letter, self.question)


def load_clips(subset: str) -> list[Item]:
    """The clips that ship with the package, of one subset. Raises ConfigError as `clip_rows`."""
    return [entry_of(row).item() for row in clip_rows(subset)]


def clip_rows(subset: str) -> list[AudioItem]:
    """The rows of a subset of the package's manifest: "calibration", "validation" or "demo", else ConfigError."""
    if subset not in SUBSETS:
        known = ", ".join(PREFIX + name for name in SUBSETS)
        raise ConfigError(f"there are no clips {PREFIX + subset!r}: choose one of {known}")
    return [row for row in find_audio([CLIPS / "manifest.jsonl"]) if row.extra["subset"] == subset]


def entry_of(
    row: AudioItem,
    dataset: str = "",
    task: str | None = None,
    parquet_row: int | None = None,
    audio_column: str | None = None,
) -> Entry:
    """One row of a table, its audio left where it is. Columns, all optional: `prompt` (used as it is) or `question`
    (followed by the choices), `task`, `choices` (a list), `letter`, `answer` (a letter, a choice or a text), `text` (a
    transcript), `start` and `seconds` (of a segment).
    task: of rows that name none. Raises AudioError, which names the row: an answer that is none of the choices, or a
    segment that is no number."""
    extra, choices = row.extra, row.choices
    answer, prompt, question = extra.get("answer", row.text or ""), extra.get("prompt"), extra.get("question", "")
    try:
        letter = right_letter(extra.get("letter") or answer, choices)
        offered = choices if prompt else lettered(choices)
        start, seconds = (float(extra[key]) if extra.get(key) else None for key in ("start", "seconds"))
    except (AudioError, ValueError) as error:
        raise AudioError(f"item {row.id}: {error}") from None
    kind = "choice" if choices else "question" if (prompt or question) and not row.text else "transcription"
    task, place = extra.get("task") or task or kind, (start, seconds, parquet_row, audio_column)
    return Entry(escaped(row.id), task, row.path, question, offered, answer, letter, prompt, dataset, *place)
