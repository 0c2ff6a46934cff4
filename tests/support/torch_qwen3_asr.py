"""The PyTorch original of Qwen3-ASR: tiny random folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch_families import Original, Tiny, chunked_encoder, randomise, small_tokenizer, text_config

from seen_jax.models.family import Family
from seen_jax.models.processor import Request

START, END, TRANSCRIPT = "<|audio_start|>", "<|audio_end|>", "<asr_text>"


def _config(family: Family, size: Tiny, vocab: int, ids: Mapping[str, int]) -> Any:
    from transformers import Qwen3ASRConfig

    text = text_config(size, vocab, ids)
    return Qwen3ASRConfig(
        audio_config=chunked_encoder(size),
        text_config=text | {"model_type": "qwen3", "head_dim": 12},
        audio_token_id=ids[family.audio],
        eos_token_id=text["eos_token_id"],
        pad_token_id=text["pad_token_id"],
        tie_word_embeddings=size.tied,
    )


def build_qwen3_asr(family: Family, size: Tiny, folder: Path, seed: int) -> Original:
    from transformers import Qwen3ASRFeatureExtractor, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

    tokenizer = small_tokenizer(family, folder, (START, family.audio, END, TRANSCRIPT))
    torch.manual_seed(seed)
    model = Qwen3ASRForConditionalGeneration(_config(family, size, len(tokenizer), tokenizer.get_vocab())).eval()
    randomise(model)
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.audio_token, tokenizer.audio_bos_token, tokenizer.audio_eos_token = family.audio, START, END
    extractor = Qwen3ASRFeatureExtractor(feature_size=size.n_mels)
    processor = Qwen3ASRProcessor(extractor, tokenizer, chat_template=family.chat_template)
    return OriginalQwen3Asr(family, model, processor)


@dataclasses.dataclass
class OriginalQwen3Asr(Original):
    def inputs(self, request: Request) -> dict[str, Any]:
        text = self.processor.apply_chat_template(request.chat(), tokenize=False, add_generation_prompt=True)
        options = {"sampling_rate": 16000, "n_window": self.model.model.audio_tower.n_window}
        return dict(self.processor(text=[text], audio=list(request.audio), audio_kwargs=options, return_tensors="pt"))

    def token_count(self, frames: int) -> int:
        from transformers.models.qwen3_asr.modeling_qwen3_asr import _get_feat_extract_output_lengths

        return int(_get_feat_extract_output_lengths(torch.tensor(frames), self.model.model.audio_tower.n_window))

    position_count = token_count
