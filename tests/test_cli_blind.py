"""`seen-jax blind` and `seen-jax score --blind` on a tiny random model."""

import csv

import cli_support
import pytest
from cli_support import run

world = cli_support.world


@pytest.fixture(scope="module")
def fitted(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("blind") / "blind"
    argv = ["blind", world.clips, "--model", world.model, "--noise", "white", "babble", "--snr", "-20,0,100"]
    return run(*argv, "--clips", 8, "--max-new-tokens", 4, "--out", out, "--json").data


def test_a_blind_model_is_fitted_and_scores_clips_and_mixtures(world, fitted, tmp_path):
    assert (fitted["clips"], fitted["answers"], fitted["noises"]) == (8, 24, ["white", "babble"])
    assert 0 < fitted["changed"] < 24
    argv = ["score", world.clips, "--blind", fitted["folder"], "--model", world.model, "--prompt", "red"]
    data = run(*argv, "--noise", "pink", "--snr", "-10,30", "--json", "--out", tmp_path / "risks.csv").data
    assert [mean["snr_db"] for mean in data["means"]] == [None, -10, 30] and len(data["clips"]) == 36
    assert all(0 <= row["risk"] <= 1 and 0 <= row["encoder_risk"] <= 1 for row in data["clips"])
    rows = list(csv.DictReader((tmp_path / "risks.csv").open(newline="")))
    assert [float(row["risk"]) for row in rows] == [row["risk"] for row in data["clips"]]
    shown = run(*argv)
    assert shown.status == 0 and "risk that noise changed the answer" in shown.out


def test_what_does_not_fit_is_refused(world, fitted):
    clip, other = next(world.clips.glob("*.wav")), ["--model", world.model]
    refusals = [
        (["score", clip, *other, "--blind"], "seen-jax blind"),  # it ships for seen-tiny alone
        (["score", clip, "--blind", fitted["folder"]], "fitted to"),
        (["score", clip, *other, "--blind", world.white], "blind model"),
        (["score", clip, *other, "--blind", fitted["folder"], "--delta", "0.2"], "no directions"),
        (["score", clip, *other, "--basis", fitted["folder"]], "expected a calibration or a noise basis"),
        (["blind", world.clips, *other, "--out", fitted["folder"]], "--overwrite"),
    ]
    for argv, message in refusals:
        wrong = run(*argv)
        assert wrong.status == 1 and message in wrong.err, (argv, wrong.err)
