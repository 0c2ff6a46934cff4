"""Word error rates in the words of Whisper's normaliser, beside ours."""

from __future__ import annotations

import numpy as np
import pytest
from trials_support import trial

from seen_jax.evaluate import metrics
from seen_jax.evaluate.tables import make_tables

SPOKEN = (
    "Mr. Smith can't pay twenty-one dollars, it's the wrong colour!",
    "HE'S GOT TWENTY TWO CATS AND A HALF",
    "uh two hundred and five percent [noise] at ten thirty",
    "Señor Müller's café on the first of May",
    "",
)


@pytest.fixture
def words():
    pytest.importorskip("whisper_normalizer")
    return metrics.whisper_words()


def test_it_is_whispers_own(words):
    """The copy in `transformers`, which takes the spellings from the folder of a model."""
    import json
    from importlib.resources import files

    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    spellings = json.loads((files("whisper_normalizer") / "normalizers" / "english.json").read_text())
    other = EnglishTextNormalizer(spellings)
    assert [words(text) for text in SPOKEN] == [other(text) for text in SPOKEN]
    assert words(SPOKEN[0]) == "mister smith can not pay $21 it is the wrong color"


def test_what_it_takes_for_the_same(words):
    reference, output = ["twenty one colours it's fine"], ["21 colors, it is fine"]
    assert metrics.word_errors(reference, output)[0].tolist() == [4]
    assert [x.tolist() for x in metrics.word_errors(reference, output, words)] == [[0], [5]]


def conditions():
    return make_tables([trial("0", output="21 colors", reference="twenty one colours")])["conditions"]


def test_both_are_in_the_table(words):
    [row] = conditions().to_dict("records")
    assert row["wer"] == 1.0 and row["wer_whisper"] == 0.0


def test_without_the_extra_it_is_missing(monkeypatch):
    monkeypatch.setattr(metrics, "whisper_words", lambda: None)
    [row] = conditions().to_dict("records")
    assert row["wer"] == 1.0 and np.isnan(row["wer_whisper"])
