"""Models on the hub, of which a stand-in on loopback counts the files: what is fetched, and what is refused first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hub_server import StandIn, point_to, stand_in
from safetensors.numpy import load_file, save_file
from test_checkpoint import edit_tensors
from tiny_omni import leaves_equal

from seen_jax.errors import CheckpointError, ConfigError
from seen_jax.models.folders import INDEX, WEIGHTS, find_folder
from seen_jax.models.load import load

ENCODER, BOTH, DECODER, TALKER = (f"model-0000{i}-of-00004.safetensors" for i in range(1, 5))
CONFIGS = {"config.json", INDEX, "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with stand_in(tmp_path / "cache", monkeypatch) as server:
        yield server


@pytest.fixture
def published(folder, tmp_path) -> Path:
    """As on the hub: four shards, of which one holds both parts and one what is never needed, and other copies."""
    copy = Path(shutil.copytree(folder, tmp_path / "published"))
    tensors = load_file(copy / WEIGHTS)
    tensors["talker.model.norm.weight"] = np.zeros(4, np.float32)
    (copy / WEIGHTS).unlink()
    places = {}
    for key in tensors:
        audio, first = key.startswith("audio_tower"), key.startswith("audio_tower.layers.0")
        places[key] = TALKER if key.startswith("talker") else BOTH if first else ENCODER if audio else DECODER
    places["lm_head.weight"] = BOTH
    for name in set(places.values()):
        save_file({key: x for key, x in tensors.items() if places[key] == name}, copy / name)
    (copy / INDEX).write_text(json.dumps({"weight_map": places}))
    (copy / "fp16").mkdir()
    for name in ("consolidated.safetensors", "pytorch_model.bin", "model-q4.gguf", "fp16/model.safetensors"):
        (copy / name).write_bytes(b"a second copy")
    return copy


def test_only_the_shards_of_the_encoder_are_fetched(hub: StandIn, published, model):
    encoder = load(hub.add("org/omni", published), part="encoder")
    weights = [name for name in hub.sent if name.endswith((".safetensors", ".bin", ".gguf"))]
    assert sorted(weights) == [ENCODER, BOTH]
    assert leaves_equal(encoder.variables["params"], {"encoder": model.variables["params"]["encoder"]})


def test_the_whole_model_is_fetched_once_and_nothing_else(hub: StandIn, published, model):
    assert leaves_equal(load(hub.add("org/omni", published)).variables, model.variables)
    assert sorted(name for name in hub.sent if not name.endswith((".json", ".jinja"))) == [ENCODER, BOTH, DECODER]
    assert set(hub.sent) >= CONFIGS
    before = list(hub.sent)
    load("org/omni")
    assert hub.sent == before


def test_a_configuration_comes_without_weights(hub: StandIn, published):
    find_folder(hub.add("org/omni", published))
    assert hub.sent and not any(name.endswith(".safetensors") for name in hub.sent)


def test_revisions(hub: StandIn, published, tmp_path):
    other = Path(shutil.copytree(published, tmp_path / "other"))
    shard = load_file(other / ENCODER)
    shard["audio_tower.conv1.bias"] += 1
    save_file(shard, other / ENCODER)
    hub.add("org/omni", published)
    hub.add("org/omni", other, "v2")
    first, second = (load("org/omni", part="encoder", revision=revision) for revision in (None, "v2"))
    bias = [np.asarray(x.variables["params"]["encoder"]["conv1"]["bias"]) for x in (first, second)]
    np.testing.assert_allclose(bias[1], bias[0] + 1, rtol=1e-6)
    assert first.fingerprint != second.fingerprint
    with pytest.raises(CheckpointError, match="has no revision 'v3'"):
        load("org/omni", revision="v3")
    with pytest.raises(ConfigError, match=r"a revision is one of a hub name, and .*published is not on the hub"):
        load(published, revision="v2")


def test_local_files_only(hub: StandIn, published):
    name = hub.add("org/omni", published)
    with pytest.raises(CheckpointError, match="org/omni is not, or not wholly, in the local hub cache"):
        load(name, local_files_only=True)
    assert hub.asked == []
    whole = load(name)
    asked = list(hub.asked)
    assert leaves_equal(load(name, local_files_only=True).variables, whole.variables)
    assert hub.asked == asked


def test_what_was_fetched_serves_where_the_hub_cannot_be_reached(hub: StandIn, published, monkeypatch):
    encoder = load(hub.add("org/omni", published), part="encoder")
    point_to(9, monkeypatch)  # nobody listens there
    assert load("org/omni", part="encoder").fingerprint == encoder.fingerprint
    missing = r"org/omni is not, or not wholly, in the local hub cache|names the shard \S+, which is missing"
    with pytest.raises(CheckpointError, match=missing):  # the second: huggingface_hub 1 gives a folder of parts
        load("org/omni")
    with pytest.raises(CheckpointError, match=r"org/other is not.* hub cache, and the hub cannot be reached"):
        load("org/other")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("model-q4_k_m.gguf", "README.md"), r"It holds GGUF weights \(model-q4_k_m\.gguf\), which are not read"),
        (("config.json", "pytorch_model.bin"), r"pickled weights \(pytorch_model\.bin\), which are never loaded"),
        ((WEIGHTS, "README.md"), r"holds no config\.json"),
    ],
)
def test_what_is_no_model_is_refused_by_its_list_of_files(hub: StandIn, tmp_path, files, message):
    (tmp_path / "repository").mkdir()
    for name in files:
        (tmp_path / "repository" / name).write_text("{}")
    with pytest.raises(CheckpointError, match=f"org/other.*{message}"):
        load(hub.add("org/other", tmp_path / "repository"))
    assert hub.sent == []


def test_names_that_are_no_model(hub: StandIn, published):
    hub.data_sets.add("org/clips")
    hub.gated.add(hub.add("org/gated", published))
    for name, message in (
        ("org/clips", "org/clips is a data set on the hub, not a model"),
        ("org/gone", "org/gone was not found on the hub, and is no local folder"),
        ("org/gated", "org/gated is gated: accept its licence"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load(name)
    assert hub.sent == []


@pytest.mark.parametrize(
    ("name", "message"), [("../other.safetensors", "outside its folder"), ("gone", "downloaded|missing")]
)
def test_an_index_that_names_what_is_not_there(hub: StandIn, published, name, message):
    index = json.loads((published / INDEX).read_text())
    index["weight_map"]["audio_tower.conv1.bias"] = name
    (published / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        load(hub.add("org/omni", published), part="encoder")
    assert not any(x.endswith(".safetensors") for x in hub.sent if name.startswith(".."))


def test_shards_without_wanted_weights_need_not_be_there(published, model):
    for name in (DECODER, TALKER):
        (published / name).unlink()
    (published / "tokenizer.json").unlink()
    encoder = load(published, part="encoder")
    assert leaves_equal(encoder.variables["params"]["encoder"], model.variables["params"]["encoder"])
    with pytest.raises(CheckpointError, match=f"names the shard {DECODER}, which is missing"):
        load(published)


def test_a_missing_shard_of_the_encoder_is_named(published):
    (published / BOTH).unlink()
    with pytest.raises(CheckpointError, match=f"names the shard {BOTH}, which is missing"):
        load(published, part="encoder")


def test_weights_of_the_encoder_that_do_not_fit_are_named(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    extra = "audio_tower.layers.3.fc1.weight"
    edit_tensors(copy, lambda tensors: tensors.update({extra: np.zeros((2, 2), np.float32)}))
    with pytest.raises(CheckpointError, match=f"unexpected: {extra}"):
        load(copy, part="encoder")
    edit_tensors(copy, lambda tensors: [tensors.pop(extra), tensors.pop("audio_tower.proj.bias")])
    with pytest.raises(CheckpointError, match=r"missing: audio_tower\.proj\.bias"):
        load(copy, part="encoder")


def test_parts_that_are_not_there(folder):
    with pytest.raises(ConfigError, match="part must be 'encoder', or None for the whole model, not 'decoder'"):
        load(folder, part="decoder")
    with pytest.raises(TypeError, match="revisions"):
        load(folder, revisions="v2")
