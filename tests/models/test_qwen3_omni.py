"""Qwen3-Omni without PyTorch: published shapes and token counts, folders, padding, and the mixture of experts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_omni import leaves_equal, random_edit, random_params, wave

from seen_jax.errors import AudioError, CheckpointError
from seen_jax.models import layers
from seen_jax.models.checkpoint import load_params, parameter_shapes, read_config, save_params
from seen_jax.models.family import published_config
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.model import encode, forward
from seen_jax.models.safetensors_files import WEIGHTS
from seen_jax.models.sites import DECODER_MLP_ACT, DECODER_RESID, Taps
from seen_jax.models.weights import slots
from seen_jax.registry import FAMILIES

qwen3_omni = FAMILIES["qwen3_omni"]

THINKER = {
    "model_type": "qwen3_omni_moe_thinker",
    "audio_config": {
        "num_mel_bins": 20,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "d_model": 16,
        "output_dim": 24,
        "n_window_infer": 200,
        "downsample_hidden_size": 4,
    },
    "text_config": {
        "vocab_size": 50,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "moe_intermediate_size": 6,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "audio_token_id": 3,
}


def write(folder: Path, content: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = write(tmp_path_factory.mktemp("qwen3"), THINKER)
    config, family = read_config(folder)
    save_params(folder, random_params(config, 0), config, family)
    return folder


@pytest.fixture(scope="module")
def config(folder):
    return read_config(folder)[0]


@pytest.fixture(scope="module")
def variables(folder, config):
    return {"params": load_params(folder, config, qwen3_omni)}


@pytest.fixture(scope="module")
def batch(config):
    """Two prompts, of which one is shorter, without audio features that matter: their audio tokens lie in `taps`."""
    audio, _ = qwen3_omni.framing.audio([wave(9000), wave(20000, 1)], config.encoder)
    rng = np.random.default_rng(0)
    index = np.full((2, 40), -1, np.int32)
    per_row = int(config.encoder.token_count(audio.features.shape[1]))
    for row, frames in enumerate(np.asarray(audio.frames)):
        n = int(config.encoder.token_count(frames))
        index[row, 4 : 4 + n] = row * per_row + np.arange(n)
    tokens = jnp.asarray(rng.integers(4, 50, (2, 40)), jnp.int32)
    lengths = jnp.asarray([28, 40], jnp.int32)
    return Batch(tokens, lengths, audio.features, audio.frames, jnp.asarray(index), audio.visible_frames)


# --- what is published ---


def test_published_size_without_allocating_it():
    """Counts of the original on the meta device; its language model alone is Qwen3-30B-A3B with 128 more words."""
    config = published_config(qwen3_omni)
    shapes = parameter_shapes(config)

    def count(*prefix: str) -> int:
        return sum(int(np.prod(shape)) for path, shape in shapes.items() if path[: len(prefix)] == prefix)

    assert count("encoder") == 647_927_168
    assert count("decoder", "lm_head") == 311_427_072
    assert count("decoder") == 30_221_219_840 + 311_427_072
    table = slots(qwen3_omni.rules(config), shapes)
    groups = [key.split(".")[0] for key in table]
    layers = 48 * (128 * 3 + 9)
    assert {name: groups.count(name) for name in set(groups)} == {
        "audio_tower": 7 + 32 * 16 + 6,
        "model": layers + 2,
        "lm_head": 1,
    }
    expected = {
        "audio_tower.conv2d1.weight": (480, 1, 3, 3),
        "audio_tower.conv2d3.weight": (480, 480, 3, 3),
        "audio_tower.conv_out.weight": (1280, 7680),
        "audio_tower.layers.31.self_attn.k_proj.bias": (1280,),
        "audio_tower.proj1.weight": (1280, 1280),
        "audio_tower.proj2.weight": (2048, 1280),
        "model.embed_tokens.weight": (152064, 2048),
        "model.layers.0.self_attn.q_proj.weight": (4096, 2048),
        "model.layers.47.self_attn.k_norm.weight": (128,),
        "model.layers.0.mlp.gate.weight": (128, 2048),
        "model.layers.0.mlp.experts.0.gate_proj.weight": (768, 2048),
        "model.layers.47.mlp.experts.127.down_proj.weight": (2048, 768),
        "lm_head.weight": (152064, 2048),
    }
    assert {key: table[key].shape for key in expected} == expected
    assert "audio_tower.conv_out.bias" not in table and "model.layers.0.self_attn.q_proj.bias" not in table
    assert config.site_shape(DECODER_MLP_ACT) == (48, 128 * 768)
    assert config.encoder.pad_frames == 800 and config.encoder.position_count(800) == 104


def test_clips_past_forty_minutes_are_refused():
    with pytest.raises(AudioError, match=r"lasts 2400\.1 s; qwen3_omni takes at most 2400 s"):
        qwen3_omni.framing.check(np.zeros(2400 * 16000 + 1600, np.float32), "qwen3_omni")


# --- folders ---


def test_round_trip(folder, config, variables, tmp_path):
    save_params(tmp_path, variables["params"], config, qwen3_omni)
    old, new = load_file(folder / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert old.keys() == new.keys() and all(np.array_equal(old[key], new[key]) for key in old)
    assert old["model.layers.1.mlp.experts.4.up_proj.weight"].shape == (6, 24)


@pytest.mark.parametrize("body", ["thinker.model.", "model.language_model.", "thinker.model.language_model."])
def test_other_key_layouts_and_whole_models(folder, config, variables, tmp_path, body):
    """The published whole model, and levels that versions of transformers have in memory."""
    where = {"model.": body, "audio_tower.": body.partition("language_model.")[0] + "audio_tower."}
    where |= {"lm_head.": "thinker.lm_head."} if body.startswith("thinker.") else {}
    if body == "thinker.model.":
        where["audio_tower."] = "thinker.audio_tower."

    def renamed(key: str) -> str:
        start = key.partition(".")[0] + "."
        return where.get(start, start) + key.removeprefix(start)

    tensors = {renamed(key): x for key, x in load_file(folder / WEIGHTS).items()}
    skipped = ("thinker.visual.a", "model.visual.b", "talker.model.c", "code2wav.d", "code_predictor.e")
    write(tmp_path, {"model_type": "qwen3_omni_moe", "thinker_config": THINKER})
    save_file(tensors | {key: np.zeros(2, np.float32) for key in skipped}, tmp_path / WEIGHTS)
    whole, family = read_config(tmp_path)
    assert (whole, family) == (config, qwen3_omni)
    assert leaves_equal(load_params(tmp_path, whole, family), variables["params"])


def test_a_lost_expert_is_named(folder, config, tmp_path):
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.experts.3.down_proj.weight"]
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"(?s)1 weights .*missing: model\.layers\.1\.mlp\.experts\.3\.down_proj"):
        load_params(tmp_path, config, qwen3_omni)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("text_config", {"mlp_only_layers": [1]}, r"text_config\.mlp_only_layers = \[1\] is not supported"),
        ("text_config", {"decoder_sparse_step": 2}, r"text_config\.decoder_sparse_step = 2"),
        ("text_config", {"attention_bias": True}, r"text_config\.attention_bias = True"),
        ("text_config", {"hidden_act": "gelu"}, r"text_config\.hidden_act = 'gelu'"),
        ("audio_config", {"n_window": 40}, r"audio_config\.n_window = 40 .*n_window 49 to 52"),
        ("audio_config", {"n_window_infer": 99}, r"n_window_infer = 99 is not supported"),
        ("audio_config", {"activation_function": "relu"}, r"audio_config\.activation_function = 'relu'"),
        ("audio_config", {"scale_embedding": True}, r"audio_config\.scale_embedding = True"),
    ],
)
def test_attributes_that_the_port_does_not_have_are_refused(tmp_path, section, values, message):
    write(tmp_path, THINKER | {section: THINKER[section] | values})
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path)


# --- padding ---


def test_padding_and_what_it_holds_change_nothing(config, variables):
    """Clips of one chunk, of a tail and of whole chunks: in one batch and alone, with NaN behind what is convolved."""
    lalm = Lalm(config, Taps(("encoder.mlp_act", "encoder.resid", "projector"), "full"))
    run = lambda audio: encode(lalm, variables, audio, {})
    waves = [wave(800), wave(15_999, 1), wave(16_000, 2), wave(33_000, 3), wave(64_000, 4)]
    audio, _ = qwen3_omni.framing.audio(waves, config.encoder)
    assert audio.frames.tolist() == [5, 99, 100, 206, 400]
    assert audio.visible_frames.tolist() == [5, 99, 100, 300, 400]
    features = np.pad(np.asarray(audio.features), ((0, 0), (0, 200), (0, 0)))
    features[np.arange(features.shape[1]) >= np.asarray(audio.visible_frames)[:, None]] = np.nan
    together = run(audio.replace(features=jnp.asarray(features)))
    for i, clip in enumerate(waves):
        alone = run(qwen3_omni.framing.audio([clip], config.encoder)[0])
        n = int(config.encoder.token_count(audio.frames[i]))
        assert together.lengths[i] == alone.lengths[0] == n
        for site, record in alone.records.items():
            found = together.records[site]["tap"][:, i, :n]
            np.testing.assert_allclose(found, record["tap"][:, 0, :n], atol=1e-5, err_msg=site)


def test_the_rest_of_the_last_chunk_is_heard(config, variables):
    """As in the original: what zeros behind a clip make of the convolutions' biases reaches its last position."""
    run = lambda audio: encode(Lalm(config), variables, audio, {}).tokens
    audio, _ = qwen3_omni.framing.audio([wave(33_000)], config.encoder)
    n = int(config.encoder.token_count(audio.frames[0]))
    assert np.abs(run(audio) - run(audio.replace(visible_frames=None)))[0, :n].max() > 1e-3


# --- experts ---


@pytest.mark.parametrize(("rows", "experts"), [(1, 5), (4, 128), (40, 3), (500, 7), (1000, 2)])
@pytest.mark.parametrize("skewed", [False, True])
def test_grouped_rows_meet_their_own_kernel(rows, experts, skewed):
    rng = np.random.default_rng(rows)
    chosen = np.full(rows, experts - 1) if skewed else rng.integers(0, experts, rows)
    x, kernel = rng.standard_normal((rows, 6)), rng.standard_normal((experts, 6, 4))
    groups = layers.group(jnp.asarray(chosen), experts)
    found = layers.grouped_dense(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), groups)
    np.testing.assert_allclose(found, np.einsum("rd,rdf->rf", x, kernel[chosen]), atol=1e-5)
    assert groups.rows.size < 2 * rows + 128 * experts, "work that grows with rows times experts"


def test_logits_do_not_depend_on_what_is_measured(config, variables, batch):
    plain = forward(Lalm(config), variables, batch, {})
    tapped = forward(Lalm(config, Taps((DECODER_MLP_ACT,), "full")), variables, batch, {})
    edit = random_edit(config, DECODER_MLP_ACT, strength=0.0)
    measured = forward(Lalm(config), variables, batch, {DECODER_MLP_ACT: edit})
    np.testing.assert_allclose(tapped.logits, plain.logits, atol=1e-5)
    np.testing.assert_allclose(measured.logits, plain.logits, atol=1e-5)
    a = np.asarray(tapped.taps[DECODER_MLP_ACT]).reshape(2, 2, 40, 5, 6)
    assert ((a != 0).any(-1).sum(-1) == 2).all(), "two experts of five answer"
    assert (np.asarray(measured.see[DECODER_MLP_ACT].before) > 0).all()


def test_batch_and_bucket_change_nothing(config, variables, batch):
    run = lambda b: forward(Lalm(config), variables, b, {}).logits
    together = run(batch)
    for row, n in enumerate(batch.lengths.tolist()):
        one = lambda x, row=row: x[row : row + 1]
        alone = jax.tree.map(one, batch)
        per_row = int(config.encoder.token_count(batch.features.shape[1]))
        index = jnp.where(alone.audio_index < 0, -1, alone.audio_index - row * per_row)
        alone = alone.replace(tokens=alone.tokens[:, :n], audio_index=index[:, :n])
        np.testing.assert_allclose(run(alone)[0], together[row, :n], atol=1e-5)


@pytest.mark.parametrize("site", [DECODER_MLP_ACT, DECODER_RESID])
def test_a_strength_sweep_is_a_vmap_over_scale(config, variables, batch, site):
    edit = random_edit(config, site)
    strengths = (0.0, 0.5, 1.0)
    run = lambda scale: forward(Lalm(config), variables, batch, {site: edit.replace(scale=scale)}).logits
    swept = jax.vmap(run)(jnp.asarray(strengths)[:, None] * edit.scale)
    for logits, strength in zip(swept, strengths, strict=True):
        np.testing.assert_allclose(logits, run(strength * edit.scale), atol=2e-5)
    assert np.abs(np.asarray(swept[1:] - swept[:-1])).max(axis=(1, 2, 3)).min() > 1e-3


def test_gradients_equal_those_of_every_expert_for_every_token():
    rng = np.random.default_rng(0)
    x, gate, up = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((9, 6), (4, 6, 5), (4, 6, 5)))
    chosen = jnp.asarray(rng.integers(0, 4, 9))

    def grouped(x, gate, up):
        groups = layers.group(chosen, 4)
        return (jax.nn.silu(layers.grouped_dense(x, gate, groups)) * layers.grouped_dense(x, up, groups)).sum()

    def every(x, gate, up):
        return (jax.nn.silu(jnp.einsum("rd,rdf->rf", x, gate[chosen])) * jnp.einsum("rd,rdf->rf", x, up[chosen])).sum()

    ours, theirs = (jax.grad(f, (0, 1, 2))(x, gate, up) for f in (grouped, every))
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_see_has_a_gradient_in_every_parameter_of_the_layers(config, variables, batch):
    edits = {DECODER_RESID: random_edit(config, DECODER_RESID)}

    @jax.jit
    @jax.value_and_grad
    def see(params):
        return Lalm(config).apply({"params": params}, batch, edits).see[DECODER_RESID].before.mean()

    value, gradient = see(variables["params"])
    assert 0 < float(value) < 1
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient["decoder"]["layers"]):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_bfloat16_leaves_logits_and_see_in_float32(config, variables, batch):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    edits = {DECODER_MLP_ACT: random_edit(config, DECODER_MLP_ACT)}
    out = forward(Lalm(config, dtype=jnp.bfloat16), params, batch, edits)
    assert out.logits.dtype == out.see[DECODER_MLP_ACT].before.dtype == jnp.float32
    assert np.isfinite(out.logits).all()


def test_one_expert_is_a_plain_mlp(config, variables, batch):
    one = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, experts=1, top_k=1))
    plain = dataclasses.replace(one, decoder=dataclasses.replace(one.decoder, experts=0))
    params = jax.tree.map(jnp.asarray, random_params(one, 3))
    own = dict(params["decoder"]["layers"])
    experts = own.pop("experts")
    own |= {name: {"kernel": experts[name][:, 0]} for name in ("gate", "up", "down")}
    dense = {**params, "decoder": {**params["decoder"], "layers": own}}
    taps = Taps((DECODER_MLP_ACT,), "full")
    ours, theirs = (forward(Lalm(c, taps), {"params": p}, batch, {}) for c, p in ((one, params), (plain, dense)))
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-5)
    np.testing.assert_allclose(ours.taps[DECODER_MLP_ACT], theirs.taps[DECODER_MLP_ACT], atol=1e-5)
