"""The authors' released bases on the three models of the paper: encoders of the published depth and MLP width, thin
elsewhere. They must change what they are made for, and nothing before it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_omni import random_params

from seen_jax.edits import projection
from seen_jax.models.family import published_config
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.model import Model, forward
from seen_jax.models.processor import Processor
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_RESID, Taps
from seen_jax.registry import FAMILIES
from seen_jax.subspace import NoiseBasis, load_released

minicpm_o, qwen2_5_omni, step_audio_2 = (FAMILIES[name] for name in ("minicpm_o", "qwen2_5_omni", "step_audio_2"))

FILES = {
    "Qwen/v_list_gauss_0.1_0.pt": qwen2_5_omni,
    "Qwen/v_list_crowd_0.1_0.pt": qwen2_5_omni,
    "MiniCPM/v_list_gauss_0.1_0.pt": minicpm_o,
    "StepAudio/v_list_gauss_0.1_0.pt": step_audio_2,
}
FRAMES = 200


def thin_model(family: Any) -> Model:
    config = published_config(family)
    encoder = dataclasses.replace(config.encoder, width=16, heads=2, output_width=24, hidden=24)
    decoder = dataclasses.replace(
        config.decoder, vocab=64, width=24, layers=2, heads=2, kv_heads=1, head_dim=12, ffn=32
    )
    config = dataclasses.replace(config, encoder=encoder, decoder=decoder, audio_token=5, pad_token=0)
    variables = {"params": random_params(config, seed=1)}
    return Model(family.name, Path(), Lalm(config), variables, Processor(None, config, family))


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {family.name: thin_model(family) for family in {f.name: f for f in FILES.values()}.values()}


def batch_of(model: Model) -> Batch:
    encoder = model.config.encoder
    tokens = int(encoder.token_count(FRAMES))
    index = np.concatenate([[-1, -1], np.arange(tokens), [-1, -1]])[None].astype(np.int32)
    features = np.random.default_rng(0).standard_normal((1, FRAMES, encoder.n_mels)).astype(np.float32)
    ids = np.where(index < 0, 7, model.config.audio_token)
    ints = lambda x: jnp.asarray(x, jnp.int32)
    return Batch(ints(ids), ints([ids.shape[1]]), jnp.asarray(features), ints([FRAMES]), ints(index))


def run(model: Model, basis: NoiseBasis, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(activations, residual stream) of all layers, and logits. Strength 0 runs the same program."""
    edits = projection(model, basis, strength)
    out = forward(model.tapped(Taps((ENCODER_MLP_ACT, ENCODER_RESID), "full")), model.variables, batch_of(model), edits)
    return np.asarray(out.taps[ENCODER_MLP_ACT]), np.asarray(out.taps[ENCODER_RESID]), np.asarray(out.logits)


@pytest.mark.parametrize("name", list(FILES))
def test_a_released_basis_changes_the_right_layers_only(recordings, models, name):
    model = models[FILES[name].name]
    depth, width = model.config.site_shape(ENCODER_MLP_ACT)
    basis = load_released(recordings / "released_bases" / name, depth).for_any_model()  # the model is thinner
    assert basis.q.shape[:2] == (depth, width)
    plain = run(model, basis, 0.0)
    first = next(layer for layer in basis.layers if basis.ranks[layer])
    edited = run(model, basis)
    for ours, before in zip(edited[:2], plain[:2], strict=True):
        np.testing.assert_array_equal(ours[:first], before[:first])
        assert all((ours[layer] != before[layer]).any() for layer in range(first, depth))
    assert (edited[2] != plain[2]).any()


@pytest.mark.parametrize("name", list(FILES))
def test_every_layer_of_a_released_basis_alone(recordings, models, name):
    model = models[FILES[name].name]
    basis = load_released(recordings / "released_bases" / name, model.config.encoder.layers).for_any_model()
    plain = run(model, basis, 0.0)
    for layer in basis.layers:
        edited = run(model, basis.with_layers((layer,)))
        if not basis.ranks[layer]:  # nothing to remove
            for ours, before in zip(edited, plain, strict=True):
                np.testing.assert_array_equal(ours, before)
            continue
        q = np.asarray(basis.q[layer], np.float64)
        a = plain[0][layer].astype(np.float64)
        np.testing.assert_array_equal(edited[0][:layer], plain[0][:layer])
        np.testing.assert_allclose(edited[0][layer], a - a @ q @ q.T, atol=1e-5, rtol=0)
        np.testing.assert_array_equal(edited[1][:layer], plain[1][:layer])
        assert np.abs(edited[1][layer] - plain[1][layer]).max() > 0 and (edited[2] != plain[2]).any()
