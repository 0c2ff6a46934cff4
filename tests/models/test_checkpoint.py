"""Model folders: what goes in comes out, shards and dtypes do not matter, and damage is named, all of it at once."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file
from tiny_omni import Size, config_json, leaves_equal, write_checkpoint

from seen_jax.errors import CheckpointError, ConfigError
from seen_jax.models.checkpoint import load_params, parameter_shapes, read_config, save_params
from seen_jax.models.family import published_config
from seen_jax.models.load import load
from seen_jax.models.safetensors_files import INDEX, WEIGHTS, list_tensors
from seen_jax.models.weights import slots
from seen_jax.registry import FAMILIES


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_tensors(folder: Path, change: Callable[[dict], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def shard(folder: Path, parts: int = 3) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {key: f"model-{i % parts + 1:05d}-of-{parts:05d}.safetensors" for i, key in enumerate(tensors)}
    for name in set(places.values()):
        save_file({key: x for key, x in tensors.items() if places[key] == name}, folder / name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


# --- there and back ---


def test_round_trip(model, folder, tmp_path):
    config, family = read_config(folder)
    save_params(tmp_path / "new", model.variables["params"], config, family)
    again = load_params(tmp_path / "new", config, family)
    assert leaves_equal(again, model.variables["params"])
    old, new = load_file(folder / WEIGHTS), load_file(tmp_path / "new" / WEIGHTS)
    assert old.keys() == new.keys() and all(np.array_equal(old[key], new[key]) for key in old)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [WEIGHTS]


def test_shards_give_the_same_parameters(model, copy):
    shard(copy)
    config, family = read_config(copy)
    assert len({x.file for x in list_tensors(copy).values()}) == 3
    assert leaves_equal(load_params(copy, config, family), model.variables["params"])


def test_tensors_that_audio_and_text_do_not_need_are_skipped(model, copy):
    extra = ("audio_tower.audio_bos_eos_token.weight", "visual.x", "talker.y", "token2wav.z", "thinker.visual.w")
    edit_tensors(copy, lambda tensors: tensors.update({key: np.zeros((2, 3)) for key in extra}))
    config, family = read_config(copy)
    assert leaves_equal(load_params(copy, config, family), model.variables["params"])


def test_bfloat16_stays_or_becomes_float32(model, tmp_path):
    folder = write_checkpoint(tmp_path, dtype=ml_dtypes.bfloat16)
    config, family = read_config(folder)
    stored = flatten_dict(load_params(folder, config, family, jnp.bfloat16))
    wide = flatten_dict(load_params(folder, config, family, jnp.float32))
    for path, leaf in flatten_dict(model.variables["params"]).items():
        assert stored[path].dtype == jnp.bfloat16 and wide[path].dtype == jnp.float32
        assert np.array_equal(wide[path], leaf.astype(jnp.bfloat16).astype(jnp.float32))
        assert np.array_equal(stored[path].astype(jnp.float32), wide[path])
    loaded = load(folder, dtype="bfloat16")
    assert {str(x.dtype) for x in flatten_dict(loaded.variables["params"]).values()} == {"bfloat16"}
    assert loaded.lalm.dtype == jnp.bfloat16


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_loading_holds_the_weights_once():
    """On 0.5 GB; large_checkpoint.py alone does the same, and times it, on 4.4 GB."""
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "support" / "large_checkpoint.py"),
        "--small",
        "--repeats",
        "1",
    ]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["size"] > 0.4
    assert found["size"] < found["peak"] < 1.2 * found["size"]


def test_loading_reports_its_progress(folder):
    seen: list[tuple[int, int]] = []
    load(folder, progress=lambda stage, done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] == sum(x.nbytes for x in list_tensors(folder).values())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_load_as_float32(model, copy, dtype):
    edit_tensors(copy, lambda tensors: tensors.update({key: x.astype(dtype) for key, x in tensors.items()}))
    config, family = read_config(copy)
    params = flatten_dict(load_params(copy, config, family, jnp.float32))
    for path, leaf in flatten_dict(model.variables["params"]).items():
        assert np.array_equal(params[path], np.asarray(leaf).astype(dtype).astype(np.float32))


def test_a_failed_write_leaves_no_half_file(model, folder, tmp_path, monkeypatch):
    def full_disk(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full_disk)
    config, family = read_config(folder)
    with pytest.raises(CheckpointError, match="No space left"):
        save_params(tmp_path, model.variables["params"], config, family)
    assert not list(tmp_path.iterdir())


def test_stop_and_pad_tokens_come_from_the_first_file_that_names_them(copy):
    assert read_config(copy)[0].stop_tokens == (2,)
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7], "pad_token_id": 9}))
    config = read_config(copy)[0]
    assert (config.stop_tokens, config.pad_token) == ((5, 7), 9)
    (copy / "generation_config.json").unlink()
    edit_json(copy / "config.json", lambda c: [c["text_config"].pop(k) for k in ("eos_token_id", "pad_token_id")])
    config = read_config(copy)[0]
    assert (config.stop_tokens, config.pad_token) == ((2,), 2)  # <|im_end|> of tokenizer_config.json


# --- the published 7B model, by shape ---

PUBLISHED = Size(
    n_mels=128, n_window=100, encoder_layers=32, encoder_width=1280, encoder_heads=20, encoder_ffn=5120, layers=28,
    width=3584, heads=28, kv_heads=4, ffn=18944, vocab=152064,
)  # fmt: skip


def test_published_size_without_allocating_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_json(PUBLISHED)))
    config, family = read_config(tmp_path)
    shapes = parameter_shapes(config)

    def count(*prefix: str) -> int:
        return sum(int(np.prod(shape)) for path, shape in shapes.items() if path[: len(prefix)] == prefix)

    head = count("decoder", "lm_head")
    assert count("encoder") / 1e6 == pytest.approx(639.6, abs=0.05)
    assert (count("decoder") - head) / 1e9 == pytest.approx(7.071, abs=0.0005)
    assert head == 152064 * 3584

    table = slots(family.rules(config), shapes)
    groups = [key.split(".")[0] for key in table]
    assert {name: groups.count(name) for name in set(groups)} == {"audio_tower": 488, "model": 338, "lm_head": 1}
    expected = {
        "audio_tower.conv1.weight": (1280, 128, 3),
        "audio_tower.layers.31.self_attn.k_proj.weight": (1280, 1280),
        "audio_tower.layers.0.fc1.weight": (5120, 1280),
        "audio_tower.proj.weight": (3584, 1280),
        "model.embed_tokens.weight": (152064, 3584),
        "model.layers.27.self_attn.k_proj.weight": (512, 3584),
        "model.layers.0.self_attn.v_proj.bias": (512,),
        "model.layers.0.mlp.down_proj.weight": (3584, 18944),
        "lm_head.weight": (152064, 3584),
    }
    assert {key: table[key].shape for key in expected} == expected
    assert "audio_tower.layers.0.self_attn.k_proj.bias" not in table
    assert "model.layers.0.self_attn.o_proj.bias" not in table
    assert config.encoder.pad_frames == 200 and config.decoder.head_dim == 128


# --- damage ---


def text_of(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def config_with(section: str | None, **values) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        edit_json(folder / "config.json", lambda c: (c[section] if section else c).update(values))

    return damage


def only_pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def index_outside(folder: Path) -> None:
    shard(folder)
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({"lm_head.weight": "../other.safetensors"}))


def lost_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def truncated(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def truncated_shard(folder: Path) -> None:
    shard(folder)
    path = folder / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def tensor(key: str, change: Callable[[np.ndarray], np.ndarray] | None) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        edit_tensors(folder, lambda x: x.pop(key) if change is None else x.update({key: change(x[key])}))

    return damage


def twice(folder: Path) -> None:
    edit_tensors(folder, lambda x: x.update({"thinker.lm_head.weight": x["lm_head.weight"].copy()}))


def no_stop_token(folder: Path) -> None:
    edit_json(folder / "config.json", lambda c: c["text_config"].pop("eos_token_id"))
    edit_json(folder / "tokenizer_config.json", lambda c: c.update(eos_token=None))


ROPE = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 1024}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

DAMAGES = {
    "no config": (without("config.json"), r"config\.json does not exist"),
    "config is not JSON": (text_of("config.json", "{"), r"config\.json cannot be read as JSON"),
    "config is binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), r"cannot be read as JSON"),
    "config is a list": (text_of("config.json", "[]"), r"config\.json holds a JSON list"),
    "no model type": (lambda f: edit_json(f / "config.json", lambda c: c.pop("model_type")), "model_type 'None'"),
    "unknown model type": (config_with(None, model_type="bert"), "'bert' is not supported. Supported: .*qwen2_5_omni"),
    "audio activation": (
        config_with("audio_config", activation_function="relu"), r"activation_function = 'relu'.* expected 'gelu'",
    ),
    "text activation": (config_with("text_config", hidden_act="gelu"), r"hidden_act = 'gelu' .* expected 'silu'"),
    "scaled embedding": (config_with("audio_config", scale_embedding=True), "scale_embedding = True"),
    "sliding window": (config_with("text_config", use_sliding_window=True), "use_sliding_window = True"),
    "rope type": (
        config_with("text_config", rope_parameters=ROPE),
        r"text_config\.rope_parameters\.rope_type = 'yarn' is not supported; expected 'default'",
    ),
    "a width that is no number": (config_with("text_config", hidden_size="wide"), "hidden_size = 'wide' is out of"),
    "no weights": (without(WEIGHTS), "neither model.safetensors nor model.safetensors.index.json"),
    "pickled weights": (only_pickled, r"pickled weights \(pytorch_model\.bin\), which are never loaded"),
    "index outside": (index_outside, r"points outside its folder: '\.\./other\.safetensors'"),
    "empty index": (lambda f: [shard(f), (f / INDEX).write_text("{}")], "index.json has no 'weight_map'"),
    "index of numbers": (lambda f: [shard(f), (f / INDEX).write_text('{"weight_map": {"a": 1}}')], "the shard 1"),
    "lost shard": (lost_shard, r"model-00002-of-00003\.safetensors, which is missing"),
    "truncated weights": (truncated, r"model\.safetensors is damaged"),
    "truncated shard": (truncated_shard, r"model-00003-of-00003\.safetensors is damaged"),
    "text instead of weights": (text_of(WEIGHTS, "404: not found"), r"model\.safetensors is damaged"),
    "missing key": (tensor("model.norm.weight", None), r"1 weights do not fit.*missing: model\.norm\.weight"),
    "unexpected key": (
        lambda f: edit_tensors(f, lambda x: x.update({"model.layers.0.self_attn.k_norm.weight": np.ones(4)})),
        r"unexpected: model\.layers\.0\.self_attn\.k_norm\.weight",
    ),
    "misshapen key": (
        tensor("audio_tower.conv1.weight", lambda x: x.transpose(2, 1, 0)),
        r"misshapen: audio_tower\.conv1\.weight is \[3, 16, 24\], expected \[24, 16, 3\]",
    ),
    "integer weights": (
        tensor("audio_tower.proj.weight", lambda x: x.astype(np.int8)),
        r"wrong dtype: audio_tower\.proj\.weight is I8, expected one of F32",
    ),
    "one weight twice": (twice, r"twice: .*lm_head\.weight is the same weight as .*lm_head\.weight"),
    "a layer too few": (config_with("text_config", num_hidden_layers=2), r"unexpected: model\.layers\.2\."),
    "no tokenizer": (without(*TOKENIZER), "holds no tokenizer"),
    "tokenizer is not JSON": (text_of("tokenizer.json", "{"), r"tokenizer\.json cannot be read as JSON"),
    "tokenizer of another model": (
        lambda f: edit_json(f / "tokenizer.json", lambda t: t["added_tokens"].append(t["added_tokens"][0] | {
            "id": 900, "content": "<|more|>"})), r"token ids up to \d+, the model knows \d+: tokenizer and config",
    ),
    "audio token that is not there": (config_with(None, audio_token_index=5000), "token ids up to 5000"),
    "a vocabulary too small": (
        config_with("text_config", vocab_size=50), r"misshapen: model\.embed_tokens\.weight is .*, expected \[50, 32\]",
    ),
    "no stop token": (no_stop_token, "no end-of-text token in generation_config.json, config.json or tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(copy, name):
    damage, message = DAMAGES[name]
    damage(copy)
    with pytest.raises(CheckpointError, match=f"(?s){message}") as caught:
        load(copy)
    assert str(copy) in str(caught.value) or "config.json" in str(caught.value), "the message must say where"


def test_all_problems_are_listed_at_once(copy):
    def damage(x):
        del x["model.norm.weight"], x["audio_tower.layers.1.fc1.bias"]
        x["extra.weight"] = np.zeros(3, np.float32)
        x["lm_head.weight"] = x["lm_head.weight"][:-1]
        x["audio_tower.proj.bias"] = x["audio_tower.proj.bias"].astype(np.int32)

    edit_tensors(copy, damage)
    with pytest.raises(CheckpointError) as caught:
        load(copy)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    vocab, width = load_file(copy / WEIGHTS)["lm_head.weight"].shape
    assert "5 weights do not fit" in str(caught.value)
    assert lines == [
        f"misshapen: lm_head.weight is [{vocab}, {width}], expected [{vocab + 1}, {width}]",
        "missing: audio_tower.layers.1.fc1.bias",
        "missing: model.norm.weight",
        "unexpected: extra.weight",
        "wrong dtype: audio_tower.proj.bias is I32, expected one of F32, F16, BF16, F64",
    ]


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_nothing_is_unpickled(model, copy, tmp_path):
    marker = tmp_path / "opened"
    for name in ("pytorch_model.bin", "model.pt", "model.safetensors.pkl", "vocab.pkl", "adapter_model.bin"):
        (copy / name).write_bytes(pickle.dumps(Malicious(marker)))
    assert leaves_equal(load(copy).variables, model.variables)
    (copy / WEIGHTS).write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load(copy)
    (copy / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="never loaded"):
        load(copy)
    assert not marker.exists()
    pickle.loads((copy / "model.pt").read_bytes())
    assert marker.exists(), "the trap itself must work"


# --- names ---


def test_names_that_lead_nowhere(folder, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="is a file; --model takes the folder"):
        load(folder / "config.json")
    for name in (tmp_path / "nowhere", "no-such-model", "./a/b", "a/b/c"):
        with pytest.raises(CheckpointError, match=r"there is no model folder .*seen-tiny"):
            load(name)
    with pytest.raises(ConfigError, match="dtype must be"):
        load(folder, dtype="int8")


# Tensors, parameters, and some shapes under the published names. Equal to those of the originals on PyTorch's meta
# device (test_parity_published.py), or to the public descriptions where there is no original without remote code.
SIZES = {
    "qwen2_5_omni": (827, 8_255_256_576, {"audio_tower.proj.weight": (3584, 1280)}),
    "qwen3_omni": (19_392, 31_180_574_080, {"model.layers.47.mlp.experts.127.down_proj.weight": (2048, 768)}),
    "qwen2_audio": (876, 8_397_094_912, {"language_model.lm_head.weight": (156032, 4096)}),
    "audio_flamingo_3": (830, 8_267_215_360, {"multi_modal_projector.linear_1.weight": (3584, 1280)}),
    "glm_asr": (744, 2_136_470_528, {"multi_modal_projector.linear_1.weight": (4096, 5120)}),
    "voxtral": (762, 4_676_271_104, {"language_model.model.layers.0.self_attn.q_proj.weight": (4096, 3072)}),
    "qwen3_asr": (707, 2_038_052_480, {"model.multi_modal_projector.linear_2.weight": (2048, 1024)}),
    "ultravox": (782, 8_717_574_144, {"language_model.lm_head.weight": (128256, 4096)}),
    "granite_speech": (938, 2_313_207_132, {"projector.query": (1, 3, 1024)}),
    "minicpm_o": (710, 7_936_745_984, {
        "apm.conv1.weight": (1024, 80, 3),
        "apm.embed_positions.weight": (1500, 1024),
        "apm.layers.23.fc1.weight": (4096, 1024),
        "audio_projection_layer.linear1.weight": (3584, 1024),
        "audio_projection_layer.linear2.bias": (3584,),
        "llm.model.embed_tokens.weight": (151700, 3584),
        "llm.lm_head.weight": (151700, 3584),
    }),
    "step_audio_2": (832, 8_315_179_264, {
        "encoder.conv1.weight": (1280, 128, 3),
        "encoder.positional_embedding.weight": (1500, 1280),
        "encoder.blocks.31.attn.key.weight": (1280, 1280),
        "encoder.blocks.0.mlp.0.weight": (5120, 1280),
        "encoder.after_norm.bias": (1280,),
        "adapter.conv.weight": (1280, 1280, 3),
        "adapter.linear1.weight": (2048, 1280),
        "adapter.linear2.weight": (3584, 2048),
        "lm_head.weight": (158720, 3584),
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_of_all_families(name):
    family = FAMILIES[name]
    config = published_config(family)
    shapes = parameter_shapes(config)
    table = slots(family.rules(config), shapes)
    tensors, parameters, some = SIZES[name]
    assert len(table) == tensors
    assert sum(math.prod(shape) for shape in shapes.values()) == parameters
    assert {key: table[key].shape for key in some} == some


def test_the_3b_model_of_qwen2_5_omni(tmp_path):
    """Its language model is thinner and deeper; the encoder is that of the 7B model but for the projection."""
    thinner = {"layers": 36, "width": 2048, "heads": 16, "kv_heads": 2, "ffn": 11008, "vocab": 151936}
    (tmp_path / "config.json").write_text(json.dumps(config_json(dataclasses.replace(PUBLISHED, **thinner))))
    config, family = read_config(tmp_path)
    shapes = parameter_shapes(config)
    table = slots(family.rules(config), shapes)
    assert len(table) == 488 + 12 * 36 + 2 + 1
    assert table["audio_tower.proj.weight"].shape == (2048, 1280)
    assert table["model.layers.35.self_attn.v_proj.bias"].shape == (256,) and config.decoder.head_dim == 128
    decoder = sum(math.prod(shape) for path, shape in shapes.items() if path[0] == "decoder")
    assert decoder / 1e9 == pytest.approx(3.397, abs=0.001)


def test_published_size_of_granite_speech():
    """Counts of the original on the meta device: encoder 440 M, projector 36 M, language model 1.84 B."""
    family = FAMILIES["granite_speech"]
    config = published_config(family)
    shapes = parameter_shapes(config)

    def count(*names: str) -> float:
        return sum(int(np.prod(s)) for path, s in shapes.items() if path[0] == "encoder" and path[1] in names) / 1e6

    projector = ("query", "norm_query", "qformer", "proj")
    assert count(*projector) == pytest.approx(36.0, abs=0.5)
    assert count("input", "layers", "out", "out_mid") == pytest.approx(440.0, abs=0.5)
    table = slots(family.rules(config), shapes)
    groups = [key.split(".")[0] for key in table]
    assert {name: groups.count(name) for name in set(groups)} == {
        "encoder": 518,
        "projector": 57,
        "language_model": 363,
    }
    expected = {
        "encoder.input_linear.weight": (1024, 160),
        "encoder.layers.15.attn.to_kv.weight": (2048, 1024),
        "encoder.layers.0.attn.rel_pos_emb.weight": (1025, 128),
        "encoder.layers.0.conv.up_conv.weight": (4096, 1024, 1),
        "encoder.layers.0.conv.depth_conv.conv.weight": (2048, 1, 15),
        "encoder.layers.0.conv.batch_norm.running_var": (2048,),
        "encoder.out.weight": (348, 1024),
        "projector.query": (1, 3, 1024),
        "projector.qformer.encoder.layer.1.crossattention.attention.key.weight": (1024, 1024),
        "projector.linear.weight": (2048, 1024),
        "language_model.model.layers.39.self_attn.k_proj.weight": (512, 2048),
        "language_model.lm_head.weight": (100353, 2048),
    }
    assert {key: table[key].shape for key in expected} == expected
    assert config.site_shape("encoder.mlp_act") == (32, 4096) and config.site_shape("encoder.resid") == (16, 1024)
    assert config.encoder.pad_frames == 200 and config.decoder.attention_scale == 0.0078125


# --- numbers that are not finite ---


@pytest.mark.parametrize("key", ["lm_head.weight", "model.norm.weight", "audio_tower.conv1.weight"])
@pytest.mark.parametrize(
    ("value", "stored", "dtype", "message"),
    [
        (np.nan, np.float32, "float32", "holds NaN numbers"),
        (-np.inf, ml_dtypes.bfloat16, "bfloat16", "holds infinite numbers"),
        (np.inf, np.float16, "float32", "holds infinite numbers"),
        (np.nan, np.float64, "bfloat16", "holds NaN numbers"),
        (-7e4, np.float32, "float16", r"holds 7e\+04, more than float16 can; load the model with dtype bfloat16"),
        (1e300, np.float64, "float32", r"holds 1e\+300, more than float32 can"),
    ],
)
def test_weights_that_are_not_finite_are_named(copy, key, value, stored, dtype, message):
    """The last number of a tensor, in every way of reading: straight into place, converted, transposed."""

    def damage(tensors: dict) -> None:
        for name in tensors:
            tensors[name] = tensors[name].astype(stored)
        [name] = [name for name in tensors if name.endswith(key)]
        tensors[name].reshape(-1)[-1] = value

    edit_tensors(copy, damage)
    config, family = read_config(copy)
    with pytest.raises(CheckpointError, match=rf"safetensors: the weight .*{key} {message}"):
        load_params(copy, config, family, jnp.dtype(dtype))


def test_the_largest_finite_weights_load(copy):
    largest = {"model.norm.weight": 65504.0, "lm_head.weight": -65519.0}

    def enlarge(tensors: dict) -> None:
        for key, value in largest.items():
            [name] = [name for name in tensors if name.endswith(key)]
            tensors[name].reshape(-1)[0] = value

    edit_tensors(copy, enlarge)
    config, family = read_config(copy)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        params = flatten_dict(load_params(copy, config, family, dtype))
        assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in params.values())
