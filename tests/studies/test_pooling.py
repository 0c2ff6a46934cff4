"""Directions of all frames."""

import dataclasses

import numpy as np
import pytest

from seen_jax.errors import ConfigError
from seen_jax.models.model import forward
from seen_jax.models.processor import DEFAULT_PROMPT, Request
from seen_jax.models.sites import Taps
from seen_jax.studies import calibration
from seen_jax.studies.calibration import frame_directions
from seen_jax.studies.lab import calibration_waves, open_lab
from seen_jax.studies.run import run_studies
from seen_jax.subspace.svd import right_singular


@pytest.mark.parametrize(
    ("site", "source", "center"), [("encoder.mlp_act", "difference", True), ("decoder.resid", "pure", False)]
)
def test_directions_are_of_the_real_frames(experiment, site, source, center):
    selection = dataclasses.replace(experiment.config.selection, noise_source=source, center=center)
    config = dataclasses.replace(experiment.config, site=site, selection=selection, studies=())
    lab = open_lab(dataclasses.replace(experiment, config=config), [], 0)
    waves, model = calibration_waves(lab, "pink", 0.0, 6), experiment.model
    frames = {}
    for kind, clips in waves.items():  # each clip alone has no padding but that of its convolutions
        each = []
        for clip in clips:
            batch = model.processor.prepare([Request([clip], DEFAULT_PROMPT)])
            a = np.asarray(forward(model.tapped(Taps((site,), "full")), model.variables, batch, {}).taps[site])
            count = int(model.config.encoder.position_count(np.asarray(batch.frames))[0])
            audio = np.asarray(batch.audio_index)[0] >= 0 if site.startswith("decoder") else slice(count)
            each.append(a[:, 0, audio])
        frames[kind] = np.concatenate(each, axis=1)
    sides = frames["clean"], frames["noise"] if source == "pure" else frames["noisy"] - frames["clean"]
    for directions, matrix in zip(frame_directions(lab, "pink"), sides, strict=True):
        expected = right_singular(matrix, center)
        np.testing.assert_allclose(directions.s[:, :8], expected.s[:, :8], rtol=1e-4)
        for layer in range(len(matrix)):  # close singular values leave their vectors open, but not the subspace
            cosines = np.linalg.svd(np.asarray(directions.v[layer, :3] @ expected.v[layer, :8].T), compute_uv=False)
            assert cosines.min() > 0.99


def test_a_wide_site_is_refused_before_anything_is_run(config, experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "WIDEST", 50)
    other = dataclasses.replace(experiment, config=dataclasses.replace(config, out=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"'pooling' needs second moments of encoder\.mlp_act, 96 x 96"):
        run_studies(other)
    assert not list(tmp_path.iterdir())
