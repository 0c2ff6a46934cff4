"""Which items and clips studies use."""

from pathlib import Path

import numpy as np

from seen_jax.api import calibrate as calibrate_site
from seen_jax.data.items import Entry
from seen_jax.evaluate.prepare import in_turns
from seen_jax.studies.lab import calibrate, clips_of, open_lab


def test_the_tasks_take_turns():
    entries = [Entry(str(i), task, Path("x")) for i, task in enumerate("aaaabbc")]
    assert in_turns(entries) == [0, 4, 6, 1, 5, 2, 3]


def test_further_clips_are_not_tested_ones(config, experiment):
    """A test clip among the further clips of calibration is left out."""
    folder = Path(config.calibration.dataset.path).parent
    original = (folder / "11.wav").read_bytes()
    (folder / "11.wav").write_bytes((Path(config.datasets[0].path).parent / "0.wav").read_bytes())
    try:
        assert len(clips_of(experiment, 200)) == 11
    finally:
        (folder / "11.wav").write_bytes(original)
    assert [len(clips_of(experiment, count)) for count in (0, 6, 7, 200)] == [6, 6, 7, 12]


def test_calibrations_of_several_sites_are_those_of_each(experiment):
    lab = open_lab(experiment, ["projector", "decoder.resid"], 0)
    assert {site for _, site in lab.calibrations} == {"encoder.mlp_act", "projector", "decoder.resid"}
    assert lab.calibrated == ["white", "pink"]
    drawn = [
        experiment.sources["pink"].clip(i, len(w), experiment.config.seed, "calibration")
        for i, w in enumerate(lab.clips)
    ]
    made = calibrate(lab, ["projector", "decoder.resid"], 10.0, 4)
    for site in ("projector", "decoder.resid"):
        expected = calibrate_site(experiment.model, lab.clips[:4], drawn[:4], site, 10.0, batch_size=2).statistics
        for name, values in expected.tensors().items():
            np.testing.assert_allclose(made["pink", site].statistics.tensors()[name], values, atol=1e-5)
