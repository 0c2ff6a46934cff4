"""Attention in blocks: the rule of who sees whom, the same results as of the whole, and linear memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import BACKBONES, FOLDER
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_omni import hiss, random_edit

from seen_jax.models import attention
from seen_jax.models.attention import Visibility, blocked_attention, masked_attention
from seen_jax.models.batching import Prepared
from seen_jax.models.edits import Edit
from seen_jax.models.load import load
from seen_jax.models.model import forward, measure
from seen_jax.models.pooling import measured
from seen_jax.models.processor import Request
from seen_jax.models.sites import DECODER_RESID, DECODER_SITES, ENCODER_MLP_ACT, SITES, Taps

CLOSE = {"float32": 1e-5, "bfloat16": 0.03, "float16": 0.004}  # four units in the last place of the shorter types
ROWS = st.integers(1, 3)
BLOCKS, WINDOWS = st.sampled_from([None, 1, 4]), st.sampled_from([None, 1, 3, 9, 2**31 - 1])


def arrays(rows: int, length: int, heads: int, shared: int, dtype: str, seed: int):
    """Random queries, keys and values, `shared` heads of queries to each of theirs; and which positions are real."""
    rng = np.random.default_rng(seed)
    shape = lambda heads: (rows, length, heads, 8)
    q, k, v = (jnp.asarray(rng.standard_normal(shape(n)), dtype) for n in (heads * shared, heads, heads))
    return q, k, v, jnp.arange(length) < jnp.asarray(rng.integers(1, length + 1, (rows, 1)))


@given(length=st.integers(1, 12), block=BLOCKS, window=WINDOWS, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_mask_is_the_rule_spelled_out(length, block, window, seed):
    rng = np.random.default_rng(seed)
    valid, only = rng.random((2, length)) < 0.7, rng.integers(0, length, 2)
    expected = np.zeros((2, length, length), bool)
    for row, i, j in np.ndindex(expected.shape):
        before = block is None or j // block <= i // block
        expected[row, i, j] = valid[row, j] and before and (window is None or i - j < window)
    visible = Visibility(jnp.asarray(valid), block, window)
    np.testing.assert_array_equal(np.broadcast_to(visible.mask(), expected.shape), expected)
    last = np.broadcast_to(visible.replace(query=jnp.asarray(only)).mask(), (2, 1, length))
    np.testing.assert_array_equal(last, expected[np.arange(2), only][:, None])


@given(
    rows=ROWS, length=st.integers(1, 30), heads=st.integers(1, 2), shared=st.integers(1, 3), size=st.integers(1, 12),
    block=BLOCKS, window=WINDOWS, dtype=st.sampled_from(sorted(CLOSE)), scale=st.sampled_from([None, 0.2]),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_blocks_give_what_the_whole_gives(rows, length, heads, shared, size, block, window, dtype, scale, seed):
    q, k, v, valid = arrays(rows, length, heads, shared, dtype, seed)
    visible = Visibility(valid, block, None if window is None else jnp.int32(window))
    mask = visible.mask()
    whole, parts = masked_attention(q, k, v, mask, scale), blocked_attention(q, k, v, visible, scale, size)
    assert parts.dtype == whole.dtype and np.isfinite(np.asarray(parts, np.float32)).all()
    sees = np.broadcast_to(mask, (rows, length, length)).any(-1)  # a padded query may see nothing, and is not read
    np.testing.assert_allclose(
        np.asarray(parts, np.float32)[sees], np.asarray(whole, np.float32)[sees], atol=CLOSE[dtype], rtol=0
    )


@pytest.mark.parametrize(("block", "window"), [(None, None), (1, None), (1, 5), (4, None)])
def test_gradients_through_blocks_and_edits_side_by_side(block, window):
    q, k, v, valid = arrays(2, 21, 2, 2, "float32", 0)
    visible = Visibility(valid, block, window)
    target = jnp.asarray(np.random.default_rng(1).standard_normal(q.shape), jnp.float32) * valid[..., None, None]
    whole = lambda *x: (masked_attention(*x, visible.mask()) * target).sum()
    parts = lambda *x: (blocked_attention(*x, visible, None, 6) * target).sum()
    for name, transform in {"one": lambda f: f, "many": lambda f: jax.vmap(f, (0, None, None))}.items():
        some = q if name == "one" else jnp.stack([q, 2 * q])
        of = lambda f, transform=transform, some=some: jax.jit(transform(jax.grad(f, (0, 1, 2))))(some, k, v)
        for ours, expected in zip(of(parts), of(whole), strict=True):
            np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)
            assert jnp.abs(expected).max() > 0.1


def test_memory_is_linear_in_the_length_and_so_is_that_of_the_gradient():
    """By what the compiler plans: two heads of 16,384 positions have 2 GiB of scores."""

    def planned(length: int, gradient: bool) -> int:
        f32 = lambda heads: jax.ShapeDtypeStruct((1, length, heads, 8), jnp.float32)
        valid = jax.ShapeDtypeStruct((1, length), jnp.bool_)
        answer = lambda q, k, v, valid: attention.attention(q, k, v, Visibility(valid, 1)).sum()
        run = jax.grad(answer, (0, 1, 2)) if gradient else answer
        memory = jax.jit(run).lower(f32(2), f32(1), f32(1), valid).compile().memory_analysis()
        return memory.temp_size_in_bytes

    for gradient in (False, True):
        few, some, many = (planned(length, gradient) for length in (4096, 8192, 16_384))
        assert many < 2**28 and (many - some) / (some - few) < 2.2


# --- whole models ---


@pytest.fixture
def in_blocks(monkeypatch):
    """From now on, attention to more than 16 positions takes blocks of 64."""

    def switch():
        monkeypatch.setattr(attention, "LONG", 16)
        monkeypatch.setattr(attention, "BLOCK", 64)
        jax.clear_caches()

    yield switch
    jax.clear_caches()


@pytest.mark.parametrize(
    "folder",
    [*(FOLDER / name for name in ("qwen3_omni", "minicpm_o", "glm_asr", "voxtral")), BACKBONES / "gemma3_text"],
    ids=lambda folder: folder.name,
)
def test_a_model_gives_the_same_in_blocks(in_blocks, folder):
    """Windows, order by blocks of positions, attended silence, and layers that see only the last positions."""
    if folder.name == "voxtral":
        pytest.importorskip("mistral_common", reason="Voxtral's tokenizer needs the `voxtral` extra")
    model = load(folder)
    batch = model.processor.prepare([Request([hiss(s, i)], "which color ?") for i, s in enumerate((9.0, 2.5))])
    edits = {site: random_edit(model.config, site, strength=0.5) for site in SITES}
    run = lambda: forward(model.tapped(Taps(SITES)), model.variables, batch, edits)
    whole = run()
    in_blocks()
    parts = run()
    assert batch.tokens.shape[1] > 64
    real = np.arange(batch.tokens.shape[1]) < np.asarray(batch.lengths)[:, None]
    np.testing.assert_allclose(parts.logits[real], whole.logits[real], atol=1e-4, rtol=0)
    for site in SITES:
        np.testing.assert_allclose(parts.taps[site], whole.taps[site], atol=1e-5, rtol=1e-5, err_msg=site)
        np.testing.assert_allclose(parts.see[site].before, whole.see[site].before, atol=1e-5, rtol=0, err_msg=site)


def test_see_is_differentiable_through_blocks(in_blocks):
    model = load(FOLDER / "qwen3_omni")
    audio, _ = model.processor.audio([hiss(9.0, 0)])
    q = random_edit(model.config, ENCODER_MLP_ACT).u

    def loss(features: jax.Array) -> jax.Array:
        measuring = {ENCODER_MLP_ACT: Edit(u=q, scale=None)}
        encoded = model.lalm.apply(model.variables, audio.replace(features=features), measuring, method="encode")
        return encoded.records[ENCODER_MLP_ACT]["see"].before.sum()

    whole = jax.jit(jax.grad(loss))(audio.features)
    in_blocks()
    parts = jax.jit(jax.grad(loss))(audio.features)
    np.testing.assert_allclose(parts, whole, atol=1e-5 * np.abs(whole).max(), rtol=0)
    assert np.abs(whole).max() > 0


# --- decoder sites without logits ---


def test_decoder_sites_are_measured_without_logits():
    model = load(FOLDER / "qwen3_omni")
    batch, owners = model.processor.prepared([Request([hiss(s, i)], "red ?") for i, s in enumerate((0.6, 2.0))])
    lalm, edits = model.tapped(Taps(DECODER_SITES)), {DECODER_RESID: random_edit(model.config, DECODER_RESID)}
    taps, see = measured(model, lalm, Prepared([0, 1], batch, owners), edits)
    out = forward(lalm, model.variables, batch, edits)
    for ours, expected in zip(jax.tree.leaves((taps, see)), jax.tree.leaves((out.taps, out.see)), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6, rtol=1e-6)
    logits = f"f32[2,{batch.tokens.shape[1]},{model.config.decoder.vocab}]"
    program = lambda run: run.lower(lalm, model.variables, batch, edits).compile().as_text()
    assert logits in program(forward) and f",{model.config.decoder.vocab}]{{" not in program(measure)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("family", ["voxtral", "qwen3_omni"])
def test_a_clip_twice_as_long_takes_at_most_twice_the_memory(family):
    """Scores of all pairs would take four times as much: at 20 minutes 1.7 GiB here."""
    script = Path(__file__).parents[1] / "support" / "long_audio.py"
    if family == "voxtral":
        pytest.importorskip("mistral_common", reason="Voxtral's tokenizer needs the `voxtral` extra")
    done = subprocess.run([sys.executable, str(script), family], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    few, some, many = (row["MiB"] for row in map(json.loads, done.stdout.splitlines()))
    assert some < 2.2 * few and many < 2.2 * some
