"""Ultravox on other language models than Llama: their folders, keys of config.json, stop tokens and templates."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_checkpoint import edit_json
from test_ultravox import LLAMA, published_config, text_apart, write_folder
from tiny_omni import leaves_equal, prompt_ids, random_edit, wave

from seen_jax.errors import CheckpointError
from seen_jax.models.checkpoint import parameter_shapes, read_config
from seen_jax.models.config import RopeScaling, Windows
from seen_jax.models.families._backbones import BACKBONES
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.generate_edits import generate_edits
from seen_jax.models.load import load
from seen_jax.models.model import Model, forward
from seen_jax.models.processor import Request
from seen_jax.models.safetensors_files import WEIGHTS
from seen_jax.models.sites import DECODER_RESID
from seen_jax.models.weights import slots
from seen_jax.registry import FAMILIES

ultravox = FAMILIES["ultravox"]

SIZES = {key: value for key, value in LLAMA.items() if key != "rope_scaling"}
GEMMA3 = SIZES | {
    "model_type": "gemma3_text",
    "head_dim": 12,
    "sliding_window": 3,
    "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 20,
    "pad_token_id": None,
}
TEXTS = {"qwen3": SIZES | {"model_type": "qwen3", "head_dim": 12}, "gemma3_text": GEMMA3}
TOKENS = {"qwen3": ("<|im_start|>", "<|im_end|>"), "gemma3_text": ("<start_of_turn>", "<end_of_turn>")}


@pytest.fixture(scope="module", params=TEXTS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp(kind), TEXTS[kind], TOKENS[kind])


@pytest.fixture(scope="module")
def model(folder) -> Model:
    return load(folder)


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def change(folder: Path, **values) -> Path:
    """Keys of the language model's section."""
    edit_json(folder / "config.json", lambda c: c["text_config"].update(values))
    return folder


def test_a_language_model_in_a_folder_of_its_own(model, copy):
    text_apart(copy, "llm", copy / "llm")
    apart = load(copy)
    assert apart.config == model.config and leaves_equal(apart.variables, model.variables)


def test_answers_stop_at_the_end_of_a_turn(kind, model, copy):
    turn = model.processor.tokenizer.convert_tokens_to_ids(BACKBONES[kind].end_of_turn)
    assert model.config.stop_tokens == (5, 6, turn)
    edit_json(copy / "config.json", lambda c: c["text_config"].pop("eos_token_id"))
    assert read_config(copy)[0].stop_tokens == (turn,)  # not the default of the class


def test_the_folders_own_template_goes_first(kind, model):
    chat = Request([wave(4000)], "which ?").chat()
    tokenizer = model.processor.tokenizer
    assert ultravox.render(tokenizer, chat).startswith(tokenizer.bos_token or TOKENS[kind][0])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    try:
        assert ultravox.render(tokenizer, chat) == "<|audio|>\nwhich ?"
    finally:
        tokenizer.chat_template = None


def test_gemmas_template(model, kind):
    if kind != "gemma3_text":
        return
    turns = [("system", "be brief"), ("user", " hear <|audio|> "), ("assistant", "a horn"), ("user", "sure ?")]
    text = ultravox.render(model.processor.tokenizer, [{"role": role, "content": words} for role, words in turns])
    assert text == (
        "<start_of_turn>user\nbe brief\n\nhear <|audio|><end_of_turn>\n<start_of_turn>model\na horn<end_of_turn>\n"
        "<start_of_turn>user\nsure ?<end_of_turn>\n<start_of_turn>model\n"
    )


# --- layers of two kinds ---


@pytest.fixture(scope="module")
def gemma(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("gemma"), GEMMA3, TOKENS["gemma3_text"])


def test_windows_reach_as_far_back_as_they_say(gemma, tmp_path):
    """Two layers that see 3 positions each pass on what lies 4 positions back, and nothing from before."""
    folder = Path(shutil.copytree(gemma, tmp_path / "local"))
    model = load(change(folder, layer_types=["sliding_attention"] * 2))
    batch = model.processor.prepare([Request([wave(4000)], "which ?")])
    other = dataclasses.replace(batch, tokens=np.where(np.arange(batch.tokens.shape[1]), batch.tokens, 7))
    real = int(batch.lengths[0])
    run = lambda batch: np.asarray(forward(model.lalm, model.variables, batch, {}).logits[0, :real])
    changed = np.abs(run(batch) - run(other)).max(-1)
    assert (changed[:5] > 1e-4).all() and (changed[5:] == 0).all() and len(changed) > 10


def test_both_kinds_of_layers_run_in_one_loop(gemma):
    """As the layers of other language models do, and the window makes a difference."""
    model = load(gemma)
    batch = model.processor.prepare([Request([wave(4000)], "which ?")])
    decoder = model.config.decoder
    assert decoder.windows == Windows((True, False), 3, 10_000.0)
    run = lambda lalm: forward(lalm, model.variables, batch, {}).logits
    lalms = {
        size: model.lalm.clone(
            config=dataclasses.replace(
                model.config, decoder=dataclasses.replace(decoder, windows=size and Windows((True, False), size, 1e4))
            )
        )
        for size in (None, 3, 4)
    }
    loops = {size: str(jax.make_jaxpr(run, static_argnums=0)(lalm)).count("scan[") for size, lalm in lalms.items()}
    assert len(set(loops.values())) == 1
    assert np.abs(run(lalms[3]) - run(lalms[4])).max() > 1e-2
    np.testing.assert_array_equal(run(lalms[3]), run(model.lalm))


def test_answers_under_several_edits_are_those_under_each(gemma):
    """The steps of a decode loop know how far back a position lies, also where edits run side by side."""
    model = load(gemma)
    batch = model.processor.prepare([Request([wave(4000 * n)], "which ?") for n in (1, 5)])
    edit = random_edit(model.config, DECODER_RESID)
    variants = [{DECODER_RESID: edit.replace(scale=edit.scale * s, text=np.ones(2, np.float32))} for s in (0.0, 0.9)]
    together = generate_edits(model.lalm, model.variables, batch, variants, Decoding(12))
    for edits, out in zip(variants, together, strict=True):
        np.testing.assert_array_equal(
            out.tokens, generate(model.lalm, model.variables, batch, edits, Decoding(12)).tokens
        )
    assert (together[0].tokens != together[1].tokens).any()


# --- folders of a whole Gemma 3 ---

LAYOUTS = {
    "published": {"model.": "language_model.model.", "vision": "vision_tower.", "projector": "multi_modal_projector."},
    "newer": {
        "model.": "model.language_model.",
        "vision": "model.vision_tower.",
        "projector": "model.multi_modal_projector.",
    },
}


def whole(folder: Path, layout: str, **values) -> None:
    """Turn the folder of a language model into that of a whole Gemma 3."""
    names = LAYOUTS[layout]
    tensors = {key.replace("model.", names["model."], 1): x for key, x in load_file(folder / WEIGHTS).items()}
    for name in ("vision", "projector"):
        tensors[f"{names[name]}x.weight"] = np.zeros((2, 2), np.float32)
    save_file(tensors, folder / WEIGHTS)
    text = json.loads((folder / "config.json").read_text())
    eos = text.pop("eos_token_id")
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {}, "eos_token_id": eos, **values}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_language_model_of_a_whole_gemma(gemma, tmp_path, layout):
    folder, model = Path(shutil.copytree(gemma, tmp_path / "copy")), load(gemma)
    text_apart(folder, "llm", folder / "llm")
    whole(folder / "llm", layout)
    apart = load(folder)
    assert apart.config == model.config and leaves_equal(apart.variables, model.variables)
    assert apart.config.stop_tokens[:2] == (5, 6) and apart.config.decoder.tied


def test_a_whole_gemma_that_the_port_does_not_have(gemma, tmp_path):
    folder = Path(shutil.copytree(gemma, tmp_path / "copy"))
    text_apart(folder, "llm", folder / "llm")
    whole(folder / "llm", "published")
    edit_json(folder / "llm" / "config.json", lambda c: c.update(unheard_of=3))
    with pytest.raises(CheckpointError, match=r"text_config\.unheard_of = 3"):
        read_config(folder)
    edit_json(folder / "llm" / "config.json", lambda c: c.update(unheard_of=None, text_config={"model_type": "llama"}))
    with pytest.raises(CheckpointError, match=r"text_config\.text_config\.model_type = 'llama'.*'gemma3_text'"):
        read_config(folder)


# --- keys of config.json ---

REFUSED = {
    "qwen3": [
        ({"unheard_of": 3}, r"unheard_of = 3 is not supported; the key is not known here"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window = True"),
        ({"layer_types": ["sliding_attention"] * 2}, "layer_types"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type = 'yarn'"),
        ({"num_experts": 4}, "num_experts = 4"),
    ],
    "gemma3_text": [
        ({"unheard_of": 3}, r"unheard_of = 3 is not supported; the key is not known here"),
        ({"hidden_activation": "silu"}, "hidden_activation = 'silu'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ({"layer_types": ["chunked_attention"] * 2}, "layer_types"),
        ({"sliding_window": None}, "sliding_window = None .* expected 1 or more"),
        ({"sliding_window": 0}, "sliding_window = 0 is out of range"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar = 0 .* a number above 0"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, r"full_attention\.factor = 0 .* a number above 0"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "8"}}, r"full_attention\.factor = '8' .* a number above 0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, r"full_attention\.rope_type = 'yarn'"),
        (
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            r"sliding_attention\.rope_type = 'linear'",
        ),
    ],
}


def test_what_the_port_does_not_have_is_refused_by_name(kind, folder, tmp_path):
    before = json.loads((folder / "config.json").read_text())
    for values, message in REFUSED[kind]:
        changed = Path(shutil.copytree(folder, tmp_path / "changed", dirs_exist_ok=True))
        (changed / "config.json").write_text(json.dumps(before))
        with pytest.raises(CheckpointError, match=rf"config\.json: text_config.*{message}"):
            read_config(change(changed, **values))


def test_keys_said_to_be_without_effect_change_nothing(kind, folder, copy):
    expected = read_config(folder)[0]
    keys, full = BACKBONES[kind].keys, ultravox.complete(json.loads((folder / "config.json").read_text()))
    ignored = set(keys.ignores.split())
    assert not ignored & {*keys.reads.split(), *keys.only}
    changed = {key: value + 1 for key, value in full["text_config"].items() if key in ignored and value is not None}
    assert changed and read_config(change(copy, **changed))[0] == expected


# --- tokenizers and sizes as published ---


def test_the_text_that_marks_audio_may_have_an_id_without_an_embedding(tmp_path):
    """Version 0.6 adds <|audio|> to the tokenizer; in Llama's case behind the last embedding."""
    import transformers

    folder = write_folder(tmp_path / "llama", LLAMA, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
    before = load(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|audio|>"]}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<|audio|>") == before.config.decoder.vocab
    after, request = load(folder), Request([wave(4000)], "which ?")
    assert prompt_ids(after, request) == prompt_ids(before, request)
    tokenizer.add_tokens(["<|another|>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"tokenizer and .* are of different models"):
        load(folder)


PUBLISHED = {
    "gemma-3-27b-it": (
        {"model_type": "gemma3", "eos_token_id": [1, 106], "boi_token_index": 255999, "eoi_token_index": 256000,
         "image_token_index": 262144, "mm_tokens_per_image": 256, "initializer_range": 0.02, "vision_config": {},
         "text_config": {
             "model_type": "gemma3_text", "head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504,
             "num_attention_heads": 32, "num_hidden_layers": 62, "num_key_value_heads": 16,
             "query_pre_attn_scalar": 168, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
             "sliding_window": 1024}},
        27_009_346_304, 50_343_936 + 2048 * (5376 - 4096),
    ),
    "Qwen3-32B": (
        {"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 5120, "intermediate_size": 25600, "head_dim": 128,
         "num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8, "rope_theta": 1e6,
         "max_position_embeddings": 40960, "max_window_layers": 64, "rms_norm_eps": 1e-6, "rope_scaling": None,
         "sliding_window": None, "use_sliding_window": False, "tie_word_embeddings": False},
        32_762_123_264, 50_343_936 + 2048 * (5120 - 4096),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_without_allocating_them(name):
    text, decoder, projector = PUBLISHED[name]
    config = published_config(text)
    table = slots(ultravox.rules(config), parameter_shapes(config))

    def count(prefix: str) -> int:
        return sum(int(np.prod(slot.shape)) for key, slot in table.items() if key.startswith(prefix))

    assert (count("language_model."), count("multi_modal_projector.")) == (decoder, projector)
    assert count("audio_tower.") == 636_968_960


def test_gemma_27b_as_published():
    decoder = published_config(PUBLISHED["gemma-3-27b-it"][0]).decoder
    assert decoder.windows == Windows(tuple(i % 6 != 5 for i in range(62)), 1024, 1e4)
    assert (decoder.rope_theta, decoder.rope_scaling, decoder.tied) == (1e6, RopeScaling(8.0), True)
    assert decoder.vocab == 262208 and decoder.attention_scale == 168**-0.5 and decoder.eps == 1e-6
