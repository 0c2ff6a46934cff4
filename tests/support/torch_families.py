"""PyTorch originals that transformers has: tiny random folders, forward hooks, edits."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tiny_omni import OPENERS, WORDS, Size, config_json

from seen_jax.audio.features import HOP
from seen_jax.models.config import conv_length
from seen_jax.models.edits import Edit
from seen_jax.models.family import Family
from seen_jax.models.processor import Request
from seen_jax.models.sites import (
    DECODER_MLP_ACT,
    DECODER_RESID,
    DECODER_SITES,
    ENCODER_MLP_ACT,
    ENCODER_RESID,
    PROJECTOR,
    SITES,
)
from seen_jax.train.export import write_tokenizer

EXTRA = (
    *("<sound>", "<|pad|>", "<|begin_of_audio|>", "<|end_of_audio|>", "<|user|>", "<|assistant|>"),
    *("<unk>", "<|audio_start|>", "<|audio_end|>", "<|spk_bos|>", "<|spk|>", "<|spk_eos|>", "<|tts_bos|>"),
    *("<|BOT|>", "<|EOT|>", "<audio_start>", "<audio_patch>", "<audio_end>", "<|audio|>"),
)


@dataclasses.dataclass(frozen=True)
class Tiny:
    """What the tests vary."""

    n_mels: int = 80
    encoder_layers: int = 2
    encoder_width: int = 24
    encoder_heads: int = 3
    layers: int = 2
    width: int = 32
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 48
    rope_theta: float = 1e4
    eps: float = 1e-5
    tied: bool = False  # GLM-ASR, Qwen3-Omni and Qwen3-ASR alone tie their output map to the embeddings
    experts: int = 4  # Qwen3-Omni alone has these
    top_k: int = 2
    renormalise: bool = True
    n_window: int = 50
    n_window_infer: int = 800


def text_config(size: Tiny, vocab: int, ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": size.width,
        "intermediate_size": size.ffn,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "rms_norm_eps": size.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": size.rope_theta},
        "eos_token_id": ids.get("<|im_end|>", ids.get("</s>")),
        "pad_token_id": ids.get("<|endoftext|>", ids.get("<pad>")),
        "bos_token_id": None,
    }


def chunked_encoder(size: Tiny) -> dict[str, Any]:
    """The audio section of Qwen3-Omni and Qwen3-ASR."""
    return {
        "num_mel_bins": size.n_mels,
        "encoder_layers": size.encoder_layers,
        "encoder_attention_heads": size.encoder_heads,
        "encoder_ffn_dim": 2 * size.encoder_width,
        "d_model": size.encoder_width,
        "output_dim": size.width,
        "n_window": size.n_window,
        "n_window_infer": size.n_window_infer,
        "downsample_hidden_size": 6,
    }


def _whisper(size: Tiny) -> dict[str, Any]:
    return {
        "num_mel_bins": size.n_mels,
        "encoder_layers": size.encoder_layers,
        "encoder_attention_heads": size.encoder_heads,
        "encoder_ffn_dim": 2 * size.encoder_width,
        "d_model": size.encoder_width,
        "max_source_positions": 1500,
    }


def _omni(size: Tiny, vocab: int) -> Size:
    shared = {field.name for field in dataclasses.fields(Size)} & {field.name for field in dataclasses.fields(Tiny)}
    same = {name: getattr(size, name) for name in shared}
    return Size(**(same | {"n_window": 100}), encoder_ffn=2 * size.encoder_width, vocab=vocab)


def _config(family: Family, size: Tiny, vocab: int, ids: Mapping[str, int]) -> Any:
    import transformers

    if family.name == "qwen2_5_omni":
        return transformers.Qwen2_5OmniThinkerConfig.from_dict(config_json(_omni(size, vocab)))
    text, audio = text_config(size, vocab, ids), _whisper(size)
    if family.name == "qwen2_audio":
        return transformers.Qwen2AudioConfig(
            audio_config=audio | {"model_type": "qwen2_audio_encoder"},
            text_config=text | {"model_type": "qwen2"},
            audio_token_index=ids["<|AUDIO|>"],
        )
    if family.name == "audio_flamingo_3":
        return transformers.AudioFlamingo3Config(
            audio_config=audio | {"model_type": "audioflamingo3_encoder"},
            text_config=text | {"model_type": "qwen2"},
            audio_token_id=ids["<sound>"],
            projector_bias=not size.tied,
        )
    if family.name == "voxtral":
        return transformers.VoxtralConfig(
            audio_config={
                "model_type": "voxtral_encoder",
                "num_mel_bins": size.n_mels,
                "num_hidden_layers": size.encoder_layers,
                "num_attention_heads": size.encoder_heads,
                "intermediate_size": 4 * size.encoder_width,
                "hidden_size": size.encoder_width,
            },
            text_config=text | {"model_type": "llama", "head_dim": 12},
            audio_token_id=ids["[AUDIO]"],
        )
    assert family.name == "glm_asr"
    return transformers.GlmAsrConfig(
        audio_config={
            "model_type": "glmasr_encoder",
            "num_mel_bins": size.n_mels,
            "num_hidden_layers": size.encoder_layers,
            "num_attention_heads": size.encoder_heads,
            "intermediate_size": 4 * size.encoder_width,
            "hidden_size": size.encoder_width,
        },
        text_config=text | {"model_type": "llama"},
        audio_token_id=ids["<|pad|>"],
        tie_word_embeddings=size.tied,
    )


CLASSES = {
    "qwen2_5_omni": ("Qwen2_5OmniThinkerForConditionalGeneration", "Qwen2_5OmniProcessor"),
    "qwen2_audio": ("Qwen2AudioForConditionalGeneration", "Qwen2AudioProcessor"),
    "audio_flamingo_3": ("AudioFlamingo3ForConditionalGeneration", "AudioFlamingo3Processor"),
    "glm_asr": ("GlmAsrForConditionalGeneration", "GlmAsrProcessor"),
    "voxtral": ("VoxtralForConditionalGeneration", "VoxtralProcessor"),
}


def small_tokenizer(family: Family, folder: Path, extra: Sequence[str] = EXTRA) -> Any:
    """A small tokenizer with the special tokens of the families."""
    import transformers

    if family.name == "voxtral":
        _write_tekken(folder / "tekken.json")
        (folder / "config.json").write_text('{"model_type": "voxtral"}')
        return transformers.AutoTokenizer.from_pretrained(folder)
    write_tokenizer(folder, WORDS, OPENERS)
    (folder / "chat_template.jinja").unlink()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(extra)})
    tokenizer.save_pretrained(folder)
    return tokenizer


def _write_tekken(path: Path, words: int = 300) -> None:
    """The first words of a tokenizer that mistral-common ships; Voxtral's special tokens at their published ids."""
    import mistral_common
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    data = json.loads((Path(mistral_common.__file__).parent / "data" / "tekken_240911.json").read_text())
    names = [str(token["token_str"]) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    known = {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"}
    names += [known.get(i, f"<SPECIAL_{i}>") for i in range(len(names), 36)]
    mel = {"num_mel_bins": 128, "hop_length": 160, "window_size": 400}
    content = {
        "config": data["config"]
        | {"num_vocab_tokens": words, "default_vocab_size": words + 100, "default_num_special_tokens": 100}
        | {"version": "v7"},
        "vocab": data["vocab"][:words],
        "special_tokens": [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(names)],
        "audio": {"sampling_rate": 16000, "frame_rate": 12.5, "audio_encoding_config": mel, "chunk_length_s": 30.0},
    }
    path.write_text(json.dumps(content))


def randomise(model: Any) -> None:
    """Weights that keep activations and logits near 1 in every layer, on bfloat16's grid: files of either type hold
    what the original computes with."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
            elif "embed_positions" not in name:
                fan_in = p.shape[-1] if p.ndim == 2 or "experts" in name else p.shape[1] * p[0, 0].numel()
                p.copy_(torch.randn_like(p) * (2.0 if "lm_head" in name else 1.0) / fan_in**0.5)
            p.copy_(p.bfloat16().float())


def build(family: Family, size: Tiny, folder: Path, seed: int) -> Original:
    """A random model, saved by transformers into `folder`, and its processor."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = small_tokenizer(family, folder)
    model_class, processor_class = (getattr(transformers, name) for name in CLASSES[family.name])
    torch.manual_seed(seed)
    model = model_class(_config(family, size, len(tokenizer), tokenizer.get_vocab())).eval()
    randomise(model)
    model.tie_weights()
    model.save_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor(
        feature_size=size.n_mels, chunk_length=300 if family.name == "qwen2_5_omni" else 30, return_attention_mask=True
    )
    if family.name == "qwen2_5_omni":
        return OriginalOmni(family, model, audio_only(processor_class, extractor, tokenizer, family.chat_template))
    if family.name == "voxtral":
        return OriginalVoxtral(family, model, processor_class(extractor, tokenizer))
    return Original(family, model, processor_class(extractor, tokenizer, chat_template=family.chat_template))


def audio_only(processor_class: Any, extractor: Any, tokenizer: Any, template: str) -> Any:
    """A processor without its image and video parts, which need packages that audio does not."""

    class AudioOnly(processor_class):
        def check_argument_for_proper_class(self, argument_name, argument):
            return type(argument)

    return AudioOnly(None, None, extractor, tokenizer, chat_template=template)


def _tensors(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: x for name, x in inputs.items() if isinstance(x, torch.Tensor)}


@dataclasses.dataclass
class Original:
    """One prompt at a time, never padded: what our batches are held against."""

    family: Family
    model: Any
    processor: Any

    def inputs(self, request: Request) -> dict[str, Any]:
        """Token ids and features, as the original processor makes them."""
        text = self.processor.apply_chat_template(request.chat(), tokenize=False, add_generation_prompt=True)
        return dict(self.processor(text=[text], audio=list(request.audio), sampling_rate=16000, return_tensors="pt"))

    def frames(self, inputs: Mapping[str, Any]) -> list[int]:
        """Real mel frames of each encoder row."""
        mask = next(v for k, v in inputs.items() if k in ("feature_attention_mask", "input_features_mask"))
        return mask.sum(-1).tolist()

    def features(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """[mels, frames] of each encoder row."""
        return [row.numpy() for row in inputs["input_features"]]

    def calls(self, inputs: Mapping[str, Any]) -> list[list[int]]:
        """The same, per call of the encoder."""
        return [self.frames(inputs)]

    def token_count(self, frames: int) -> int:
        positions = conv_length(frames)
        return (positions - 4) // 4 + 1 if self.family.name == "glm_asr" else (positions - 2) // 2 + 1

    def position_count(self, frames: int) -> int:
        return conv_length(frames)

    def audio_places(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        return inputs["input_ids"][0] == self.processor.tokenizer.convert_tokens_to_ids(self.family.audio)

    def modules(self) -> tuple[Any, Any, Any]:
        """Layers of the encoder, what gives out the audio tokens, layers of the language model."""
        inner = self.model.model
        return inner.audio_tower.layers, inner.multi_modal_projector, inner.language_model.layers

    def logits(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        return self.model(**_tensors(inputs)).logits[0]

    def generate(self, inputs: Mapping[str, Any], new: int) -> list[int]:
        out = self.model.generate(**_tensors(inputs), max_new_tokens=new, do_sample=False)
        return out[0, inputs["input_ids"].shape[1] :].tolist()

    def rows(self, x: np.ndarray, counts: list[int]) -> list[np.ndarray]:
        """The real positions [n, D] of each encoder row in what a hook saw."""
        padded = x.reshape(len(counts), -1, x.shape[-1])
        return [row[:n] for row, n in zip(padded, counts, strict=True)]

    def forward(
        self, request: Request, edits: Mapping[str, Edit] | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """logits [S, V], and {site: [L, positions, D]} of the real positions, rows joined, after the edits."""
        inputs = self.inputs(request)
        taps: dict[str, list[torch.Tensor]] = {site: [] for site in SITES}
        with torch.no_grad(), self.hooked(inputs, taps, edits or {}):
            logits = self.logits(inputs).numpy()
        calls = self.calls(inputs)
        out = {}
        for site, found in taps.items():
            if site in DECODER_SITES:
                out[site] = np.stack([x[0].numpy() for x in found])
                continue
            count = self.token_count if site == PROJECTOR else self.position_count
            layers: list[list[np.ndarray]] = [[] for _ in range(len(found) // len(calls))]
            for i, x in enumerate(found):  # the layers of one call after the other
                frames = calls[i // len(layers)]
                rows = self.rows(x.numpy(), [count(f) for f in frames])
                layers[i % len(layers)] += rows
            out[site] = np.stack([np.concatenate(rows) for rows in layers])
        return logits, out

    def greedy(self, request: Request, new: int, edits: Mapping[str, Edit] | None = None) -> list[int]:
        inputs = self.inputs(request)
        with torch.no_grad(), self.hooked(inputs, None, edits or {}):
            ids = self.generate(inputs, new)
        stop = self.processor.tokenizer.eos_token_id
        return ids[: ids.index(stop)] if stop in ids else ids

    def activations(self, layer: Any) -> list[Any]:
        """The activation functions of a layer's MLPs."""
        return [layer.mlp.act_fn if hasattr(layer, "mlp") else layer.activation_fn]

    @contextlib.contextmanager
    def hooked(self, inputs: Mapping[str, Any], taps: dict | None, edits: Mapping[str, Edit]) -> Iterator[None]:
        tower, projector, body = self.modules()
        acts = lambda layers: enumerate(act for layer in layers for act in self.activations(layer))
        places = [(ENCODER_MLP_ACT, i, act) for i, act in acts(tower)]
        places += [(ENCODER_RESID, i, layer) for i, layer in enumerate(tower)]
        places += [(PROJECTOR, 0, projector)]
        places += [(DECODER_MLP_ACT, i, act) for i, act in acts(body)]
        places += [(DECODER_RESID, i, layer) for i, layer in enumerate(body)]
        audio = self.audio_places(inputs)

        def hook(site: str, layer: int) -> Any:
            def run(module: Any, args: Any, output: Any) -> Any:
                a = output[0] if isinstance(output, tuple) else output
                if (edit := edits.get(site)) is not None:
                    share = torch.ones(a.shape[-2], 1)
                    if site in DECODER_SITES:
                        share = audio.float()[:, None] if a.shape[-2] == len(audio) else torch.zeros_like(share)
                    q = torch.tensor(np.asarray(edit.u[layer]))
                    a = a - float(edit.scale[layer]) * share * ((a @ q) @ q.T)
                if taps is not None:
                    taps[site].append(a.clone())
                return (a, *output[1:]) if isinstance(output, tuple) else a

            return run

        handles = [module.register_forward_hook(hook(site, i)) for site, i, module in places]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class OriginalOmni(Original):
    """Its encoder sees the real frames of all clips, one after the other."""

    def rows(self, x: np.ndarray, counts: list[int]) -> list[np.ndarray]:
        return np.split(x, np.cumsum(counts)[:-1])

    def modules(self) -> tuple[Any, Any, Any]:
        inner = self.model.model
        return inner.audio_tower.layers, inner.audio_tower.proj, inner.language_model.layers


class OriginalVoxtral(Original):
    """Its processor takes files, in a chat, and gives out no mask: the model reads the silence too."""

    def inputs(self, request: Request) -> dict[str, Any]:
        clips = iter(request.audio)

        def encoded(part: dict[str, Any]) -> dict[str, Any]:
            if part["type"] != "audio":
                return part
            buffer = io.BytesIO()
            soundfile.write(buffer, next(clips), 16000, subtype="FLOAT", format="WAV")
            return {"type": "audio", "base64": base64.b64encode(buffer.getvalue()).decode()}

        chat = [
            message | ({} if isinstance(message["content"], str) else {"content": [*map(encoded, message["content"])]})
            for message in request.chat()
        ]
        inputs = dict(self.processor.apply_chat_template(chat, tokenize=True, return_dict=True))
        frames = [-(-len(wave) // HOP) for wave in request.audio]
        return inputs | {"frames": [min(3000, n - first) for n in frames for first in range(0, n, 3000)]}

    def frames(self, inputs: Mapping[str, Any]) -> list[int]:
        return inputs["frames"]

    def token_count(self, frames: int) -> int:
        return 375
