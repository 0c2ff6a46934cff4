"""Ultravox on other language models than Llama, live against the composed original."""

from __future__ import annotations

import dataclasses
import shutil
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

import test_parity_families as families  # noqa: E402
import torch_ultravox  # noqa: E402
from test_parity_families import WHOLE, Pair, assert_equal  # noqa: E402
from tiny_omni import hiss, leaves_equal  # noqa: E402
from torch_ultravox import build_ultravox  # noqa: E402

from seen_jax.models import layers  # noqa: E402
from seen_jax.models.config import DecoderConfig, RopeScaling, Windows  # noqa: E402
from seen_jax.models.decoder import Decoder  # noqa: E402
from seen_jax.models.generate import Decoding, generate  # noqa: E402
from seen_jax.models.load import load  # noqa: E402
from seen_jax.models.model import forward  # noqa: E402
from seen_jax.models.processor import Request  # noqa: E402
from seen_jax.registry import FAMILIES  # noqa: E402

ultravox = FAMILIES["ultravox"]
SECONDS = {  # short: the encoder is that of the Llama, and proven there
    "grouped heads": (0.05, 1.005, 2.0, 4.3, 0.5, 1.5, 6.1),
    "one kv head, 128 mels": (1.005, 5.0),
    "full heads, tied": (1.005, 3.3),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    opened: dict[tuple[str, str], Pair] = {}

    def get(case, name: str) -> Pair:
        if (case.kind, name) not in opened:
            size, seconds = families.SIZES[name][0], SECONDS[name]
            folder = tmp_path_factory.mktemp(case.kind)
            original = build_ultravox(ultravox, size, folder, len(opened), kind=case.kind)
            requests = [Request([hiss(s, i)], "which color ?") for i, s in enumerate(seconds)]
            opened[case.kind, name] = Pair(original, load(folder), requests)
        return opened[case.kind, name]

    return get


@pytest.fixture(params=["qwen3", "gemma3_text"])
def family(request):
    return SimpleNamespace(name="ultravox", kind=request.param)


# The tests of all families, with the fixtures above.
test_parity_of_prompts_features_sites_and_logits = families.test_parity_of_prompts_features_sites_and_logits
test_parity_of_single_and_batched_answers = families.test_parity_of_single_and_batched_answers
test_parity_of_seen_edits = families.test_parity_of_seen_edits
test_parity_of_several_clips_and_turns = families.test_parity_of_several_clips_and_turns


SMALL = dataclasses.replace(families.SIZES["grouped heads"][0], encoder_layers=1, layers=3)


@pytest.mark.parametrize("window", [1, 1000], ids=["itself alone", "longer than the prompt"])
def test_parity_of_windows(tmp_path, monkeypatch, window):
    monkeypatch.setattr(torch_ultravox, "WINDOW", window)
    original = build_ultravox(ultravox, SMALL, tmp_path, 0, kind="gemma3_text")
    model, request = load(tmp_path), Request([hiss(2.0, 0)], "which color ?")
    assert model.config.decoder.windows == Windows((True, False, True), window, 100.0)
    assert_equal(next(iter(Pair(original, model, [request]).ours([request]))), original.forward(request))
    ids = model.processor.prepare([request])
    out = generate(model.lalm, model.variables, ids, decoding=Decoding(16))
    assert out.tokens[0, : int(out.lengths[0])].tolist() == original.greedy(request, 16)


def test_parity_of_a_whole_gemma(tmp_path):
    """The published folders name one with vision: it answers as its language model, and loads."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    original = build_ultravox(ultravox, SMALL, tmp_path, 0, apart=("text",), kind="gemma3_text")
    llm, request = original.model.llm, Request([hiss(1.0, 0)], "which ?")
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=llm.config.to_dict(), vision_config=vision, mm_tokens_per_image=4)
    config.tie_word_embeddings = False
    whole = Gemma3ForConditionalGeneration(config).eval()
    whole.model.language_model.load_state_dict(llm.model.state_dict())
    whole.lm_head.load_state_dict(llm.lm_head.state_dict())
    with torch.no_grad():
        theirs = whole(inputs_embeds=original.embedded(original.inputs(request))).logits[0]
    before = load(tmp_path)
    shutil.rmtree(tmp_path / "text")
    whole.save_pretrained(tmp_path / "text")
    after = load(tmp_path)
    assert leaves_equal(after.variables, before.variables)
    ours = forward(after.lalm, after.variables, after.processor.prepare([request]), {}).logits[0]
    np.testing.assert_allclose(ours[: len(theirs)], theirs, atol=WHOLE, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parity_of_parts(dtype):
    """In float32 to 1e-5; in bfloat16 the same bits, but for the last one of an activation."""
    from transformers.activations import ACT2FN
    from transformers.models.gemma3 import modeling_gemma3 as source

    atol = 1e-5 if dtype == "float32" else 0.0
    theirs = lambda x: torch.tensor(np.asarray(x, np.float32)).to(getattr(torch, dtype))
    rng = np.random.default_rng(0)
    x = jnp.asarray(3 * rng.standard_normal((2, 5, 16)), dtype)
    scale = jnp.asarray(rng.standard_normal(16), dtype)
    norm = source.Gemma3RMSNorm(16, 1e-6)
    norm.weight.data = theirs(scale)
    ours = layers.rms_norm(x, scale, 1e-6, plus_one=True)
    np.testing.assert_allclose(np.asarray(ours, np.float32), norm(theirs(x)).detach().float(), atol=atol)

    act, ours = ACT2FN["gelu_pytorch_tanh"](theirs(x)).float(), np.asarray(layers.gelu_tanh(x), np.float32)
    np.testing.assert_allclose(ours, act, atol=1e-5, rtol=0 if atol else 2**-8)

    width = 5376  # its root is 73.32, and 73.5 in bfloat16
    table = jnp.asarray(rng.standard_normal((3, width)), dtype)
    embed = source.Gemma3TextScaledWordEmbedding(3, width, None, width**0.5)
    embed.weight.data = theirs(table)
    config = dataclasses.replace(SMALL_DECODER, vocab=3, width=width, text_scale=width**0.5)
    decoder = Decoder(config, dtype=jnp.dtype(dtype))
    ours = decoder.apply({"params": {"embed": {"embedding": table}}}, jnp.arange(3), method="embedded")
    np.testing.assert_array_equal(np.asarray(ours, np.float32), embed(torch.arange(3)).detach().float())


SMALL_DECODER = DecoderConfig(
    vocab=8, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ffn=8, rope_theta=1e4, eps=1e-6, qkv_bias=False
)


def test_parity_of_rotary_frequencies():
    from transformers.models.gemma3 import modeling_gemma3 as source

    rope = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 1e4, "rope_theta": 1e6}
    config = source.Gemma3TextConfig.from_dict({"head_dim": 128, "num_hidden_layers": 6, **rope})
    theirs = source.Gemma3RotaryEmbedding(config)
    for ours, name in [((1e6, RopeScaling(8.0)), "full_attention"), ((1e4, None), "sliding_attention")]:
        frequencies = getattr(theirs, f"{name}_inv_freq").numpy()
        np.testing.assert_allclose(layers.inverse_frequencies(128, *ours), frequencies, rtol=1e-6, atol=0)
