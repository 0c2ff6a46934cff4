"""Restoration maps: least squares by other means, the properties of the cut, the gate, and a whole pass."""

import jax.numpy as jnp
import numpy as np
import pytest
from evaluate_models import random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from seen_jax.audio import NoiseSource
from seen_jax.audio.mix import mix_at_snr
from seen_jax.data.items import load_clips
from seen_jax.errors import ConfigError
from seen_jax.mitigations.base import Fitting
from seen_jax.mitigations.chain import Chain, make_chain
from seen_jax.mitigations.restoration import FittedRestoration, Restoration, load_pairs
from seen_jax.mitigations.ridge import (
    describe,
    fit_gate,
    fit_maps,
    frame_sums,
    restoration_edit,
    ridge,
)
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_RESID
from seen_jax.progress import silent
from seen_jax.subspace import Selection, low_rank_edit

quick = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**16)


def pairs(seed, clips=3, frames=20, width=5):
    """Noisy and clean frames, and a mask with real frames in every clip; padding holds NaN."""
    rng = np.random.default_rng(seed)
    clean = rng.standard_normal((clips, frames, width)).astype(np.float32)
    noisy = clean @ rng.standard_normal((width, width)).astype(np.float32)
    noisy = (noisy + 0.3 * rng.standard_normal(noisy.shape) + 1).astype(np.float32)
    mask = np.arange(frames) < rng.integers(8, frames, clips)[:, None]
    clean[~mask], noisy[~mask] = np.nan, np.nan
    return noisy, clean, mask


def restored(maps, noisy, condition):
    return noisy + noisy @ maps.u[condition] @ maps.v.T + maps.bias[condition]


@quick
@given(seeds)
def test_almost_unpenalised_the_map_is_scipys_least_squares(seed):
    noisy, clean, mask = pairs(seed)
    a, b = ridge(frame_sums(noisy, clean, mask), 1e-9)
    z = np.c_[noisy[mask], np.ones(mask.sum())].astype(np.float64)
    expected = linalg.lstsq(z, (clean - noisy)[mask])[0]
    np.testing.assert_allclose(np.vstack([a, b]), expected, atol=2e-4)


@quick
@given(seeds, st.sampled_from([1e-3, 0.1, 1.0]))
def test_the_penalty_is_rows_added_to_the_least_squares(seed, penalty):
    noisy, clean, mask = pairs(seed)
    x = noisy[mask].astype(np.float64)
    weight = penalty * np.square(x).sum() / x.shape[1]
    rows = np.c_[np.sqrt(weight) * np.eye(x.shape[1]), np.zeros(x.shape[1])]
    z = np.r_[np.c_[x, np.ones(len(x))], rows]
    target = np.r_[clean[mask] - x, np.zeros((x.shape[1], x.shape[1]))]
    a, b = ridge(frame_sums(noisy, clean, mask), penalty)
    np.testing.assert_allclose(np.vstack([a, b]), linalg.lstsq(z, target)[0], atol=1e-6)


@quick
@given(seeds)
def test_without_noise_nothing_changes(seed):
    _, clean, mask = pairs(seed)
    maps = fit_maps([frame_sums(clean, clean, mask)])
    assert not maps.u.any() and not maps.bias.any()


@quick
@given(seeds)
def test_sums_of_batches_add_up(seed):
    noisy, clean, mask = pairs(seed)
    whole = frame_sums(noisy, clean, mask)
    parts = frame_sums(noisy[:1], clean[:1], mask[:1]) + frame_sums(noisy[1:], clean[1:], mask[1:])
    np.testing.assert_allclose(parts.gram, whole.gram, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(parts.cross, whole.cross, rtol=1e-9, atol=1e-9)


@quick
@given(seeds, st.integers(1, 5))
def test_the_cut_has_its_rank_and_keeps_the_leading_fitted_changes(seed, rank):
    sums = [None, frame_sums(*pairs(seed)), frame_sums(*pairs(seed + 1))]
    full, cut = fit_maps(sums, 0.1), fit_maps(sums, 0.1, rank=rank)
    assert cut.u.shape == (3, 5, rank) and not cut.u[0].any() and not cut.bias[0].any()
    np.testing.assert_allclose(cut.v.T @ cut.v, np.eye(rank), atol=1e-5)
    changes = np.concatenate(
        [p[0][p[2]] @ full.u[k] @ full.v.T for k, p in enumerate((pairs(seed), pairs(seed + 1)), 1)]
    )
    lost = changes - changes @ cut.v @ cut.v.T
    least = np.square(np.linalg.svd(changes, compute_uv=False)[rank:]).sum()
    assert np.square(lost).sum() == pytest.approx(least, rel=1e-3, abs=1e-3)
    if rank == 5:
        for k in (1, 2):
            np.testing.assert_allclose(cut.u[k] @ cut.v.T, ridge(sums[k], 0.1)[0], atol=1e-5)


def test_a_strength_scales_the_change_and_the_error_falls_up_to_one():
    noisy, clean, mask = pairs(0)
    sums = frame_sums(noisy, clean, mask)
    error = lambda s: np.square(restored(fit_maps([sums], 1e-6, s), noisy, 0) - clean)[mask].sum()
    whole, half = fit_maps([sums]), fit_maps([sums], strength=0.5)
    np.testing.assert_allclose(half.u @ half.v.T, 0.5 * whole.u @ whole.v.T, atol=1e-6)
    np.testing.assert_allclose(half.bias, 0.5 * whole.bias, atol=1e-6)
    assert error(1.0) < error(0.5) < error(0.0)


@quick
@given(seeds)
def test_the_gate_is_the_posterior_of_gaussians(seed):
    from scipy.special import softmax
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(seed)
    condition = np.repeat(np.arange(3), 40)
    x = (rng.standard_normal((3, 4)) * 3)[condition] + rng.standard_normal((120, 4)) * [1, 2, 0.5, 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seen_jax.mitigations.ridge.SHRINKAGE", 1e-9)
        weights = fit_gate(x, condition)(x)
    means = np.stack([x[condition == k].mean(0) for k in range(3)])
    rest = x - means[condition]
    logs = np.stack([multivariate_normal(m, rest.T @ rest / 120).logpdf(x) for m in means], axis=1)
    np.testing.assert_allclose(weights, softmax(logs, axis=1), atol=1e-5)


def test_a_channel_that_never_varies_and_a_high_temperature():
    condition = np.arange(20) % 2
    x = np.c_[np.ones(20), condition + np.linspace(0, 0.1, 20)]
    sharp, soft = (fit_gate(x, condition, temperature=t)(x) for t in (1.0, 1e9))
    assert (sharp.argmax(1) == condition).all()
    np.testing.assert_allclose(soft, 0.5, atol=1e-3)


def test_descriptors_are_means_and_spreads_of_real_frames():
    noisy, _, mask = pairs(3)
    described = describe(jnp.stack([noisy, 2 * noisy]), jnp.asarray(mask))
    own = noisy[1][mask[1]]
    expected = [own.mean(0), np.log(own.std(0) + 1e-3), 2 * own.mean(0), np.log(2 * own.std(0) + 1e-3)]
    np.testing.assert_allclose(described[1], np.concatenate(expected), rtol=1e-4, atol=1e-5)


def test_the_edit_restores_each_clip_by_its_own_mixture_at_one_layer():
    noisy, clean, mask = pairs(5)
    noisy = np.nan_to_num(noisy)
    maps = fit_maps([None, frame_sums(noisy, clean, mask), frame_sums(*pairs(6))])
    weights = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0.25, 0.75]])
    edit = restoration_edit({1: maps}, weights, layers=3)
    bias = jnp.broadcast_to(edit.bias, (3, *noisy.shape))
    layers = [low_rank_edit(jnp.asarray(noisy), edit.u[i], edit.v[i], edit.scale[i], bias[i]) for i in range(3)]
    np.testing.assert_array_equal(layers[0], noisy)
    np.testing.assert_array_equal(layers[2], noisy)
    np.testing.assert_array_equal(layers[1][0], noisy[0])  # clean: bit for bit
    np.testing.assert_allclose(layers[1][1], restored(maps, noisy[1], 1), atol=1e-4)
    mixed = 0.25 * restored(maps, noisy[2], 1) + 0.75 * restored(maps, noisy[2], 2)
    np.testing.assert_allclose(layers[1][2], mixed, atol=1e-4)


def test_a_pass_restores_one_clip_and_leaves_the_clean_one():
    from seen_jax.models.encoder import within
    from seen_jax.models.model import encode
    from seen_jax.models.processor import Request
    from seen_jax.models.sites import ENCODER_RESID, Taps

    model = random_model()
    batch = model.processor.prepare([Request([item.wave], item.prompt) for item in load_clips("validation")[::8][:2]])
    lalm = model.tapped(Taps((ENCODER_RESID,), "full"))
    run = lambda edits: np.asarray(encode(lalm, model.variables, batch.audio, edits).records[ENCODER_RESID]["tap"])
    plain = run({})
    mask = within(model.config.encoder, np.asarray(batch.frames), batch.features.shape[1])
    target = plain[1] + 1
    maps = fit_maps([None, frame_sums(plain[1], target, mask)], 1e-9)
    edit = restoration_edit({1: maps}, np.eye(2), layers=len(plain))
    restored_ = run({ENCODER_RESID: edit})
    np.testing.assert_array_equal(restored_[0], plain[0])
    np.testing.assert_array_equal(restored_[1, 0][mask[0]], plain[1, 0][mask[0]])
    np.testing.assert_allclose(restored_[1, 1][mask[1]], target[1][mask[1]], atol=1e-3)
    assert np.abs(restored_[2, 1] - plain[2, 1])[mask[1]].max() > 1e-3  # it flows on


def fitting_of(folder, noises, further=None):
    """Four clips of calibration, a random model and some noises, all of them calibrated."""
    model, waves = random_model(), [item.wave for item in load_clips("calibration")[:4]]
    return Fitting(
        model, waves, noises, (*noises,), lambda *_: None, lambda *_: waves, ENCODER_MLP_ACT, Selection(), 1.0, 0, 4,
        folder, lambda *_: None, silent, further or {},
    )  # fmt: skip


SMALL = {"clips": 4, "snrs": (0.0,), "strength": 1.0, "penalty": 1e-6}


def test_its_noises_are_those_that_it_names_and_their_files_are_shared(tmp_path):
    white, pink, hum = map(NoiseSource, ("white", "pink", "hum"))
    fitting = fitting_of(tmp_path, {"white": white, "pink": pink}, {"hum": hum})
    both = Restoration(**SMALL).fit(fitting)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert [path.stem for path in files] == ["clean", "pink_0", "white_0"]
    named = Restoration(noises=("white", "pink"), **SMALL).fit(fitting)
    np.testing.assert_array_equal(named.maps[0].u, both.maps[0].u)
    white_alone = Restoration(noises=("white",), **SMALL).fit(fitting)
    alone = Restoration(**SMALL).fit(fitting_of(tmp_path / "alone", {"white": white}))
    np.testing.assert_array_equal(white_alone.maps[0].u, alone.maps[0].u)
    assert sorted(tmp_path.glob("restoration*/*/*")) == files  # nothing was heard again
    with_hum = Restoration(noises=("white", "hum"), layers=(0, 1), **SMALL).fit(fitting)
    assert with_hum.maps[0].u.shape[0] == 3
    first, second = (sorted(tmp_path.glob(f"restoration*/layer{layer}/hum_0*")) for layer in (0, 1))
    assert [path.parent for path in first] == [files[0].parent] and len(second) == 1
    Restoration(noises=("white", "pink"), layers=(0, 1), **SMALL).fit(fitting)  # other maps below layer 1
    assert len(sorted(tmp_path.glob("restoration*/layer1/white_0*"))) == 2


def test_no_file_is_shared_after_another_denoiser(tmp_path):
    fitting = fitting_of(tmp_path, {"white": NoiseSource("white")})
    for entry in ("wiener+restoration", "spectral_subtraction+restoration"):
        chain = make_chain(entry)
        Chain("x", (chain.steps[0], Restoration(**SMALL))).fit(fitting)
    assert len(sorted(tmp_path.rglob("white_0.safetensors"))) == 2


def test_layers_are_fitted_to_what_earlier_ones_restored(tmp_path):
    fitting = fitting_of(tmp_path, {"white": NoiseSource("white")})
    model, waves = fitting.model, fitting.clips
    both = Restoration(layers=(1, 0), **SMALL).fit(fitting)
    again = Restoration(layers=(0, -1), **SMALL).fit(fitting)  # layer 0 from its files
    assert sorted(both.maps) == [0, 1] and sorted(again.maps) == [0, model.config.encoder.layers - 1]
    np.testing.assert_array_equal(both.maps[0].u, again.maps[0].u)

    noise = [NoiseSource("white").clip(i, len(w), 0, "calibration") for i, w in enumerate(waves)]
    noisy, _ = model.processor.audio([mix_at_snr(w, n, 0.0).audio for w, n in zip(waves, noise, strict=True)])
    first = FittedRestoration(model, {0: both.maps[0]}, both.gate, both.gate_layers)
    edited, _, real = (np.asarray(x) for x in first.encoded(noisy, first.edits(noisy, ["white"])["white"], 1))
    frames = np.concatenate([edited[real], np.ones((int(real.sum()), 1))], axis=1)
    [kept] = [load_pairs(path).sums.gram for path in tmp_path.glob("*/layer1/white_0.safetensors")]
    np.testing.assert_allclose(kept, frames.T @ frames, rtol=1e-3, atol=1e-2)
    edited_layers = both.edits(noisy, ["white"])["white"][ENCODER_RESID].scale.tolist()
    assert edited_layers == [1.0, 1.0, *[0.0] * (model.config.encoder.layers - 2)]


NOISY, CLEAN, MASK = pairs(0)
SUMS = frame_sums(NOISY, CLEAN, MASK)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frame_sums(NOISY, CLEAN, np.ones_like(MASK)), "NaN"),
        (lambda: Restoration(noises=()), "a noise or more, each only once"),
        (lambda: Restoration(noises=("hum", "hum")), "a noise or more, each only once"),
        (lambda: fit_maps([SUMS], rank=6), "from 1 to 5, not 6"),
    ],
)
def test_bad_inputs_are_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
