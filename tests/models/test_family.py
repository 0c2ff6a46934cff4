"""What a family knows of config.json and what it refuses by name, and families from other packages."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import FOLDER
from outside import installed
from tiny_omni import wave

from seen_jax.api import generate
from seen_jax.cli import models as models_command
from seen_jax.errors import CheckpointError, ConfigError
from seen_jax.models.checkpoint import read_config
from seen_jax.models.family import published_config
from seen_jax.models.generate import Decoding
from seen_jax.models.load import load
from seen_jax.models.processor import Request
from seen_jax.registry import FAMILIES

NAMES = sorted(path.name for path in FOLDER.iterdir())
LINEAR = {"type": "linear", "factor": 2.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}


@pytest.fixture
def golden(tmp_path):
    """A function that copies a golden folder and changes keys of a section ("": the top level) of its config.json."""

    def copy(family: str, section: str = "", **values: Any) -> Path:
        folder = tmp_path / family
        if not folder.exists():
            shutil.copytree(FOLDER / family, folder)
        raw = json.loads((FOLDER / family / "config.json").read_text())
        (raw[section] if section else raw).update(values)
        (folder / "config.json").write_text(json.dumps(raw))
        return folder

    return copy


def sections_of(family: str) -> list[str]:
    raw = json.loads((FOLDER / family / "config.json").read_text())
    return [name for name in FAMILIES[family].sections if not name or name in raw]


# --- where answers end ---


@pytest.mark.parametrize(
    ("family", "names"),
    [("step_audio_2", ["<|EOT|>"]), ("minicpm_o", ["<|im_end|>", "<|endoftext|>"]), ("qwen3_omni", ["<|im_end|>"])],
)
def test_answers_end_where_the_official_examples_end_them(golden, family, names):
    """Beside what the folder states."""
    folder = golden(family)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 8]}))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert read_config(folder)[0].stop_tokens == (9, 8, *(ids[name] for name in names))
    renamed = [{**token, "content": f"<{token['id']}>"} if token["content"] in names else token
               for token in tokenizer["added_tokens"]]  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "added_tokens": renamed}))
    assert read_config(folder)[0].stop_tokens == (9, 8)


def test_step_audio_2_also_ends_where_its_configuration_class_says():
    assert published_config(FAMILIES["step_audio_2"]).stop_tokens == (0, 151643, 151645, 151665)


def test_names_of_tokens_are_found_without_a_fast_tokenizer(golden):
    folder = golden("minicpm_o")
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    expected = read_config(folder)[0]
    (folder / "tokenizer.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {str(token["id"]): {"content": token["content"]} for token in added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_config(folder)[0] == expected


# --- keys of config.json ---


@pytest.mark.parametrize(("family", "section"), [(name, section) for name in NAMES for section in sections_of(name)])
def test_keys_that_a_family_does_not_know_are_refused_unless_null(golden, family, section):
    where = rf"config\.json: {section}\.unheard_of" if section else r"config\.json: unheard_of"
    with pytest.raises(CheckpointError, match=rf"{where} = 3 is not supported; the key is not known here"):
        read_config(golden(family, section, unheard_of=3))
    with pytest.raises(CheckpointError, match=where.replace("unheard_of", "quantization_config")):
        read_config(golden(family, section, quantization_config={"bits": 4}))
    assert read_config(golden(family, section, unheard_of=None)) == read_config(FOLDER / family)


@pytest.mark.parametrize("family", NAMES)
def test_keys_said_to_be_without_effect_change_nothing(golden, family):
    expected, changed = read_config(FOLDER / family)[0], 0
    for section in sections_of(family):
        raw = json.loads((FOLDER / family / "config.json").read_text())
        keys = FAMILIES[family].sections[section]
        ignored = set(keys.ignores.split())
        assert not ignored & {*keys.reads.split(), *keys.only}
        for key, value in (raw[section] if section else raw).items():
            if key in ignored and isinstance(value, (int, float)):
                other = not value if isinstance(value, bool) else value + 1
                assert read_config(golden(family, section, **{key: other}))[0] == expected, (section, key)
                changed += 1
    assert changed or family in ("minicpm_o", "step_audio_2", "ultravox"), "the golden file states none of them"


def test_the_default_of_a_key_that_is_not_known_is_accepted(golden):
    """transformers' class for the section decides; here that of Mistral, which has a key that Llama has not."""
    family = FAMILIES["voxtral"]
    raw = family.complete(json.loads((FOLDER / "voxtral" / "config.json").read_text()))
    keys = family.sections["text_config"]
    narrow = type(keys)(keys.reads.replace("rms_norm_eps", ""), keys.ignores, keys.only)
    narrow.check(raw["text_config"] | {"rms_norm_eps": 1e-6}, "text_config")
    with pytest.raises(CheckpointError, match=r"text_config\.rms_norm_eps = 1e-05 .* or 1e-06, transformers' default"):
        narrow.check(raw["text_config"], "text_config")


@pytest.mark.parametrize(
    ("family", "section", "values", "message"),
    [
        ("minicpm_o", "", {"rope_scaling": LINEAR}, r"text_config\.rope_parameters\.rope_type = 'linear'"),
        ("minicpm_o", "", {"rope_scaling": DYNAMIC}, r"text_config\.rope_parameters\.rope_type = 'dynamic'"),
        ("step_audio_2", "text_config", {"rope_scaling": LINEAR}, r"rope_parameters\.rope_type = 'linear'"),
        ("step_audio_2", "text_config", {"rope_scaling": DYNAMIC}, r"rope_parameters\.rope_type = 'dynamic'"),
        (
            "qwen2_audio",
            "text_config",
            {"partial_rotary_factor": 0.5},
            "partial_rotary_factor = 0.5",
        ),
        *[
            (family, "text_config", {"model_type": kind}, rf"text_config\.model_type = '{kind}' .*'llama' or 'mistral'")
            for family in ("glm_asr", "voxtral")
            for kind in ("gemma", "granite")
        ],
        *[
            (family, "text_config", {"model_type": "mistral", "sliding_window": 16}, r"sliding_window = 16 .* null, or")
            for family in ("glm_asr", "voxtral")
        ],
        ("voxtral", "text_config", {"model_type": "mistral"}, r"sliding_window = 4096"),  # Mistral's own default
        ("qwen2_5_omni", "text_config", {"layer_types": ["sliding_attention"] * 2}, r"text_config\.layer_types"),
        ("qwen2_5_omni", "audio_config", {"output_dim": 12}, r"audio_config\.output_dim = 12 .* expected 24"),
        ("qwen3_omni", "text_config", {"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size = 8"),
        ("glm_asr", "audio_config", {"head_dim": 12}, r"audio_config\.head_dim = 12 .* expected 8"),
        ("minicpm_o", "", {"audio_pool_step": 5}, r"config\.json: audio_pool_step = 5 .* expected 2"),
        ("granite_speech", "projector_config", {"position_embedding_type": "relative"}, "position_embedding_type"),
    ],
)
def test_values_that_the_port_does_not_have_are_refused_by_name(golden, family, section, values, message):
    with pytest.raises(CheckpointError, match=message):
        read_config(golden(family, section, **values))


@pytest.mark.parametrize(
    ("family", "section", "values", "message"),
    [
        ("qwen2_audio", "text_config", {"hidden_size": 0}, r"hidden_size = 0 .* a whole number from 1 to 131072"),
        (
            "qwen2_audio",
            "text_config",
            {"num_hidden_layers": 20_000_000},
            r"num_hidden_layers = 20000000 .* 1024",
        ),
        ("qwen2_audio", "text_config", {"num_key_value_heads": 1 << 64}, r"num_key_value_heads = 18446744073709551616"),
        ("qwen2_5_omni", "audio_config", {"d_model": 192_000_000}, r"d_model = 192000000 is out of range"),
        ("qwen2_5_omni", "audio_config", {"output_dim": 12}, r"output_dim = 12 is not supported; expected 24"),
        ("qwen2_5_omni", "text_config", {"rms_norm_eps": -1.0}, r"rms_norm_eps = -1\.0 .* a number above 0, up to 1"),
        ("qwen3_omni", "text_config", {"num_experts": 1000, "num_hidden_layers": 1000}, r"2 of 1000 experts .* 1000"),
        ("qwen3_omni", "text_config", {"model_type": "qwen3"}, r"model_type = 'qwen3' .* 'qwen3_omni_moe_text'"),
        ("voxtral", "text_config", {"num_attention_heads": 0}, r"num_attention_heads = 0 .* from 1"),
        ("voxtral", "audio_config", {"hidden_size": 4096}, r"the audio encoder would have stack = 0"),
        (
            "glm_asr",
            "text_config",
            {"num_key_value_heads": 3},
            r"heads of the language model = 2 cannot be divided by 3",
        ),
        ("glm_asr", "", {"audio_token_id": -3}, r"audio_token_id = -3 .* a token id"),
        (
            "minicpm_o",
            "audio_config",
            {"encoder_attention_heads": 3},
            r"width of the audio encoder = 16 .* by 3",
        ),
        (
            "step_audio_2",
            "audio_encoder_config",
            {"llm_dim": 12},
            r"tokens of width 12 .* of width 24 do not fit",
        ),
        ("step_audio_2", "audio_encoder_config", {"n_audio_head": 0}, r"n_audio_head = 0 is out of range"),
        ("step_audio_2", "audio_encoder_config", {"n_mels": None}, r"config.json lacks n_mels"),
        ("ultravox", "", {"hidden_size": 41}, r"the hidden_size of the projector = 41 cannot be divided by 2"),
        (
            "granite_speech",
            "projector_config",
            {"num_attention_heads": 3},
            r"size of the projector = 20 .* by 3",
        ),
        ("audio_flamingo_3", "text_config", {"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e4}}, "mrope"),
    ],
)
def test_sizes_that_no_model_can_have_are_one_quick_error(golden, family, section, values, message):
    folder = golden(family, section, **values)
    begun = time.process_time()
    with pytest.raises(CheckpointError, match=message) as caught:
        read_config(folder)
    assert time.process_time() - begun < 1 and "\n" not in str(caught.value)


def test_a_token_for_audio_that_is_not_the_tokenizers_is_refused(golden):
    with pytest.raises(CheckpointError, match=r"states the token 5 for audio, the tokenizer's <\|AUDIO\|> is 4"):
        load(golden("qwen2_audio", audio_token_index=5))


def test_a_mistral_without_a_window_is_a_llama(golden):
    for window in (None, 131072):
        folder = golden("voxtral", "text_config", model_type="mistral", sliding_window=window)
        assert read_config(folder) == read_config(FOLDER / "voxtral")


def test_the_length_of_glm_asrs_windows_is_not_that_of_its_config(golden):
    folder = golden("glm_asr", "audio_config", max_position_embeddings=750)
    assert read_config(folder)[0] == read_config(FOLDER / "glm_asr")[0]


# What published config.json files state beyond sizes, by section; written from public descriptions.
ENCODER = {
    "dropout": 0.0,
    "activation_function": "gelu",
    "init_std": 0.02,
    "encoder_layerdrop": 0.0,
    "torch_dtype": "bfloat16",
}
QWEN2 = {"sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 28, "rope_scaling": None}
STATED: dict[str, dict[str, Any]] = {
    "qwen2_audio": {
        "ignore_index": -100,
        "vocab_size": 156032,
        "audio_config": ENCODER,
        "text_config": QWEN2 | {"model_type": "qwen2", "use_mrope": False, "max_position_embeddings": 8192},
    },
    "qwen2_5_omni": {
        "enable_audio_output": True,
        "enable_talker": True,
        "thinker_config": {
            "_attn_implementation_autoset": True,
            "vision_token_id": 151654,
            "audio_config": ENCODER | {"add_cross_attention": False, "bad_words_ids": None, "top_p": 1.0},
            "text_config": QWEN2
            | {"rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"}},
        },
    },
    "qwen3_omni": {
        "system_token_id": 8948,
        "thinker_config": {
            "text_config": {
                "use_qk_norm": True,
                "shared_expert_intermediate_size": 0,
                "use_sliding_window": False,
                "rope_scaling": {"interleaved": True, "mrope_section": [24, 20, 20], "type": "default"},
            }
        },
    },
    "glm_asr": {"audio_config": {"head_dim": 64, "partial_rotary_factor": 0.5}, "text_config": {"pretraining_tp": 1}},
    "voxtral": {"vocab_size": 131072, "audio_config": {"head_dim": 64, "num_key_value_heads": 20}},
    "qwen3_asr": {
        "support_languages": ["Chinese", "English"],
        "thinker_config": {
            "model_type": "qwen3_asr",
            "dtype": "bfloat16",
            "audio_token_id": 151676,
            "audio_start_token_id": 151669,
            "audio_end_token_id": 151670,
            "audio_config": {
                **{"model_type": "qwen3_asr_audio_encoder", "num_mel_bins": 128, "d_model": 1024, "encoder_layers": 24},
                **{"encoder_attention_heads": 16, "encoder_ffn_dim": 4096, "max_source_positions": 1500},
                **{"n_window": 50, "n_window_infer": 800, "conv_chunksize": 500, "downsample_hidden_size": 480},
                "output_dim": 2048,
            },
            "text_config": {
                **{"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144},
                **{"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
                **{"max_position_embeddings": 65536, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000},
                **{"tie_word_embeddings": True, "num_experts": 128, "mlp_only_layers": []},
                "rope_scaling": {"mrope_section": [24, 20, 20], "mrope_interleaved": True, "rope_type": "default"},
            },
        },
    },
    "granite_speech": {"projector_config": {"position_embedding_type": "absolute", "max_position_embeddings": 2048}},
    "minicpm_o": {
        "version": "2.6",
        "slice_config": {"max_slice_nums": 9, "model_type": "minicpmv"},
        "chunk_input": True,
        "audio_chunk_length": 1.0,
        "tts_config": {"model_type": "conditional_chattts"},
        "audio_config": {"forced_decoder_ids": [[1, 50259]], "num_hidden_layers": 24, "suppress_tokens": [1, 2]},
        **QWEN2,
    },
    "step_audio_2": {
        "audio_encoder_config": {"model_type": "step_audio_2_encoder", "n_codebook_size": 4096},
        "text_config": QWEN2 | {"model_type": "step_audio_2_text", "num_attention_groups": 4},
    },
    "ultravox": {
        "norm_init": 0.4,
        "audio_token_index": 32000,
        "text_model_lora_config": {"r": 0, "lora_alpha": 8, "target_modules": ["k_proj"], "unfreeze_layers": None},
        "custom_pipelines": {"ultravox-pipeline": {}},
    },
}


def merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    inner = {key: merged(a[key], value) for key, value in b.items() if isinstance(a.get(key), dict)}
    return {**a, **b, **inner}


@pytest.mark.parametrize("name", STATED)
def test_what_published_files_state_beyond_sizes_is_known(name):
    family = FAMILIES[name]
    raw = family.complete(merged({"model_type": family.model_types[0], **family.published}, STATED[name]))
    family.check(raw)
    config = family.config({**raw, "tokens": dict.fromkeys(family.tokens, 0)}, (0,), 0)
    assert config == published_config(family)


def test_a_token_for_audio_that_the_tokenizer_lacks_is_named(golden):
    folder = golden("step_audio_2")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] != "<audio_patch>"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="no token <audio_patch>, which stands for audio in step_audio_2"):
        read_config(folder)


# --- families of other packages ---

MURMUR = """
from seen_jax.models.families.qwen2_audio import Qwen2Audio


class Murmur(Qwen2Audio):
    name = "murmur"
    model_types = ("murmur_audio",)
    verified = "nothing yet"

    def complete(self, raw):
        return super().complete({**raw, "model_type": "qwen2_audio"})


FAMILY = Murmur()
"""
ENTRY = {"seen_jax.families": {"murmur": "murmur:FAMILY"}}


def test_a_family_of_another_package_is_listed_loads_and_answers(golden, tmp_path):
    folder = golden("qwen2_audio", model_type="murmur_audio")
    request = Request([wave(8000)], "which color ?")
    with pytest.raises(CheckpointError, match="model_type 'murmur_audio' is not supported"):
        read_config(folder)
    with installed(tmp_path / "site", ENTRY, {"murmur": MURMUR}):
        listed = {entry["name"]: entry for entry in models_command.run(argparse.Namespace(name=None)).data}
        assert listed["murmur"]["model_types"] == ["murmur_audio"] and listed["murmur"]["verified"] == "nothing yet"
        assert set(NAMES) < set(listed)
        model = load(folder)
        assert model.config.family == "murmur"
        answer = generate(model, [request], decoding=Decoding(6))
    assert answer[0].tokens == generate(load(FOLDER / "qwen2_audio"), [request], decoding=Decoding(6))[0].tokens
    assert "murmur" not in FAMILIES


def test_two_families_of_one_model_type_are_refused(golden, tmp_path):
    source = MURMUR.replace('("murmur_audio",)', '("qwen2_audio",)')
    expected = pytest.raises(CheckpointError, match="'qwen2_audio' belongs to several families: qwen2_audio and murmur")
    with installed(tmp_path / "site", ENTRY, {"murmur": source}), expected:
        read_config(FOLDER / "qwen2_audio")


def test_an_entry_point_that_is_no_family_is_named(tmp_path):
    expected = pytest.raises(ConfigError, match=r"entry point murmur .* is a int, not an instance of .*:Family")
    with installed(tmp_path / "site", ENTRY, {"murmur": "FAMILY = 3"}), expected:
        list(FAMILIES)


# --- requests ---


def test_requests_can_be_compared():
    one, other = (Request([np.ones(3, np.float32)], "red") for _ in range(2))
    assert one == one and one != other and len({one, other}) == 2
