"""Trials: what GSR compares, and how they are kept."""

import json
import math

import pytest

from seen_jax.evaluate.tables import Trial

CONDITION = {"dataset": "d", "task": "music", "item": "i", "noise": "rain", "snr_db": -5.0, "mitigation": "none"}


@pytest.mark.parametrize(
    ("output", "letter", "answer"),
    [
        ("B: a flute.", "B", "B"),  # words after the letter do not count
        ("It's  A FLUTE!", None, "its a flute"),
        (" ... ", None, "..."),  # nothing is left of it but the stripped output
        ("", None, ""),
    ],
)
def test_what_gsr_compares(output, letter, answer):
    assert Trial(**CONDITION, output=output, letter=letter).answer == answer


def test_a_letter_is_never_the_same_as_a_text():
    assert Trial(**CONDITION, output="a", letter=None).answer != Trial(**CONDITION, output="A", letter="A").answer


def test_trials_survive_json_without_nan():
    measured = {"see": 0.1, "see_after": math.nan, "layers": (0.1, math.nan), "energy": (1.0,), "cosines": {"a-b": 0.5}}
    trial = Trial(**CONDITION, output="x", right="A", **measured)
    values = json.loads(json.dumps(trial.to_json(), allow_nan=False))
    assert values["see_after"] is None and values["layers"] == [0.1, None] and "failed" not in values
    again = Trial.from_json(values)
    assert repr(again) == repr(trial)
    failed = Trial(**CONDITION | {"snr_db": None}, failed="damaged")
    assert repr(Trial.from_json(json.loads(json.dumps(failed.to_json(), allow_nan=False)))) == repr(failed)
    with pytest.raises(TypeError, match="unknown"):
        Trial.from_json({**values, "unknown": 1})
