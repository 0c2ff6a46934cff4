"""Other orders of a multiple choice: does a model name the right text, or always the same letter?"""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np

from seen_jax.data.items import Item
from seen_jax.data.letters import LETTERS, split_marks
from seen_jax.errors import ConfigError


def permuted_choices(item: Item, seed: int) -> Item:
    """The same question with its choices in another order: letters stay in order, texts move, the right letter follows.
    Choices may carry their letters ("A. cat", "(A) cat", "A) cat"). Where the prompt lists them, it lists them in the
    new order. The order depends on seed and item id alone and is never the given one. Raises ConfigError for fewer than
    two choices or more than 26, and for a prompt that names all of them in a form unknown here."""
    n = len(item.choices)
    if not 2 <= n <= len(LETTERS):
        raise ConfigError(f"item {item.id}: {n} choices cannot be permuted; 2 to {len(LETTERS)} can")
    rng = np.random.default_rng(zlib.crc32(f"permute/{seed}/{item.id}".encode()))
    order = list(range(n))
    while order == sorted(order):
        order = rng.permutation(n).tolist()
    marks, texts = split_marks(item.choices)
    moved = [texts[old] for old in order]
    letters, letter, answer = list(LETTERS[:n]), item.letter, item.answer
    if letter in letters:
        old = letters.index(letter)
        new, text = order.index(old), texts[old]
        letter = letters[new]
        spelled = {marks[old] + text: marks[new] + text, f"{text} {item.letter}": f"{text} {letter}"}
        answer = letter if answer == item.letter else spelled.get(answer, answer)
    choices = tuple(mark + text for mark, text in zip(marks, moved, strict=True))
    prompt = _relisted(item, marks, texts, moved)
    return dataclasses.replace(item, prompt=prompt, choices=choices, letter=letter, answer=answer)


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
        problem = f"item {item.id}: its prompt names all choices, but not as a list whose order can be changed"
        raise ConfigError(f"{problem}: put them in lines of their own, or give question and choices apart")
    return item.prompt
