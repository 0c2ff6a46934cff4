"""The PyTorch original of Qwen3-Omni's thinker: tiny random folders, and a place for hooks among its experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch_families import Original, Tiny, chunked_encoder, randomise, small_tokenizer, text_config

from seen_jax.models.family import Family
from seen_jax.models.processor import Request

START, END = "<|audio_start|>", "<|audio_end|>"


def _config(family: Family, size: Tiny, vocab: int, ids: Mapping[str, int]) -> Any:
    from transformers import Qwen3OmniMoeThinkerConfig

    text = text_config(size, vocab, ids) | {
        "head_dim": 12,
        "moe_intermediate_size": size.ffn // 4,
        "num_experts": size.experts,
        "num_experts_per_tok": size.top_k,
        "norm_topk_prob": size.renormalise,
    }
    text["rope_parameters"] |= {"mrope_section": [2, 2, 2]}
    vision = {"depth": 0, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": size.width}
    vision |= {"num_position_embeddings": 4, "deepstack_visual_indexes": []}
    return Qwen3OmniMoeThinkerConfig(
        audio_config=chunked_encoder(size),
        text_config=text,
        vision_config=vision,
        audio_token_id=ids[family.audio],
        audio_start_token_id=ids[START],
        vision_start_token_id=ids["<|vision_bos|>"],
        image_token_id=ids["<|IMAGE|>"],
        video_token_id=ids["<|VIDEO|>"],
        tie_word_embeddings=size.tied,
    )


def build_qwen3(family: Family, size: Tiny, folder: Path, seed: int) -> Original:
    from transformers import (
        Qwen3OmniMoeProcessor,
        Qwen3OmniMoeThinkerForConditionalGeneration,
        WhisperFeatureExtractor,
    )

    class AudioOnly(Qwen3OmniMoeProcessor):
        """Without image and video parts, which need packages that audio does not."""

        n_window = size.n_window

        def check_argument_for_proper_class(self, argument_name, argument):
            return type(argument)

    tokenizer = small_tokenizer(family, folder, (START, family.audio, END))
    torch.manual_seed(seed)
    model = Qwen3OmniMoeThinkerForConditionalGeneration(_config(family, size, len(tokenizer), tokenizer.get_vocab()))
    model.eval().set_experts_implementation("eager")
    randomise(model)
    model.tie_weights()
    model.save_pretrained(folder)
    for layer in model.model.language_model.layers:
        _show_experts(layer.mlp)
    _encode_clips_alone(model.model)
    extractor = WhisperFeatureExtractor(feature_size=size.n_mels, return_attention_mask=True)
    processor = AudioOnly(None, None, extractor, tokenizer, chat_template=family.chat_template)
    processor.audio_token, processor.audio_token_id = family.audio, tokenizer.convert_tokens_to_ids(family.audio)
    return OriginalQwen3(family, model, processor)


def _show_experts(mlp: Any) -> None:
    """Give `mlp` a module `act_fn` that sees the activations of all experts, [1, tokens, experts * ffn], zero for those
    that a token did not choose. What hooks make of them there is what the experts' own code goes on with."""
    mlp.act_fn, experts = nn.Identity(), mlp.experts
    queue: list[tuple[torch.Tensor, torch.Tensor]] = []

    def before(module: Any, args: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        x, chosen, _ = args
        gates = torch.einsum("td,efd->tef", x, experts.gate_up_proj[:, : experts.intermediate_dim])
        hit = nn.functional.one_hot(chosen, len(gates[0])).sum(1)
        plain = nn.functional.silu(gates) * hit[..., None]
        shown = mlp.act_fn(plain.flatten(1)[None]).view_as(plain)
        queue.clear()
        for e in range(len(gates[0])):  # in the order of the experts' own loop
            _, rows = torch.where(e == chosen.T)
            if len(rows):
                queue.append((plain[rows, e], shown[rows, e]))

    def replace(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        plain, shown = queue.pop(0)
        torch.testing.assert_close(output, plain, atol=1e-5, rtol=0)
        return shown

    experts.register_forward_pre_hook(before)
    experts.act_fn.register_forward_hook(replace)


def _encode_clips_alone(model: Any) -> None:
    """The original fills the only chunk of a short clip up to the longest of its batch; here no clip sees another."""
    together = model.get_audio_features

    def one_by_one(features: torch.Tensor, mask: torch.Tensor, *args: Any, **options: Any) -> Any:
        found = []
        for clip, n in zip(features, mask.sum(1).tolist(), strict=True):
            found.append(together(clip[None, :, :n], mask.new_ones(1, n), **options).last_hidden_state)
        return SimpleNamespace(last_hidden_state=torch.cat(found))

    model.get_audio_features = one_by_one


@dataclasses.dataclass
class OriginalQwen3(Original):
    def inputs(self, request: Request) -> dict[str, Any]:
        """As the processor makes them. It pads several clips to the longest, which changes the shorter ones: they are
        processed one by one."""
        if len(request.audio) == 1:
            return super().inputs(request)
        text = self.processor.apply_chat_template(request.chat(), tokenize=False, add_generation_prompt=True)
        mark, features = START + self.family.audio + END, []
        for clip in request.audio:
            alone = self.processor(text=[mark], audio=[clip], sampling_rate=16000, return_tensors="pt")
            features.append(alone["input_features"][0])
            text = text.replace(mark, self.processor.tokenizer.decode(alone["input_ids"][0]), 1)
        longest = max(x.shape[1] for x in features)
        frames = torch.tensor([x.shape[1] for x in features])
        ids = self.processor.tokenizer(text, return_tensors="pt")
        return dict(ids) | {
            "input_features": torch.stack([nn.functional.pad(x, (0, longest - x.shape[1])) for x in features]),
            "feature_attention_mask": (torch.arange(longest) < frames[:, None]).long(),
        }

    def calls(self, inputs: Mapping[str, Any]) -> list[list[int]]:
        return [[frames] for frames in self.frames(inputs)]

    def token_count(self, frames: int) -> int:
        from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import _get_feat_extract_output_lengths

        return int(_get_feat_extract_output_lengths(torch.tensor(frames), self.model.model.audio_tower.n_window))

    position_count = token_count

    def modules(self) -> tuple[Any, Any, Any]:
        inner = self.model.model
        return inner.audio_tower.layers, inner.audio_tower.proj2, inner.language_model.layers
