"""Moving the texts of a multiple choice under its letters."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seen_jax.data.items import Item, load_clips
from seen_jax.data.letters import LETTERS, split_marks
from seen_jax.data.permute import permuted_choices
from seen_jax.errors import ConfigError

WAVE = np.zeros(4, np.float32)
FORMS = ("{text}", "{mark}. {text}", "({mark}) {text}", "{mark}) {text}", "{mark}: {text}")


def make(texts, form="{text}", letter="B", prompt="which one?", answer=None, name="x"):
    choices = tuple(form.format(mark=m, text=t) for m, t in zip(LETTERS, texts, strict=False))
    return Item(name, "sound", WAVE, prompt, letter if answer is None else answer, choices, letter)


@given(
    st.lists(
        st.text("abcxyz. ", min_size=1, max_size=5).map(str.strip).filter(bool), min_size=2, max_size=6, unique=True
    ),
    st.sampled_from(FORMS),
    st.integers(0, 99),
    st.data(),
)
def test_letters_stay_texts_move_and_the_right_letter_follows(texts, form, seed, data):
    letter = data.draw(st.sampled_from(LETTERS[: len(texts)]))
    item = make(texts, form, letter)
    new = permuted_choices(item, seed)
    moved = split_marks(new.choices)[1]
    assert sorted(moved) == sorted(texts) and moved != texts
    assert new.choices == make(moved, form).choices
    assert moved[LETTERS.index(new.letter)] == texts[LETTERS.index(letter)]
    assert new.answer == new.letter
    assert permuted_choices(item, seed).choices == new.choices


def test_two_choices_are_swapped_by_hand():
    new = permuted_choices(make(["cat", "dog"], "{mark}. {text}", "A", answer="A. cat"), 0)
    assert (new.choices, new.letter, new.answer) == (("A. dog", "B. cat"), "B", "B. cat")
    assert permuted_choices(make(["cat", "dog"], letter="A", answer="cat"), 0).answer == "cat"
    assert permuted_choices(make(["cat", "dog"], letter="", answer=""), 0).letter == ""


@pytest.mark.parametrize(
    ("form", "listed", "expected"),
    [
        ("{text}", "which?\nA. cat\nB. dog\nAnswer.", "which?\nA. dog\nB. cat\nAnswer."),
        ("{mark}. {text}", "which?\nA. cat\nB. dog", "which?\nA. dog\nB. cat"),
        ("({mark}) {text}", "which?\n(A) cat\n(B) dog", "which?\n(A) dog\n(B) cat"),
        ("{text}", "which?\ncat\ndog", "which?\ndog\ncat"),
        ("{mark}. {text}", "which?['A. cat', 'B. dog']", "which?['A. dog', 'B. cat']"),
        ("{text}", "which options cat A dog B", "which options dog A cat B"),
        ("{text}", "is a dog heard?", "is a dog heard?"),
    ],
)
def test_a_prompt_lists_the_new_order(form, listed, expected):
    assert permuted_choices(make(["cat", "dog"], form, prompt=listed), 0).prompt == expected


def test_shipped_items_keep_their_right_word():
    for item in (i for i in load_clips("demo") if i.choices):
        new = permuted_choices(item, 3)
        assert new.prompt != item.prompt and sorted(new.prompt) == sorted(item.prompt)
        assert new.answer.split()[:-1] == item.answer.split()[:-1] and new.answer.endswith(new.letter)
        assert f"{new.answer}" in new.prompt


def test_orders_differ_between_items_and_seeds():
    texts = ["a", "b", "c", "d"]
    orders = {permuted_choices(make(texts, name=str(i)), seed).choices for i in range(40) for seed in (0, 1)}
    assert len(orders) == 23  # all but the given one
    places = [permuted_choices(make(texts, name=str(i)), 0).letter for i in range(600)]
    share = [places.count(mark) / 600 for mark in "ABCD"]
    np.testing.assert_allclose(share, [6 / 23, 5 / 23, 6 / 23, 6 / 23], atol=0.06)


def test_what_cannot_be_permuted():
    with pytest.raises(ConfigError, match="1 choices cannot be permuted"):
        permuted_choices(make(["cat"], letter="A"), 0)
    with pytest.raises(ConfigError, match="item x: its prompt names all choices"):
        permuted_choices(make(["cat", "dog"], prompt="cat, or else a dog?"), 0)
    no_letters = dataclasses.replace(make(["cat", "dog"]), choices=("A. cat", "dog"))
    assert permuted_choices(no_letters, 0).choices == ("dog", "A. cat")
