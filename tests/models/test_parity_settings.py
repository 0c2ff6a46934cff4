"""Live against the PyTorch originals: generation settings of a folder, and output maps that it stores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_omni import hiss  # noqa: E402
from torch_families import Original, Tiny, build  # noqa: E402
from torch_granite import build_granite  # noqa: E402
from torch_qwen3 import build_qwen3  # noqa: E402
from torch_remote import build_remote  # noqa: E402

from seen_jax.models.checkpoint import gather, load_params, read_config, with_stored_head  # noqa: E402
from seen_jax.models.generate import Decoding, generate  # noqa: E402
from seen_jax.models.load import load  # noqa: E402
from seen_jax.models.model import forward  # noqa: E402
from seen_jax.models.processor import Request  # noqa: E402
from seen_jax.registry import FAMILIES  # noqa: E402

WHOLE = 1e-4
NEW = 32
SETTINGS = {
    "repetition_penalty": {"repetition_penalty": 1.3},
    "a reward": {"repetition_penalty": 0.8},
    "no_repeat_ngram_size 1": {"no_repeat_ngram_size": 1},
    "no_repeat_ngram_size 3": {"no_repeat_ngram_size": 3},
    "min_new_tokens": {"min_new_tokens": 9},
    "suppress_tokens": {"suppress_tokens": "common"},
    "begin_suppress_tokens": {"begin_suppress_tokens": "first"},
    "all at once": {"repetition_penalty": 1.1, "no_repeat_ngram_size": 2, "min_new_tokens": 5,
                    "suppress_tokens": "common", "begin_suppress_tokens": "first", "top_k": 50, "temperature": 0.7},
}  # fmt: skip
TIES = ("qwen2_audio", "audio_flamingo_3", "voxtral", "glm_asr", "granite_speech", "qwen2_5_omni", "qwen3_omni")
BUILDERS = {"granite_speech": build_granite, "qwen3_omni": build_qwen3}
REQUESTS = [Request([hiss(s, i)], "which color ?") for i, s in enumerate((0.7, 2.0))]


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[Original, Path]:
    folder = tmp_path_factory.mktemp("settings")
    return build(FAMILIES["qwen2_audio"], Tiny(), folder, 3), folder


def theirs(original: Original, folder: Path, new: int = NEW) -> list[list[int]]:
    """Answers of the model that transformers loads from a folder, up to its end-of-text token."""
    model = type(original.model).from_pretrained(folder).eval()
    texts = []
    for request in REQUESTS:
        inputs = original.inputs(request)
        tensors = {name: x for name, x in inputs.items() if isinstance(x, torch.Tensor)}
        with torch.no_grad():
            ids = model.generate(**tensors, max_new_tokens=new, do_sample=False)
        ids = ids[0, inputs["input_ids"].shape[1] :].tolist()
        stops = model.generation_config.eos_token_id
        texts.append(ids[: next((i for i, token in enumerate(ids) if token in stops), len(ids))])
    return texts


def ours(folder: Path, new: int = NEW) -> list[list[int]]:
    model = load(folder)
    out = generate(model.lalm, model.variables, model.processor.prepare(REQUESTS), decoding=Decoding(new))
    return [row[:n].tolist() for row, n in zip(np.asarray(out.tokens), np.asarray(out.lengths), strict=True)]


@pytest.mark.parametrize("name", SETTINGS)
def test_parity_of_greedy_answers_under_the_folders_settings(original, tmp_path, name):
    folder = Path(shutil.copytree(original[1], tmp_path / "copy"))
    write = lambda **values: (folder / "generation_config.json").write_text(json.dumps(values))
    write(eos_token_id=[1], pad_token_id=0)
    plain = theirs(original[0], folder)
    flat = [token for text in plain for token in text]
    marks = {"common": [max(set(flat), key=flat.count)], "first": sorted({text[0] for text in plain})}
    setting = {key: marks.get(x, x) if isinstance(x, str) else x for key, x in SETTINGS[name].items()}
    ends = [plain[0][2], plain[1][4]] if "min_new_tokens" in setting else [1]
    write(eos_token_id=ends, pad_token_id=0, **setting)
    expected = theirs(original[0], folder)
    assert expected != [text[: next((i for i, x in enumerate(text) if x in ends), NEW)] for text in plain]
    assert ours(folder) == expected


def test_parity_of_a_penalty_on_embeddings_alone(tmp_path):
    """MiniCPM-o's language model is given no ids of the prompt."""
    original = build_remote(FAMILIES["minicpm_o"], Tiny(), tmp_path, 0)
    (tmp_path / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.4}))
    model = load(tmp_path)
    for request in REQUESTS:
        inputs = original.inputs(request)
        with torch.no_grad():
            x, call = original.embedded(inputs), original.model.llm.generate
            mask, eos = torch.ones(x.shape[:2], dtype=torch.long), list(model.config.stop_tokens)
            plain, ids = (
                call(inputs_embeds=x, attention_mask=mask, repetition_penalty=penalty, max_new_tokens=NEW,
                     do_sample=False, eos_token_id=eos, pad_token_id=0)[0].tolist()
                for penalty in (1.0, 1.4)
            )  # fmt: skip
        assert plain != ids
        out = generate(model.lalm, model.variables, model.processor.prepare([request]), decoding=Decoding(NEW))
        n = int(out.lengths[0])
        assert out.tokens[0, :n].tolist() == ids[:n] and (n == NEW or ids[n] in eos)


def output_map(folder: Path) -> np.ndarray:
    """[V, width]."""
    config, family = read_config(folder)
    config = with_stored_head(gather(folder, config, family), config, family)
    decoder = load_params(folder, config, family)["decoder"]
    return np.asarray(decoder["lm_head"]["kernel"].T if "lm_head" in decoder else decoder["embed"]["embedding"])


@pytest.mark.parametrize("name", TIES)
def test_parity_of_output_maps_that_a_folder_stores(tmp_path, name):
    """Flag true, false or left out, in both sections; a head of its own, one equal to the embeddings, or none."""
    family = FAMILIES[name]
    original = BUILDERS.get(name, build)(family, Tiny(layers=1, encoder_layers=1), tmp_path, 1)
    tensors = load_file(tmp_path / "model.safetensors")
    head = next(key for key in tensors if key.endswith("lm_head.weight"))
    embeddings = tensors[next(key for key in tensors if key.endswith("embed_tokens.weight"))]
    config = json.loads((tmp_path / "config.json").read_text())
    equal = 0
    for stored in ({head: tensors[head]}, {head: embeddings.clone()}, {}):
        rest = {key: x for key, x in tensors.items() if key != head}
        save_file(rest | stored, tmp_path / "model.safetensors", {"format": "pt"})
        for flag in (None, True, False):
            for section in (config, config["text_config"]):
                section.pop("tie_word_embeddings", None)
                if flag is not None:
                    section["tie_word_embeddings"] = flag
            (tmp_path / "config.json").write_text(json.dumps(config))
            model, info = type(original.model).from_pretrained(tmp_path, output_loading_info=True)
            if any(key.endswith("lm_head.weight") for key in info["missing_keys"]):
                continue  # the original makes one up
            theirs, decoder = model.get_output_embeddings().weight.detach().numpy(), output_map(tmp_path)
            np.testing.assert_array_equal(decoder, theirs, err_msg=f"{flag} {stored.keys()}")
            if flag and not torch.equal(stored.get(head, embeddings), embeddings):
                original.model, own = model.eval(), load(tmp_path)
                with torch.no_grad():
                    logits = original.logits(original.inputs(REQUESTS[0]))
                out = forward(own.lalm, own.variables, own.processor.prepare(REQUESTS[:1]), {}).logits
                np.testing.assert_allclose(out[0, : len(logits)], logits, atol=WHOLE, rtol=0)
            equal += 1
    assert equal >= 6
