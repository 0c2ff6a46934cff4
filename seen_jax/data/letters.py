"""Letters of multiple choice: which one is right, and which one a model's output means."""

import re
import string
from collections.abc import Sequence

from seen_jax.errors import AudioError

LETTERS = string.ascii_uppercase
_MARK = r"\(?([A-Z])[.):]\s*"  # as in "B. text", "(B) text" and "B: text"
_ANNOUNCED = re.compile(r"(?i:\b(?:answer|choice|option)(?:\s+is|\s*:|\s+would be)?)[\s:]*")
_BARE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
_LEAD = re.compile(  # "B. text", "B) text", "B, since", "B - text"; lower case only with brackets or a full stop
    r"[\W_]*([A-Z])(?:\s*[.):\]](?!\w\W)|\s*[,;*\n]|\s+[-\u2013\u2014]\s)|[\W_]*\(([a-z])\)|[\W_]*([a-z])[.)](?!\w\W)"
)
_ALONE = re.compile(r"(?<![\w'\u2019.])([A-Z])(?![\w'\u2019]|\.\w)")


def split_marks(choices: Sequence[str]) -> tuple[list[str], list[str]]:
    """Marks ("A. ") and texts of choices; the marks are empty unless every choice has the letter of its place."""
    matches = [re.match(_MARK, choice) for choice in choices]
    if any(match is None or match[1] != letter for match, letter in zip(matches, LETTERS, strict=False)):
        return [""] * len(choices), list(choices)
    marks = [match[0] if match else "" for match in matches]
    return marks, [choice.removeprefix(mark) for choice, mark in zip(choices, marks, strict=True)]


def lettered(choices: Sequence[str]) -> tuple[str, ...]:
    """The choices as they are offered, "A. text", "B. text", ...; unchanged where all have their letters already.
    Raises AudioError for more choices than letters."""
    if len(choices) > len(LETTERS):
        raise AudioError(f"{len(choices)} choices; at most {len(LETTERS)} have letters")
    if any(split_marks(choices)[0]):
        return tuple(choices)
    return tuple(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def right_letter(answer: str, choices: Sequence[str]) -> str:
    """The letter of an answer that a data set gives as text, letter, "(B) text" or "B. text"; "" without an answer. A
    text that is a choice goes first, so "C" among the choices G, C, A, D is their second. Raises AudioError for an
    answer that is none of the choices."""
    lettered(choices)  # raises for too many choices
    texts, letters = _texts(choices), LETTERS[: len(choices)]
    answer = answer.strip()
    if not answer or not choices:
        return ""
    if answer in choices:
        return letters[tuple(choices).index(answer)]
    if (match := re.fullmatch(r"\(?([A-Za-z])[.):]?", answer)) and match[1].upper() in letters:
        return match[1].upper()
    marked = re.match(_MARK, answer)
    if marked and _place(answer[marked.end() :], texts) == LETTERS.index(marked[1]):
        return marked[1]
    if (place := _place(answer, texts)) is not None:
        return letters[place]
    raise AudioError(f"the answer {answer[:80]!r} is neither a letter nor one of the choices")


def answer_letter(output: str, choices: Sequence[str]) -> str | None:
    """The letter that an output means, or None where it means none or several. Read in this order: the output, or what
    follows "answer", "option" or "choice" in it, is a letter, starts with one ("B. text", "(B)"), or is the text of a
    choice; one letter alone stands in it; the text of one choice is in it. "A" before a word, and "I", count only as
    letters where they are marked as such."""
    texts, letters = _texts(choices), LETTERS[: len(choices)]
    tails = [output[match.end() :] for match in _ANNOUNCED.finditer(output)]
    for part in (output, *reversed(tails)):
        if letter := _direct(part, texts, letters):
            return letter
    mentioned, rest = _mentioned(output, texts)
    alone = {m[1] for m in _ALONE.finditer(rest) if not (m[1] in "AI" and re.match(r"\s+\w", rest[m.end() :]))}
    alone &= set(letters)
    if len(alone) == 1:
        return alone.pop()
    return letters[mentioned[0]] if len(mentioned) == 1 and not alone else None


def _texts(choices: Sequence[str]) -> list[str]:
    return [text.strip() for text in split_marks(choices)[1]]


def _direct(part: str, texts: Sequence[str], letters: str) -> str | None:
    if match := _BARE.fullmatch(part):
        return match[1].upper() if match[1].upper() in letters else None
    if (place := _place(part, texts)) is not None:
        return letters[place]
    if match := _LEAD.match(part):
        letter = next(group for group in match.groups() if group).upper()
        return letter if letter in letters else None
    bare = re.match(r"[\W_]*([A-Z])\s+(?=\S)", part)
    if bare and bare[1] in letters and _words(part[bare.end() :]) == _words(texts[letters.index(bare[1])]):
        return bare[1]
    return None


def _words(text: str) -> str:
    """Case, punctuation and spacing do not count, unless there is nothing else."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text.strip()


def _place(text: str, texts: Sequence[str]) -> int | None:
    """Which of the texts this is, None if none or several."""
    places = [i for i, one in enumerate(texts) if text.strip() and _words(one) == _words(text)]
    return places[0] if len(places) == 1 else None


def _mentioned(output: str, texts: Sequence[str]) -> tuple[list[int], str]:
    """Places of the texts that occur as whole words, and not only inside another one that does; the output without."""
    places = []
    for place in sorted((i for i, text in enumerate(texts) if text), key=lambda i: -len(texts[i])):
        phrase = rf"(?<!\w){re.escape(texts[place])}(?!\w)"
        output, count = re.subn(phrase, "_", output, flags=re.IGNORECASE)
        if count:
            places.append(place)
    return places, output
