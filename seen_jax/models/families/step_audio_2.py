"""Step-Audio-2-mini (text output): config.json, weight table, prompt. Clips are read in segments of 25 s.

The adapter halves the audio tokens once more: 12.5 a second. The folder's own classes are remote code, never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seen_jax.errors import CheckpointError, ConfigError
from seen_jax.models.config import EncoderConfig, LalmConfig
from seen_jax.models.families._parts import body_rules, llama, refuse
from seen_jax.models.framing import Framing
from seen_jax.models.weights import Rule, conv1d, linear, norm

NAME = "step_audio_2"
MODEL_TYPES = ("step_audio_2",)
VERIFIED = "parity with a reference composed of transformers' Whisper layers and Qwen2, on random tiny configs"
PUBLISHED: dict[str, Any] = {
    "audio_encoder_config": {
        "n_mels": 128,
        "n_audio_ctx": 1500,
        "n_audio_state": 1280,
        "n_audio_head": 20,
        "n_audio_layer": 32,
        "llm_dim": 3584,
        "kernel_size": 3,
        "adapter_stride": 2,
    },
    "text_config": {
        "vocab_size": 158720,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_attention_groups": 4,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
    },
    "tokens": {"<audio_patch>": 151690},
}

FRAMING = Framing(seconds=1200.0, piece=25 * 16_000, tail=479, behind=2)
HIDDEN = 2048  # of the adapter, in every released model

RENAMES: tuple[tuple[str, str], ...] = ()
UNUSED: tuple[str, ...] = ()

AUDIO = "<audio_patch>"
TOKENS = ("<audio_patch>",)


def prompt(
    tokenizer: Any, chat: Sequence[Mapping[str, Any]], counts: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """(token ids, positions of the audio tokens). Pieces are tokenized apart, so that nothing merges across them."""
    pieces: list[str] = []
    clips = iter(counts)
    for message in chat:
        role = "human" if message["role"] == "user" else message["role"]
        if isinstance(message["content"], str):
            pieces += [f"<|BOT|>{role}\n{message['content']}", "<|EOT|>"]
            continue
        pieces.append(f"<|BOT|>{role}\n")
        for part in message["content"]:
            if part["type"] != "audio":
                pieces.append(part["text"])
            elif (rows := next(clips, None)) is None:
                raise ConfigError(f"the prompt has more audio places than the {len(counts)} clips.")
            else:
                pieces += [f"<audio_start>{AUDIO * n}<audio_end>" for n in rows]
        pieces.append("<|EOT|>")
    if next(clips, None) is not None:
        raise ConfigError(f"the prompt has fewer audio places than the {len(counts)} clips.")
    pieces.append("<|BOT|>assistant\n")
    ids = [i for piece in pieces for i in tokenizer(piece, add_special_tokens=False)["input_ids"]]
    patch = tokenizer.convert_tokens_to_ids(AUDIO)
    return ids, [i for i, token in enumerate(ids) if token == patch]


def complete(raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the defaults of the language model's own class."""
    from transformers import Qwen2Config

    text = dict(raw["text_config"])
    text["num_key_value_heads"] = text.pop("num_attention_groups", None) or text.get("num_key_value_heads")
    text.pop("model_type", None)
    text.setdefault("rms_norm_eps", 1e-6)
    text.setdefault("rope_theta", 1_000_000.0)
    known = Qwen2Config().to_dict().keys() | {"rope_theta"}
    full = Qwen2Config.from_dict({key: value for key, value in text.items() if key in known}).to_dict()
    return {**raw, "text_config": full}


def rules(config: LalmConfig) -> list[Rule]:
    """The weight table, in published names: the encoder's are those of OpenAI's Whisper."""
    block = "encoder.blocks.{i}"
    return [
        *conv1d("encoder.conv1", "encoder.conv1"),
        *conv1d("encoder.conv2", "encoder.conv2"),
        Rule("encoder.positional_embedding.weight", ("encoder", "positions")),
        *norm("encoder.after_norm", "encoder.norm_post"),
        *norm(f"{block}.attn_ln", "encoder.layers.norm1"),
        *linear(f"{block}.attn.query", "encoder.layers.q"),
        *linear(f"{block}.attn.key", "encoder.layers.k", bias=False),
        *linear(f"{block}.attn.value", "encoder.layers.v"),
        *linear(f"{block}.attn.out", "encoder.layers.out"),
        *norm(f"{block}.mlp_ln", "encoder.layers.norm2"),
        *linear(f"{block}.mlp.0", "encoder.layers.fc1"),
        *linear(f"{block}.mlp.2", "encoder.layers.fc2"),
        *conv1d("adapter.conv", "encoder.proj_conv"),
        *linear("adapter.linear1", "encoder.proj1"),
        *linear("adapter.linear2", "encoder.proj2"),
        *body_rules("model", "lm_head", config.decoder),
    ]


def config(raw: Mapping[str, Any], eos: tuple[int, ...], pad: int | None) -> LalmConfig:
    """config.json -> LalmConfig. Unsupported attribute values are refused by name."""
    audio = raw["audio_encoder_config"]
    refuse(audio, "audio_encoder_config", {"kernel_size": 3, "adapter_stride": 2})
    decoder = llama(raw["text_config"], qkv_bias=True, tied=bool(raw.get("tie_word_embeddings", False)))
    if (audio_token := raw["tokens"][AUDIO]) is None:
        raise CheckpointError(f"tokenizer.json has no token {AUDIO}, which stands for audio in Step-Audio-2.")
    width = audio["n_audio_state"]
    return LalmConfig(
        family=NAME,
        encoder=EncoderConfig(
            n_mels=audio["n_mels"],
            width=width,
            layers=audio["n_audio_layer"],
            heads=audio["n_audio_head"],
            ffn=4 * width,
            max_positions=audio["n_audio_ctx"],
            output_width=audio["llm_dim"],
            pad_frames=200,
            positions="table",
            post=("pool", "norm", "conv", "mlp"),
            hidden=HIDDEN,
            activation="relu",
        ),
        decoder=decoder,
        audio_token=audio_token,
        stop_tokens=eos,
        pad_token=eos[0] if pad is None else pad,
    )
