"""Number types: which one a device gets, products of float32 models in full, float16 that does not overflow."""

from __future__ import annotations

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import FOLDER, golden_requests

from seen_jax.cli import _parser
from seen_jax.data.items import load_clips
from seen_jax.errors import ConfigError
from seen_jax.models import linear, modules, precision, quantized
from seen_jax.models.edits import Edit
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.load import load
from seen_jax.models.model import forward
from seen_jax.models.precision import dtype_for, product
from seen_jax.models.processor import Request
from seen_jax.models.sites import DECODER_RESID, ENCODER_MLP_ACT, Taps

DEVICES = {
    ("cpu", None): "float32",
    ("tpu", None): "bfloat16",
    ("gpu", "7.5"): "float16",
    ("gpu", "8.0"): "bfloat16",
    ("gpu", "12.0"): "bfloat16",
    ("rocm", "gfx90a"): "float16",
    ("METAL", None): "float32",
}


@pytest.mark.parametrize(("platform", "capability"), DEVICES)
def test_the_dtype_that_a_device_gets(platform, capability):
    device = SimpleNamespace(platform=platform)
    if capability is not None:
        device.compute_capability = capability
    assert dtype_for("auto", device) == DEVICES[platform, capability]
    assert dtype_for("float16", device) == "float16"


def test_names_of_dtypes_are_checked_and_those_of_the_command_line():
    with pytest.raises(ConfigError, match="dtype must be auto, float32, bfloat16 or float16, not 'half'"):
        dtype_for("half")
    assert _parser.DTYPES == precision.DTYPES and {None, *_parser.WEIGHTS} == quantized.WEIGHTS.keys()


def products(text: str) -> list[str]:
    """The lines of lowered text that multiply."""
    return [line for line in text.splitlines() if re.search(r"stablehlo\.(dot_general|dot|convolution)\b", line)]


@pytest.mark.parametrize(
    ("family", "weights"), [("qwen3_omni", None), ("granite_speech", None), ("ultravox", "int8-all")]
)
def test_float32_models_multiply_in_float32_on_every_device(family, weights):
    for dtype, expected in (("float32", "HIGHEST"), ("bfloat16", "DEFAULT")):
        model = load(FOLDER / family, dtype, weights=weights)
        batch = model.processor.prepare(golden_requests(model.processor.family)[:1])
        decode = lambda v, b, model=model: generate(model.lalm, v, b, {}, Decoding(2)).tokens
        lines = products(jax.jit(decode).lower(model.variables, batch).as_text())
        assert len(lines) > 20
        for line in lines:
            assert re.findall(r"\b(HIGHEST|HIGH|DEFAULT)\b", line) in (
                [expected] * 2,
                [] if dtype == "bfloat16" else 0,
            ), line


def test_products_of_float16_do_not_overflow():
    """Neither with large operands nor with large sums."""
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((5, 64)).astype(np.float32), rng.standard_normal((64, 32)).astype(np.float16)
    x[1] *= 1e6
    x[2] = 0
    x[3, 5] = np.inf
    y = np.asarray(product(jnp.asarray(x), jnp.asarray(kernel), None, jnp.float16))
    exact = x @ kernel.astype(np.float32)
    assert y.dtype == np.float32 and not np.isfinite(y[3]).any()
    error = np.abs(y - exact)[[0, 1, 2, 4]] / (np.abs(x) @ np.abs(kernel.astype(np.float32)))[[0, 1, 2, 4]].clip(1e-9)
    assert error.max() < 2**-11
    assert np.abs(exact[1]).max() > 65504


def scaled(model, stream: float, mlp: float):
    """The same function of float32 numbers with other activations: the decoder's residual stream `stream` times as
    large, the product of gate and up `mlp` times."""
    params = jax.tree.map(lambda x: x, model.variables["params"])
    encoder, decoder = params["encoder"], params["decoder"]
    times = lambda module, factor: {name: x * factor for name, x in module.items()}
    encoder["proj"] = times(encoder["proj"], stream)
    decoder["embed"] = times(decoder["embed"], stream)
    layers = decoder["layers"]
    layers["o"], layers["down"] = times(layers["o"], stream), times(layers["down"], stream / mlp)
    layers["up"] = times(layers["up"], mlp)
    return {"params": params}


def half(variables):
    return jax.tree.map(lambda x: x.astype(jnp.float16), variables)


def test_float16_answers_as_float32_with_activations_that_overflow_it(monkeypatch):
    """Residual stream and MLP hundreds of times as large: plain float16 gives NaN, ours the answers of float32."""
    model = load("seen-tiny")
    assert model.dtype == "float32"
    batch = model.processor.prepare([Request([item.wave], item.prompt) for item in load_clips("validation")[::2]])
    large = scaled(model, 2.0**12, 2.0**10)
    resid = forward(model.tapped(Taps((DECODER_RESID,), "full")), large, batch, {}).taps[DECODER_RESID]
    valid = np.arange(batch.tokens.shape[1]) < np.asarray(batch.lengths)[:, None]
    assert np.abs(np.asarray(resid)[:, valid]).max() > 65504
    expected = generate(model.lalm, model.variables, batch, {}, Decoding(12))
    lalm = model.lalm.clone(dtype=jnp.float16)
    out = generate(lalm, half(large), batch, {}, Decoding(12))
    assert np.asarray(out.finite).all()
    assert (np.asarray(out.tokens) == np.asarray(expected.tokens)).all(1).mean() >= 0.98

    for module in (linear, modules):
        monkeypatch.setattr(module, "stream_dtype", lambda dtype: dtype)
    plain = generate(lalm.clone(unroll=2), half(large), batch, {}, Decoding(2))  # another program than the one before
    assert not np.asarray(plain.finite).any()


def test_see_and_activations_of_float16_are_those_of_float32_within_its_rounding():
    model, narrow = load("seen-tiny"), load("seen-tiny", "float16")
    batch = model.processor.prepare([Request([item.wave], item.prompt) for item in load_clips("validation")[::8]])
    layers, width = model.config.site_shape(ENCODER_MLP_ACT)
    q = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (layers, width, 4)))[0]
    edits = {ENCODER_MLP_ACT: Edit(u=q, scale=jnp.full(layers, 0.5))}
    out, expected = (forward(m.tapped(Taps((ENCODER_MLP_ACT,))), m.variables, batch, edits) for m in (narrow, model))
    for ours, theirs in zip(
        jax.tree.leaves((out.see, out.taps)), jax.tree.leaves((expected.see, expected.taps)), strict=True
    ):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 8), (1, 1, 8)])
def test_a_single_row_on_a_tpu_is_computed_as_two(monkeypatch, shape):
    rng, widths = np.random.default_rng(0), []
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in (shape, (8, 5)))
    on_tpu = lambda *operands, tpu, default: widths.append(operands[0].shape) or tpu(*operands)
    monkeypatch.setattr("jax.lax.platform_dependent", on_tpu)
    np.testing.assert_allclose(product(x, kernel, None, jnp.float32), x @ kernel, atol=1e-6)
    product(jnp.concatenate([x, x]), kernel, None, jnp.float32)
    assert widths == [shape]  # two rows are left alone
