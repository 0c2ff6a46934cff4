"""Examples to listen to: gain, answers side by side, and the SNR that tells most."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
import soundfile
from trials_support import trial

from seen_jax.report.blocks import Example, Picture, Text
from seen_jax.report.format import Target
from seen_jax.report.players import ExampleClip, example, listen, telling_snr, wav_bytes

CLEAN = (0.25 * np.sin(np.arange(8000) / 5)).astype(np.float32)
NOISY = (CLEAN * 8).astype(np.float32)  # louder than a file can hold


def clip(**other):
    trials = {
        "clean": trial(output="The cat.", see=0.05, see_after=0.05),
        "noisy": trial(snr=0.0, output="a dog", see=0.2, see_after=0.2),
        "noisy + SEEN": trial(snr=0.0, mitigation="seen", output="the cat", see=0.2, see_after=0.0),
        "noisy + other": trial(snr=0.0, mitigation="other", output="", see=0.2, see_after=0.1),
    }
    see = {"noisy": (np.linspace(0, 0.5, 5), np.full(5, 0.2))}
    fields = {"item": "clip-1", "task": "transcription", "prompt": "What is said?", "right": "the cat", "noise": "rain"}
    return ExampleClip(
        **{**fields, "snr_db": 0.0, "waves": {"clean": CLEAN, "noisy": NOISY}, "trials": trials, "see": see, **other}
    )


def played(uri):
    kind, _, content = uri.partition(",")
    assert kind == "data:audio/wav;base64"
    return soundfile.read(io.BytesIO(base64.b64decode(content)))[0]


def test_all_players_of_a_clip_have_one_gain():
    (clean_name, clean), (noisy_name, noisy) = example(clip()).players
    assert (clean_name, noisy_name) == ("clean", "noisy")
    assert np.abs(played(noisy)).max() == pytest.approx(0.98, abs=1e-3)
    np.testing.assert_allclose(played(noisy), 8 * played(clean), atol=1e-3)
    (_, soft), _ = example(clip(waves={"clean": CLEAN, "noisy": CLEAN})).players
    np.testing.assert_allclose(played(soft), CLEAN, atol=1e-4)


def test_wav_files_are_16_bit_and_do_not_overflow():
    content = wav_bytes(np.array([1.0, -1.0, 2.0], np.float32))
    info = soundfile.info(io.BytesIO(content))
    assert (info.subtype, info.samplerate) == ("PCM_16", 16000)
    assert soundfile.read(io.BytesIO(content))[0] == pytest.approx([1, -1, 1], abs=1e-4)


def test_answers_that_differ_from_the_clean_one_are_marked():
    block = example(clip())
    assert block.answers.rows == [
        ["clean", "The cat.", "5.00 %"],
        ["noisy", "a dog", "20.00 %"],
        ["noisy + SEEN", "the cat", "20.00 % → 0.00 %"],
        ["noisy + other", "(empty)", "20.00 % → 10.00 %"],
        ["right", "the cat", ""],
    ]
    assert block.changed == [False, True, False, True, False]
    assert len(example(clip(right="")).answers.rows) == 4


def test_every_clip_has_players_and_a_picture(tmp_path):
    blocks = listen(Target(tmp_path), [clip(), clip(item="clip-2")])
    assert [type(block) for block in blocks] == [Text, Example, Picture, Example, Picture]
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.png")) == ["example_1.png", "example_2.png"]
    assert "clip-2" in blocks[-1].caption


def test_the_telling_snr_is_the_one_nearest_to_one_half():
    rows = [(np.nan, "none", 0.5), (-10.0, "none", 0.1), (0.0, "none", 0.3), (0.0, "none", 0.5), (5.0, "none", 0.9)]
    rows += [(5.0, "seen", 0.5)]
    assert telling_snr(pd.DataFrame(rows, columns=["snr_db", "mitigation", "gsr"])) == 0.0
