"""What `seen-jax bench` reports: ratios of turns, shares of a limit, and both sides of a suite doing the same."""

from __future__ import annotations

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import pytest
from cli_support import run

from seen_jax.bench.card import DECODE, Load, batch_of, operations, random_weights, seven_b
from seen_jax.bench.processes import memory
from seen_jax.bench.suites import Bench, calibration, evaluate, scoring, sweep
from seen_jax.bench.timing import Ceilings, alternate, ceilings, ratio, roofline
from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.lalm import Lalm
from seen_jax.models.load import load
from seen_jax.models.model import forward

TINY = LalmConfig(
    family="qwen2_5_omni",
    encoder=EncoderConfig(
        n_mels=128, width=32, layers=2, heads=2, ffn=64, output_width=48, pad_frames=200, chunked=True
    ),
    decoder=DecoderConfig(
        vocab=300, width=48, layers=2, heads=4, kv_heads=2, head_dim=12, ffn=64, rope_theta=1e6, eps=1e-6, qkv_bias=True
    ),
    audio_token=299,
    stop_tokens=(-1,),
    pad_token=0,
)  # fmt: skip


def test_sides_take_turns_and_the_first_turn_does_not_count():
    order: list[str] = []
    times = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, runs=3)
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert [len(seconds) for seconds in times.values()] == [3, 3]


def test_what_was_timed_is_kept_at_once(bench):
    kept = {}
    one = dataclasses.replace(bench, keep=lambda suite, times: kept.update({suite: times}))
    assert kept == {"nothing": one.turns("nothing", {"a": lambda: None})} and len(kept["nothing"]["a"]) == 1


def test_a_ratio_is_taken_turn_by_turn():
    by_turn = ratio([2.0, 9.0, 8.0], [1.0, 3.0, 2.0])
    assert (by_turn.median, by_turn.low, by_turn.high) == (3.0, 2.0, 4.0)


def test_a_roofline_is_the_slower_of_its_two_limits():
    top = Ceilings(operations=100.0, bytes=10.0)
    assert roofline(50.0, 1.0, 1.0, top).share == 0.5
    assert roofline(50.0, 20.0, 4.0, top).share == 0.5
    measured = ceilings()
    assert measured.operations > 1e8 and measured.bytes > 1e7


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(load("seen-tiny"), items=3, batch=2, runs=1)


@pytest.mark.slow
def test_all_sides_of_the_evaluation_give_the_same_answers(bench):
    pytest.importorskip("torch", reason="the other side needs the `parity` extra")
    timed = evaluate(bench)  # raises where they differ
    assert set(timed.ratios) == {"evaluate_vs_hooks", "evaluate_vs_hooks_batched"}
    assert 0 < timed.rooflines["evaluate"].share < 1.5
    for suite, name in ((calibration, "calibration_vs_hooks"), (scoring, "scoring_vs_hooks")):
        assert suite(bench).ratios[name].median > 0


@pytest.mark.slow
def test_a_sweep_is_timed_without_pytorch(bench):
    assert sweep(bench).ratios["sweep_vs_four_answers"].median > 0


@pytest.mark.slow
def test_a_random_model_of_any_size_is_measured(bench):
    timed = seven_b(bench, TINY)
    sides = ("ours", "int8")
    assert set(timed.rooflines) == {f"{what}, {side}" for what in ("decode", "prompt") for side in sides}
    assert set(timed.ratios) == {"int8_decode_vs_ours", "int8_first_token_vs_ours", "int8_prompt_vs_ours"}
    assert timed.values["tokens per second, int8"] > 0


@pytest.mark.parametrize("weights", [None, "int8"])
def test_random_weights_keep_activations_near_1(weights):
    lalm = Lalm(TINY, dtype=jnp.float32, weights=weights)
    out = forward(lalm, random_weights(lalm), batch_of(TINY, DECODE), {})
    assert 0.1 < float(jnp.std(out.logits)) < 10


def test_operations_are_those_that_xla_counts():
    """Of a model of one layer each, which XLA does not count as a loop; it adds what is no product of matrices."""
    one = dataclasses.replace(
        TINY, encoder=dataclasses.replace(TINY.encoder, layers=1), decoder=dataclasses.replace(TINY.decoder, layers=1)
    )
    lalm, load_ = Lalm(one), Load(1, 32)
    compiled = forward.lower(lalm, random_weights(lalm), batch_of(one, load_), {}).compile()
    counted = compiled.cost_analysis()["flops"]
    assert 0.7 < operations(one, load_) / counted < 1.3


def test_the_other_side_of_the_card(bench):
    torch = pytest.importorskip("torch", reason="the other side needs the `parity` extra")
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    from seen_jax.bench.card import torch_sides

    audio = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "output_dim": 48}
    text = {
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 64, "vocab_size": 300,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 48}
    config = Qwen2_5OmniThinkerConfig(
        audio_config=audio, text_config=text, vision_config=vision, audio_token_id=299, image_token_id=298,
        video_token_id=297,
    )  # fmt: skip
    config.vision_start_token_id = 296  # which this class does not set and `generate` wants
    model = Qwen2_5OmniThinkerForConditionalGeneration(config).to(torch.bfloat16).eval()
    calls: list[int] = []
    model.model.audio_tower.layers[0].fc1.register_forward_hook(lambda *_: calls.append(1))

    def sides(q, loads):
        return torch_sides(model, q, loads)

    timed = seven_b(bench, TINY, sides)
    assert {"decode_vs_torch", "first_token_vs_torch", "prompt_vs_torch"} < set(timed.ratios)
    assert len(calls) == 6  # two turns of three sides


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in other units")
def test_memory_does_not_grow_with_the_items(bench):
    timed = memory(dataclasses.replace(bench, batch=4, runs=3))  # 16 items, and 160; a single turn is off by 5 %
    assert timed.ratios["memory_10x_items"].median < 1.05


def test_the_command(tmp_path):
    out = tmp_path / "bench.json"
    data = run("bench", "--suite", "import", "--runs", "1", "--json", "--out", out).data
    assert data == json.loads(out.read_text())
    assert data["runs"] == 1 and "cores" in data["machine"] and isinstance(data["ratios"], dict)
    assert data["values"]["seconds beyond import jax"] < 30


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is an accelerator")
def test_the_card_needs_one():
    done = run("bench", "--suite", "card")
    assert done.status == 1 and "needs a GPU or TPU" in done.err and "Traceback" not in done.err
