"""Weights in 8 and 4 bits: every family computes what the float32 model of the same numbers does."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_bits import dequantized, logits_error
from flax.traverse_util import flatten_dict
from golden_cases import BACKBONES, FOLDER, SECONDS, STRENGTH, golden_requests
from hypothesis import given, settings
from hypothesis import strategies as st

from seen_jax.errors import ConfigError
from seen_jax.models.checkpoint import abstract_params, load_params, parameter_shapes, read_config
from seen_jax.models.edits import Edit
from seen_jax.models.family import published_config
from seen_jax.models.generate import Decoding
from seen_jax.models.generate_edits import generate_edits
from seen_jax.models.lalm import Lalm
from seen_jax.models.load import load
from seen_jax.models.model import forward
from seen_jax.models.quantized import WEIGHTS, Bits, dequantize, is_quantized, quantize, scale_path
from seen_jax.models.sites import SITES, Taps
from seen_jax.registry import FAMILIES

EXACT = 1e-4  # beside the float32 model of the same numbers: only the order of roundings differs
# Beside the original's float32 logits: root mean square as a share of their standard deviation. Half a step is 1/254
# (int8) or 1/14 (int4) of the largest number of a channel or group, about 1 % or 15 % of the spread of its numbers; the
# errors of the layers add up at random.
TOLERANCE = {"int8": 0.05, "int8-all": 0.05, "int4": 0.6}
CASES = [*(FOLDER / name for name in FAMILIES), *sorted(BACKBONES.iterdir())]


@pytest.fixture(scope="module", params=CASES, ids=lambda path: path.name)
def folder(request):
    if request.param.name == "voxtral":
        pytest.importorskip("mistral_common", reason="Voxtral's tokenizer needs the `voxtral` extra")
    return request.param


@pytest.fixture(scope="module")
def runs(folder):
    """(model, strength of SEEN at every site) -> a pass over the golden questions with all taps; and the model."""
    model = load(folder, weights="int8-all")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the clip lasts|qwen3_asr reads a user's audio")
        batch = model.processor.prepare(golden_requests(model.processor.family))
    figures = np.load(folder / "reference.npz")
    bases = {site: jnp.asarray(figures[f"q/{site}"]) for site in SITES}

    def run(model, strength):
        edits = {site: Edit(u=q, scale=jnp.full(len(q), strength)) for site, q in bases.items()}
        out = forward(model.tapped(Taps(SITES)), model.variables, batch, edits)
        rows = [np.asarray(row[: int(n)]) for row, n in zip(out.logits, batch.lengths, strict=True)]
        return rows, out

    return run, model, figures


def test_parity_with_the_float32_model_of_the_same_numbers(runs):
    """With taps and edits at all sites; in the encoder's MLP the edit is folded into the next map."""
    run, model, _ = runs
    (ours, out), (theirs, expected) = run(model, STRENGTH), run(dequantized(model), STRENGTH)
    np.testing.assert_allclose(np.concatenate(ours), np.concatenate(theirs), atol=EXACT, rtol=0)
    for site in SITES:
        np.testing.assert_allclose(out.taps[site], expected.taps[site], atol=EXACT, rtol=0, err_msg=site)
        np.testing.assert_allclose(out.see[site].after, expected.see[site].after, atol=EXACT, rtol=0, err_msg=site)


def test_parity_with_the_original_within_the_tolerance_of_8_bits(runs):
    run, model, figures = runs
    logits = np.stack([row[-4:] for row in run(model, 0.0)[0]])
    expected = np.stack([figures[f"{i}/logits"] for i in range(len(SECONDS))])
    error = np.sqrt(np.square(logits - expected).mean()) / expected.std()
    assert 1e-4 < error < TOLERANCE["int8-all"], error


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni"])
def test_the_decoder_alone_in_few_bits(family, weights):
    model = load(FOLDER / family, weights=weights)
    plain = dequantized(model)
    batch = model.processor.prepare(golden_requests(model.processor.family))
    variants = [{}, {SITES[3]: Edit(u=random_directions(model, SITES[3]), scale=jnp.ones(model.config.decoder.layers))}]
    valid = (np.arange(batch.tokens.shape[1]) < np.asarray(batch.lengths)[:, None])[..., None]
    for edits in variants:
        ours, theirs = (forward(m.lalm, m.variables, batch, edits) for m in (model, plain))
        np.testing.assert_allclose(ours.logits * valid, theirs.logits * valid, atol=EXACT, rtol=0)
    of_both = [
        generate_edits(m.lalm, m.variables, batch, [variants[1], variants[1]], Decoding(8)) for m in (model, plain)
    ]
    assert np.array_equal(of_both[0][1].tokens, of_both[1][0].tokens)
    exact = load(FOLDER / family).variables["params"]["encoder"]
    assert jax.tree.all(jax.tree.map(np.array_equal, model.variables["params"]["encoder"], exact))
    [(_, error)] = logits_error(FOLDER / family, {weights: {"weights": weights}}).values()
    assert 1e-4 < error < TOLERANCE[weights], error


def random_directions(model, site) -> jax.Array:
    layers, width = model.config.site_shape(site)
    return jnp.linalg.qr(jax.random.normal(jax.random.key(0), (layers, width, 2)))[0]


@pytest.mark.parametrize("weights", [name for name in WEIGHTS if name])
def test_what_is_loaded_is_what_shapes_say(weights):
    folder = FOLDER / "qwen2_5_omni"
    config, family = read_config(folder)
    kept = abstract_params(Lalm(config, dtype=jnp.bfloat16, weights=weights))
    loaded = flatten_dict(load_params(folder, config, family, jnp.bfloat16, None, weights))
    assert {p: (x.shape, x.dtype) for p, x in loaded.items()} == {p: (x.shape, x.dtype) for p, x in kept.items()}
    integers = {path for path in loaded if is_quantized(loaded[path])}
    assert {path[0] for path in integers} == ({"encoder", "decoder"} if weights == "int8-all" else {"decoder"})
    assert {loaded[scale_path(path)].dtype for path in integers} == {np.dtype("float32")}
    others = loaded.keys() - integers - {scale_path(path) for path in integers}
    assert {loaded[path].dtype for path in others} == {np.dtype(jnp.bfloat16)}
    assert parameter_shapes(config).keys() == loaded.keys() - {scale_path(path) for path in integers}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_large_matrix_of_a_published_decoder_is_quantised(family):
    config = published_config(FAMILIES[family])
    small = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, layers=2))
    kept = abstract_params(Lalm(small, dtype=jnp.bfloat16, weights="int8"))
    left = [path for path, x in kept.items() if path[0] == "decoder" and x.dtype == jnp.bfloat16 and x.size > 1e6]
    assert not left


@settings(deadline=None)
@given(st.integers(1, 5), st.sampled_from([1, 2, 3]), st.integers(0, 99), st.sampled_from(["int8", "int4"]))
def test_quantising_rounds_to_the_nearest_step(out, groups, seed, dtype):
    rows = np.random.default_rng(seed).standard_normal((out, 4 * groups)).astype(np.float32)
    rows[0] *= seed % 3  # some groups of zeros
    integers, scale = quantize(rows, jnp.dtype(dtype), groups)
    again = np.asarray(dequantize(jnp.asarray(integers).T, jnp.asarray(scale).T, jnp.float32)).T
    step = np.repeat(scale, 4, axis=1)
    assert (np.abs(again - rows) <= 0.5001 * step).all()
    assert np.allclose(np.abs(again).reshape(out, groups, 4).max(-1), np.abs(rows).reshape(out, groups, 4).max(-1))
    again_integers, _ = quantize(again, jnp.dtype(dtype), groups)
    assert np.array_equal(again_integers, integers)


def test_groups_divide_the_inputs():
    assert [Bits("int4", 64).groups(n) for n in (3584, 64, 24, 7)] == [56, 1, 3, 7]
    assert Bits("int8").groups(3584) == 1


def test_unknown_weights_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"weights must be int8, int8-all, int4 or none, not 'int2'"):
        load(weights="int2")
