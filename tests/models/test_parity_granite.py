"""What is special about Granite Speech, against transformers: key names, LoRA, front end, two MLPs per block."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from safetensors.numpy import load_file, save_file  # noqa: E402
from tiny_omni import prompt_ids, random_edit, wave  # noqa: E402
from torch_families import Tiny  # noqa: E402
from torch_granite import MelSpectrogram, build_granite  # noqa: E402

from seen_jax.audio.features import log_mel, mel_filterbank  # noqa: E402
from seen_jax.errors import AudioError, CheckpointError  # noqa: E402
from seen_jax.models.checkpoint import read_config, save_params  # noqa: E402
from seen_jax.models.load import load  # noqa: E402
from seen_jax.models.lora import LORA, LORA_CONFIG  # noqa: E402
from seen_jax.models.model import forward  # noqa: E402
from seen_jax.models.processor import Request  # noqa: E402
from seen_jax.models.safetensors_files import WEIGHTS  # noqa: E402
from seen_jax.models.sites import ENCODER_MLP_ACT, SITES, Taps  # noqa: E402
from seen_jax.registry import FAMILIES  # noqa: E402

granite_speech = FAMILIES["granite_speech"]

WHOLE = 1e-4
GOLDEN = ((3200, 3), (16000, 12), (16077, 12), (40000, 27), (48077, 30), (160000, 102), (320000, 201), (480000, 300))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("granite")


@pytest.fixture(scope="module")
def original(folder):
    return build_granite(granite_speech, Tiny(), folder, seed=3)


@pytest.fixture(scope="module")
def model(original, folder):
    return load(folder)


@pytest.fixture
def copy(original, folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# --- weights ---


def test_weights_are_written_as_they_were_read(model, folder, tmp_path):
    save_params(tmp_path, model.variables["params"], model.config, granite_speech)
    old, new = load_file(folder / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert {key for key in old if "num_batches_tracked" not in key} == new.keys()
    assert all(np.array_equal(old[key], new[key]) for key in new)


def write_lora(folder: Path, prefix: str, **options) -> dict[str, np.ndarray]:
    """A LoRA of rank 4 on queries and values, as peft writes it; {module: what it adds to the weight}."""
    rng = np.random.default_rng(0)
    size, tensors, added = Tiny(), {}, {}
    for i in range(size.layers):
        for name, out in (("q", size.width), ("v", size.width // size.heads * size.kv_heads)):
            module = f"layers.{i}.self_attn.{name}_proj"
            a, b = rng.standard_normal((4, size.width)), rng.standard_normal((out, 4))
            tensors[f"{prefix}.{module}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{prefix}.{module}.lora_B.weight"] = b.astype(np.float32)
            added[f"{module}.weight"] = b @ a
    save_file(tensors, folder / LORA)
    content = {"peft_type": "LORA", "r": 4, "lora_alpha": 2, "bias": "none", "use_dora": False, "rank_pattern": {}}
    (folder / LORA_CONFIG).write_text(json.dumps(content | options))
    edit_json(folder / "config.json", has_lora_adapter=True)
    return added


@pytest.mark.parametrize(
    ("prefix", "options", "scale"),
    [
        ("base_model.model.language_model.model", {}, 0.5),
        ("base_model.model.model.language_model", {"use_rslora": True}, 1.0),
    ],
)
def test_parity_with_a_lora(original, copy, prefix, options, scale):
    """It is merged into the weights; without peft the original's weights are changed the same way."""
    added = write_lora(copy, prefix, **options)
    lora = load(copy)
    request = Request([wave(20000)], "which color ?")
    batch = lora.processor.prepare([request])
    n = int(batch.lengths[0])
    weights = dict(original.model.model.language_model.named_parameters())
    before = {key: weights[key].detach().clone() for key in added}
    plain, _ = original.forward(request)
    with torch.no_grad():
        for key, change in added.items():
            weights[key] += torch.tensor(scale * change, dtype=torch.float32)
    theirs, _ = original.forward(request)
    with torch.no_grad():
        for key, x in before.items():
            weights[key].copy_(x)
    ours = np.asarray(forward(lora.lalm, lora.variables, batch, {}).logits[0, :n])
    np.testing.assert_allclose(ours, theirs, atol=WHOLE, rtol=0)
    assert np.abs(theirs - plain).max() > 100 * WHOLE
    first = lora.fingerprint
    edit_json(copy / LORA_CONFIG, lora_alpha=3)
    assert load(copy).fingerprint != first


def test_a_lora_that_does_not_fit_is_refused(copy):
    edit_json(copy / "config.json", has_lora_adapter=True)
    with pytest.raises(CheckpointError, match=r"has_lora_adapter, but adapter_model\.safetensors is missing"):
        load(copy)
    write_lora(copy, "base_model.model.language_model.model", use_dora=True, alpha_pattern={"q_proj": 3})
    with pytest.raises(CheckpointError, match=r"use_dora = True, alpha_pattern = .* is not supported"):
        load(copy)
    write_lora(copy, "base_model.model.language_model.model")
    tensors = load_file(copy / LORA)
    tensors["base_model.model.language_model.model.embed_tokens.lora_embedding_A"] = np.ones((4, 8), np.float32)
    tensors["base_model.model.encoder.layers.9.attn.to_q.lora_A.weight"] = np.ones((4, 8), np.float32)
    key = "base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_B.weight"
    tensors[key] = tensors[key][:-1]
    del tensors["base_model.model.language_model.model.layers.1.self_attn.v_proj.lora_A.weight"]
    save_file(tensors, copy / LORA)
    with pytest.raises(CheckpointError) as caught:
        load(copy)
    assert [line.split(": ", 1)[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "incomplete", "misshapen", "unexpected", "unexpected",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("projector_config", {"cross_attention_frequency": 2}, r"cross_attention_frequency = 2 .* expected 1"),
        ("projector_config", {"hidden_act": "relu"}, "projector_config.hidden_act = 'relu'"),
        ("projector_config", {"encoder_hidden_size": 25}, "encoder_hidden_size = 25"),
        ("encoder_config", {"use_max_pos_emb_in_pos_emb_calc": False}, "use_max_pos_emb_in_pos_emb_calc = False"),
        ("text_config", {"model_type": "llama"}, "text_config.model_type = 'llama'"),
        ("text_config", {"mlp_bias": True}, "text_config.mlp_bias = True"),
        ("text_config", {"attention_bias": True}, "text_config.attention_bias = True"),
    ],
)
def test_what_the_port_does_not_have_is_refused(copy, section, values, message):
    raw = json.loads((copy / "config.json").read_text())
    edit_json(copy / "config.json", **{section: raw[section] | values})
    with pytest.raises(CheckpointError, match=message):
        read_config(copy)


# --- front end ---


@pytest.mark.parametrize("n_mels", [40, 80])
def test_parity_of_mel_filters(n_mels):
    np.testing.assert_allclose(mel_filterbank(n_mels, htk=True), MelSpectrogram(n_mels).bank, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("samples", "tokens"), GOLDEN)
def test_parity_of_token_counts(model, original, samples, tokens):
    request = Request([np.zeros(samples, np.float32)], "red")
    assert prompt_ids(model, request).count(model.config.audio_token) == tokens
    assert original.processor.audio_processor._get_num_audio_features([samples]) == [tokens]


def test_features_do_not_depend_on_the_batch_and_lengths_compile_nothing(model):
    clips = [wave(n, i) for i, n in enumerate((257, 16000, 16159, 16160, 20001))]
    programs = log_mel._cache_size()
    alone = [model.processor.audio([clip])[0] for clip in clips]
    assert log_mel._cache_size() <= programs + 2
    together, _ = model.processor.audio([*clips, wave(160_001)])
    for one, features, frames in zip(alone, together.features, together.frames, strict=False):
        assert int(one.frames[0]) == int(frames)
        np.testing.assert_allclose(features[:frames], one.features[0, :frames], atol=1e-5, rtol=0)


def test_the_dropped_frame_may_hold_the_loudest_bin(model, original):
    """The floor is 8 decades below it."""
    clip = 1e-6 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    clip[15950:] = 0.9
    batch = model.processor.prepare([Request([clip], "red")])
    (theirs,) = original.features(original.inputs(Request([clip], "red")))
    assert theirs.shape[1] == 50
    np.testing.assert_allclose(batch.features[0, :50], theirs.T, atol=WHOLE, rtol=0)


def test_clips_that_are_too_short_or_too_long(model):
    with pytest.raises(AudioError, match="256 samples is too short: granite_speech needs at least 257"):
        model.processor.checked(np.ones(256))
    with pytest.raises(AudioError, match=r"lasts 300\.1 s; granite_speech takes at most 300 s"):
        model.processor.checked(np.ones(4_801_600))
    with pytest.raises(AudioError, match="not empty"):
        model.processor.checked(np.ones(0))


# --- prompt ---


def test_the_prompt_is_text_in_the_folders_own_template(model):
    tokenizer = model.processor.tokenizer
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "which ?"}]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "<|audio|>which color ?"},
    ]
    render = lambda template: tokenizer.apply_chat_template(
        granite_speech.flat(messages), chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert render(granite_speech.chat_template) == (
        "USER: <|audio|>which ?\n ASSISTANT:redUSER: <|audio|>which color ?\n ASSISTANT:"
    )
    own = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}"
    request = Request([wave(3000), wave(3200)], messages=messages)
    plain = prompt_ids(model, request)
    tokenizer.chat_template = own
    try:
        ids = prompt_ids(model, request)
        text = render(own).replace("<|audio|>", "<|audio|>" * 3)
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"] != plain
    finally:
        tokenizer.chat_template = None


# --- encoder ---


def test_padding_has_no_influence_even_if_it_is_not_a_number(model):
    requests = [Request([wave(9000, 1)], "red"), Request([wave(150_000, 2)], "which color ?")]
    batch = model.processor.prepare(requests)
    behind = jnp.arange(batch.features.shape[1]) >= batch.frames[:, None]
    assert behind.any(1).all()
    broken = batch.replace(features=jnp.where(behind[..., None], jnp.nan, batch.features))
    for edits in ({}, {ENCODER_MLP_ACT: random_edit(model.config, ENCODER_MLP_ACT)}):
        a, b = (forward(model.lalm, model.variables, x, edits).logits for x in (batch, broken))
        for row, n in enumerate(batch.lengths):
            assert np.array_equal(a[row, :n], b[row, :n])


def test_both_mlps_of_a_block_are_tapped_and_scored(model):
    layers, width = model.config.site_shape(ENCODER_MLP_ACT)
    assert (layers, width) == (2 * model.config.encoder.layers, model.config.encoder.ffn)
    edit = random_edit(model.config, ENCODER_MLP_ACT, strength=0.0)
    batch = model.processor.prepare([Request([wave(9000, 1)], "red"), Request([wave(30_000, 2)], "red")])
    full, mean = (
        forward(model.tapped(Taps(SITES, reduce)), model.variables, batch, {ENCODER_MLP_ACT: edit})
        for reduce in ("full", "mean")
    )
    for row, frames in enumerate(batch.frames):
        a = np.asarray(full.taps[ENCODER_MLP_ACT])[:, row, :frames]
        np.testing.assert_allclose(mean.taps[ENCODER_MLP_ACT][:, row], a.mean(1), atol=1e-5, rtol=0)
        share = np.square(a @ np.asarray(edit.u)).sum(-1) / np.square(a).sum(-1)
        np.testing.assert_allclose(mean.see[ENCODER_MLP_ACT].before[:, row], share.mean(1), atol=1e-5, rtol=0)


def test_bfloat16_runs(original, folder):
    half = load(folder, dtype="bfloat16")
    batch = half.processor.prepare([Request([wave(9000)], "red")])
    assert np.isfinite(forward(half.lalm, half.variables, batch, {}).logits).all()
