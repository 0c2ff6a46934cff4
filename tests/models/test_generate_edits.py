"""Several edits of one batch in one call, shared lower layers, and finely padded last chunks: the same answers."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_omni import pack, random_edit, random_row

from seen_jax.errors import ConfigError
from seen_jax.models.edits import Edit
from seen_jax.models.encoder import first_edited
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.generate_edits import generate_edits
from seen_jax.models.sharding import make_mesh
from seen_jax.models.sites import DECODER_RESID, ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR, SITES, Taps

NEW = 6


@pytest.fixture(scope="module")
def batch(model):
    config = model.config
    rows = [random_row([f], config.encoder.n_mels, config.decoder.vocab, 20 + i) for i, f in enumerate((33, 60, 7))]
    return pack(rows, config)


@pytest.fixture(scope="module")
def tapped(model):
    return model.tapped(Taps(SITES))


def from_layer(edit: Edit, first: int) -> Edit:
    return edit.replace(scale=edit.scale * (jnp.arange(len(edit.scale)) >= first))


def assert_equal(out, expected) -> None:
    assert out.tokens.tolist() == expected.tokens.tolist()
    assert out.lengths.tolist() == expected.lengths.tolist()
    chex.assert_trees_all_close((out.logits, out.taps), (expected.logits, expected.taps), atol=1e-5)
    shares = lambda sees: {site: (see.before, see.after) for site, see in sees.items()}
    chex.assert_trees_all_close(shares(out.see), shares(expected.see), atol=1e-6)
    chex.assert_trees_all_close(out.see, expected.see, atol=1e-5)


def stack(edits: list[dict[str, Edit]]) -> dict[str, Edit]:
    return jax.tree.map(lambda *x: jnp.stack(x), *edits)


@pytest.mark.parametrize("site", SITES)
def test_edits_together_answer_as_each_alone(model, tapped, batch, site):
    depth = model.config.site_shape(site)[0]
    variants = [
        {site: from_layer(random_edit(model.config, site, seed=i, strength=0.8), min(1, depth - 1))} for i in range(2)
    ]
    variants.append({site: variants[0][site].replace(scale=jnp.zeros(depth))})
    first = first_edited(model.config.encoder, stack(variants))
    assert first == (1 if site in (ENCODER_MLP_ACT, ENCODER_RESID) else model.config.encoder.layers)
    outs = generate_edits(tapped, model.variables, batch, variants, Decoding(NEW))
    for out, alone in zip(outs, variants, strict=True):
        assert_equal(out, generate(tapped, model.variables, batch, alone, Decoding(NEW)))


@pytest.mark.parametrize("site", (ENCODER_MLP_ACT, DECODER_RESID))
def test_strengths_of_shared_directions_answer_as_each_alone(model, tapped, batch, site):
    edit = random_edit(model.config, site, seed=1, strength=1.0)
    variants = [{site: edit.replace(scale=s * edit.scale)} for s in (0.0, 0.4, 0.9)]
    outs = generate_edits(tapped, model.variables, batch, variants, Decoding(NEW))
    for out, alone in zip(outs, variants, strict=True):
        assert_equal(out, generate(tapped, model.variables, batch, alone, Decoding(NEW)))


def test_bases_that_only_measure_share_one_pass(model, tapped, batch):
    common = random_edit(model.config, DECODER_RESID, seed=9, strength=0.5)
    measured = [random_edit(model.config, ENCODER_MLP_ACT, seed=i).replace(scale=None) for i in range(3)]
    variants = [{ENCODER_MLP_ACT: edit, DECODER_RESID: common} for edit in measured]
    outs = generate_edits(tapped, model.variables, batch, variants, Decoding(NEW))
    for out, alone in zip(outs, variants, strict=True):
        assert_equal(out, generate(tapped, model.variables, batch, alone, Decoding(NEW)))
        assert out.tokens is outs[0].tokens  # one pass of the model


def test_variants_of_several_forms_keep_their_order(model, tapped, batch):
    """Another site, another rank, a steering vector, a map for each row, and no edit at all."""
    config = model.config
    layers, width = config.site_shape(ENCODER_RESID)
    narrow = random_edit(config, ENCODER_MLP_ACT, seed=3, strength=0.6)
    steering = Edit(u=jnp.zeros((layers, width, 1)), scale=jnp.zeros(layers), bias=0.1 * jnp.ones((layers, width)))
    by_row = random_edit(config, ENCODER_RESID, seed=4, strength=0.3)
    rows = jnp.stack([by_row.u, 0.5 * by_row.u, 0 * by_row.u], axis=1)
    variants = [
        {},
        {ENCODER_MLP_ACT: random_edit(config, ENCODER_MLP_ACT, seed=1, strength=0.8)},
        {ENCODER_RESID: steering},
        {ENCODER_MLP_ACT: narrow.replace(u=narrow.u[..., :1])},
        {ENCODER_RESID: by_row.replace(u=rows, v=by_row.u)},
        {DECODER_RESID: random_edit(config, DECODER_RESID, seed=2, strength=0.8)},
    ]
    outs = generate_edits(tapped, model.variables, batch, variants, Decoding(NEW), microbatch=2)
    for alone, out in zip(variants, outs, strict=True):
        assert_equal(out, generate(tapped, model.variables, batch, alone, Decoding(NEW)))


def test_sampling_is_refused(model, batch):
    with pytest.raises(ConfigError, match="greedily"):
        generate_edits(model.lalm, model.variables, batch, [{}], Decoding(NEW, temperature=1.0))


@pytest.mark.parametrize("kind", ["several directions", "shared directions", "measured"])
@pytest.mark.parametrize("rows", [3, 6])
def test_prompts_that_pass_in_parts_answer_as_together(model, kind, rows):
    """Also with the rows of several parts in one decode loop; every record keeps its axes."""
    config = model.config
    lengths = (33, 60, 7, 24, 51, 12)[:rows]
    batch = pack(
        [random_row([f], config.encoder.n_mels, config.decoder.vocab, 40 + i) for i, f in enumerate(lengths)], config
    )
    lalm = model.tapped(Taps(SITES, "full", see_frames=True))
    variants = [{site: random_edit(config, site, seed=i, strength=0.4 * i) for site in SITES} for i in range(2)]
    if kind == "shared directions":
        first = variants[0]
        variants = [{site: first[site].replace(scale=e.scale) for site, e in edits.items()} for edits in variants]
    elif kind == "measured":
        measured = (ENCODER_MLP_ACT, PROJECTOR)
        variants = [{s: e.replace(scale=None) for s, e in x.items() if s in measured} for x in variants]
    together = generate_edits(lalm, model.variables, batch, variants, Decoding(NEW))
    for microbatch in (1, 6):
        parts = generate_edits(lalm, model.variables, batch, variants, Decoding(NEW), microbatch)
        for a, b in zip(parts, together, strict=True):
            assert_equal(a, b)


@pytest.mark.parametrize("mesh", [False, True])
def test_rows_that_depend_on_each_other_answer_as_alone(model, mesh):
    """Prompts about two clips have two encoder rows each, and a mesh splits rows: microbatches must not cut them."""
    config = model.config
    rows = [random_row([20, 30 + i], config.encoder.n_mels, config.decoder.vocab, i) for i in range(4)]
    batch = pack(rows, config)
    lalm = model.tapped(Taps(SITES))
    lalm = lalm.clone(mesh=make_mesh(1, 1)) if mesh else lalm
    variants = [{site: random_edit(config, site, seed=i, strength=0.4 * i) for site in SITES} for i in range(2)]
    outs = generate_edits(lalm, model.variables, batch, variants, Decoding(NEW), microbatch=1)
    for out, alone in zip(outs, variants, strict=True):
        assert_equal(out, generate(lalm, model.variables, batch, alone, Decoding(NEW)))


def test_layers_below_the_first_edit_may_run_apart(model, batch):
    """With a projection whose SEE counts at all layers, and a map of another kind at a later layer."""
    lalm = model.tapped(Taps((ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR), "full"))
    layers, width = model.config.site_shape(ENCODER_RESID)
    last = np.arange(layers) == layers - 1
    map_ = random_edit(model.config, ENCODER_RESID, seed=2, strength=0.5)
    edits = {
        ENCODER_MLP_ACT: from_layer(random_edit(model.config, ENCODER_MLP_ACT, seed=1, strength=0.7), layers - 1),
        ENCODER_RESID: map_.replace(
            v=map_.u, scale=map_.scale * last, bias=jnp.ones((layers, 1, width)) * last[:, None, None]
        ),
    }
    assert first_edited(model.config.encoder, edits) == layers - 1
    whole = lalm.apply(model.variables, batch.audio, edits, method="encode")
    for first in range(1, layers):
        parts = lalm.apply(model.variables, batch.audio, edits, first, method="encode")
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), parts, whole)


def test_the_first_edited_layer(model):
    layers = model.config.encoder.layers
    edit = random_edit(model.config, ENCODER_RESID, strength=0.0)
    assert first_edited(model.config.encoder, {}) == layers
    assert first_edited(model.config.encoder, {ENCODER_RESID: edit}) == layers
    assert first_edited(model.config.encoder, {ENCODER_RESID: dataclasses.replace(edit, scale=None)}) == layers
    bias = jnp.zeros((layers, edit.u.shape[1])).at[layers - 1].set(1.0)
    assert first_edited(model.config.encoder, {ENCODER_RESID: edit.replace(bias=bias)}) == layers - 1
    stacked = {ENCODER_RESID: edit.replace(scale=jnp.zeros((2, layers)).at[1, 1:].set(1.0))}
    assert first_edited(model.config.encoder, stacked) == 1


def test_a_last_chunk_is_padded_finely_and_changes_nothing(model):
    config = model.config.encoder
    chunk = config.pad_frames
    sizes = {config.padded(n) for n in range(1, 2 * chunk + 1)}
    assert max(sizes) == 2 * chunk and len(sizes) > 4
    assert all(n <= config.padded(n) < n + chunk for n in range(1, 9 * chunk))
    assert config.padded(7 * chunk + 1) == 8 * chunk  # long rows have whole chunks
    row = random_row([chunk + 5], config.n_mels, model.config.decoder.vocab, 3)
    small = pack([row], model.config)
    total = config.padded(chunk + 5)
    fine = dataclasses.replace(small, features=jnp.asarray(small.features)[:, :total])
    wide = dataclasses.replace(small, features=jnp.pad(fine.features, ((0, 0), (0, 2 * chunk - total), (0, 0))))
    edits = {ENCODER_MLP_ACT: random_edit(model.config, ENCODER_MLP_ACT, strength=0.5)}
    a, b = (generate(model.lalm, model.variables, x, edits, Decoding(NEW)) for x in (fine, wide))
    assert a.tokens.tolist() == b.tokens.tolist()
    np.testing.assert_allclose(a.logits, b.logits, atol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a.see, b.see)


@pytest.mark.parametrize("site", (ENCODER_MLP_ACT, DECODER_RESID))
def test_each_variant_says_whether_its_logits_are_finite(model, batch, site):
    edit = random_edit(model.config, site, strength=0.5)
    variants = [{site: edit}, {site: edit.replace(scale=edit.scale.at[1].set(jnp.nan))}]
    outs = generate_edits(model.lalm, model.variables, batch, variants, Decoding(NEW))
    assert [out.finite.tolist() for out in outs] == [[True] * 3, [False] * 3]
    measured = [{site: edit.replace(scale=None)}] * 2
    outs = generate_edits(model.lalm, model.variables, batch, measured, Decoding(NEW))
    assert [out.finite.tolist() for out in outs] == [[True] * 3] * 2
