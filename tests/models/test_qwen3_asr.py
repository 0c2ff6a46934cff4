"""Qwen3-ASR without PyTorch: padding and buckets, both layouts of its folders, what is refused, and its prompts."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import FOLDER
from safetensors.numpy import load_file, save_file
from tiny_omni import leaves_equal, prompt_ids, wave

from seen_jax.errors import AudioError, CheckpointError
from seen_jax.models.checkpoint import load_params, parameter_shapes, read_config, save_params
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.load import load
from seen_jax.models.model import Model, encode, forward
from seen_jax.models.processor import Bucket, Request
from seen_jax.models.prompts import task_request
from seen_jax.models.safetensors_files import WEIGHTS
from seen_jax.models.sites import ENCODER_SITES, SITES, Taps
from seen_jax.models.weights import slots
from seen_jax.registry import FAMILIES

qwen3_asr = FAMILIES["qwen3_asr"]
GOLDEN = FOLDER / "qwen3_asr"
CLIP = "<|audio_start|><|audio_pad|><|audio_end|>"
# A clip that is filled to half a second, one that ends with its chunk, and both sides of a window of attention.
CLIPS = (800, 12_000, 16_000, 33_000, 128_000, 144_000)


@pytest.fixture(scope="module")
def model() -> Model:
    return load(GOLDEN)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return [Request([wave(samples, i)], messages=chat([])) for i, samples in enumerate(CLIPS)]


def chat(before: list[dict[str, Any]], *after: dict[str, Any]) -> list[dict[str, Any]]:
    return [*before, {"role": "user", "content": [{"type": "audio"}]}, *after]


def turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


# --- padding ---


def test_the_rest_of_every_last_chunk_is_heard_and_nothing_behind_it(model):
    """The original fills a short clip's only chunk too; NaN behind it changes nothing."""
    audio, owners = model.processor.audio([wave(samples, i) for i, samples in enumerate(CLIPS)])
    assert owners == [[0], [1], [2], [3], [4], [5]]
    assert audio.frames.tolist() == [50, 75, 100, 206, 800, 900]
    assert audio.visible_frames.tolist() == [100, 100, 100, 300, 800, 900]
    lalm, frames = model.tapped(Taps(ENCODER_SITES, "full")), np.asarray(audio.frames)
    features = np.pad(np.asarray(audio.features), ((0, 0), (0, 800), (0, 0)))
    features[np.arange(features.shape[1]) >= np.asarray(audio.visible_frames)[:, None]] = np.nan
    together = encode(lalm, model.variables, audio.replace(features=features), {})
    for i, samples in enumerate(CLIPS):
        alone = encode(lalm, model.variables, model.processor.audio([wave(samples, i)])[0], {})
        n = int(model.config.encoder.token_count(frames[i]))
        for site in ENCODER_SITES:
            ours = np.asarray(together.records[site]["tap"])[:, i, :n]
            np.testing.assert_allclose(ours, alone.records[site]["tap"][:, 0, :n], atol=1e-5, err_msg=site)
    short = model.processor.audio([wave(12_000, 1)])[0]
    unfilled = encode(model.lalm, model.variables, short.replace(visible_frames=short.frames), {}).tokens
    n = int(model.config.encoder.token_count(75))
    change = np.abs(unfilled - encode(model.lalm, model.variables, short, {}).tokens)[0, :n]
    assert change.max() > 1e-3, "nothing of the zeros behind a short clip reaches its last position"


def test_batch_bucket_and_padding_change_nothing(model, requests):
    tapped, prepared = model.tapped(Taps(SITES, "full")), model.processor.prepared
    together, _ = prepared(requests, bucket=Bucket(2400, 200))
    assert together.features.shape[1] == 2400 and together.tokens.shape[1] == 200
    out = forward(tapped, model.variables, together, {})
    answers = generate(model.lalm, model.variables, together, decoding=Decoding(8))
    for b, request in enumerate(requests):
        single, _ = prepared([request])
        alone = forward(tapped, model.variables, single, {})
        n = int(single.lengths[0])
        assert n == int(together.lengths[b])
        np.testing.assert_allclose(out.logits[b, :n], alone.logits[0, :n], atol=2e-5)
        for site in SITES:
            size = int(model.config.encoder.token_count(int(single.frames[0]))) if site in ENCODER_SITES else n
            taps = np.asarray(out.taps[site])[:, b, :size]
            np.testing.assert_allclose(taps, alone.taps[site][:, 0, :size], atol=2e-5, err_msg=site)
        answer = generate(model.lalm, model.variables, single, decoding=Decoding(8))
        assert answers.tokens[b, : int(answers.lengths[b])].tolist() == answer.tokens[0].tolist()[: answer.lengths[0]]


def test_clips_past_twenty_minutes_are_refused(model):
    with pytest.raises(AudioError, match=r"lasts 1200\.1 s; qwen3_asr takes at most 1200 s: cut it"):
        model.processor.checked(np.zeros(1200 * 16000 + 1600, np.float32))


# --- folders ---


def first_layout(folder: Path) -> Path:
    """The golden model as the authors published theirs first: a thinker, the projector inside the encoder."""
    raw = json.loads((GOLDEN / "config.json").read_text())
    thinker = {key: raw.pop(key) for key in ("audio_config", "text_config", "audio_token_id")}
    thinker["audio_config"] |= {"model_type": "qwen3_asr_audio_encoder", "max_source_positions": 1500}
    del thinker["audio_config"]["max_position_embeddings"]
    theta = thinker["text_config"].pop("rope_parameters")["rope_theta"]
    scaling = {"mrope_interleaved": True, "mrope_section": [2, 2, 2], "rope_type": "default", "type": "default"}
    thinker["text_config"] |= {"rope_theta": theta, "rope_scaling": scaling}
    thinker["text_config"]["tie_word_embeddings"] = raw.pop("tie_word_embeddings")
    raw |= {"support_languages": ["English"], "thinker_config": thinker}
    (folder / "config.json").write_text(json.dumps(raw))
    names = {
        "model.multi_modal_projector.linear_": "thinker.audio_tower.proj",
        "model.language_model.": "thinker.model.",
    }
    names |= {"model.": "thinker.", "lm_head.": "thinker.lm_head."}
    start = lambda key: next(name for name in names if key.startswith(name))
    stored = load_file(GOLDEN / WEIGHTS)
    save_file({names[start(key)] + key.removeprefix(start(key)): x for key, x in stored.items()}, folder / WEIGHTS)
    return folder


def test_the_first_published_layout_is_the_same_model(model, tmp_path):
    config, family = read_config(first_layout(tmp_path))
    assert family is qwen3_asr
    assert (config.encoder, config.decoder, config.audio_token) == (
        model.config.encoder,
        model.config.decoder,
        model.config.audio_token,
    )
    assert leaves_equal(load_params(tmp_path, config, family), load_params(GOLDEN, model.config, qwen3_asr))


def test_round_trip(model, tmp_path):
    save_params(tmp_path, model.variables["params"], model.config, qwen3_asr)
    old, new = load_file(GOLDEN / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert old.keys() == new.keys() and all(np.array_equal(old[key], new[key]) for key in old)


def test_the_size_of_the_smaller_published_model(tmp_path):
    raw = {
        "model_type": "qwen3_asr",
        "audio_config": {
            **{"d_model": 896, "encoder_layers": 18, "encoder_attention_heads": 14, "encoder_ffn_dim": 3584},
            "output_dim": 1024,
        },
        "text_config": {
            **{"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28},
            **{"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config, family = read_config(tmp_path)
    shapes = parameter_shapes(config)
    table = slots(family.rules(config), shapes)
    assert len(table) == 7 + 18 * 16 + 2 + 4 + 28 * 11 + 2
    expected = {
        "model.audio_tower.conv_out.weight": (896, 7680),
        "model.audio_tower.layers.17.self_attn.k_proj.bias": (896,),
        "model.multi_modal_projector.linear_1.weight": (896, 896),
        "model.multi_modal_projector.linear_2.weight": (1024, 896),
        "model.language_model.layers.27.self_attn.q_proj.weight": (2048, 1024),
        "model.language_model.layers.0.self_attn.k_norm.weight": (128,),
        "model.language_model.embed_tokens.weight": (151936, 1024),
    }
    assert {key: table[key].shape for key in expected} == expected
    assert config.stop_tokens == (151643, 151645) and config.audio_token == 151676


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("audio_config", {"max_position_embeddings": 12}, r"audio_config\.max_position_embeddings = 12 .* expected 13"),
        ("audio_config", {"n_window": 40}, r"audio_config\.n_window = 40 .*n_window 49 to 52"),
        ("audio_config", {"n_window_infer": 99}, r"n_window_infer = 99 is not supported"),
        ("audio_config", {"output_dim": 12}, r"audio_config\.output_dim = 12 .* expected 24"),
        ("audio_config", {"activation_function": "relu"}, r"audio_config\.activation_function = 'relu'"),
        ("audio_config", {"scale_embedding": True}, r"audio_config\.scale_embedding = True"),
        ("text_config", {"model_type": "llama"}, r"text_config\.model_type = 'llama' .* expected 'qwen3'"),
        ("text_config", {"attention_bias": True}, r"text_config\.attention_bias = True"),
        ("text_config", {"hidden_act": "gelu"}, r"text_config\.hidden_act = 'gelu'"),
        ("", {"architectures": ["Qwen3ASRForTokenClassification"]}, r"config\.json describes a Qwen3 forced aligner"),
        ("", {"thinker_config": {"classify_num": 5000}}, r"config\.json describes a Qwen3 forced aligner"),
    ],
)
def test_what_the_port_does_not_have_is_refused(tmp_path, section, values, message):
    raw = json.loads((GOLDEN / "config.json").read_text())
    (raw[section] if section else raw).update(values)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path)


def test_a_release_of_transformers_without_the_model_is_named(monkeypatch):
    monkeypatch.setattr("transformers.CONFIG_MAPPING", {})
    with pytest.raises(CheckpointError, match=r"transformers 5\S+ has no Qwen3-ASR yet: pip install -U transformers"):
        read_config(GOLDEN)


# --- prompts ---


def rendered(model: Model, messages: list[dict[str, Any]]) -> str:
    return qwen3_asr.render(model.processor.tokenizer, messages)


def test_the_prompt_is_one_system_turn_and_one_of_audio(model):
    start = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n" + CLIP
    answer = "<|im_end|>\n<|im_start|>assistant\n"
    assert rendered(model, chat([])) == start.format("") + answer
    assert (
        rendered(model, chat([turn("system", "Names: "), turn("system", "Ada")])) == start.format("Names: Ada") + answer
    )
    before = chat([], turn("assistant", "red"), *chat([]))
    assert rendered(model, before) == start.format("") + CLIP + "<|im_end|>\n<|im_start|>assistant\nred" + answer


@pytest.mark.parametrize(
    "content", ["language English<asr_text>", [{"type": "text", "text": "language English<asr_text>"}]]
)
def test_a_last_turn_of_the_assistant_is_continued(model, content):
    plain = rendered(model, chat([]))
    assert rendered(model, chat([], {"role": "assistant", "content": content})) == plain + "language English<asr_text>"


def test_the_task_of_transcription_asks_for_english_alone(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = prompt_ids(model, task_request(model, "transcription", wave(8000)))
    text = model.processor.tokenizer.decode(ids)
    assert text.endswith("language English<asr_text>") and ids.count(model.config.audio_token) == 7


def test_a_users_text_which_the_model_does_not_read_is_warned_of(model):
    with pytest.warns(
        UserWarning, match="qwen3_asr reads a user's audio and no text: only a system turn can hold words"
    ):
        asked = prompt_ids(model, Request([wave(8000)], "which color ?"))
    assert asked == prompt_ids(model, Request([wave(8000)], messages=chat([])))
