"""One pure function of (parameters, batch, edits): answer and SEE in one pass, and what must not change results."""

from __future__ import annotations

import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from tiny_omni import AUDIO, Row, pack, random_edit, random_row, token_count

from seen_jax.models import layers
from seen_jax.models.config import conv_length
from seen_jax.models.edits import Edit, visit
from seen_jax.models.generate import Decoding, answer_batch, cached, generate
from seen_jax.models.model import encode, forward
from seen_jax.models.sites import DECODER_RESID, DECODER_SITES, ENCODER_MLP_ACT, PROJECTOR, SITES, Taps
from seen_jax.subspace import formulas

FRAMES = (33, 120, 7)
QUICK = "xla_backend_optimization_level=0" in os.environ.get("XLA_FLAGS", "")


@pytest.fixture(scope="module")
def rows(model):
    vocab = model.config.decoder.vocab
    return [random_row([f], model.config.encoder.n_mels, vocab, i) for i, f in enumerate(FRAMES)]


@pytest.fixture(scope="module")
def batch(model, rows):
    return pack(rows, model.config)


@pytest.fixture(scope="module")
def full(model):
    return model.tapped(Taps(SITES, "full"))


def edits_of(model, strength: dict[str, float] | float, text: float | None = 0.0) -> dict[str, Edit]:
    """Projections at all five sites (one program for most tests), one strength or one per site (else 0)."""
    out = {}
    for site in SITES:
        own = strength.get(site, 0.0) if isinstance(strength, dict) else strength
        edit = random_edit(model.config, site, seed=3, strength=own)
        out[site] = edit if text is None else edit.replace(text=jnp.full_like(edit.scale, text))
    return out


@pytest.fixture(scope="module")
def plain(model, full, batch):
    """Taps, SEE and logits of a pass that measures at all sites and changes nothing."""
    return forward(full, model.variables, batch, edits_of(model, 0.0))


def site_mask(batch, site: str, shape: tuple[int, ...], positions: str = "audio") -> jax.Array:
    """Which positions of a full tap [L, items, positions, D] count."""
    index = jnp.arange(shape[2])
    if site in DECODER_SITES:
        real = index < batch.lengths[:, None]
        return real & (batch.tokens == AUDIO) if positions == "audio" else real
    return index < (token_count if site == PROJECTOR else conv_length)(batch.frames)[:, None]


def see_of(batch, site: str, tap, q, positions: str = "audio") -> jax.Array:
    mask = site_mask(batch, site, tap.shape, positions)
    return jnp.stack([formulas.see(a, u, mask) for a, u in zip(tap, q, strict=True)])


# --- SEE and SEEN in the same pass as the answer ---


def test_an_edit_without_a_strength_only_measures(model, full, batch, plain):
    edits = {site: edit.replace(scale=None) for site, edit in edits_of(model, 1.0).items()}
    out = forward(full, model.variables, batch, edits)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=5e-6)  # of two programs
    jax.tree.map(close, (out.see, out.taps), (plain.see, plain.taps))
    np.testing.assert_allclose(out.logits, plain.logits, atol=1e-5)


@pytest.mark.parametrize("site", SITES)
def test_see_is_the_formula_on_the_full_taps(model, batch, plain, site):
    q = random_edit(model.config, site, seed=3).u
    expected = see_of(batch, site, plain.taps[site], q)
    np.testing.assert_allclose(plain.see[site].before, expected, atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(plain.see[site].after, expected, atol=1e-6, rtol=1e-5)
    mask = site_mask(batch, site, plain.taps[site].shape)
    energy = jnp.stack(
        [formulas.masked_mean(formulas.noise_energy(a, u)[0][..., None], mask)[..., 0]
         for a, u in zip(plain.taps[site], q, strict=True)]
    )  # fmt: skip
    np.testing.assert_allclose(plain.see[site].energy, energy, rtol=1e-5)
    assert (np.asarray(expected) > 1e-3).all() and (np.asarray(expected) < 1).all()


def as_users_compile(lalm, variables, batch, edits):
    """Not with the flags of conftest: a program compiled quickly may round otherwise where it has more in it."""
    options = {"xla_cpu_use_fusion_emitters": True, "xla_backend_optimization_level": 3} if QUICK else None
    compiled = forward.lower(lalm, variables, batch, edits).compile(compiler_options=options)
    return compiled(variables, batch, edits)


def test_measuring_is_free_of_side_effects(model, full, batch, plain):
    """Strength 0, a basis of zeros, and no edit at all: the same bits in logits and taps."""
    zeros = {s: e.replace(u=jnp.zeros_like(e.u)) for s, e in edits_of(model, 1.0, text=1.0).items()}
    runs = [as_users_compile(full, model.variables, batch, edits) for edits in ({}, edits_of(model, 0.0), zeros)]
    none, *others = runs
    for other in others:
        assert np.array_equal(none.logits, other.logits)
        for site in SITES:
            assert np.array_equal(none.taps[site], other.taps[site])
    assert not none.see and set(plain.see) == set(SITES)


@pytest.mark.parametrize("site", SITES)
def test_see_before_and_after_an_edit(model, full, batch, plain, site):
    """`after` is SEE of what flows on; the first edited layer sees the activations of the unedited model."""
    for strength in (0.7, 1.0, 1.6):
        out = forward(full, model.variables, batch, edits_of(model, {site: strength}))
        q = random_edit(model.config, site, seed=3).u
        after = see_of(batch, site, out.taps[site], q)
        np.testing.assert_allclose(out.see[site].after, after, atol=1e-6)
        np.testing.assert_allclose(out.see[site].before[0], plain.see[site].before[0], atol=1e-6)
        assert np.abs(np.asarray(out.logits - plain.logits)).max() > 1e-3
        if strength == 1.0:
            assert float(out.see[site].after[0].max()) < 1e-6
            assert float(plain.see[site].before[0].min()) > 1e-3


def test_one_edited_layer_leaves_the_layers_before_it_alone(model, full, batch, plain):
    edits = edits_of(model, 0.0)
    scale = jnp.zeros(model.config.encoder.layers).at[1].set(1.0)
    edits[ENCODER_MLP_ACT] = edits[ENCODER_MLP_ACT].replace(scale=scale)
    out = forward(full, model.variables, batch, edits)
    a, b = (x.taps[ENCODER_MLP_ACT] for x in (out, plain))
    assert np.array_equal(a[0], b[0])
    np.testing.assert_allclose(out.see[ENCODER_MLP_ACT].before[:2], plain.see[ENCODER_MLP_ACT].before[:2], atol=1e-6)
    expected = formulas.seen(b[1], edits[ENCODER_MLP_ACT].u[1])
    np.testing.assert_allclose(a[1], expected, atol=1e-6)
    assert np.abs(np.asarray(a[2] - b[2])).max() > 1e-3


@pytest.mark.parametrize("site", DECODER_SITES)
def test_text_positions_are_edited_only_on_demand(model, full, batch, plain, site):
    audio = np.asarray(site_mask(batch, site, plain.taps[site].shape))
    text = np.asarray(site_mask(batch, site, plain.taps[site].shape, "all")) & ~audio
    q = random_edit(model.config, site, seed=3).u
    for share in (None, 0.0, 0.4, 1.0):  # None: the default
        same, out = (forward(full, model.variables, batch, edits_of(model, {site: s}, text=share)) for s in (0.0, 1.0))
        a, edited = np.asarray(same.taps[site][0]), np.asarray(out.taps[site][0])  # of one program
        expected = np.where(audio[..., None], formulas.seen(same.taps[site][0], q[0]), a)
        expected = np.where(text[..., None], formulas.seen(same.taps[site][0], q[0], share or 0.0), expected)
        np.testing.assert_allclose(edited[audio | text], expected[audio | text], atol=1e-6)
        if not share:
            assert np.array_equal(edited[text], a[text])


def test_see_over_all_positions_and_per_frame(model, batch, plain):
    every = model.tapped(Taps(SITES, "full", positions="all", see_frames=True))
    out = forward(every, model.variables, batch, edits_of(model, 0.0))
    for site in SITES:
        q = random_edit(model.config, site, seed=3).u
        expected = see_of(batch, site, plain.taps[site], q, "all")
        np.testing.assert_allclose(out.see[site].before, expected, atol=1e-6, rtol=1e-5)
        mask = np.asarray(site_mask(batch, site, plain.taps[site].shape, "all"))
        frames = np.stack([formulas.see_frames(a, u) for a, u in zip(plain.taps[site], q, strict=True)])
        np.testing.assert_allclose(np.asarray(out.see[site].frames)[:, mask], frames[:, mask], atol=1e-6)
    assert all(see.frames is None for see in plain.see.values())


def test_general_edits_steering_and_restoration(model, full, batch, plain):
    """scale 0 and a bias steers; V other than U maps; the SEE after a bias is that of what flows on."""
    layers, width = model.config.site_shape(ENCODER_MLP_ACT)
    edit = random_edit(model.config, ENCODER_MLP_ACT, seed=3)
    bias = jnp.asarray(np.random.default_rng(0).standard_normal((layers, width)), jnp.float32)
    steer = edit.replace(scale=jnp.zeros(layers), bias=bias)
    restore = random_edit(model.config, DECODER_RESID, seed=3, strength=0.5)
    restore = restore.replace(
        v=random_edit(model.config, DECODER_RESID, seed=8).u, text=jnp.ones(model.config.decoder.layers)
    )
    out = forward(full, model.variables, batch, {ENCODER_MLP_ACT: steer, DECODER_RESID: restore})
    a = plain.taps[ENCODER_MLP_ACT][0]
    np.testing.assert_allclose(out.taps[ENCODER_MLP_ACT][0], a + bias[0], atol=1e-6)
    see = out.see[ENCODER_MLP_ACT]
    after = see_of(batch, ENCODER_MLP_ACT, out.taps[ENCODER_MLP_ACT], edit.u)
    np.testing.assert_allclose(see.after, after, atol=1e-6)
    assert np.abs(np.asarray(see.after - see.before)).max() > 1e-3
    assert DECODER_RESID not in out.see  # not a projection: there is no SEE

    alone = {DECODER_RESID: restore}
    first = jax.tree.map(lambda x: x[0], alone)
    a = plain.taps[DECODER_RESID][0]
    mask = jnp.ones(a.shape[:2], bool)
    edited, _ = visit(DECODER_RESID, a, first, Taps(), mask, mask)
    np.testing.assert_allclose(edited, a - 0.5 * (a @ restore.u[0]) @ restore.v[0].T, atol=1e-5)


def test_see_never_exceeds_one(plain):
    """A basis of the whole space holds all the energy, rounding included, and SEEN leaves nothing."""
    a = plain.taps[ENCODER_MLP_ACT][0]
    whole = Edit(u=jnp.eye(a.shape[-1]), scale=jnp.float32(1.0))
    taps = Taps(see_frames=True)
    _, records = visit(ENCODER_MLP_ACT, a, {ENCODER_MLP_ACT: whole}, taps, jnp.ones(a.shape[:2], bool))
    see = records[ENCODER_MLP_ACT]["see"]
    assert float(see.frames.max()) <= 1 and float(see.before.min()) > 1 - 1e-5
    assert float(see.after.max()) < 1e-6


# --- what must not change results ---


def assert_same(model, full, rows, batch, other, order: list[int], passes: bool = True) -> None:
    """Row j of `other` gives what row order[j] gives in `batch`."""
    edits = edits_of(model, 0.5, text=1.0)
    a, b = (generate(model.lalm, model.variables, x, edits, Decoding(6)) for x in (batch, other))
    c, d = (forward(full, model.variables, x, edits) for x in (batch, other if passes else batch))
    for j, i in enumerate(order):
        assert a.tokens[i].tolist() == b.tokens[j].tolist() and a.lengths[i] == b.lengths[j]
        np.testing.assert_allclose(a.logits[i], b.logits[j], atol=1e-5)
        if passes:
            n = len(rows[i].ids)
            np.testing.assert_allclose(c.logits[i, :n], d.logits[j, :n], atol=1e-5)
        for site in SITES:
            for x in (b.see[site], *([d.see[site]] if passes else [])):
                np.testing.assert_allclose(c.see[site].before[:, i], x.before[:, j], atol=1e-6)
                np.testing.assert_allclose(c.see[site].after[:, i], x.after[:, j], atol=1e-6)


def test_text_bucket_audio_padding_and_what_padding_holds_change_nothing(model, full, rows, batch):
    padded = pack(rows, model.config, extra_text=19, extra_chunks=3, junk=float("nan"))
    assert padded.tokens.shape != batch.tokens.shape and padded.features.shape != batch.features.shape
    assert_same(model, full, rows, batch, padded, [0, 1, 2])


def test_batch_size_and_order_change_nothing(model, full, rows, batch):
    order = [2, 0, 1]
    assert_same(model, full, rows, batch, pack([rows[i] for i in order], model.config), order)
    assert_same(model, full, rows, batch, pack([rows[0]], model.config), [0], passes=False)


def shaped_like(batch, rows, config):
    """Rows packed to the shapes of another batch, for which programs are compiled already."""
    extra_text = batch.tokens.shape[1] - max(len(row.ids) for row in rows)
    chunks = lambda frames: -(-frames // config.encoder.pad_frames)
    extra_chunks = chunks(batch.features.shape[1]) - chunks(max(f for row in rows for f in row.frames))
    return pack(rows, config, extra_text, extra_chunks)


def test_clips_too_short_for_a_token(model, full, batch):
    """1 or 2 frames give no audio token: the answer is that of the text alone, SEE at the projector is 0."""
    vocab = model.config.decoder.vocab
    rows = [random_row([f], model.config.encoder.n_mels, vocab, 1) for f in (1, 2, 40)]
    short = shaped_like(batch, rows, model.config)
    out = forward(full, model.variables, short, edits_of(model, 0.5))
    assert rows[0].ids == rows[1].ids and AUDIO not in rows[0].ids
    n = len(rows[0].ids)
    assert np.array_equal(out.logits[0, :n], out.logits[1, :n])
    assert all(np.isfinite(out.logits[b, : len(row.ids)]).all() for b, row in enumerate(rows))
    for site in (PROJECTOR, *DECODER_SITES):
        assert out.see[site].before[:, :2].tolist() == [[0, 0]] * out.see[site].before.shape[0]
    assert float(out.see[ENCODER_MLP_ACT].before[:, 0].min()) > 0


def test_prefill_and_decode_give_the_logits_of_one_full_pass(model, full, rows, batch):
    """Teacher-forced steps over the cache, rows of different lengths, edited at every position."""
    edits = edits_of(model, 0.6, text=1.0)
    whole = forward(full, model.variables, batch, edits).logits
    new, prompt = 4, batch.tokens.shape[1]
    prefix = shaped_like(batch, [Row(row.ids[:-new], row.features) for row in rows], model.config)
    out = forward(full, model.variables, prefix, edits)
    longer = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, new), (0, 0), (0, 0))), out.cache)
    step = jax.jit(lambda *args: model.lalm.apply(model.variables, *args, edits, method="step"))
    slots = jnp.arange(prompt + new)
    for t in range(new):
        visible = (slots < prefix.lengths[:, None]) | ((slots >= prompt) & (slots < prompt + t))
        forced = jnp.asarray([row.ids[len(row.ids) - new + t] for row in rows])
        logits, fresh = step(forced, cached(longer), visible, prefix.lengths + t)
        longer = jax.tree.map(lambda old, x, at=prompt + t: old.at[:, :, at : at + 1].set(x), longer, fresh)
        for b, row in enumerate(rows):
            np.testing.assert_allclose(logits[b], whole[b, len(row.ids) - new + t], atol=1e-5)


def test_mean_taps_last_logits_and_unrolled_layers(model, batch, plain):
    """Means are the masked means of full taps; last_only and unroll change what is computed, not its value."""
    lalm = model.tapped(Taps(SITES)).clone(unroll=3)
    out = jax.jit(lambda v: lalm.apply(v, batch, edits_of(model, 0.0), last_only=True))(model.variables)
    np.testing.assert_allclose(out.logits[:, 0], plain.logits[np.arange(3), batch.lengths - 1], atol=1e-5)
    for site in SITES:
        np.testing.assert_allclose(out.see[site].before, plain.see[site].before, atol=1e-6)
        mask = site_mask(batch, site, plain.taps[site].shape)
        expected = jnp.stack([formulas.masked_mean(a, mask) for a in plain.taps[site]])
        assert out.taps[site].dtype == jnp.float32
        np.testing.assert_allclose(out.taps[site], expected, rtol=1e-6, atol=1e-6)  # values reach 5: some roundings


def test_gelu_of_a_half_precise_activation_is_rounded_once():
    """Where it is near 0 too: 1 + erf(x) has no digits left in bfloat16."""
    x = jnp.linspace(-4, 4, 801).astype(jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    exact = exact * scipy.special.ndtr(exact)
    found = layers.gelu(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=0.5**8 + 1e-3)


def test_bfloat16_activations_leave_logits_and_see_in_float32(model, rows, batch, plain):
    half = model.lalm.clone(dtype=jnp.bfloat16)
    variables = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.variables)
    out = forward(half, variables, batch, edits_of(model, 0.0))
    assert out.logits.dtype == jnp.float32
    for site in SITES:
        assert out.see[site].before.dtype == jnp.float32
        np.testing.assert_allclose(out.see[site].before, plain.see[site].before, atol=0.03)
    for b, row in enumerate(rows):
        np.testing.assert_allclose(out.logits[b, : len(row.ids)], plain.logits[b, : len(row.ids)], atol=0.5)


# --- edits are data ---


def test_other_layers_strengths_noises_and_ranks_recompile_nothing(model, full, batch, monkeypatch):
    def variant(strength: float = 1.0, layer: int | None = None, seed: int = 0, rank: int = 3) -> dict[str, Edit]:
        edits = {}
        for site in SITES:
            edit = random_edit(model.config, site, seed=seed, strength=strength)
            only = jnp.ones_like(edit.scale) if layer is None else jnp.arange(len(edit.scale)) == layer
            u = edit.u * (jnp.arange(3) < rank)  # a lower rank is columns of zeros
            edits[site] = Edit(u=u, scale=edit.scale * only, text=jnp.zeros_like(edit.scale))
        return edits

    def traced_once(function, *static):
        return jax.jit(chex.assert_max_traces(function.__wrapped__, n=1), static_argnums=(0, *static))

    chex.clear_trace_counter()
    run, run_encoder = traced_once(forward), traced_once(encode)
    monkeypatch.setattr("seen_jax.models.generate.answer_batch", traced_once(answer_batch, 5))
    programs = (
        lambda edits: run(full, model.variables, batch, edits).logits,
        lambda edits: run_encoder(model.lalm, model.variables, batch.audio, edits).tokens,
        lambda edits: generate(model.lalm, model.variables, batch, edits, Decoding(6)).logits,
    )
    variants = [variant(), variant(strength=0.3), variant(layer=0), variant(seed=9), variant(rank=1)]
    for call in programs:
        results = [np.asarray(call(edits)) for edits in variants]
        assert all(np.abs(x - results[0]).max() > 1e-3 for x in results[1:]), "the edits make no difference"


@pytest.mark.parametrize("site", [ENCODER_MLP_ACT, DECODER_RESID])
def test_a_strength_sweep_is_a_vmap_over_scale(model, full, batch, site):
    edit = random_edit(model.config, site, seed=3)
    strengths = (0.0, 0.5, 1.0, 1.2)

    def run(scale):
        out = model.lalm.apply(model.variables, batch, {site: edit.replace(scale=scale)})
        return out.logits, out.see[site].after

    logits, after = jax.jit(jax.vmap(run))(jnp.asarray(strengths)[:, None] * edit.scale)
    for i, strength in enumerate(strengths):
        out = forward(full, model.variables, batch, edits_of(model, {site: strength}))
        np.testing.assert_allclose(logits[i], out.logits, atol=1e-5)
        np.testing.assert_allclose(after[i], out.see[site].after, atol=1e-6)
    assert np.abs(np.asarray(logits[1:] - logits[:-1])).max(axis=(1, 2, 3)).min() > 1e-3


# --- SEE is differentiable ---

STEPS = jnp.asarray([1.0, -1.0, 0.5, -0.5])


@pytest.fixture(scope="module")
def see_function(model, batch):
    """Mean SEE of two sites, weighted, as a function of {params, features, scale of SEEN}; its derivatives."""
    sites = (ENCODER_MLP_ACT, DECODER_RESID)
    edits = {site: random_edit(model.config, site) for site in sites}

    def see(x, weights):
        own = {site: edit.replace(scale=x["scale"]) for site, edit in edits.items()}
        out = model.lalm.apply({"params": x["params"]}, batch.replace(features=x["features"]), own)
        return sum(w * out.see[site].before.mean() for w, site in zip(weights, sites, strict=True))

    @jax.jit
    def slope(x, direction, step, weights):
        """Along a direction, by central differences extrapolated to step 0 (Richardson)."""
        at = lambda h: jax.tree.map(lambda v, d: v + h * step * d, x, direction)
        up, down, half_up, half_down = jax.vmap(lambda h: see(at(h), weights))(STEPS)
        return (4 * (half_up - half_down) / step - (up - down) / (2 * step)) / 3

    x = {"params": model.variables["params"], "features": batch.features, "scale": jnp.full(3, 0.5)}
    return x, jax.jit(jax.value_and_grad(see)), slope


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)], ids=["encoder.mlp_act", "decoder.resid"])
def test_gradient_of_see_equals_finite_differences(see_function, batch, weights):
    """In the features, in every parameter and in SEEN's strength; each along its own gradient plus a random direction
    of the same size, so that neither a wrong nor a lost part hides."""
    x, value_and_grad, slope = see_function
    weights = jnp.asarray(weights)
    value, gradient = value_and_grad(x, weights)
    assert 0 < float(value) < 1
    padding = np.arange(batch.features.shape[1]) >= np.asarray(batch.frames)[:, None]
    assert not np.asarray(gradient["features"])[padding].any()

    rng = np.random.default_rng(0)
    paths, tree = jax.tree_util.tree_flatten_with_path(jax.tree.map(np.asarray, gradient))
    zeros = [np.zeros_like(leaf) for _, leaf in paths]
    used = 0
    for i, (path, leaf) in enumerate(paths):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), name
        norm = np.linalg.norm(leaf)
        direction = leaf / max(norm, 1e-12) + rng.choice([-1.0, 1.0], leaf.shape) / np.sqrt(leaf.size)
        along = jax.tree.unflatten(tree, [*zeros[:i], direction.astype(np.float32), *zeros[i + 1 :]])
        found = float(slope(x, along, 3e-2, weights))
        assert found == pytest.approx(float((leaf * direction).sum()), rel=2e-2, abs=3e-5), name
        used += norm > 1e-4
    assert used > (15 if weights[0] else 25), "most parameters must matter for SEE"


def test_gradient_of_see_at_strength_zero(see_function):
    """Where SEEN changes nothing, bit for bit, its strength still has a derivative."""
    x, value_and_grad, slope = see_function
    x = {**x, "scale": jnp.zeros(3)}
    weights = jnp.asarray([1.0, 0.0])
    _, gradient = value_and_grad(x, weights)
    zeros = jax.tree.map(jnp.zeros_like, x)
    for layer in range(3):
        found = float(slope(x, {**zeros, "scale": jnp.zeros(3).at[layer].set(1.0)}, 5e-2, weights))
        assert found == pytest.approx(float(gradient["scale"][layer]), rel=1e-2, abs=1e-5)
    assert min(abs(gradient["scale"][:2])) > 1e-4 and gradient["scale"][2] == 0  # no layer sees the last one's edit
