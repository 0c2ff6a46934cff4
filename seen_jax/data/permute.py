"""Other orders of a multiple choice: does a model name the right text, or always the same letter?"""

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seen_jax.data.items import Item
from seen_jax.data.letters import LETTERS, split_marks
from seen_jax.errors import ConfigError


@dataclass(frozen=True)
class Permutation:
    """An order of choices: order[new place] = old place."""

    order: tuple[int, ...]

    def moved(self, letter: str) -> str:
        """The new letter of a choice; anything that is no letter of a choice stays as it is."""
        old = _place(letter, len(self.order))
        return letter if old is None else LETTERS[self.order.index(old)]

    def original(self, letter: str | None) -> str | None:
        """The old letter of a choice: the inverse of `moved`."""
        new = _place(letter, len(self.order))
        return letter if new is None else LETTERS[self.order[new]]


def permuted_choices(item: Item, seed: int) -> tuple[Item, Permutation]:
    """The same question with its choices in another order: letters stay in order, texts move, the right letter follows.

    Choices may carry their letters ("A. cat", "(A) cat", "A) cat"). Where the prompt lists them, it lists them in the
    new order. The order depends on seed and item id alone and is never the given one. Raises ConfigError for fewer
    than two choices or more than 26, and for a prompt that names all of them in a form unknown here.
    """
    n = len(item.choices)
    if not 2 <= n <= len(LETTERS):
        raise ConfigError(f"item {item.id}: {n} choices cannot be permuted; 2 to {len(LETTERS)} can")
    rng = np.random.default_rng(zlib.crc32(f"permute/{seed}/{item.id}".encode()))
    order = tuple(range(n))
    while order == tuple(range(n)):
        order = tuple(int(i) for i in rng.permutation(n))
    permutation = Permutation(order)
    marks, texts = split_marks(item.choices)
    moved = [texts[old] for old in order]
    choices = tuple(mark + text for mark, text in zip(marks, moved, strict=True))
    letter = permutation.moved(item.letter)
    spelled = zip(_spellings(marks, texts, item.letter), _spellings(marks, moved, letter), strict=True)
    answer = letter if item.answer == item.letter else dict(spelled).get(item.answer, item.answer)
    prompt = _relisted(item, marks, texts, moved)
    return dataclasses.replace(item, prompt=prompt, choices=choices, letter=letter, answer=answer), permutation


def _place(letter: str | None, n: int) -> int | None:
    return LETTERS.index(letter) if letter and letter in tuple(LETTERS[:n]) else None


def _spellings(marks: Sequence[str], texts: Sequence[str], letter: str) -> list[str]:
    """How an answer may name the choice of a letter: "A. cat", "cat", "cat A"."""
    place = _place(letter, len(texts))
    return [] if place is None else [marks[place] + texts[place], texts[place], f"{texts[place]} {letter}"]


def _listings(marks: Sequence[str], texts: Sequence[str]) -> list[str]:
    """How a prompt may list choices: in lines under "A. ", in lines as they are, as a printed list, "cat A dog B"."""
    choices = [mark + text for mark, text in zip(marks, texts, strict=True)]
    numbered = [f"{mark}. {text}" for mark, text in zip(LETTERS, texts, strict=False)]
    spoken = [f"{text} {mark}" for mark, text in zip(LETTERS, texts, strict=False)]
    return ["\n".join(numbered), "\n".join(choices), str(choices), " ".join(spoken)]


def _relisted(item: Item, marks: Sequence[str], texts: Sequence[str], moved: Sequence[str]) -> str:
    for old, new in zip(_listings(marks, texts), _listings(marks, moved), strict=True):
        if old in item.prompt:
            return item.prompt.replace(old, new)
    if all(text in item.prompt for text in texts):
        raise ConfigError(
            f"item {item.id}: its prompt names all choices, but not as a list whose order can be changed: put them in "
            "lines of their own, or give question and choices apart"
        )
    return item.prompt
