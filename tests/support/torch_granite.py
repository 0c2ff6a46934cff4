"""Granite Speech in PyTorch: transformers' own classes, with torchaudio's mel spectrogram written out in torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from torch_families import Original, Tiny, randomise, small_tokenizer, text_config
from transformers.audio_utils import mel_filter_bank
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor

from seen_jax.models.family import Family
from seen_jax.models.processor import Request

WINDOW, QUERIES = 15, 3
# What matters beside the sizes: blocks longer and shorter than the clips, a last one that is partial, an even kernel,
# heads that do not fill the width, and no feedback at all (one layer).
ENCODERS: dict[int, dict[str, Any]] = {
    2: {"context_size": 200, "max_pos_emb": 512, "conv_kernel_size": 15, "dim_head": 12},
    3: {"context_size": 60, "max_pos_emb": 60, "conv_kernel_size": 4, "dim_head": None},
    1: {"context_size": 37, "max_pos_emb": 64, "conv_kernel_size": 7, "dim_head": 6, "conv_expansion_factor": 1},
}


class MelSpectrogram(torch.nn.Module):
    """torchaudio.transforms.MelSpectrogram(16000, n_fft=512, win_length=400, hop_length=160, n_mels=n_mels)."""

    def __init__(self, n_mels: int):
        super().__init__()
        bank = mel_filter_bank(257, n_mels, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
        self.bank = torch.tensor(bank, dtype=torch.float32)

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        window = torch.hann_window(400, periodic=True)
        spectrum = torch.stft(waves, 512, 160, 400, window, center=True, pad_mode="reflect", return_complex=True)
        return (spectrum.abs().square().transpose(-1, -2) @ self.bank).transpose(-1, -2)


class Extractor(transformers.GraniteSpeechFeatureExtractor):
    """transformers' own, without the package torchaudio."""

    def __init__(self, n_mels: int):
        SequenceFeatureExtractor.__init__(self, feature_size=n_mels, sampling_rate=16000, padding_value=0.0)
        self.melspec_kwargs = {"hop_length": 160}
        self.mel_filters = MelSpectrogram(n_mels)
        self.projector_window_size, self.projector_downsample_rate = WINDOW, WINDOW // QUERIES

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with patch(f"{transformers.GraniteSpeechFeatureExtractor.__module__}.requires_backends"):
            return super().__call__(*args, **kwargs)


class Processor(transformers.GraniteSpeechProcessor):
    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        return type(argument)


def build_granite(
    family: Family, size: Tiny, folder: Path, seed: int, text: Mapping[str, Any] | None = None
) -> OriginalGranite:
    """A random model, saved by transformers into `folder`, and its processor. text: more of its text_config."""
    tokenizer = small_tokenizer(family, folder)
    multipliers = {"embedding_multiplier": 3.0, "residual_multiplier": 0.6, "attention_multiplier": 0.2}
    config = transformers.GraniteSpeechConfig(
        audio_token_index=tokenizer.convert_tokens_to_ids(family.audio),
        text_config=text_config(size, len(tokenizer), tokenizer.get_vocab())
        | {"model_type": "granite", "logits_scaling": 8.0, **multipliers}
        | dict(text or {}),
        encoder_config={
            "input_dim": 2 * size.n_mels,
            "num_layers": size.encoder_layers,
            "hidden_dim": size.encoder_width,
            "feedforward_mult": 2,
            "num_heads": size.encoder_heads,
            "output_dim": 10,
            **ENCODERS[size.encoder_layers],
        },
        projector_config={
            "model_type": "blip_2_qformer",
            "hidden_size": 20,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 28,
            "cross_attention_frequency": 1,
            "encoder_hidden_size": size.encoder_width,
        },
        window_size=WINDOW,
        downsample_rate=WINDOW // QUERIES,
        has_lora_adapter=False,
        tie_word_embeddings=size.tied,
    )
    torch.manual_seed(seed)
    model = transformers.GraniteSpeechForConditionalGeneration(config).eval()
    randomise(model)
    for layer in model.model.encoder.layers:
        layer.conv.batch_norm.running_mean.normal_(0.0, 0.3)
        layer.conv.batch_norm.running_var.uniform_(0.5, 1.5)
        for x in (layer.conv.batch_norm.running_mean, layer.conv.batch_norm.running_var):
            x.copy_(x.bfloat16().float())
    model.tie_weights()
    model.save_pretrained(folder)
    processor = Processor(Extractor(size.n_mels), tokenizer, chat_template=family.chat_template)
    processor.audio_token = family.audio  # the small tokenizer names another family's
    return OriginalGranite(family, model, processor)


def joined(chat: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The chat as the model's card writes it: text with <|audio|> in it."""

    def text(content: Any) -> str:
        return content if isinstance(content, str) else "".join(part.get("text", "<|audio|>") for part in content)

    return [{"role": message["role"], "content": text(message["content"])} for message in chat]


@dataclasses.dataclass
class OriginalGranite(Original):
    """Several clips are encoded one by one: padded in one batch they would hear each other's padding."""

    def inputs(self, request: Request) -> dict[str, Any]:
        text = self.processor.apply_chat_template(joined(request.chat()), tokenize=False, add_generation_prompt=True)
        inputs = dict(self.processor(text=[text], audio=list(request.audio), return_tensors="pt"))
        if len(request.audio) > 1:
            inputs["clips"] = [self.processor.audio_processor(wave)["input_features"] for wave in request.audio]
        return inputs

    def frames(self, inputs: Mapping[str, Any]) -> list[int]:
        return [x.shape[1] for x in inputs.get("clips", [inputs["input_features"]])]

    def calls(self, inputs: Mapping[str, Any]) -> list[list[int]]:
        return [[n] for n in self.frames(inputs)]

    def features(self, inputs: Mapping[str, Any]) -> list[Any]:
        return [x[0].T.numpy() for x in inputs.get("clips", [inputs["input_features"]])]

    def position_count(self, frames: int) -> int:
        return frames

    def token_count(self, frames: int) -> int:
        return -(-frames // WINDOW) * QUERIES

    def modules(self) -> tuple[Any, Any, Any]:
        inner = self.model.model
        return inner.encoder.layers, inner.projector, inner.language_model.layers

    def activations(self, layer: Any) -> list[Any]:
        return [layer.ff1.silu, layer.ff2.silu] if hasattr(layer, "ff1") else super().activations(layer)

    def logits(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        if "clips" not in inputs:
            return super().logits(inputs)
        audio = torch.cat([self.model.get_audio_features(x).pooler_output[0] for x in inputs["clips"]])
        x = self.model.get_input_embeddings()(inputs["input_ids"])
        x[0, self.audio_places(inputs)] = audio
        return self.model(inputs_embeds=x).logits[0]
