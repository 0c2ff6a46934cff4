"""MiniCPM-o 2.6 and Step-Audio-2 in PyTorch, composed of transformers' Whisper layers and Qwen2: their own classes are
remote code, which is not run here. Framing, masks and prompts are written out once more, independently of the port."""

from __future__ import annotations

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

from seen_jax.models.family import Family
from seen_jax.models.processor import Request


class Composed(nn.Module):
    """Encoder, adapter and language model. `audio_tokens` is where hooks find what the language model receives."""

    def __init__(self, family: Family, size: Tiny, vocab: int):
        super().__init__()
        from transformers import Qwen2Config, Qwen2ForCausalLM, WhisperConfig
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        self.family = family
        minicpm = family.name == "minicpm_o"
        self.ffn = (2 if minicpm else 4) * size.encoder_width
        whisper = WhisperConfig(
            num_mel_bins=size.n_mels,
            d_model=size.encoder_width,
            encoder_layers=size.encoder_layers,
            encoder_attention_heads=size.encoder_heads,
            encoder_ffn_dim=self.ffn,
        )
        whisper._attn_implementation = "eager"
        self.tower = WhisperEncoder(whisper)
        hidden = size.width if minicpm else 2048
        self.conv = None if minicpm else nn.Conv1d(size.encoder_width, size.encoder_width, 3, 2, 1)
        self.linear1 = nn.Linear(size.encoder_width, hidden)
        self.linear2 = nn.Linear(hidden, size.width)
        self.audio_tokens = nn.Identity()
        self.text = {
            "vocab_size": vocab,
            "hidden_size": size.width,
            "intermediate_size": size.ffn,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "rms_norm_eps": size.eps,
            "rope_theta": size.rope_theta,
        }
        self.llm = Qwen2ForCausalLM(Qwen2Config(**self.text))

    def positions(self, features: torch.Tensor) -> torch.Tensor:
        x = nn.functional.gelu(self.tower.conv1(features))
        x = nn.functional.gelu(self.tower.conv2(x)).permute(0, 2, 1)
        return x + self.tower.embed_positions.weight[: x.shape[1]]

    def encode(self, features: torch.Tensor, frames: list[int]) -> torch.Tensor:
        """features [rows, mels, frames] of a prompt -> audio tokens [rows, tokens, width], padding included."""
        x, total = self.positions(features), features.shape[-1]
        length = x.shape[1]
        allowed = torch.ones(len(x), length, length, dtype=torch.bool)
        for row, n in enumerate(frames):
            if self.family.name == "minicpm_o":
                for i in range(length):
                    allowed[row, i, (i // 50 + 1) * 50 :] = False
                allowed[row, :, n:] = False  # n counts mel frames, though these are positions
            else:  # every second place of a mask over all mel frames, from the second on if they are even
                allowed[row, :, ~(torch.arange(total) < n)[(total + 1) % 2 :: 2]] = False
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, -1e10)[:, None]
        for layer in self.tower.layers:
            out = layer(x, mask)
            x = out[0] if isinstance(out, tuple) else out
        pool = lambda y: nn.functional.avg_pool1d(y.permute(0, 2, 1), 2).permute(0, 2, 1)
        if self.family.name == "minicpm_o":
            x = self.linear2(torch.relu(self.linear1(self.tower.layer_norm(x))))
            return self.audio_tokens(pool(x))
        x = self.tower.layer_norm(pool(x))
        x = nn.functional.gelu(self.conv(x.permute(0, 2, 1))).permute(0, 2, 1)
        return self.audio_tokens(self.linear2(torch.relu(self.linear1(x))))

    def save(self, folder: Path, size: Tiny) -> None:
        from safetensors.torch import save_file

        step = {
            "self_attn_layer_norm": "attn_ln",
            "final_layer_norm": "mlp_ln",
            "self_attn.q_proj": "attn.query",
            "self_attn.k_proj": "attn.key",
            "self_attn.v_proj": "attn.value",
            "self_attn.out_proj": "attn.out",
            "fc1": "mlp.0",
            "fc2": "mlp.2",
        }

        def name(key: str) -> str:
            if self.family.name == "minicpm_o":
                key = (
                    key.removeprefix("tower.") if not key.startswith("tower.") else "apm." + key.removeprefix("tower.")
                )
                return f"audio_projection_layer.{key}" if key.startswith("linear") else key
            if key.startswith("tower."):
                key = "encoder." + key.removeprefix("tower.").replace("layers.", "blocks.")
                for old, new in step.items():
                    key = key.replace(f".{old}.", f".{new}.")
                return key.replace("embed_positions", "positional_embedding").replace(".layer_norm.", ".after_norm.")
            return f"adapter.{key}" if key.startswith(("conv", "linear")) else key.removeprefix("llm.")

        tensors = {name(key): x.contiguous() for key, x in self.state_dict().items()}
        if self.family.name == "minicpm_o":
            tensors |= {"vpm.x": torch.zeros(2), "tts.y": torch.zeros(2)}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        config: dict[str, Any]
        if self.family.name == "minicpm_o":
            audio = {key: getattr(self.tower.config, key) for key in ("d_model", "encoder_layers", "num_mel_bins")}
            audio |= {"encoder_attention_heads": size.encoder_heads, "encoder_ffn_dim": self.ffn}
            config = {"model_type": "minicpmo", "audio_config": audio, "audio_pool_step": 2, **self.text}
        else:
            encoder = {"n_mels": size.n_mels, "n_audio_ctx": 1500, "n_audio_state": size.encoder_width}
            encoder |= {"n_audio_head": size.encoder_heads, "n_audio_layer": size.encoder_layers}
            encoder |= {"llm_dim": size.width, "kernel_size": 3, "adapter_stride": 2}
            text = {**self.text, "num_attention_groups": size.kv_heads}
            del text["num_key_value_heads"]
            config = {"model_type": "step_audio_2", "audio_encoder_config": encoder, "text_config": text}
        (folder / "config.json").write_text(json.dumps(config))


def build_remote(family: Family, size: Tiny, folder: Path, seed: int) -> Original:
    from transformers import WhisperFeatureExtractor

    tokenizer = small_tokenizer(family, folder)
    torch.manual_seed(seed)
    model = Composed(family, size, len(tokenizer)).eval()
    randomise(model)
    model.save(folder, size)
    processor = SimpleNamespace(tokenizer=tokenizer, extractor=WhisperFeatureExtractor(feature_size=size.n_mels))
    return (OriginalMiniCPM if family.name == "minicpm_o" else OriginalStep)(family, model, processor)


@dataclasses.dataclass
class OriginalRemote(Original):
    audio_token: str = ""

    def frames(self, inputs: Mapping[str, Any]) -> list[int]:
        return inputs["frames"]

    def features(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        return list(inputs["rows"])

    def audio_places(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        return inputs["input_ids"][0] == self.processor.tokenizer.convert_tokens_to_ids(self.audio_token)

    def modules(self) -> tuple[Any, Any, Any]:
        return self.model.tower.layers, self.model.audio_tokens, self.model.llm.model.layers

    def embedded(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        tokens = self.model.encode(torch.tensor(inputs["rows"]), inputs["frames"])
        audio = [row[: self.token_count(n)] for row, n in zip(tokens, inputs["frames"], strict=True)]
        x, places = self.model.llm.model.embed_tokens(inputs["input_ids"]), self.audio_places(inputs)
        x[0, places] = torch.cat(audio)[: int(places.sum())]
        return x

    def logits(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        return self.model.llm(inputs_embeds=self.embedded(inputs)).logits[0]

    def generate(self, inputs: Mapping[str, Any], new: int) -> list[int]:
        x, ids = self.embedded(inputs), []
        for _ in range(new):
            ids.append(int(self.model.llm(inputs_embeds=x).logits[0, -1].argmax()))
            x = torch.cat([x, self.model.llm.model.embed_tokens(torch.tensor([[ids[-1]]]))], 1)
        return ids


def filled(rows: list[np.ndarray]) -> np.ndarray:
    """Rows [mels, frames] with zeros behind them up to the longest."""
    longest = max(row.shape[1] for row in rows)
    return np.stack([np.pad(row, ((0, 0), (0, longest - row.shape[1]))) for row in rows])


class OriginalMiniCPM(OriginalRemote):
    """The clips of a message one after the other, in slices of 30 s, cropped to their real frames, filled up with zeros
    to the longest of the prompt; the places of each clip for itself, with one marker pair a second."""

    def inputs(self, request: Request) -> dict[str, Any]:
        self.audio_token = "<unk>"
        rows, frames, text = [], [], ""
        waves = iter(request.audio)
        for message in request.chat():
            parts, clips = [], []
            for part in message["content"]:
                if part["type"] == "text":
                    parts.append(part["text"])
                    continue
                clips.append(next(waves))
                left, spans = ((-(-len(clips[-1]) // 160) - 1) // 2 + 1) // 2, ""
                while left > 0:
                    spans += "<|audio_start|>" + "<unk>" * min(left, 25) + "<|audio_end|>"
                    left -= 25
                parts.append(spans)
            if clips:
                wave = np.hstack(clips)
                slices = [wave[i : i + 480_000] for i in range(0, len(wave), 480_000)]
                mels = self.processor.extractor(slices, sampling_rate=16000, return_tensors="np")["input_features"]
                frames += [-(-len(x) // 160) for x in slices]
                rows += [mel[:, :n] for mel, n in zip(mels, frames[-len(slices) :], strict=True)]
            text += f"<|im_start|>{message['role']}\n" + "\n".join(parts) + "<|im_end|>\n"
        text += "<|im_start|>assistant\n<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>"
        ids = self.processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return {"input_ids": ids, "rows": filled(rows), "frames": frames}

    def token_count(self, frames: int) -> int:
        return ((frames - 1) // 2 + 1) // 2


class OriginalStep(OriginalRemote):
    """Segments of 25 s, 479 zeros behind each, filled up with zeros to the longest of the prompt; the last two mel
    frames are convolved, neither attended nor counted."""

    def inputs(self, request: Request) -> dict[str, Any]:
        self.audio_token = "<audio_patch>"
        encode = lambda text: self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        rows, frames, ids = [], [], []
        waves = iter(request.audio)
        for message in request.chat():
            ids += encode("<|BOT|>" + message["role"].replace("user", "human") + "\n")
            for part in message["content"]:
                if part["type"] == "text":
                    ids += encode(part["text"])
                    continue
                wave = next(waves)
                for i in range(0, len(wave), 400_000):
                    padded = np.pad(wave[i : i + 400_000], (0, 479))
                    mel = self.processor.extractor._torch_extract_fbank_features(padded)
                    assert mel.shape[1] == (len(wave[i : i + 400_000]) + 479) // 160
                    rows.append(mel)
                    frames.append(mel.shape[1] - 2)
                    ids += encode("<audio_start>" + "<audio_patch>" * self.token_count(frames[-1]) + "<audio_end>")
            ids += encode("<|EOT|>")
        ids += encode("<|BOT|>assistant\n")
        return {"input_ids": torch.tensor([ids]), "rows": filled(rows), "frames": frames}

    def token_count(self, frames: int) -> int:
        return ((frames + 1) // 2 // 2 - 1) // 2 + 1
