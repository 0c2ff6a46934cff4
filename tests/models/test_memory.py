"""Estimates of memory beside what XLA's compiler says of the same programs, and advice where these do not fit."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from seen_jax.bench.programs import Target, of_answers, of_encoder
from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.devices import DEVICES, GIB
from seen_jax.models.family import published_config
from seen_jax.models.lalm import Lalm
from seen_jax.models.memory import ENCODER, TOLERANCE, Work, changes, fits, need, sentence, shapes, spread
from seen_jax.models.sharding import DATA, TENSOR
from seen_jax.registry import FAMILIES

OMNI = published_config(FAMILIES["qwen2_5_omni"])
SMALL = LalmConfig(  # large enough for activations to count beside the weights
    family="qwen2_5_omni",
    encoder=EncoderConfig(
        n_mels=128, width=128, layers=2, heads=4, ffn=512, output_width=128, pad_frames=200, chunked=True
    ),
    decoder=DecoderConfig(
        vocab=2000, width=128, layers=3, heads=4, kv_heads=2, head_dim=32, ffn=512, rope_theta=1e6, eps=1e-6,
        qkv_bias=True,
    ),
    audio_token=1999, stop_tokens=(-1,), pad_token=0,
)  # fmt: skip


def here(config: LalmConfig, work: Work) -> Target:
    """The model on this machine's CPU."""
    mesh = Mesh(np.array(jax.devices("cpu")[:1]).reshape(1, 1), (DATA, TENSOR))
    return Target(Lalm(config, dtype=work.dtype), mesh, shapes(config, work), work.new)


def compiled_bytes(lowered) -> float:
    memory = lowered().compile().memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes


@pytest.mark.parametrize("clips, seconds", [(1, 30.0), (8, 10.0)])
def test_the_estimate_is_near_what_the_cpu_compiler_needs(clips, seconds):
    work = Work(clips, seconds, new=32)
    lowered = of_answers(here(SMALL, work))["generate"]
    assert need(SMALL, work).total == pytest.approx(compiled_bytes(lowered), rel=TOLERANCE)
    work = dataclasses.replace(work, part=ENCODER)
    lowered = of_encoder(here(SMALL, work))["score"]
    assert need(SMALL, work).total == pytest.approx(compiled_bytes(lowered), rel=TOLERANCE)


def test_weights_are_counted_by_type_part_and_devices():
    half = Work(dtype="bfloat16")
    weights = lambda **fields: need(OMNI, dataclasses.replace(half, **fields)).weights
    assert weights() == pytest.approx(16.5e9, rel=0.01) and weights(dtype="float32") == 2 * weights()
    assert weights(part=ENCODER) == pytest.approx(1.22 * GIB, rel=0.05)
    assert weights(weights="int8") == pytest.approx(8.29 * GIB, rel=0.01)
    assert weights(tensor=4) == pytest.approx(weights() / 4, rel=0.02)
    assert (
        need(OMNI, dataclasses.replace(half, clips=8, data=4)).cache
        == need(OMNI, dataclasses.replace(half, clips=2)).cache
    )


def test_more_clips_and_longer_ones_take_more():
    half = Work(dtype="bfloat16")
    total = lambda **fields: need(OMNI, dataclasses.replace(half, **fields)).total
    assert total() < total(clips=4) < total(clips=4, seconds=60.0) < total(clips=4, seconds=60.0, new=16384)
    assert total(part=ENCODER) < total()


def test_every_family_has_an_estimate():
    for family in FAMILIES.values():
        config = published_config(family)
        whole, encoder = (need(config, Work(dtype="bfloat16", part=part)) for part in ("whole", ENCODER))
        assert 0 < encoder.total < whole.total and min(dataclasses.astuple(whole)) >= 0, family.name
        assert family.hub and family.licence, family.name


def test_changes_are_those_that_help():
    memory = DEVICES["v5e-1"].memory
    work = Work(8, 10.0)
    words = changes(OMNI, work, memory)
    assert words and all("--batch-size" not in word for word in words[:1])
    for word in words:
        if word.startswith("--mesh.tensor"):
            count = int(word.split()[1])
            assert fits(OMNI, dataclasses.replace(work, tensor=count), memory)
            assert not fits(OMNI, dataclasses.replace(work, tensor=count // 2), memory)
    many = dataclasses.replace(work, dtype="bfloat16", clips=500)
    count = int(next(word for word in changes(OMNI, many, 31.25 * GIB) if "--batch-size" in word).split()[1])
    assert fits(OMNI, dataclasses.replace(many, clips=count), 31.25 * GIB)
    assert not fits(OMNI, dataclasses.replace(many, clips=count + 1), 31.25 * GIB)
    assert not changes(OMNI, Work(1, 10.0), 1e6)
    text = sentence("X", OMNI, work, memory)
    assert "8 clips of 10 s" in text and "15.8" in text and words[0] in text


def test_a_machine_shares_the_weights_only_as_far_as_it_must():
    half = Work(4, 10.0, dtype="bfloat16")
    on = lambda name, work: (spread(OMNI, work, DEVICES[name]).data, spread(OMNI, work, DEVICES[name]).tensor)
    assert on("v4-8", half) == (4, 1)
    assert on("v5e-4", half) == (2, 2)
    assert on("v5e-4", dataclasses.replace(half, part=ENCODER)) == (4, 1)
