"""Patching: clean activations in a noisy run, for every family and every site."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import FOLDER
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_omni import hiss

import seen_jax
from seen_jax.edits import share_of
from seen_jax.errors import AudioError, ConfigError
from seen_jax.models.generate_edits import generate_edits
from seen_jax.models.sites import DECODER_RESID, DECODER_SITES, ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR, SITES
from seen_jax.patching import make_patch
from seen_jax.registry import FAMILIES
from seen_jax.subspace.formulas import patched

SHORT = seen_jax.Decoding(max_new_tokens=3)


def pairs_of(seconds=(0.31, 1.0)):
    """Clips of different lengths without and with noise."""
    clean = [hiss(s, seed) for seed, s in enumerate(seconds)]
    return clean, [x + 2 * hiss(s, 9 + seed) for seed, (x, s) in enumerate(zip(clean, seconds, strict=True))]


def logits_of(results) -> np.ndarray:
    return np.stack([result.logits for result in results])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_activations_of_the_encoder_are_the_whole_clean_answer(name):
    """Whatever padding a family reads; and activations of the run itself change nothing."""
    if name == "voxtral":
        pytest.importorskip("mistral_common", reason="Voxtral's tokenizer needs the `voxtral` extra")
    model = seen_jax.load(FOLDER / name)
    clean, noisy = pairs_of()
    run = lambda a, b, site, **more: seen_jax.patch(model, a, b, site, prompt="which color ?", decoding=SHORT, **more)
    expected, unpatched = (run(x, x, ENCODER_RESID) for x in (clean, noisy))
    assert np.abs(logits_of(expected) - logits_of(unpatched)).max() > 1e-3, "the noise does nothing"
    answers = seen_jax.generate(model, clean, "which color ?", decoding=SHORT)
    assert [p.tokens for p in expected] == [a.tokens for a in answers]
    last = model.config.site_shape(ENCODER_RESID)[0] - 1
    for site, layers in ((ENCODER_RESID, last), (PROJECTOR, "all"), (DECODER_RESID, "all")):
        results = run(clean, noisy, site, layers=layers)
        np.testing.assert_allclose(logits_of(results), logits_of(expected), atol=1e-4, err_msg=site)
        if site != DECODER_RESID:  # its first layer reads the noisy audio tokens when it generates
            assert [p.tokens for p in results] == [p.tokens for p in expected]


# --- properties ---


@pytest.fixture(scope="module")
def tiny():
    return seen_jax.load(FOLDER / "qwen2_5_omni")


@pytest.fixture(scope="module")
def clips():
    return pairs_of()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.integers(0, 5))
def test_inside_and_outside_of_a_subspace_add_up_to_the_whole(seed, rank):
    rng = np.random.default_rng(seed)
    a, c = jnp.asarray(rng.standard_normal((2, 3, 5)), jnp.float32)
    q = jnp.asarray(np.linalg.qr(rng.standard_normal((5, 5)))[0][:, :rank], jnp.float32)
    inside, outside = (np.asarray(patched(a, c, q, *share)) for share in ((0.0, 1.0), (1.0, -1.0)))
    np.testing.assert_allclose((inside - a) + (outside - a), c - a, atol=1e-5)
    np.testing.assert_allclose(inside @ q, c @ q, atol=1e-5)
    np.testing.assert_allclose(outside @ q, a @ q, atol=1e-5)
    assert np.array_equal(patched(a, c, q, 1.0, 0.0), c)
    assert np.array_equal(patched(a, a, q, 1.0, -1.0), a)


@pytest.mark.parametrize("site", SITES)
def test_own_activations_change_nothing_and_clean_ones_do(tiny, clips, site):
    """Also inside all directions (the whole), outside of them (nothing), and clip by clip (no padding)."""
    clean, noisy = clips
    run = lambda source, **more: logits_of(seen_jax.patch(tiny, source, noisy, site, decoding=SHORT, **more))
    plain, whole, everything = run(noisy), run(clean), np.eye(tiny.config.site_shape(site)[1])
    np.testing.assert_allclose(run(clean, subspace=everything), whole, atol=1e-4)
    np.testing.assert_allclose(run(clean, subspace=everything, outside=True), plain, atol=1e-4)
    alone = [seen_jax.patch(tiny, *pair, site, decoding=SHORT) for pair in zip(clean, noisy, strict=True)]
    np.testing.assert_allclose(logits_of(alone), whole, atol=1e-4)
    assert np.abs(whole - plain).max() > 1e-3
    first = run(clean, layers=[0], subspace=everything[:, 4:8])
    assert np.abs(first - plain).max() > 1e-5 and np.abs(first - whole).max() > 1e-4
    if site not in DECODER_SITES:
        np.testing.assert_allclose(run(clean, span=(0.0, 9.0)), whole, atol=1e-4)
    assert np.abs(run(clean, span=(0.0, 0.1)) - whole).max() > 1e-4


def test_what_cannot_be_patched_is_refused(tiny, clips):
    clean, noisy = clips
    patch = lambda *args, **more: seen_jax.patch(tiny, *args, **more)
    with pytest.raises(AudioError, match=r"clip 0: .* 31 frames and 100 frames: patching needs equal lengths"):
        patch(clean, noisy[::-1], PROJECTOR)
    with pytest.raises(ConfigError, match="2 clean clips for 1 noisy ones"):
        patch(clean, noisy[:1], PROJECTOR)
    asked = seen_jax.Request([clean[0]], "name the music")
    with pytest.raises(ConfigError, match="ask different questions"):
        patch(asked, noisy[0], PROJECTOR)
    with pytest.raises(ConfigError, match="outside of the whole space"):
        patch(clean[0], noisy[0], PROJECTOR, outside=True)
    with pytest.raises(ConfigError, match=r"lies between 5\.0 and 6\.0 s"):
        patch(clean[0], noisy[0], PROJECTOR, span=(5.0, 6.0))
    with pytest.raises(ConfigError, match="greedy"):
        patch(clean[0], noisy[0], PROJECTOR, decoding=seen_jax.Decoding(temperature=1.0))
    with pytest.raises(TypeError, match="no argument 'layer'"):
        patch(clean[0], noisy[0], PROJECTOR, layer=1)


def test_a_patch_belongs_to_its_batch(tiny, clips):
    edits = {ENCODER_MLP_ACT: make_patch(jnp.zeros((3, 1, 4, 8)), share_of(tiny, ENCODER_MLP_ACT))}
    with pytest.raises(ConfigError, match=r"belongs to the batch .* `seen_jax\.patch`"):
        seen_jax.run(tiny, clips[0][0], edits=edits)
    batch = tiny.processor.prepare([seen_jax.Request([clips[0][0]], "name the music")])
    with pytest.raises(ConfigError, match="a patch is answered by itself"):
        generate_edits(tiny.lalm, tiny.variables, batch, [edits, {}])
