"""A restoration with a mixture of maps per frame: the edit, windows, padding, and noise that begins late."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluate_models import random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from seen_jax.audio import NoiseSource, mix_at_snr
from seen_jax.data.items import load_clips
from seen_jax.errors import ConfigError
from seen_jax.mitigations.base import Fitting
from seen_jax.mitigations.restoration import Restoration
from seen_jax.mitigations.ridge import Maps, describe, describe_windows, restoration_edit
from seen_jax.models.edits import Edit, visit, visit_dense
from seen_jax.models.generate_edits import generate_edits
from seen_jax.models.linear import Dense
from seen_jax.models.processor import Request
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_RESID, Taps
from seen_jax.progress import silent
from seen_jax.subspace import Selection
from seen_jax.subspace.formulas import low_rank_edit, mixed_low_rank_edit

quick = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**16)


def maps_of(rng, conditions=3, width=6, rank=4):
    shapes = (conditions, width, rank), (width, rank), (conditions, width)
    maps = Maps(*(rng.standard_normal(shape).astype(np.float32) / 3 for shape in shapes))
    maps.u[0], maps.bias[0] = 0, 0  # clean
    return maps


def mixtures(rng, *shape):
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)


def at_layer(edit, layer):
    return jax.tree.map(lambda x: x[layer], edit)


@quick
@given(seeds)
def test_where_all_frames_have_the_same_weights_it_is_the_edit_of_clips(seed):
    rng = np.random.default_rng(seed)
    maps, weights = maps_of(rng), mixtures(rng, 2, 3)
    a, valid = jnp.asarray(rng.standard_normal((2, 5, 6)), jnp.float32), jnp.ones((2, 5), bool)
    of_clips = restoration_edit({1: maps}, weights, layers=2)
    of_frames = restoration_edit({1: maps}, np.repeat(weights[:, None], 5, axis=1), layers=2)
    run = lambda edit, layer: visit("s", a, {"s": at_layer(edit, layer)}, Taps(), valid)[0]
    np.testing.assert_allclose(run(of_frames, 1), run(of_clips, 1), atol=1e-6)
    np.testing.assert_array_equal(run(of_frames, 0), a)


@quick
@given(seeds)
def test_every_frame_is_edited_by_its_own_mixture_and_a_clean_one_stays(seed):
    rng = np.random.default_rng(seed)
    maps, weights = maps_of(rng), mixtures(rng, 2, 5, 3)
    weights[0, 1] = 1, 0, 0
    a = rng.standard_normal((2, 5, 6)).astype(np.float32)
    u, v, biases, a = map(jnp.asarray, (-maps.u, maps.v, maps.bias, a))
    edited = np.asarray(mixed_low_rank_edit(a, u, v, 1.0, biases, jnp.asarray(weights)))
    np.testing.assert_array_equal(edited[0, 1], a[0, 1])
    for clip, frame in np.ndindex(2, 5):
        mixed, bias = (jnp.tensordot(weights[clip, frame], x, 1) for x in (u, biases))
        alone = low_rank_edit(a[clip, frame], mixed, v, 1.0, bias)
        np.testing.assert_allclose(edited[clip, frame], alone, atol=1e-6)


def test_before_a_linear_layer_and_without_compiling_again():
    rng = np.random.default_rng(0)
    maps, valid = maps_of(rng), jnp.ones((2, 5), bool)
    a = jnp.asarray(rng.standard_normal((2, 5, 6)), jnp.float32)
    dense = Dense(3)
    variables = dense.init(jax.random.key(0), a)
    bound = dense.bind(variables)

    @jax.jit
    def run(edit):
        y = visit_dense("s", a, {"s": edit}, Taps(), valid, bound)[0]
        return y, bound(visit("s", a, {"s": edit}, Taps(), valid)[0])

    outputs = []
    for _ in range(2):
        edit = at_layer(restoration_edit({0: maps}, mixtures(rng, 2, 5, 3), layers=1), 0)
        y, expected = run(edit)
        np.testing.assert_allclose(y, expected, atol=1e-6)
        outputs.append(y)
    assert run._cache_size() == 1 and not np.allclose(*outputs)


@quick
@given(seeds, st.integers(0, 12))
def test_a_window_is_described_as_a_clip_cut_to_it(seed, reach):
    rng = np.random.default_rng(seed)
    a = (3 + rng.standard_normal((2, 2, 12, 4))).astype(np.float32)
    counts = rng.integers(3, 12, 2)
    mask = np.arange(12) < counts[:, None]
    a[:, ~mask] = np.nan
    described = np.asarray(describe_windows(jnp.asarray(a), jnp.asarray(mask), reach))
    for clip, n in enumerate(counts):
        for frame in range(n):
            cut = a[:, clip : clip + 1, max(0, frame - reach) : min(frame + reach + 1, n)]
            whole = np.asarray(describe(jnp.asarray(cut), jnp.ones(cut.shape[1:3], bool)))[0]
            parts = described[clip, frame].reshape(2, 2, 4), whole.reshape(2, 2, 4)
            for of_window, of_cut, change in zip(*(p.swapaxes(0, 1) for p in parts), (np.asarray, np.exp), strict=True):
                np.testing.assert_allclose(change(of_window), change(of_cut), atol=1e-3)
    wider = np.pad(a, ((0, 0), (0, 0), (0, 7), (0, 0)), constant_values=np.nan)
    padded = describe_windows(jnp.asarray(wider), jnp.asarray(np.pad(mask, ((0, 0), (0, 7)))), reach)
    np.testing.assert_allclose(np.asarray(padded)[:, :12][mask], described[mask], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    model, waves = random_model(), [item.wave for item in load_clips("calibration")[:6]]
    fitting = Fitting(
        model, waves, {"white": NoiseSource("white")}, ("white",), lambda *_: None, lambda *_: waves, ENCODER_MLP_ACT,
        Selection(), 1.0, 0, 4, tmp_path_factory.mktemp("fitted"), lambda *_: None, silent,
    )  # fmt: skip
    return Restoration(clips=6, snrs=(0.0,), layers=(0, 1), window=0.3, penalty=1e-4).fit(fitting)


def weights_and_states(fitted, waves):
    """Of each clip, at its real positions: the weights of its edit, and the last layer under it."""
    audio, _ = fitted.model.processor.audio(waves)
    edit = fitted.edits(audio, ["white"])["white"]
    states, _, real = (np.asarray(x) for x in fitted.encoded(audio, edit, -1))
    weights = np.asarray(edit[ENCODER_RESID].weights[0])
    return [(weights[i][real[i]], states[i][real[i]]) for i in range(len(waves))]


def test_padding_and_batch_size_change_nothing(fitted):
    waves = [item.wave for item in load_clips("validation")[:3]]
    waves[1] = np.tile(waves[1], 2)
    together = weights_and_states(fitted, waves)
    for wave, batched in zip(waves, together, strict=True):
        [alone] = weights_and_states(fitted, [wave])
        for x, y in zip(alone, batched, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-4)


def test_the_mixture_follows_noise_that_begins_in_the_middle(fitted):
    wave = np.tile(load_clips("calibration")[0].wave, 2)
    noise = NoiseSource("white").clip(1, len(wave), 0, "calibration")
    late = np.where(np.arange(len(wave)) < len(wave) // 2, wave, mix_at_snr(wave, noise, 0.0).audio).astype(np.float32)
    [(weights, _)] = weights_and_states(fitted, [late])
    third, clean = len(weights) // 3, weights[:, 0]
    assert clean[:third].mean() > 0.5 > clean[-third:].mean()


def test_variants_of_other_numbers_of_maps_and_of_other_ranks_answer_as_alone(fitted):
    model, rng = fitted.model, np.random.default_rng(0)
    batch = model.processor.prepare([Request([item.wave], item.prompt) for item in load_clips("validation")[:2]])
    depth, width = model.config.site_shape(ENCODER_RESID)
    positions = fitted.encoded(batch.audio, {}, 0)[2].shape
    sizes = [(3, 4, True), (5, 4, True), (3, 8, False), (3, 4, False)]  # maps, rank, per frame
    variants = []
    for count, rank, frames in sizes:
        weights = mixtures(rng, *(positions if frames else positions[:1]), count)
        variants.append({ENCODER_RESID: restoration_edit({1: maps_of(rng, count, width, rank)}, weights, depth)})
    together = generate_edits(model.lalm, model.variables, batch, variants)
    for edits, of_variant in zip(variants, together, strict=True):
        [alone] = generate_edits(model.lalm, model.variables, batch, [edits])
        np.testing.assert_array_equal(of_variant.tokens, alone.tokens)
        np.testing.assert_allclose(of_variant.logits, alone.logits, atol=1e-4)


def test_a_window_must_be_positive():
    with pytest.raises(ConfigError, match="positive seconds, not 0"):
        Restoration(window=0)


def test_an_edit_of_a_batch_shows_its_weights():
    edit = restoration_edit({0: maps_of(np.random.default_rng(0))}, np.ones((2, 5, 3)) / 3, layers=1)
    assert isinstance(edit, Edit) and "weights=[1, 2, 5, 3]" in repr(edit)
