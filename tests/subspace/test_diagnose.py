"""Every finding, on a calibration that has that fault, and none on a sound one."""

import jax.numpy as jnp
import numpy as np
import pytest
from subspace_arrays import calibration, statistics

from seen_jax.errors import BasisError
from seen_jax.subspace import Calibration, NoiseBasis, Selection, Statistics, diagnose

ALL = Selection(layers="all", noise_alpha=0.5)


def found(toy: Calibration, basis: NoiseBasis) -> dict:
    findings = diagnose(toy, basis)
    ranks = [("error", "warning", "info").index(f.severity) for f in findings]
    assert ranks == sorted(ranks) and len({f.code for f in findings}) == len(findings)
    return {f.code: f for f in findings}


def sound() -> Calibration:
    """Layer 2 is localised: large there, and alike in layers 0 and 1."""
    stats = statistics()
    clean, noise, noisy = (m.copy() for m in (stats.clean, stats.noise, stats.noisy))
    for m in (clean, noise, noisy):
        m[2] *= 5
        m[:2, :, :2] += 3
    return Calibration("s", Statistics(clean, noise, noisy))


def test_a_sound_calibration_has_no_findings():
    toy = sound()
    assert found(toy, toy.select(Selection(noise_alpha=0.5))) == {}


def axis_basis(*axes_by_layer: tuple[int, ...]) -> NoiseBasis:
    rank = max(1, *(len(axes) for axes in axes_by_layer))
    q = np.zeros((len(axes_by_layer), 24, rank), np.float32)
    for layer, axes in enumerate(axes_by_layer):
        q[layer, list(axes), range(len(axes))] = 1
    ranks = tuple(len(axes) for axes in axes_by_layer)
    return NoiseBasis("encoder.mlp_act", jnp.asarray(q), ranks, tuple(range(len(ranks))))


def test_empty_basis_and_empty_layers():
    toy = calibration()
    got = found(toy, axis_basis((), (), ()))
    assert got["empty-basis"].severity == "error" and got["empty-basis"].layers == (0, 1, 2)
    assert "empty-layers" not in got and "noise-not-above-clean" not in got
    got = found(toy, axis_basis((20,), (), (21, 22)))
    assert got["empty-layers"].layers == (1,) and "empty-basis" not in got
    assert "empty-layers" not in found(toy, axis_basis((20,), (), (21,)).with_layers((0, 2)))


def test_a_basis_of_semantic_directions_says_how_much():
    got = found(calibration(), axis_basis((20,), (0, 1, 2, 3), (21,)))
    finding = got["semantic-basis"]
    assert finding.layers == (1,) and finding.severity == "warning"
    clean = statistics().clean[1].astype(np.float64)
    share = (np.square(clean[:, :4]).sum(-1) / np.square(clean).sum(-1)).mean()
    assert f"up to {share:.1%} of clean energy" in finding.message
    assert f"clean activations {share / 3:.2%}" in finding.message
    assert "semantic-basis" not in found(calibration(), axis_basis((20,), (21,), (22,)))


@pytest.mark.parametrize("noisy", [True, False])
def test_noise_that_does_not_raise_see(noisy):
    toy = calibration(noisy=noisy)
    got = found(toy, axis_basis((0,), (1,), (2,)))["noise-not-above-clean"]
    assert got.severity == "error" and got.layers == (0, 1, 2)
    assert f"of {'noisy' if noisy else 'noise'} ones" in got.message
    assert "noise-not-above-clean" not in found(toy, axis_basis((20,), (21,), (22,)))


def test_too_few_clips_and_a_rank_limited_by_them():
    few = Calibration("encoder.mlp_act", statistics(n=9))
    basis = axis_basis(tuple(range(12, 20)), (12,), tuple(range(12, 19)))
    got = found(few, basis)
    assert "9 clips" in got["too-few-clips"].message and got["rank-limited"].layers == (0,)
    enough = found(Calibration("encoder.mlp_act", statistics(n=10)), basis)
    assert "too-few-clips" not in enough and "rank-limited" not in enough


def test_the_same_clips_on_both_sides():
    stats = statistics()
    basis = axis_basis((20,), (21,), (22,))
    same = Calibration("encoder.mlp_act", Statistics(stats.clean, stats.clean * np.float32(1.0001)))
    assert found(same, basis)["same-data"].severity == "error"
    silent = Statistics(np.zeros_like(stats.clean), np.zeros_like(stats.clean))
    assert "same-data" in found(Calibration("encoder.mlp_act", silent), basis)
    hashes = calibration(data={"clean": ["a", "b"], "noise": ["c", "b"]})
    assert "1 data hashes" in found(hashes, basis)["same-data"].message
    assert "same-data" not in found(calibration(data={"clean": ["a"], "noise": ["c"]}), basis)


def test_no_layer_found():
    stats = statistics()
    flat = Statistics(*(np.repeat(m[:1], 3, axis=0) for m in (stats.clean, stats.noise)))
    got = found(Calibration("encoder.mlp_act", flat), axis_basis((20,), (21,), (22,)))
    assert got["no-layer-found"].severity == "info"


def test_a_basis_of_another_site_is_refused():
    with pytest.raises(BasisError, match="site s"):
        diagnose(calibration(), sound().select())


def test_copies_of_clips():
    toy = sound()
    names = ["a", "b", "a", "a", "b", "c", *map(str, range(toy.source.shape[1] - 6))]
    copied = Calibration("s", toy.source, {"data": {"clean": names, "noise": [f"n{i}" for i in range(len(names))]}})
    finding = found(copied, copied.select(Selection(noise_alpha=0.5)))["repeated-clips"]
    assert finding.severity == "warning" and finding.message.startswith(f"3 of {len(names)} clean clips are copies")
