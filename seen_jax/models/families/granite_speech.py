"""Granite Speech: config.json, weight table, prompt. Clips up to 5 minutes: 10 audio tokens a second, and the published
language model has 4096 positions.

A conformer and a Q-Former instead of Whisper's encoder. The language model scales embeddings, residuals and attention;
its logits are not divided by `logits_scaling`, as in transformers 5.24 (earlier ones did).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from seen_jax.models.config import ConformerConfig, LalmConfig
from seen_jax.models.families._parts import LANGUAGE_MODEL_RENAMES, body_rules, llama, refuse
from seen_jax.models.framing import PairedFraming
from seen_jax.models.weights import CONV1D, POINTWISE, Rule, linear, norm

NAME = "granite_speech"
MODEL_TYPES = ("granite_speech",)
VERIFIED = "parity with transformers on random tiny configs"

PUBLISHED: dict[str, Any] = {
    "audio_token_index": 100352,
    "has_lora_adapter": False,
    "tie_word_embeddings": False,
    "encoder_config": {"model_type": "granite_speech_encoder", "num_layers": 16, "output_dim": 348},
    "projector_config": {
        "model_type": "blip_2_qformer",
        "cross_attention_frequency": 1,
        "encoder_hidden_size": 1024,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 2,
    },
    "text_config": {
        "model_type": "granite",
        "vocab_size": 100353,
        "hidden_size": 2048,
        "intermediate_size": 4096,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.0078125,
        "logits_scaling": 8.0,
    },
}

FRAMING = PairedFraming(seconds=300.0)

RENAMES = LANGUAGE_MODEL_RENAMES
UNUSED = (r"\.batch_norm\.num_batches_tracked$",)

AUDIO = "<|audio|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {{ message['content'] }}\n ASSISTANT:"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}{% endif %}{% endfor %}"
)


def flat(chat: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The chat with every message's parts joined to one text, which the published templates expect."""
    text = lambda part: AUDIO if part["type"] == "audio" else part["text"]  # noqa: E731
    return [
        dict(m) if isinstance(m["content"], str) else {**m, "content": "".join(map(text, m["content"]))} for m in chat
    ]


def rules(config: LalmConfig) -> list[Rule]:
    """The weight table, in published names."""
    block, ours = "encoder.layers.{i}", "encoder.layers"
    former, query = "projector.qformer.encoder.layer.{i}", "encoder.qformer"
    conv = lambda key, name: [  # noqa: E731
        Rule(f"{block}.conv.{key}.weight", ("encoder", "layers", name, "kernel"), POINTWISE),
        Rule(f"{block}.conv.{key}.bias", ("encoder", "layers", name, "bias")),
    ]
    rules = [
        *linear("encoder.input_linear", "encoder.input"),
        *linear("encoder.out", "encoder.out"),
        *linear("encoder.out_mid", "encoder.out_mid"),
        *norm(f"{block}.attn.pre_norm", f"{ours}.norm_attn"),
        *linear(f"{block}.attn.to_q", f"{ours}.q", bias=False),
        *linear(f"{block}.attn.to_kv", f"{ours}.kv", bias=False),
        *linear(f"{block}.attn.to_out", f"{ours}.out"),
        Rule(f"{block}.attn.rel_pos_emb.weight", ("encoder", "layers", "distances")),
        *norm(f"{block}.conv.norm", f"{ours}.norm_conv"),
        *conv("up_conv", "conv_up"),
        *conv("down_conv", "conv_down"),
        Rule(f"{block}.conv.depth_conv.conv.weight", ("encoder", "layers", "depthwise"), CONV1D),
        *norm(f"{block}.conv.batch_norm", f"{ours}.norm_batch"),
        Rule(f"{block}.conv.batch_norm.running_mean", ("encoder", "layers", "norm_batch", "mean")),
        Rule(f"{block}.conv.batch_norm.running_var", ("encoder", "layers", "norm_batch", "var")),
        *norm(f"{block}.post_norm", f"{ours}.norm_post"),
        Rule("projector.query", ("encoder", "query")),
        *norm("projector.qformer.layernorm", "encoder.norm_query"),
        *linear(f"{former}.intermediate_query.dense", f"{query}.fc1"),
        *linear(f"{former}.output_query.dense", f"{query}.fc2"),
        *norm(f"{former}.output_query.LayerNorm", f"{query}.norm"),
        *linear("projector.linear", "encoder.proj"),
        *body_rules("language_model.model", "language_model.lm_head", config.decoder),
    ]
    for name in ("ff1", "ff2"):
        rules += norm(f"{block}.{name}.pre_norm", f"{ours}.{name}_norm")
        rules += linear(f"{block}.{name}.up_proj", f"{ours}.{name}_up")
        rules += linear(f"{block}.{name}.down_proj", f"{ours}.{name}_down")
    for name, key in (("self", f"{former}.attention"), ("cross", f"{former}.crossattention")):
        for part in ("query", "key", "value"):
            rules += linear(f"{key}.attention.{part}", f"{query}.{name}_{part[0]}")
        rules += linear(f"{key}.output.dense", f"{query}.{name}_out")
        rules += norm(f"{key}.output.LayerNorm", f"{query}.{name}_norm")
    return rules


def config(raw: Mapping[str, Any], eos: tuple[int, ...], pad: int | None) -> LalmConfig:
    """config.json -> LalmConfig. Unsupported attribute values are refused by name."""
    encoder, former, text = raw["encoder_config"], raw["projector_config"], raw["text_config"]
    refuse(encoder, "encoder_config", {"use_max_pos_emb_in_pos_emb_calc": True})
    refuse(text, "text_config", {"model_type": "granite"})
    supported = {"model_type": "blip_2_qformer", "hidden_act": "gelu", "encoder_hidden_size": encoder["hidden_dim"]}
    refuse(former, "projector_config", supported | {"cross_attention_frequency": 1, "use_qformer_text_input": False})
    decoder = dataclasses.replace(
        llama(text, qkv_bias=False, tied=bool(raw["tie_word_embeddings"])),
        embedding_scale=float(text["embedding_multiplier"]),
        residual_scale=float(text["residual_multiplier"]),
        attention_scale=float(text["attention_multiplier"]),
    )
    width = encoder["hidden_dim"]
    return LalmConfig(
        family=NAME,
        encoder=ConformerConfig(
            n_mels=encoder["input_dim"],
            width=width,
            layers=encoder["num_layers"],
            heads=encoder["num_heads"],
            head_dim=encoder["dim_head"],
            ffn=width * encoder["feedforward_mult"],
            output_width=decoder.width,
            pad_frames=encoder["context_size"],
            distance=encoder["max_pos_emb"],
            conv=width * encoder["conv_expansion_factor"],
            kernel=encoder["conv_kernel_size"],
            labels=encoder["output_dim"],
            window=raw["window_size"],
            queries=raw["window_size"] // raw["downsample_rate"],
            query_width=former["hidden_size"],
            query_layers=former["num_hidden_layers"],
            query_heads=former["num_attention_heads"],
            query_ffn=former["intermediate_size"],
            query_eps=former["layer_norm_eps"],
        ),
        decoder=decoder,
        audio_token=raw["audio_token_index"],
        stop_tokens=eos,
        pad_token=eos[0] if pad is None else pad,
        lora=raw["has_lora_adapter"],
    )
