"""The noises that mitigations are fitted to: of the experiment or their own, never what is tested."""

import dataclasses

import numpy as np
import pytest
from experiment_support import restoration, settings, write_clips

from seen_jax.audio import write_audio
from seen_jax.errors import ConfigError
from seen_jax.evaluate.config import NoiseConfig
from seen_jax.evaluate.prepare import further_noises, noise_sources, prepare
from seen_jax.progress import silent


@pytest.fixture
def recordings(tmp_path):
    for i, name in enumerate(("crowd", "traffic", "wind", "rain")):
        noise = 0.1 * np.random.default_rng(i).standard_normal(16_000)
        write_audio(tmp_path / "recordings" / f"{name}.wav", noise)
    return tmp_path / "recordings"


def config_of(tmp_path, noises, *fitted):
    if not (tmp_path / "test").exists():
        write_clips(tmp_path / "test", 2, seed=0)
        write_clips(tmp_path / "calibration", 4, seed=1)
    config = settings(tmp_path, tmp_path / "out")
    mitigations = [restoration(tmp_path, name=f"r{i}", noises=specs) for i, specs in enumerate(fitted)]
    return dataclasses.replace(config, noises=noises, mitigations=("none", *mitigations))


def further(config):
    return further_noises(config, noise_sources(config, []), [])


def test_one_experiment_holds_restorations_of_several_noises(tmp_path, recordings):
    crowd = NoiseConfig(str(recordings / "crowd.wav"), name="people")
    fitted = ["pink", str(recordings / "wind.wav")], ["people"], [str(recordings / "crowd.wav")], None
    config = config_of(tmp_path, (crowd, "white"), *fitted)
    experiment = prepare(config, silent)
    conditions = {name: len(chain.steps[-1].maps[1].u) for name, chain in experiment.mitigations.items() if chain.steps}
    assert conditions == {"r0": 5, "r1": 3, "r2": 3, "r3": 5}  # clean, and two SNRs of each noise
    one, same = (experiment.mitigations[name].steps[-1].maps[1].u for name in ("r1", "r2"))
    np.testing.assert_array_equal(one, same)
    files = sorted(path.stem for path in (config.folder() / "mitigations").glob("*/layer1/*"))
    noises = [f"{noise}_{snr}" for noise in ("people", "pink", "white", "wind") for snr in (-5, 5)]
    assert files == sorted(["clean", *noises])


def test_a_noise_of_the_experiment_is_fitted_on_its_part_for_calibration(tmp_path, recordings):
    crowd = str(recordings / "crowd.wav")
    config = config_of(tmp_path, (crowd,), [crowd])
    sources = noise_sources(config, [])
    [source] = further_noises(config, sources, []).values()
    assert source is sources["crowd"] and not source.reaches_test(source)
    assert [s.start for s in source.calibration] == [0.0] and [s.start for s in source.test] == [0.5]


def test_recordings_that_are_tested_and_unknown_noises_are_refused(tmp_path, recordings):
    whole = NoiseConfig(str(recordings), name="places")
    tested = noise_sources(config_of(tmp_path, (whole,)), [])["places"].test[0].path
    for spec, message in (
        (str(tested), rf"mitigation r0: .*{tested.name} is fitted as part of .* and tested as part of places"),
        ("wite", r"mitigation r0: .*did you mean 'white'.*Noises of the experiment: places"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare(config_of(tmp_path, (whole,), [spec]), silent)
    link = tmp_path / "link.wav"
    link.symlink_to(tested)
    with pytest.raises(ConfigError, match="tested as part of places"):
        further(config_of(tmp_path, (whole,), [str(link)]))
    other = tmp_path / "other" / "crowd.wav"
    write_audio(other, 0.1 * np.random.default_rng(9).standard_normal(16_000))
    with pytest.raises(ConfigError, match="another noise with the name of"):
        further(config_of(tmp_path, (str(recordings / "crowd.wav"),), [str(other)]))
