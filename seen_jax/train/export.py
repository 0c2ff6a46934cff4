"""A trained model as an ordinary Hugging Face folder of the Qwen2.5-Omni thinker, with a tiny unused vision tower."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.files import to_json
from seen_jax.models.checkpoint import read_config, save_params
from seen_jax.models.config import LalmConfig
from seen_jax.train.config import ModelSize
from seen_jax.train.tokenizer import SPECIAL, write_tokenizer

VISION_WIDTH = 16
OPENERS = ("which", "what", "name", "how", "transcribe")


def write_folder(folder: Path, size: ModelSize, words: Sequence[str]) -> LalmConfig:
    """Write everything but the weights; returns the configuration as the loader reads it."""
    write_tokenizer(folder, words, OPENERS)
    ids = {token: i for i, token in enumerate(SPECIAL)}
    stops = {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    vocab = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    files = {
        "config.json": {
            "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"],
            "model_type": "qwen2_5_omni_thinker",
            "dtype": "float16",
            **_sections(size, vocab, stops),
            "audio_token_index": ids["<|AUDIO|>"],
            "image_token_index": ids["<|IMAGE|>"],
            "video_token_index": ids["<|VIDEO|>"],
            "audio_start_token_id": ids["<|audio_bos|>"],
            "audio_end_token_id": ids["<|audio_eos|>"],
            "vision_start_token_id": ids["<|vision_bos|>"],
            "vision_end_token_id": ids["<|vision_eos|>"],
            "tie_word_embeddings": False,
        },
        "generation_config.json": {"bos_token_id": None, **stops, "max_new_tokens": 32, "do_sample": False},
        "preprocessor_config.json": {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": size.n_mels,
            "sampling_rate": 16000,
            "hop_length": 160,
            "n_fft": 400,
            "chunk_length": 300,
            "padding_value": 0.0,
            "return_attention_mask": True,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(to_json(content))
    return read_config(folder)[0]


def _sections(size: ModelSize, vocab: int, stops: Mapping[str, int]) -> dict[str, Any]:
    """The three parts of the model in config.json."""
    half = size.decoder_width // size.decoder_heads // 2
    audio = {
        "model_type": "qwen2_5_omni_audio_encoder",
        "num_mel_bins": size.n_mels,
        "encoder_layers": size.encoder_layers,
        "encoder_attention_heads": size.encoder_heads,
        "encoder_ffn_dim": 4 * size.encoder_width,
        "d_model": size.encoder_width,
        "output_dim": size.decoder_width,
        "n_window": size.n_window,
    }
    text = {
        "model_type": "qwen2_5_omni_text",
        "vocab_size": vocab,
        "hidden_size": size.decoder_width,
        "intermediate_size": 4 * size.decoder_width,
        "num_hidden_layers": size.decoder_layers,
        "num_attention_heads": size.decoder_heads,
        "num_key_value_heads": size.decoder_heads,
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": size.rope_theta,
            "mrope_section": [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8],
        },
        **stops,
        "tie_word_embeddings": False,
    }
    vision = {
        "model_type": "qwen2_5_omni_vision_encoder",
        "depth": 0,
        "hidden_size": VISION_WIDTH,
        "intermediate_size": VISION_WIDTH,
        "num_heads": 1,
        "fullatt_block_indexes": [],
        "out_hidden_size": size.decoder_width,
    }
    return {"audio_config": audio, "text_config": text, "vision_config": vision}


def write_weights(folder: Path, params: Mapping[str, Any], dtype: Any = np.float16) -> None:
    """Add model.safetensors to a folder of `write_folder`, in 16 bits: half the size, the same answers."""
    config, family = read_config(folder)
    width, hidden = config.decoder.width, 4 * VISION_WIDTH
    extra = {
        "audio_tower.audio_bos_eos_token.weight": np.zeros((2, config.encoder.output_width)),
        "visual.patch_embed.proj.weight": np.zeros((VISION_WIDTH, 3, 2, 14, 14)),
        "visual.merger.ln_q.weight": np.ones(VISION_WIDTH),
        "visual.merger.mlp.0.weight": np.zeros((hidden, hidden)),
        "visual.merger.mlp.0.bias": np.zeros(hidden),
        "visual.merger.mlp.2.weight": np.zeros((width, hidden)),
        "visual.merger.mlp.2.bias": np.zeros(width),
    }
    save_params(folder, params, config, family, dtype, extra)
