"""Several edits of one batch in one call, shared lower layers, and finely padded last chunks: the same answers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_omni import pack, random_edit, random_row

from seen_jax.models.edits import Edit
from seen_jax.models.encoder import encode_above, first_edited
from seen_jax.models.generate import Decoding, _parts, generate, generate_each
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


def stack(edits: list[dict[str, Edit]]) -> dict[str, Edit]:
    return jax.tree.map(lambda *x: jnp.stack(x), *edits)


@pytest.mark.parametrize("site", SITES)
def test_edits_together_answer_as_each_alone(model, tapped, batch, site):
    depth = model.config.site_shape(site)[0]
    own = [
        {site: from_layer(random_edit(model.config, site, seed=i, strength=0.8), min(1, depth - 1))} for i in range(2)
    ]
    own.append({site: own[0][site].replace(scale=jnp.zeros(depth))})
    edits = stack(own)
    first = first_edited(model.config.encoder, edits)
    assert first == (1 if site in (ENCODER_MLP_ACT, ENCODER_RESID) else model.config.encoder.layers)
    together = generate_each(tapped, model.variables, batch, edits, Decoding(NEW), None, first)
    for k, alone in enumerate(own):
        out = generate(tapped, model.variables, batch, alone, Decoding(NEW))
        assert together.tokens[k].tolist() == out.tokens.tolist()
        assert together.lengths[k].tolist() == out.lengths.tolist()
        np.testing.assert_allclose(together.logits[k], out.logits, atol=1e-5)
        mine = jax.tree.map(lambda x, k=k: x[k], (together.see, together.taps))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mine, (out.see, out.taps))


@pytest.mark.parametrize("site", (ENCODER_MLP_ACT, DECODER_RESID))
def test_strengths_of_shared_directions_answer_as_each_alone(model, tapped, batch, site):
    edit = random_edit(model.config, site, seed=1, strength=1.0)
    strengths = (0.0, 0.4, 0.9)
    edits = {site: edit.replace(scale=jnp.stack([s * edit.scale for s in strengths]))}
    together = generate_each(tapped, model.variables, batch, edits, Decoding(NEW))
    assert together.tokens.shape == (len(strengths), *batch.lengths.shape, NEW)
    for k, s in enumerate(strengths):
        out = generate(tapped, model.variables, batch, {site: edit.replace(scale=s * edit.scale)}, Decoding(NEW))
        assert together.tokens[k].tolist() == out.tokens.tolist()
        mine = jax.tree.map(lambda x, k=k: x[k], (together.see, together.taps))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mine, (out.see, out.taps))


def test_bases_that_only_measure_share_one_pass(model, tapped, batch):
    own = [{ENCODER_MLP_ACT: random_edit(model.config, ENCODER_MLP_ACT, seed=i, strength=0.0)} for i in range(3)]
    edits = {ENCODER_MLP_ACT: dataclasses.replace(stack(own)[ENCODER_MLP_ACT], scale=None)}
    shared = {DECODER_RESID: random_edit(model.config, DECODER_RESID, seed=9, strength=0.5)}
    first = first_edited(model.config.encoder, edits)
    together = generate_each(tapped, model.variables, batch, edits, Decoding(NEW), shared, first)
    for k, alone in enumerate(own):
        out = generate(tapped, model.variables, batch, alone | shared, Decoding(NEW))
        assert together.tokens[k].tolist() == out.tokens.tolist()
        see, expected = together.see[ENCODER_MLP_ACT], out.see[ENCODER_MLP_ACT]
        np.testing.assert_allclose(see.before[k], expected.before, atol=1e-6)
        np.testing.assert_allclose(see.after[k], expected.before, atol=1e-6)
        np.testing.assert_allclose(together.taps[PROJECTOR][k], out.taps[PROJECTOR], atol=1e-6)


@pytest.mark.parametrize("kind", ["own directions", "shared directions", "measured"])
@pytest.mark.parametrize("rows", [3, 6])
def test_prompts_that_pass_in_parts_answer_as_together(model, kind, rows):
    """Also with the rows of several parts in one decode loop; every record keeps its axes."""
    config = model.config
    lengths = (33, 60, 7, 24, 51, 12)[:rows]
    batch = pack(
        [random_row([f], config.encoder.n_mels, config.decoder.vocab, 40 + i) for i, f in enumerate(lengths)], config
    )
    lalm = model.tapped(Taps(SITES, "full", see_frames=True))
    own = [{site: random_edit(config, site, seed=i, strength=0.4 * i) for site in SITES} for i in range(2)]
    edits = stack(own)
    if kind == "shared directions":
        edits = {site: own[0][site].replace(scale=edit.scale, text=edit.text) for site, edit in edits.items()}
    elif kind == "measured":
        edits = {site: edit.replace(scale=None) for site, edit in edits.items() if site in (ENCODER_MLP_ACT, PROJECTOR)}
    run = lambda flight: generate_each(lalm, model.variables, batch, edits, Decoding(NEW), None, 0, flight)  # noqa: E731
    together = run(None)
    for flight in (1, 6):
        parts = run(flight)
        np.testing.assert_array_equal(parts.tokens, together.tokens)
        np.testing.assert_array_equal(parts.lengths, together.lengths)
        close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)  # noqa: E731
        jax.tree.map(close, (parts.logits, parts.see, parts.taps), (together.logits, together.see, together.taps))


def test_rows_that_depend_on_each_other_are_not_parted(model, batch):
    config = model.config
    several = pack([random_row([20, 30], config.encoder.n_mels, config.decoder.vocab, 1)] * 2, config)
    assert _parts(model.lalm, batch, 1) == 3 and _parts(model.lalm, batch, 3) == 1
    assert _parts(model.lalm, several, 1) == 1  # two encoder rows for each prompt
    sharded = model.lalm.clone(mesh=jax.make_mesh((1, 1), ("data", "tensor")))
    assert _parts(sharded, batch, 1) == 1


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
    whole = encode_above(lalm, model.variables, batch.audio, edits, 0)
    for first in range(1, layers):
        parts = encode_above(lalm, model.variables, batch.audio, edits, first)
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
