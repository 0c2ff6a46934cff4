"""A trained model as an ordinary Hugging Face folder of the Qwen2.5-Omni thinker, with a tiny unused vision tower.
Its tokenizer is a byte-level BPE in which every word of the tasks, with the space before it, is one token. Answers
begin with a space, so that a word in an answer is the same token as in the options."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from seen_jax.errors import ConfigError
from seen_jax.files import to_json, write_file
from seen_jax.models.checkpoint import read_config, save_params
from seen_jax.models.config import LalmConfig
from seen_jax.train.config import ModelSize

VISION_WIDTH = 16
OPENERS = ("which", "what", "name", "how", "transcribe")
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>", "<|IMAGE|>",
    "<|VIDEO|>", "<|vision_bos|>", "<|vision_eos|>",
)  # fmt: skip
NAMED = {f"{token[2:-2].lower()}_token": token for token in SPECIAL[3:]}

# ChatML without the default system turn of the large models, which would cost a tenth of the prompt here.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(folder: Path, words: Sequence[str], openers: Sequence[str]) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja for a vocabulary of words. Any text can be
    encoded; bytes are the fallback. openers: words that begin a prompt, so no space is before them. Raises ConfigError
    if a word does not become one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=1, show_progress=False,
    )  # fmt: skip
    forms = [f" {word}" for word in words] + [*openers, "system", "user", "assistant"]
    tokenizer.train_from_iterator(forms, trainer)
    broken = [form for form in forms if len(tokenizer.encode(form).ids) != 1]
    if broken:
        raise ConfigError(f"these words are not one token each: {', '.join(broken[:10])}")
    write_file(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer", "model_max_length": 32768, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": None, "bos_token": None, "add_prefix_space": False,
        "clean_up_tokenization_spaces": False, "extra_special_tokens": NAMED, **NAMED,
    }  # fmt: skip
    write_file(folder / "tokenizer_config.json", to_json(settings))
    write_file(folder / "chat_template.jinja", CHAT_TEMPLATE)


def write_folder(folder: Path, size: ModelSize, words: Sequence[str]) -> LalmConfig:
    """Write everything but the weights; returns the configuration as the loader reads it."""
    write_tokenizer(folder, words, OPENERS)
    ids = {token: i for i, token in enumerate(SPECIAL)}
    stops = {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    half = size.decoder_width // size.decoder_heads // 2
    files = {
        "config.json": {
            "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"], "model_type": "qwen2_5_omni_thinker",
            "dtype": "float16",
            "audio_config": {
                "model_type": "qwen2_5_omni_audio_encoder", "num_mel_bins": size.n_mels,
                "encoder_layers": size.encoder_layers, "encoder_attention_heads": size.encoder_heads,
                "encoder_ffn_dim": size.encoder_ffn or 4 * size.encoder_width, "d_model": size.encoder_width,
                "output_dim": size.decoder_width, "n_window": size.n_window,
            },
            "text_config": {
                "model_type": "qwen2_5_omni_text",
                "vocab_size": len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]),
                "hidden_size": size.decoder_width, "intermediate_size": 4 * size.decoder_width,
                "num_hidden_layers": size.decoder_layers, "num_attention_heads": size.decoder_heads,
                "num_key_value_heads": size.decoder_heads, "max_position_embeddings": 2048,
                "rope_parameters": {
                    "rope_type": "default", "rope_theta": size.rope_theta,
                    "mrope_section": [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8],
                },
                **stops, "tie_word_embeddings": False,
            },
            "vision_config": {
                "model_type": "qwen2_5_omni_vision_encoder", "depth": 0, "hidden_size": VISION_WIDTH,
                "intermediate_size": VISION_WIDTH, "num_heads": 1, "fullatt_block_indexes": [],
                "out_hidden_size": size.decoder_width,
            },
            "audio_token_index": ids["<|AUDIO|>"], "image_token_index": ids["<|IMAGE|>"],
            "video_token_index": ids["<|VIDEO|>"], "audio_start_token_id": ids["<|audio_bos|>"],
            "audio_end_token_id": ids["<|audio_eos|>"], "vision_start_token_id": ids["<|vision_bos|>"],
            "vision_end_token_id": ids["<|vision_eos|>"], "tie_word_embeddings": False,
        },
        "generation_config.json": {"bos_token_id": None, **stops, "max_new_tokens": 32, "do_sample": False},
        "preprocessor_config.json": {
            "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": size.n_mels, "sampling_rate": 16000,
            "hop_length": 160, "n_fft": 400, "chunk_length": 300, "padding_value": 0.0, "return_attention_mask": True,
        },
    }  # fmt: skip
    for name, content in files.items():
        write_file(folder / name, to_json(content))
    return read_config(folder)[0]


def write_weights(folder: Path, params: Mapping[str, Any]) -> None:
    """Add model.safetensors to a folder of `write_folder`, in 16 bits: half the size, the same answers."""
    config, family = read_config(folder)
    width, hidden = config.decoder.width, 4 * VISION_WIDTH
    unused = {
        "audio_tower.audio_bos_eos_token.weight": np.zeros((2, config.encoder.output_width)),
        "visual.patch_embed.proj.weight": np.zeros((VISION_WIDTH, 3, 2, 14, 14)),
        "visual.merger.ln_q.weight": np.ones(VISION_WIDTH),
    }
    for layer, rows in ((0, hidden), (2, width)):
        unused[f"visual.merger.mlp.{layer}.weight"] = np.zeros((rows, hidden))
        unused[f"visual.merger.mlp.{layer}.bias"] = np.zeros(rows)
    save_params(folder, params, config, family, np.float16, unused)
