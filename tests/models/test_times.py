"""When positions of every family lie in a clip: against the audio that each of them reads, and across encoder rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seen_jax.models.batching import Prepared
from seen_jax.models.config import ConformerConfig
from seen_jax.models.encoder import Audio, Encoder
from seen_jax.models.family import published_config
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.model import Model
from seen_jax.models.pooling import middle_frames, per_request, position_seconds, real_positions, token_frames
from seen_jax.models.processor import Processor
from seen_jax.models.sites import DECODER_RESID, ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR, Taps
from seen_jax.registry import FAMILIES

SECONDS = (2.0, 3.7, 61.3)  # the last one is several rows in most families that cut


def prepared(family, config, seconds: float):
    """The encoder rows of one clip, and a model as far as times need it."""
    wave = np.random.default_rng(0).standard_normal(round(seconds * 16000)).astype(np.float32)
    wave = family.framing.check(wave, family.name)
    audio, owners = family.framing.audio([wave], config.encoder)
    model = Model(family.name, Path(), Lalm(config), {}, Processor(None, config, family))
    return model, Prepared([0], audio, [owners])


def times(family, seconds: float, site: str):
    config = published_config(family)
    model, group = prepared(family, config, seconds)
    at = position_seconds(model, site, group)
    return per_request(model, site, at[None], group)[0][0], min(seconds, family.framing.seconds)


@pytest.mark.filterwarnings("ignore:the clip lasts")
@pytest.mark.parametrize("site", [ENCODER_MLP_ACT, PROJECTOR])
@pytest.mark.parametrize("family", [FAMILIES[name] for name in sorted(FAMILIES)], ids=lambda f: f.name)
def test_times_rise_evenly_from_the_beginning_to_the_end_of_a_clip(family, site):
    for seconds in SECONDS:
        at, length = times(family, seconds, site)
        steps = np.diff(at)
        hop = np.median(steps)
        assert 0.01 < hop < 0.2
        assert steps.min() > 0.2 * hop and steps.max() < 1.6 * hop  # a row or chunk may end within a step
        assert at[0] < hop
        if not (site == PROJECTOR and family.name == "voxtral"):  # its language model hears the padding too
            filled = 0.3 if isinstance(published_config(family).encoder, ConformerConfig) else hop  # whole windows
            assert length - 1.6 * hop < at[-1] < length + filled


@pytest.mark.parametrize("family", [FAMILIES[name] for name in sorted(FAMILIES)], ids=lambda f: f.name)
def test_a_position_reads_the_audio_around_its_time(family):
    """Without attention, the gradient of one position with respect to the mel frames is centred on its frame."""
    encoder = published_config(family).encoder
    if isinstance(encoder, ConformerConfig):
        assert middle_frames(encoder, 200).tolist() == list(range(200))  # it has no stem
        return
    small = dataclasses.replace(encoder, width=12, heads=1, ffn=12, n_mels=16, layers=1, output_width=8)
    small = dataclasses.replace(small, channels=min(small.channels, 4), hidden=8, rotary=0 if not small.rotary else 4)
    total = small.padded(min(230, small.pad_frames * 2))
    audio = Audio(np.zeros((1, total, 16), np.float32), np.array([total], np.int32))
    module = Encoder(small, Taps((ENCODER_RESID,), "full"))
    variables = module.init(jax.random.key(0), audio, {})
    attended = variables["params"]["layers"]["v"]
    variables["params"]["layers"]["v"] = jax.tree.map(jnp.zeros_like, attended)
    x = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1, audio.features.shape), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(small.width), jnp.float32)

    @jax.jit
    @jax.grad
    def slope(features, position):
        records = module.apply(variables, audio.replace(features=features), {}).records
        return records[ENCODER_RESID]["tap"][0, 0, position] @ weights

    centres = middle_frames(small, total)
    for position in (5, len(centres) // 2 + 3, len(centres) - 5):  # not at the edge of a chunk
        gradient = slope(x, position)
        reach = np.flatnonzero(np.abs(np.asarray(gradient[0])).sum(-1))
        assert (reach[0] + reach[-1]) / 2 == centres[position]


@pytest.mark.parametrize("family", [FAMILIES[name] for name in sorted(FAMILIES)], ids=lambda f: f.name)
def test_audio_tokens_of_the_prompt_have_the_times_of_the_projector(family):
    config = published_config(family)
    model, group = prepared(family, config, 2.0)
    tokens = position_seconds(model, PROJECTOR, group)[0]
    assert len(tokens) == len(token_frames(config.encoder, group.inputs.features.shape[1]))
    index = np.array([[-1, 0, 1, 2, -1]], np.int32)
    audio = group.inputs
    batch = Batch(np.zeros((1, 5)), np.array([5]), audio.features, audio.frames, index)
    at = position_seconds(model, DECODER_RESID, group._replace(inputs=batch))
    np.testing.assert_array_equal(at, [[np.nan, *tokens[:3], np.nan]])
    assert real_positions(model, DECODER_RESID, group._replace(inputs=batch)).tolist() == [[False, *[True] * 3, False]]
