"""Live against transformers' Qwen2.5-Omni thinker with forward hooks: every site, every layer, edits, generation.

Tolerances: 1e-4 for whole models, 1e-5 for parts, float32 on the CPU; activations and logits are of the order of 1.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.numpy import load_file, save_file  # noqa: E402
from tiny_omni import Row, Size, leaves_equal, pack, random_edit, random_row, token_count  # noqa: E402
from torch_omni import Original, build, save  # noqa: E402

from seen_jax.models import layers  # noqa: E402
from seen_jax.models.attention import cached_attention, masked_attention  # noqa: E402
from seen_jax.models.checkpoint import load_params, read_config, save_params  # noqa: E402
from seen_jax.models.config import conv_length  # noqa: E402
from seen_jax.models.generate import Decoding, generate  # noqa: E402
from seen_jax.models.lalm import Lalm, Output  # noqa: E402
from seen_jax.models.model import forward  # noqa: E402
from seen_jax.models.safetensors_files import list_tensors  # noqa: E402
from seen_jax.models.sites import DECODER_SITES, ENCODER_SITES, PROJECTOR, SITES, Taps  # noqa: E402

WHOLE, PART = 1e-4, 1e-5
FRAMES = (57, 201, 430, 3, 199, 200, 1000)
NEW = 32

SIZES = {
    "grouped heads, 2 s chunks": Size(
        n_mels=80, n_window=100, encoder_width=48, encoder_heads=3, encoder_ffn=96, width=64, heads=4, kv_heads=2,
        ffn=96, vocab=300,
    ),
    "one kv head, odd chunks, wide ffn": Size(
        n_mels=128, n_window=25, encoder_layers=2, encoder_width=16, encoder_heads=2, encoder_ffn=72, layers=2,
        width=48, heads=6, kv_heads=1, ffn=160, vocab=97, rope_theta=1e4, eps=1e-5,
    ),
    "full heads, deep, tied": Size(
        n_mels=40, n_window=50, encoder_layers=1, encoder_width=32, encoder_heads=4, encoder_ffn=48, layers=5,
        width=40, heads=2, kv_heads=2, ffn=64, vocab=512, rope_theta=5e5, tied=True,
    ),
}  # fmt: skip


@dataclasses.dataclass
class Pair:
    """The original and ours, loaded from the folder that the original wrote; a ragged batch of prompts."""

    folder: Path
    original: Original
    lalm: Lalm
    variables: dict[str, Any]
    rows: list[Row]

    @property
    def config(self):
        return self.lalm.config

    def ours(self, rows: list[Row], edits: dict | None = None) -> Output:
        return forward(self.lalm.clone(taps=Taps(SITES, "full")), self.variables, pack(rows, self.config), edits or {})


def open_pair(folder: Path, size: Size, seed: int) -> Pair:
    model = build(size, seed)
    save(model, folder)
    config, family = read_config(folder)
    variables = {"params": load_params(folder, config, family)}
    rows = [random_row([f], size.n_mels, size.vocab, seed + i) for i, f in enumerate(FRAMES)]
    return Pair(folder, Original(model), Lalm(config), variables, rows)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    opened: dict[str, Pair] = {}

    def get(name: str) -> Pair:
        if name not in opened:
            opened[name] = open_pair(tmp_path_factory.mktemp("omni"), SIZES[name], len(opened))
        return opened[name]

    return get


@pytest.fixture(params=list(SIZES))
def pair(request, pairs) -> Pair:
    return pairs(request.param)


@pytest.fixture
def first(pairs) -> Pair:
    return pairs(next(iter(SIZES)))


def all_edits(config, site: str | None, text: float = 0.0) -> dict:
    """Edits at all sites, so that one program serves all tests; only that of `site` does anything."""
    edits = {s: random_edit(config, s, seed=5) for s in SITES}
    return {
        s: e.replace(scale=e.scale * (0.8 if s == site else 0.0), text=jnp.full_like(e.scale, text))
        for s, e in edits.items()
    }


def valid_taps(out: Output, b: int, row: Row, audio: int) -> dict[str, np.ndarray]:
    """Full taps of row b without its padding, clips joined, as the hooks of the original see them."""
    clips = range(audio, audio + len(row.frames))
    cut = lambda x, count: np.concatenate([x[:, a, : count(f)] for a, f in zip(clips, row.frames, strict=True)], 1)
    taps = {site: np.asarray(x) for site, x in out.taps.items()}
    found = {site: cut(taps[site], token_count if site == PROJECTOR else conv_length) for site in ENCODER_SITES}
    return found | {site: taps[site][:, b, : len(row.ids)] for site in DECODER_SITES}


def assert_row_equal(out: Output, b: int, row: Row, audio: int, reference) -> None:
    logits, taps = reference
    np.testing.assert_allclose(out.logits[b, : len(row.ids)], logits, atol=WHOLE, rtol=0)
    ours = valid_taps(out, b, row, audio)
    for site in SITES:
        assert ours[site].shape == taps[site].shape
        tolerance = PART if site in ENCODER_SITES else WHOLE
        np.testing.assert_allclose(ours[site], taps[site], atol=tolerance, rtol=0, err_msg=site)


def test_parity_every_site_and_logits_of_a_ragged_batch(pair):
    out = pair.ours(pair.rows, all_edits(pair.config, None))  # measured, not edited
    for b, row in enumerate(pair.rows):
        assert_row_equal(out, b, row, b, pair.original.forward(row))


def test_parity_greedy_tokens(pair):
    out = generate(pair.lalm, pair.variables, pack(pair.rows, pair.config), decoding=Decoding(NEW))
    for b, row in enumerate(pair.rows[:4]):
        assert out.tokens[b, : int(out.lengths[b])].tolist() == pair.original.greedy(row, NEW)
    assert int(out.lengths.max()) == NEW, "no answer runs to the end: the comparison would be short"


@pytest.mark.parametrize(
    ("site", "text"), [(site, 0.0) for site in SITES] + [(site, 1.0) for site in DECODER_SITES]
)  # fmt: skip
def test_parity_seen_equals_the_same_edit_in_a_hook(pair, site, text):
    edits = all_edits(pair.config, site, text)
    out, plain = (pair.ours(pair.rows, x) for x in (edits, all_edits(pair.config, None)))
    for b, row in list(enumerate(pair.rows))[:4]:
        assert_row_equal(out, b, row, b, pair.original.forward(row, {site: edits[site]}))
    change = np.abs(np.asarray(out.logits - plain.logits))[0, : len(pair.rows[0].ids)].max()
    assert change > 100 * WHOLE, "the edit does nothing: the comparison would prove nothing"


@pytest.mark.parametrize("site", DECODER_SITES)
def test_parity_greedy_tokens_under_an_edit_of_every_position(first, site):
    edits = all_edits(first.config, site, 1.0)
    batch = pack(first.rows, first.config)
    out = generate(first.lalm, first.variables, batch, edits, Decoding(NEW))
    plain = generate(first.lalm, first.variables, batch, decoding=Decoding(NEW))
    for b, row in enumerate(first.rows[:3]):
        assert out.tokens[b, : int(out.lengths[b])].tolist() == first.original.greedy(row, NEW, {site: edits[site]})
    assert (out.tokens != plain.tokens).any()


def test_parity_two_clips_in_one_prompt(first):
    rows = [random_row(frames, 80, 300, 20 + i) for i, frames in enumerate([(201, 57), (3,), (130, 430)])]
    out = first.ours(rows)
    audio = 0
    for b, row in enumerate(rows):
        assert_row_equal(out, b, row, audio, first.original.forward(row))
        audio += len(row.frames)


def publish(source: Path, folder: Path) -> None:
    """The folder as the published checkpoints look: the whole model's config, keys under `thinker.`, old rope."""
    config = json.loads((source / "config.json").read_text())
    rope = config["text_config"].pop("rope_parameters")
    sections = rope["mrope_section"]
    config["text_config"]["rope_theta"] = rope["rope_theta"]
    config["text_config"]["rope_scaling"] = {"mrope_section": sections, "rope_type": "default", "type": "default"}
    whole = {"model_type": "qwen2_5_omni", "enable_audio_output": True, "thinker_config": config}
    (folder / "config.json").write_text(json.dumps(whole))
    tensors = {f"thinker.{key}": x for key, x in load_file(source / "model.safetensors").items()}
    tensors |= {"talker.codec_head.weight": np.zeros((2, 2)), "token2wav.x": np.zeros(3)}
    save_file({key: x.astype(np.float32) for key, x in tensors.items()}, folder / "model.safetensors")
    shutil.copy(source / "generation_config.json", folder)


def test_parity_of_key_layouts(first, tmp_path):
    """Published (`thinker.`), current (`model.audio_tower.`), and sharded folders give the same parameters."""
    for name in ("published", "current", "sharded"):
        (tmp_path / name).mkdir()
    publish(first.folder, tmp_path / "published")
    save(first.original.model, tmp_path / "current", save_original_format=False)
    save(first.original.model, tmp_path / "sharded", max_shard_size="100KB")
    assert "thinker.model.norm.weight" in list_tensors(tmp_path / "published")
    assert "model.language_model.norm.weight" in list_tensors(tmp_path / "current")
    assert len({x.file for x in list_tensors(tmp_path / "sharded").values()}) > 2
    for folder in tmp_path.iterdir():
        config, family = read_config(folder)
        assert config == first.config
        assert leaves_equal(load_params(folder, config, family), first.variables["params"])


def test_parity_of_what_we_save(first, tmp_path):
    """transformers loads our folder, after the parameters went through ours, to the same logits."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    config, family = read_config(first.folder)
    theirs = first.original.model.state_dict()
    unused = {key: x.numpy() for key, x in theirs.items() if "visual" in key or "audio_bos_eos" in key}
    save_params(tmp_path, first.variables["params"], config, family, extra=unused)
    shutil.copy(first.folder / "config.json", tmp_path)
    loaded, info = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert all(torch.equal(x, theirs[key]) for key, x in loaded.state_dict().items())


def test_parity_of_parts():
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as source

    rng = np.random.default_rng(0)
    x = jnp.asarray(3 * rng.standard_normal((2, 5, 16)), jnp.float32)
    scale, bias = jnp.asarray(rng.standard_normal((2, 16)), jnp.float32)
    tx, tscale, tbias = (torch.tensor(np.asarray(y)) for y in (x, scale, bias))

    rms = source.Qwen2_5OmniRMSNorm(16, 1e-5)
    rms.weight.data = tscale
    np.testing.assert_allclose(layers.rms_norm(x, scale, 1e-5), rms(tx).detach(), atol=PART)

    expected = torch.nn.functional.layer_norm(tx, (16,), tscale, tbias, 1e-5)
    np.testing.assert_allclose(layers.layer_norm(x, scale, bias, 1e-5), expected, atol=PART)

    np.testing.assert_allclose(layers.gelu(x), torch.nn.functional.gelu(tx), atol=PART)

    table = source.SinusoidsPositionEmbedding(1500, 48).positional_embedding[:200]  # a chunk reads its first rows
    np.testing.assert_allclose(layers.sinusoids(1500, 48)[:200], table, atol=PART)


def test_parity_of_attention_with_grouped_heads():
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((2, 7, heads, 8)).astype(np.float32) for heads in (6, 2, 2))
    mask = np.tril(np.ones((7, 7), bool))[None] & (np.arange(7) < np.array([7, 4])[:, None])[:, None]
    heads_first = [torch.tensor(x).transpose(1, 2) for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        *heads_first, attn_mask=torch.tensor(mask)[:, None], enable_gqa=True
    ).transpose(1, 2)
    ours = masked_attention(*(jnp.asarray(x) for x in (q, k, v, mask)))
    np.testing.assert_allclose(ours, expected, atol=PART)
    # The same position as a step over the cache of the positions before it.
    last = [jnp.asarray(x[:1, 6:7]) for x in (q, k, v)]
    keys, values = jnp.asarray(k[:1].transpose(0, 2, 3, 1)), jnp.asarray(v[:1].transpose(0, 2, 1, 3))
    cached = cached_attention(last[0], tuple(last[1:]), (keys, values), jnp.arange(7)[None] < 6)
    np.testing.assert_allclose(cached[0, 0], expected[0, 6], atol=PART)
