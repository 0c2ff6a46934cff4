"""Letters of answers as data sets write them, and as models do."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from seen_jax.data.letters import LETTERS, answer_letter, lettered, right_letter, split_marks
from seen_jax.errors import AudioError

WORDS = st.text("bcdfghkl", min_size=2, max_size=7)
CHOICES = st.lists(WORDS, min_size=2, max_size=9, unique=True)
ANIMALS = ("Man", "Woman", "A dog", "C major")
FORMS = (
    "{}",
    " {}\n",
    "({})",
    "{}.",
    "**{}**",
    "{}. {text}",
    "({}) {text}",
    "{}: {text}",
    "{} - {text}",
    "{} {text}",
    "{text} {}",
    "The answer is {}",
    "The correct answer is ({}) {text}.",
    "Answer: {}",
    "I think the right option is {}.",
    "<answer>{}</answer>",
    "I would say {text}, so {}",
    "It is not certain. Answer: {}. {text}",
)


@given(CHOICES, st.data(), st.sampled_from(FORMS), st.booleans())
def test_every_way_to_name_a_choice(choices, data, form, marked):
    place = data.draw(st.integers(0, len(choices) - 1))
    output = form.format(LETTERS[place], text=choices[place])
    assert answer_letter(output, lettered(choices) if marked else choices) == LETTERS[place]


@given(CHOICES, st.data())
def test_text_of_a_choice(choices, data):
    place = data.draw(st.integers(0, len(choices) - 1))
    text = choices[place]
    assume(not any(other != text and other in text.split() for other in choices))
    for output in (text, text.upper(), f" {text}.", f"The answer is {text}", f"I hear a {text} here"):
        assert answer_letter(output, choices) == LETTERS[place]


@given(st.text(), st.lists(st.text(), max_size=9))
def test_never_a_crash_nor_a_letter_that_was_not_offered(output, choices):
    assert answer_letter(output, choices) in {None, *LETTERS[: len(choices)]}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", None),
        ("   ", None),
        ("E", None),
        ("(E) something", None),
        ("A man is speaking", "A"),  # the choice, not the article
        ("A bird is singing", None),
        ("I hear a bird", None),
        ("It is a woman.", "B"),
        ("The answer is a dog", "C"),
        ("The answer is A", "A"),
        ("the answer is b", "B"),
        ("(d)", "D"),
        ("the C major chord", "D"),
        ("A man and a woman", None),
        ("B or C", None),
        ("Between A and B, the answer is B", "B"),
        ("The answer is B, not C", "B"),
        ("The answer is A. Wait. The final answer is C", "C"),
        ("Because it barks, C.", "C"),
        ("ABCD", None),
        ("They say D.S.L. twice", None),
    ],
)
def test_outputs_by_hand(output, expected):
    assert answer_letter(output, ANIMALS) == expected
    assert answer_letter(output, lettered(ANIMALS)) == expected


@given(CHOICES, st.data())
def test_right_letter_of_each_form(choices, data):
    place = data.draw(st.integers(0, len(choices) - 1))
    mark, text = LETTERS[place], choices[place]
    for offered in (tuple(choices), lettered(choices)):
        for answer in (
            text,
            mark,
            mark.lower(),
            f"({mark})",
            f"({mark}) {text}",
            f"{mark}. {text}",
            f" {text.upper()} ",
        ):
            assert right_letter(answer, offered) == mark
        assert right_letter(mark.lower(), offered) == right_letter(text.upper(), offered) == mark
    with pytest.raises(AudioError, match="neither a letter"):
        right_letter("zzz", choices)


def test_a_choice_that_is_a_letter():
    assert right_letter("C", ("G", "C", "A", "D")) == "B"
    assert right_letter("C", ("A. G", "B. C", "C. A", "D. D")) == "C"
    assert right_letter("", ("x", "y")) == right_letter("x", ()) == ""
    with pytest.raises(AudioError, match="neither a letter"):
        right_letter("B. x", ("x", "y"))


@given(st.lists(WORDS, max_size=26))
def test_lettering_is_undone_and_done_once(choices):
    marks, texts = split_marks(lettered(choices))
    assert (marks, texts) == ([f"{letter}. " for letter in LETTERS[: len(choices)]], choices)
    assert split_marks(choices) == ([""] * len(choices), choices)
    assert lettered(lettered(choices)) == lettered(choices)
    assert [choice[:3] for choice in lettered(choices)] == [f"{mark}. " for mark in LETTERS[: len(choices)]]


def test_letters_run_out():
    with pytest.raises(AudioError, match="27 choices; at most 26"):
        lettered(["x"] * 27)
