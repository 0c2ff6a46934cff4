"""Ultravox: folders that leave parts of the model to others, prompts in which nothing but the place says audio."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_checkpoint import config_with, edit_json, edit_tensors
from tiny_omni import OPENERS, WORDS, identities_of, leaves_equal, prompt_ids, random_params, wave

from seen_jax.errors import CheckpointError, ConfigError
from seen_jax.hub import Hub
from seen_jax.models.checkpoint import load_params, parameter_shapes, read_config, save_params
from seen_jax.models.config import LalmConfig, RopeScaling
from seen_jax.models.layers import inverse_frequencies
from seen_jax.models.load import load
from seen_jax.models.model import Model
from seen_jax.models.processor import Request
from seen_jax.models.safetensors_files import WEIGHTS
from seen_jax.models.weights import slots
from seen_jax.registry import FAMILIES
from seen_jax.train.export import write_tokenizer

ultravox = FAMILIES["ultravox"]

ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rope_scaling": ROPE | {"original_max_position_embeddings": 1024},
    "eos_token_id": [5, 6],
}


def write_folder(folder: Path, text: dict, tokens: tuple[str, ...]) -> Path:
    """A folder that holds all of a tiny model. text: the language model; tokens: special ones, the last ends a turn."""
    import transformers

    folder.mkdir(exist_ok=True)
    write_tokenizer(folder, WORDS, OPENERS)
    (folder / "chat_template.jinja").unlink()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens), "eos_token": tokens[-1]})
    tokenizer.save_pretrained(folder)
    config = {
        "model_type": "ultravox",
        "auto_map": {"AutoConfig": "ultravox_config.UltravoxConfig", "AutoModel": "ultravox_model.UltravoxModel"},
        "hidden_size": 20,
        "projector_ln_mid": True,
        "text_model_id": None,
        "text_config": {"vocab_size": len(tokenizer), **text},
        "audio_config": {
            "model_type": "whisper",
            "num_mel_bins": 16,
            "d_model": 8,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 12,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    parsed, family = read_config(folder)
    save_params(folder, random_params(parsed, seed=0), parsed, family)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    headers = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    return write_folder(tmp_path_factory.mktemp("ultravox"), LLAMA, headers)


@pytest.fixture(scope="module")
def model(folder) -> Model:
    return load(folder)


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def move(folder: Path, name: str, section: str, target: Path, rename: Callable[[str], str], **extra) -> None:
    """Put a part of the model into a folder of its own. name: what config.json calls that folder."""
    prefix = {"text_config": "language_model.", "audio_config": "audio_tower."}[section]
    tensors = load_file(folder / WEIGHTS)
    own = {key: tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
    save_file(tensors, folder / WEIGHTS)
    target.mkdir(parents=True)
    save_file({rename(key.removeprefix(prefix)): x for key, x in own.items()} | extra, target / WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config.pop(section)))
    config[section.replace("_config", "_model_id")] = name
    (folder / "config.json").write_text(json.dumps(config))


def text_apart(folder: Path, name: str, target: Path) -> None:
    move(folder, name, "text_config", target, lambda key: key)


def audio_apart(folder: Path, name: str, target: Path) -> None:
    """As a whole Whisper, whose decoder is not needed."""
    extra = {"model.decoder.layers.0.fc1.weight": np.zeros((2, 2), np.float32), "proj_out.weight": np.zeros((2, 2))}
    move(folder, name, "audio_config", target, lambda key: f"model.encoder.{key}", **extra)


# --- folders ---


def test_parts_in_folders_of_their_own(model, copy, tmp_path, monkeypatch):
    """Beside the model, anywhere else, or on the hub."""
    asked = []
    monkeypatch.setattr(Hub, "files", lambda self, name: os.listdir(tmp_path / "hub"))
    monkeypatch.setattr(Hub, "fetch", lambda self, name, files: asked.append(name) or tmp_path / "hub")
    audio_apart(copy, str(tmp_path / "whisper"), tmp_path / "whisper")
    first = load(copy)
    text_apart(copy, "llama", copy / "llama")
    second = load(copy)
    shutil.move(copy / "llama", tmp_path / "hub")
    edit_json(copy / "config.json", lambda c: c.update(text_model_id="org/llama"))
    third = load(copy)
    assert set(asked) == {"org/llama"}
    for apart in (first, second, third):
        assert apart.config == model.config and leaves_equal(apart.variables, model.variables)
    assert first.fingerprint == second.fingerprint == third.fingerprint == model.fingerprint


def test_the_fingerprint_counts_every_part(copy, tmp_path):
    audio_apart(copy, str(tmp_path / "whisper"), tmp_path / "whisper")
    text_apart(copy, "llama", copy / "llama")
    before = identities_of(copy)["model"].fingerprint
    seen = {before}
    for part, key in ((copy / "llama", "model.norm.weight"), (tmp_path / "whisper", "model.encoder.conv1.bias")):
        edit_tensors(part, lambda tensors, key=key: tensors.update({key: tensors[key] + 1}))
        seen.add(identities_of(copy)["model"].fingerprint)
    assert len(seen) == 3


def test_a_weight_of_the_model_goes_before_that_of_the_part(model, copy):
    """What was trained further stays in the model's own folder."""
    key = "language_model.model.layers.1.mlp.up_proj.weight"
    trained = load_file(copy / WEIGHTS)[key] + 1
    text_apart(copy, "llama", copy / "llama")
    edit_tensors(copy, lambda tensors: tensors.update({key: trained}))
    layers = load_params(copy, *read_config(copy))["decoder"]["layers"]
    expected = model.variables["params"]["decoder"]["layers"]
    np.testing.assert_array_equal(layers["up"]["kernel"][1], trained.T)
    np.testing.assert_array_equal(layers["up"]["kernel"][0], expected["up"]["kernel"][0])


def test_a_named_folder_is_not_opened_where_nothing_is_missing(model, copy):
    edit_json(copy / "config.json", lambda c: c.update(text_model_id="no/such-model", audio_model_id="nowhere"))
    assert leaves_equal(load(copy).variables, model.variables)


def without_language_model(tensors: dict) -> None:
    for key in [key for key in tensors if key.startswith("language_model.")]:
        del tensors[key]


def lost(folder: Path) -> None:
    text_apart(folder, "llama", folder / "llama")
    shutil.rmtree(folder / "llama")


def only_pickled(folder: Path) -> None:
    text_apart(folder, "llama", folder / "llama")
    (folder / "llama" / WEIGHTS).rename(folder / "llama" / "pytorch_model.bin")


def other_size(folder: Path) -> None:
    text_apart(folder, "llama", folder / "llama")
    edit_tensors(folder / "llama", lambda x: x.update({"model.norm.weight": x["model.norm.weight"][:-1]}))


DAMAGES = {
    "a part that nothing names": (
        lambda f: edit_tensors(f, without_language_model),
        r"holds no weights language_model\.\*, and its config\.json names no text_model_id that does",
    ),
    "a part that is not there": (lost, r"leaves a part of the model to text_model_id = 'llama': there is no model"),
    "a pickled part": (only_pickled, r"pickled weights \(pytorch_model\.bin\), which are never loaded"),
    "a part of another size": (other_size, r"misshapen: language_model\.model\.norm\.weight is \[15\]"),
    "one weight missing": (
        lambda f: edit_tensors(f, lambda x: x.pop("language_model.model.norm.weight")),
        r"1 weights do not fit.*missing: language_model\.model\.norm\.weight",
    ),
    "activation": (config_with(None, projector_act="gelu"), r"projector_act = 'gelu'.* expected 'swiglu'"),
    "layers in the projector": (config_with(None, num_projector_layers=2), "num_projector_layers = 2"),
    "unmerged LoRA": (config_with(None, text_model_lora_config={"r": 8}), r"text_model_lora_config\.r = 8"),
    "another language model": (config_with("text_config", model_type="mistral"), "model_type = 'mistral'.* 'llama' or"),
    "another encoder": (config_with("audio_config", model_type="wav2vec2"), "model_type = 'wav2vec2'.* 'whisper'"),
    "another window": (config_with("audio_config", max_source_positions=750), "max_source_positions = 750"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(copy, name):
    damage, message = DAMAGES[name]
    damage(copy)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        load(copy)


def test_stop_tokens(model, copy):
    """Those of the configuration and the end of a turn; never the default of the language model's class."""
    turn = model.processor.tokenizer.eos_token_id
    assert model.config.stop_tokens == (5, 6, turn)
    edit_json(copy / "config.json", lambda c: c["text_config"].pop("eos_token_id"))
    assert read_config(copy)[0].stop_tokens == (turn,)


# --- the published models, by shape ---

LLAMA_1B = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "tie_word_embeddings": True}


def published_config(text: dict, projector_ln_mid: bool = True) -> LalmConfig:
    """The configuration of a published folder with this language model."""
    raw = ultravox.complete(ultravox.published | {"text_config": text, "projector_ln_mid": projector_ln_mid})
    ultravox.check(raw)
    return ultravox.config(raw | {"tokens": dict.fromkeys(ultravox.tokens, 128009)}, (128009,), None)


@pytest.mark.parametrize(
    ("text", "projector_ln_mid", "decoder", "projector", "keys"),
    [({}, True, 8_030_261_248, 50_343_936, 782), (LLAMA_1B, True, 1_235_814_400, 46_149_632, 637),
     ({}, False, 8_030_261_248, 50_345_984, 782)],
    ids=["v0.5 and v0.6 8B", "v0.5 1B", "v0.4 8B"],
)  # fmt: skip
def test_published_sizes_without_allocating_them(text, projector_ln_mid, decoder, projector, keys):
    config = published_config(ultravox.published["text_config"] | text, projector_ln_mid)
    shapes = parameter_shapes(config)
    table = slots(ultravox.rules(config), shapes)
    assert len(table) == keys

    def count(prefix: str) -> int:
        return sum(int(np.prod(slot.shape)) for key, slot in table.items() if key.startswith(prefix))

    assert (count("language_model."), count("multi_modal_projector.")) == (decoder, projector)
    assert count("audio_tower.") == 636_968_960
    width = config.decoder.width
    expected = {
        "audio_tower.conv1.weight": (1280, 128, 3),
        "audio_tower.embed_positions.weight": (1500, 1280),
        "audio_tower.layers.31.fc1.weight": (5120, 1280),
        "audio_tower.layer_norm.bias": (1280,),
        "multi_modal_projector.ln_pre.weight": (10240,),
        "multi_modal_projector.linear_1.weight": (4096, 10240),
        "multi_modal_projector.linear_2.weight": (width, 2048),
        "language_model.model.embed_tokens.weight": (128256, width),
        "language_model.model.layers.0.self_attn.k_proj.weight": (8 * width // 32, width),
    }
    name, size = ("ln_mid", 2048) if projector_ln_mid else ("ln_post", width)
    expected[f"multi_modal_projector.{name}.weight"] = (size,)
    assert {key: table[key].shape for key in expected} == expected
    assert ("language_model.lm_head.weight" in table) == (not config.decoder.tied)
    assert "audio_tower.layers.0.self_attn.k_proj.bias" not in table
    assert config.decoder.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 8192) and config.stop_tokens == (128009,)


# --- clips and prompts ---


@pytest.mark.parametrize(
    ("samples", "tokens"),
    [(1, [1]), (3200, [2]), (16000, [7]), (16077, [7]), (40000, [16]), (48077, [19]), (160000, [63]), (320000, [125]),
     (480000, [188]), (480001, [188, 1]), (1000000, [188, 188, 16])],
)  # fmt: skip
def test_token_counts(model, samples, tokens):
    rows = model.processor.family.framing.rows(len(model.processor.checked(np.zeros(samples))))
    assert [model.config.encoder.token_count(row.frames) for row in rows] == tokens


def test_only_the_place_says_audio(model):
    """End-of-turn ids hold the places of audio tokens; those of the text stay text."""
    batch = model.processor.prepare([Request([wave(4000)], "which <|eot_id|>")])
    turn = model.processor.tokenizer.eos_token_id
    audio = np.asarray(batch.audio_index[0]) >= 0
    ends = np.asarray(batch.tokens[0])[: int(batch.lengths[0])] == turn
    assert audio.sum() == 2 and ends.sum() == 2 + 3  # two turns end, and the user wrote one
    assert ends[audio[: len(ends)]].all()
    assert np.diff(np.flatnonzero(audio)).tolist() == [1]


def test_a_prompt_with_another_number_of_places(model):
    for chat in ("which ?", "<|audio|> or <|audio|> ?"):
        with pytest.raises(ConfigError, match=r"audio places \(<\|audio\|>\) for 1 clips"):
            prompt_ids(model, Request([wave(4000)], messages=[{"role": "user", "content": chat}]))
    places = model.processor.prompt(Request([], messages=[{"role": "user", "content": "say <|audio|> ?"}]), [[2, 1]])[1]
    assert np.diff(places).tolist() == [1, 1]


def test_rotary_frequencies_of_llama_3():
    """Fast ones stay, slow ones are divided, and those between lie between."""
    plain = inverse_frequencies(128, 5e5)
    scaled = inverse_frequencies(128, 5e5, RopeScaling(8.0, 1.0, 4.0, 8192))
    length = 2 * np.pi / plain
    assert plain.dtype == scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled[length < 2048], plain[length < 2048])
    np.testing.assert_array_equal(scaled[length > 8192], plain[length > 8192] / 8)
    between = (length > 2048) & (length < 8192)
    assert between.any() and (scaled < plain)[between].all() and (scaled > plain / 8)[between].all()
