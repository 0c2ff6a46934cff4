"""Ultravox in PyTorch, composed of transformers' Whisper encoder layers and its language models: its own classes are
remote code, which is not run here. Framing, masks, projector and prompt are written out once more, independently of the
port."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_families import Original, Tiny, randomise, small_tokenizer
from torch_remote import OriginalRemote

from seen_jax.models.family import Family
from seen_jax.models.processor import Request

SPECIAL = {  # the first token of a text, others, and the last one of a turn
    "llama": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "qwen3": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "gemma3_text": ("<bos>", "<start_of_turn>", "<end_of_turn>"),
}


def sizes(kind: str, size: Tiny, vocab: int, eos: int) -> dict[str, Any]:
    """What all language models have in common."""
    return {
        "model_type": kind,
        "vocab_size": vocab,
        "hidden_size": size.width,
        "intermediate_size": size.ffn,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": size.eps,
        "rope_theta": size.rope_theta,
        "tie_word_embeddings": size.tied,
        "eos_token_id": eos,
    }


def llama(size: Tiny, vocab: int, eos: int) -> tuple[dict[str, Any], nn.Module]:
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    text = {**sizes("llama", size, vocab, eos), "rope_scaling": rope | {"original_max_position_embeddings": 1024}}
    return text, LlamaForCausalLM(LlamaConfig.from_dict(copy.deepcopy(text)))


def qwen3(size: Tiny, vocab: int, eos: int) -> tuple[dict[str, Any], nn.Module]:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    text = {**sizes("qwen3", size, vocab, eos), "head_dim": 12}
    return text, Qwen3ForCausalLM(Qwen3Config.from_dict(copy.deepcopy(text)))


def gemma3_text(size: Tiny, vocab: int, eos: int) -> tuple[dict[str, Any], nn.Module]:
    """Every second layer, from the first, sees only the last few positions."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    text = sizes("gemma3_text", size, vocab, eos) | {
        "head_dim": 12,
        "query_pre_attn_scalar": 20,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 2,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "rope_local_base_freq": 100.0,
        "pad_token_id": None,
    }
    return text, Gemma3ForCausalLM(Gemma3TextConfig.from_dict(copy.deepcopy(text)))


WINDOW = 6  # shorter than every prompt
LANGUAGE_MODELS = {"llama": llama, "qwen3": qwen3, "gemma3_text": gemma3_text}


class Composed(nn.Module):
    """Encoder, projector and language model. `audio_tokens` is where hooks find what the language model receives.

    Three variants: published (v0.5: norm in the middle), older (norm at the end), and a streaming one (attention in
    blocks of 100 positions, stacks of 4, tied).
    """

    def __init__(self, size: Tiny, vocab: int, eos: int, kind: str):
        super().__init__()
        from transformers import WhisperConfig, WhisperForConditionalGeneration
        from transformers.models.llama.modeling_llama import LlamaRMSNorm

        self.stack, self.block = (4, 100) if size.tied else (8, None)
        self.mid = size.kv_heads > 1
        whisper = WhisperConfig(
            num_mel_bins=size.n_mels,
            d_model=size.encoder_width,
            encoder_layers=size.encoder_layers,
            encoder_attention_heads=size.encoder_heads,
            encoder_ffn_dim=2 * size.encoder_width,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=8,
            vocab_size=20,
            pad_token_id=1,
            bos_token_id=1,
            eos_token_id=1,
            decoder_start_token_id=1,
        )
        whisper._attn_implementation = "eager"
        self.whisper = [WhisperForConditionalGeneration(whisper)]  # in a list: its decoder is no part of this model
        self.tower = self.whisper[0].model.encoder
        self.hidden = 40
        inner = self.hidden // 2
        self.ln_pre = LlamaRMSNorm(self.stack * size.encoder_width, eps=1e-6)
        self.linear_1 = nn.Linear(self.stack * size.encoder_width, self.hidden, bias=False)
        self.linear_2 = nn.Linear(inner, size.width, bias=False)
        self.ln_mid = LlamaRMSNorm(inner, eps=1e-6) if self.mid else nn.Identity()
        self.ln_post = nn.Identity() if self.mid else LlamaRMSNorm(size.width, eps=1e-6)
        self.audio_tokens = nn.Identity()
        self.text, self.llm = LANGUAGE_MODELS[kind](size, vocab, eos)

    def encode(self, features: torch.Tensor, frames: list[int]) -> torch.Tensor:
        """features [rows, mels, frames] of one clip -> audio tokens [rows, tokens, width], padding included."""
        x = nn.functional.gelu(self.tower.conv1(features))
        x = nn.functional.gelu(self.tower.conv2(x)).permute(0, 2, 1)
        length = x.shape[1]
        x = x + self.tower.embed_positions.weight[:length]
        lowest = torch.finfo(x.dtype).min
        mask = torch.zeros(len(frames), 1, 1, length)
        for row, n in enumerate(frames):
            mask[row, :, :, (n - 1) // 2 + 1 :] = lowest
        if self.block is not None:
            blocks = torch.tril(torch.ones(3000 // self.block, 3000 // self.block))
            blocks = blocks.repeat_interleave(self.block, 0).repeat_interleave(self.block, 1)
            mask = torch.minimum((1 - blocks[:length, :length]) * lowest, mask)
        for layer in self.tower.layers:
            out = layer(x, mask)
            x = out[0] if isinstance(out, tuple) else out
        x = self.tower.layer_norm(x)
        x = nn.functional.pad(x, (0, 0, 0, -length % self.stack))
        x = self.linear_1(self.ln_pre(x.reshape(len(x), -1, self.stack * x.shape[-1])))
        value, gate = x.chunk(2, dim=-1)
        x = self.ln_mid(value * nn.functional.silu(gate))
        return self.audio_tokens(self.ln_post(self.linear_2(x)))

    def save(self, folder: Path, apart: tuple[str, ...]) -> None:
        """apart: which of "text" and "audio" lie in folders of their own, as transformers writes those models."""
        from safetensors.torch import save_file

        tensors, config = {}, {"model_type": "ultravox", "hidden_size": self.hidden, "stack_factor": self.stack}
        config |= {"projector_ln_mid": self.mid, "audio_latency_block_size": self.block, "audio_token_index": 32000}
        for key, x in self.state_dict().items():
            part, _, rest = key.partition(".")
            if part == "tower":
                if "audio" not in apart:
                    tensors[f"audio_tower.{rest}"] = x
            elif part == "llm":
                if "text" not in apart and not (self.text["tie_word_embeddings"] and rest == "lm_head.weight"):
                    tensors[f"language_model.{rest}"] = x
            else:
                tensors[f"multi_modal_projector.{key}"] = x
        if "text" in apart:
            self.llm.save_pretrained(folder / "text")
            config["text_model_id"] = "text"
        else:
            config |= {"text_config": self.text, "text_model_id": None}
        if "audio" in apart:
            self.whisper[0].save_pretrained(folder / "audio")
            config["audio_model_id"] = str(folder / "audio")
        else:
            tower = self.tower.config
            names = ("num_mel_bins", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "d_model")
            config["audio_config"] = {name: getattr(tower, name) for name in names}
        save_file({key: x.contiguous() for key, x in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config))


def build_ultravox(
    family: Family, size: Tiny, folder: Path, seed: int, apart: tuple[str, ...] | None = None, kind: str = "llama"
) -> Original:
    from transformers import WhisperFeatureExtractor
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = small_tokenizer(family, folder)
    bos, *others, eos = SPECIAL[kind]
    tokenizer.add_special_tokens({"additional_special_tokens": [bos, *others, eos], "bos_token": bos, "eos_token": eos})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    model = Composed(size, len(tokenizer), tokenizer.eos_token_id, kind).eval()
    randomise(model)
    model.llm.tie_weights()
    if apart is None:
        apart = ("text", "audio") if size.tied else ("text",) if size.kv_heads > 1 else ()
    model.save(folder, apart)
    processor = SimpleNamespace(tokenizer=tokenizer, extractor=WhisperFeatureExtractor(feature_size=size.n_mels))
    return OriginalUltravox(family, model, processor, kind=kind)


def llama_text(turns: list[tuple[str, str]]) -> str:
    turns = [(role, words.strip()) for role, words in turns]
    system = turns.pop(0)[1] if turns[0][0] == "system" else ""
    turns.insert(0, ("system", f"Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n{system}"))
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    text = "".join(header.format(role) + words + "<|eot_id|>" for role, words in turns)
    return "<|begin_of_text|>" + text + header.format("assistant")


def qwen3_text(turns: list[tuple[str, str]]) -> str:
    return "".join(f"<|im_start|>{role}\n{words}<|im_end|>\n" for role, words in turns) + "<|im_start|>assistant\n"


def gemma3_prompt(turns: list[tuple[str, str]]) -> str:
    start = turns[0][1] + "\n\n" if turns[0][0] == "system" else ""
    text = "<bos>"
    for role, words in turns[bool(start) :]:
        text += f"<start_of_turn>{'model' if role == 'assistant' else role}\n{start}{words.strip()}<end_of_turn>\n"
        start = ""
    return text + "<start_of_turn>model\n"


TEXTS = {"llama": llama_text, "qwen3": qwen3_text, "gemma3_text": gemma3_prompt}


@dataclasses.dataclass
class OriginalUltravox(OriginalRemote):
    """Log-mel of the whole clip alone; chunks of 3000 frames, the last one of several filled up with zeros."""

    kind: str = "llama"

    def inputs(self, request: Request) -> dict[str, Any]:
        clips, frames = [], []
        for wave in request.audio:
            wave = np.pad(wave, (0, max(320 - len(wave), 0)))
            out = self.processor.extractor(
                wave,
                sampling_rate=16000,
                padding="longest",
                pad_to_multiple_of=160,
                truncation=False,
                return_attention_mask=True,
                return_tensors="np",
            )
            mel, count = out["input_features"][0], int(out["attention_mask"].sum())
            assert mel.shape[1] == count == -(-len(wave) // 160)
            chunks = [mel[:, i : i + 3000] for i in range(0, count, 3000)]
            frames.append([chunk.shape[1] for chunk in chunks])
            width = max(frames[-1])
            clips.append(np.stack([np.pad(chunk, ((0, 0), (0, width - chunk.shape[1]))) for chunk in chunks]))

        words = lambda content: (
            content if isinstance(content, str) else "\n".join(part.get("text", "<|audio|>") for part in content)
        )
        turns = [(message["role"], words(message["content"])) for message in request.chat()]
        pieces = TEXTS[self.kind](turns).split("<|audio|>")
        assert len(pieces) == len(clips) + 1
        encode = lambda text: self.processor.tokenizer.encode(text, add_special_tokens=False)
        ids, places = encode(pieces[0]), [False] * len(encode(pieces[0]))
        for rows, piece in zip(frames, pieces[1:], strict=True):
            for n in rows:
                ids += [self.processor.tokenizer.eos_token_id] * self.token_count(n)
                places += [True] * self.token_count(n)
            ids += encode(piece)
            places += [False] * len(encode(piece))
        return {"input_ids": torch.tensor([ids]), "places": torch.tensor(places), "clips": clips, "frames": frames}

    def frames(self, inputs: Mapping[str, Any]) -> list[int]:
        return [n for clip in inputs["frames"] for n in clip]

    def features(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        return [row for clip in inputs["clips"] for row in clip]

    def calls(self, inputs: Mapping[str, Any]) -> list[list[int]]:
        return inputs["frames"]

    def embedded(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        audio = []
        for features, frames in zip(inputs["clips"], inputs["frames"], strict=True):
            tokens = self.model.encode(torch.tensor(features), frames)
            audio += [row[: self.token_count(n)] for row, n in zip(tokens, frames, strict=True)]
        x = self.model.llm.model.embed_tokens(inputs["input_ids"])
        x[0, self.audio_places(inputs)] = torch.cat(audio)
        return x

    def audio_places(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        return inputs["places"]

    def token_count(self, frames: int) -> int:
        return -(-frames // (2 * self.model.stack))
