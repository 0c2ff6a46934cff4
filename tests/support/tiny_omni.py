"""Miniature Qwen2.5-Omni thinkers as Hugging Face folders, and seeded inputs for them, without PyTorch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from seen_jax.models.checkpoint import find_weights, gather, parameter_shapes, read_config, save_params
from seen_jax.models.config import LalmConfig, conv_length
from seen_jax.models.edits import Edit
from seen_jax.models.identify import identify
from seen_jax.models.lalm import Batch
from seen_jax.models.sites import SITES
from seen_jax.subspace import NoiseBasis
from seen_jax.subspace.identity import Identity
from seen_jax.train.export import SPECIAL, write_tokenizer

ID = {token: i for i, token in enumerate(SPECIAL)}
AUDIO, BOS, EOS = ID["<|AUDIO|>"], ID["<|audio_bos|>"], ID["<|audio_eos|>"]
WORDS = ("red", "green", "blue", "speech", "music", "the", "name", "color")
OPENERS = ("which", "transcribe")


@dataclasses.dataclass(frozen=True)
class Size:
    """What the tests vary. vocab 0: that of the tokenizer."""

    n_mels: int = 16
    n_window: int = 10
    encoder_layers: int = 3
    encoder_width: int = 24
    encoder_heads: int = 3
    encoder_ffn: int = 40
    layers: int = 3
    width: int = 32
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 48
    vocab: int = 0
    rope_theta: float = 1e6
    eps: float = 1e-6
    tied: bool = False


def config_json(size: Size) -> dict[str, Any]:
    """config.json of a thinker, as current transformers write it; a vision tower without layers."""
    half = size.width // size.heads // 2
    return {
        "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"],
        "model_type": "qwen2_5_omni_thinker",
        "dtype": "float32",
        "audio_config": {
            "num_mel_bins": size.n_mels,
            "encoder_layers": size.encoder_layers,
            "encoder_attention_heads": size.encoder_heads,
            "encoder_ffn_dim": size.encoder_ffn,
            "d_model": size.encoder_width,
            "output_dim": size.width,
            "n_window": size.n_window,
        },
        "text_config": {
            "vocab_size": size.vocab,
            "hidden_size": size.width,
            "intermediate_size": size.ffn,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "rms_norm_eps": size.eps,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": size.rope_theta,
                "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
            },
            "eos_token_id": ID["<|im_end|>"],
            "pad_token_id": ID["<|endoftext|>"],
            "tie_word_embeddings": size.tied,
        },
        "vision_config": {
            "depth": 0,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 1,
            "fullatt_block_indexes": [],
            "out_hidden_size": size.width,
        },
        "audio_token_index": AUDIO,
        "image_token_index": ID["<|IMAGE|>"],
        "video_token_index": ID["<|VIDEO|>"],
        "audio_start_token_id": BOS,
        "audio_end_token_id": EOS,
        "vision_start_token_id": ID["<|vision_bos|>"],
        "vision_end_token_id": ID["<|vision_eos|>"],
        "tie_word_embeddings": size.tied,
    }


def random_params(config: LalmConfig, seed: int) -> dict[str, Any]:
    """float32 parameters that keep activations and logits near 1 in every layer."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        stacked = "layers" in path
        x = rng.standard_normal(shape)
        if path[-1] in ("scale", "bias"):
            return x * 0.1 + (path[-1] == "scale")
        fan_in = int(np.prod(shape[stacked:-1])) if path[-1] == "kernel" else shape[-1]
        return x * (2.0 if "lm_head" in path else 1.0) / np.sqrt(fan_in)

    shapes = parameter_shapes(config)
    return unflatten_dict({path: draw(path, shape).astype(np.float32) for path, shape in shapes.items()})


def write_checkpoint(folder: Path, size: Size | None = None, seed: int = 0, dtype: Any = np.float32) -> Path:
    """A whole model folder with a tokenizer and random weights."""
    write_tokenizer(folder, WORDS, OPENERS)
    vocab = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    size = dataclasses.replace(size or Size(), vocab=vocab)
    (folder / "config.json").write_text(json.dumps(config_json(size)))
    config, family = read_config(folder)
    save_params(folder, random_params(config, seed), config, family, dtype)
    return folder


def wave(samples: int, seed: int = 0) -> np.ndarray:
    """A gliding tone over faint noise, float32."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 16000
    tone = 0.3 * np.sin(2 * np.pi * (200 + 90 * seed + 400 * t) * t)
    return (tone + 0.02 * rng.standard_normal(samples)).astype(np.float32)


def hiss(seconds: float, seed: int) -> np.ndarray:
    """A tone in noise. Louder noise than elsewhere: over minutes of audio some quiet bin would hold nothing but the
    float32 rounding of the tone, in theirs and in ours."""
    samples = round(seconds * 16000)
    return wave(samples, seed) + 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Row:
    """A prompt: ids with the audio tokens in place, and the mel features [F, M] of its clips. answer: ids that follow,
    none of which stands for audio."""

    ids: list[int]
    features: list[np.ndarray]
    answer: list[int] = dataclasses.field(default_factory=list)

    @property
    def frames(self) -> list[int]:
        return [len(x) for x in self.features]


def prompt_ids(model, request) -> list[int]:
    """Token ids of the whole prompt, each audio expanded to its audio tokens."""
    batch = model.processor.prepare([request])
    return np.asarray(batch.tokens)[0, : int(batch.lengths[0])].tolist()


def token_count(frames):
    """Audio tokens where pairs of positions are pooled, 25 a second: an odd last position is dropped."""
    return conv_length(frames) // 2


def random_row(frames: Sequence[int], n_mels: int, vocab: int, seed: int) -> Row:
    rng = np.random.default_rng(seed)
    text = lambda n: rng.integers(len(SPECIAL), vocab, n).tolist()
    ids = text(3)
    for f in frames:
        ids += [BOS, *[AUDIO] * int(token_count(f)), EOS, *text(2)]
    return Row(ids + text(3), [rng.standard_normal((f, n_mels)).astype(np.float32) for f in frames])


def pack(
    rows: Sequence[Row], config: LalmConfig, extra_text: int = 0, extra_chunks: int = 0, junk: float = 0.0
) -> Batch:
    """Rows -> Batch. junk: what padding frames hold (NaN too)."""
    audios = [x for row in rows for x in row.features]
    chunk = config.encoder.pad_frames
    total = (-(-max(map(len, audios)) // chunk) + extra_chunks) * chunk
    features = np.full((len(audios), total, config.encoder.n_mels), junk, np.float32)
    for padded, x in zip(features, audios, strict=True):
        padded[: len(x)] = x
    texts = [row.ids + row.answer for row in rows]
    length = max(map(len, texts)) + extra_text
    tokens = np.full((len(rows), length), config.pad_token, np.int32)
    index = np.full((len(rows), length), -1, np.int32)
    audio = 0
    for b, row in enumerate(rows):
        tokens[b, : len(texts[b])] = texts[b]
        places = [i for i, token in enumerate(row.ids) if token == AUDIO]
        sources = []
        for f in row.frames:
            sources += [audio * int(token_count(total)) + i for i in range(int(token_count(f)))]
            audio += 1
        index[b, places] = sources
    as_ints = lambda values: jnp.asarray(values, jnp.int32)
    lengths = [len(text) for text in texts]
    frames = [len(x) for x in audios]
    return Batch(as_ints(tokens), as_ints(lengths), jnp.asarray(features), as_ints(frames), as_ints(index))


def random_q(layers: int, width: int, rank: int, seed: int) -> np.ndarray:
    """[L, D, R] float32 with orthonormal columns."""
    rng = np.random.default_rng(seed)
    return np.stack([np.linalg.qr(rng.standard_normal((width, rank)))[0] for _ in range(layers)]).astype(np.float32)


def random_edit(config: LalmConfig, site: str, rank: int = 3, seed: int = 0, strength: float = 1.0) -> Edit:
    layers, width = config.site_shape(site)
    q = random_q(layers, width, rank, seed + SITES.index(site))
    return Edit(u=jnp.asarray(q), scale=jnp.full(layers, strength, jnp.float32))


def random_basis(config: LalmConfig, site: str, ranks: Sequence[int], layers: Sequence[int] = (), **card: Any):
    """A random noise basis with the given ranks; all layers kept if none are named."""
    depth, width = config.site_shape(site)
    assert len(ranks) == depth
    q = random_q(depth, width, max(1, *ranks), SITES.index(site))
    q = q * (np.arange(q.shape[-1]) < np.asarray(ranks)[:, None, None])
    return NoiseBasis(site, jnp.asarray(q), tuple(ranks), tuple(layers) or tuple(range(depth)), card)


def identities_of(folder: Path) -> dict[str, Identity]:
    """Those of the weights of a folder, which need not be loaded."""
    config, family = read_config(folder)
    weights = find_weights(folder, config, family, gather(folder, config, family))
    return identify("tiny", weights, config)


def leaves_equal(a: Any, b: Any) -> bool:
    """The same tree, with the same bits in every leaf."""
    same = jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(np.asarray(x), np.asarray(y)), a, b)
    return jax.tree.all(same)
