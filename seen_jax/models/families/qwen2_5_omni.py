"""Qwen2.5-Omni thinker, audio + text: config.json, weight table, prompt.

Loads the published checkpoints (keys under `thinker.`) and those that current `transformers` writes. Vision, talker
and token2wav weights are skipped; `audio_bos_eos_token` is in every checkpoint and never used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seen_jax.errors import CheckpointError
from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.weights import Rule, conv1d, linear, norm

NAME = "qwen2_5_omni"
MODEL_TYPES = ("qwen2_5_omni", "qwen2_5_omni_thinker")
VERIFIED = "parity with transformers on random tiny configs and on the trained seen-tiny"

MAX_AUDIO_SECONDS = 300.0  # the feature extractor's chunk_length

RENAMES = (
    (r"^thinker\.", ""),
    (r"^model\.audio_tower\.", "audio_tower."),
    (r"^model\.visual\.", "visual."),
    (r"^model\.language_model\.", "model."),
)
UNUSED = (r"^visual\.", r"^talker\.", r"^token2wav\.", r"^audio_tower\.audio_bos_eos_token\.")

AUDIO = "<|AUDIO|>"

# ChatML as the published template renders audio and text; used where a folder brings no template of its own.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def rules(config: LalmConfig) -> list[Rule]:
    """The weight table, in canonical (published, without `thinker.`) names."""
    tower, body = "audio_tower.layers.{i}", "model.layers.{i}"
    table = [
        *conv1d("audio_tower.conv1", "encoder.conv1"),
        *conv1d("audio_tower.conv2", "encoder.conv2"),
        *norm("audio_tower.ln_post", "encoder.norm_post"),
        *linear("audio_tower.proj", "encoder.proj"),
        *norm(f"{tower}.self_attn_layer_norm", "encoder.layers.norm1"),
        *linear(f"{tower}.self_attn.q_proj", "encoder.layers.q"),
        *linear(f"{tower}.self_attn.k_proj", "encoder.layers.k", bias=False),
        *linear(f"{tower}.self_attn.v_proj", "encoder.layers.v"),
        *linear(f"{tower}.self_attn.out_proj", "encoder.layers.out"),
        *norm(f"{tower}.final_layer_norm", "encoder.layers.norm2"),
        *linear(f"{tower}.fc1", "encoder.layers.fc1"),
        *linear(f"{tower}.fc2", "encoder.layers.fc2"),
        Rule("model.embed_tokens.weight", ("decoder", "embed", "embedding")),
        *norm("model.norm", "decoder.norm", bias=False),
        *norm(f"{body}.input_layernorm", "decoder.layers.norm1", bias=False),
        *norm(f"{body}.post_attention_layernorm", "decoder.layers.norm2", bias=False),
        *linear(f"{body}.self_attn.o_proj", "decoder.layers.o", bias=False),
    ]
    for name in "qkv":
        table += linear(f"{body}.self_attn.{name}_proj", f"decoder.layers.{name}", config.decoder.qkv_bias)
    for name in ("gate", "up", "down"):
        table += linear(f"{body}.mlp.{name}_proj", f"decoder.layers.{name}", bias=False)
    if not config.decoder.tied:
        table += linear("lm_head", "decoder.lm_head", bias=False)
    return table


def config(raw: Mapping[str, Any], eos: tuple[int, ...], pad: int | None) -> LalmConfig:
    """config.json (whole model or thinker) -> LalmConfig. Unsupported attribute values are refused by name."""
    raw = raw.get("thinker_config", raw)
    audio, text = dict(raw["audio_config"]), dict(raw["text_config"])
    _refuse(audio, "audio_config", {"activation_function": "gelu", "scale_embedding": False})
    _refuse(text, "text_config", {"hidden_act": "silu", "use_sliding_window": False})
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise CheckpointError(
            f"config.json: rope type '{kind}' is not supported for {NAME}; expected 'default' or 'mrope'."
        )
    heads, width = text["num_attention_heads"], text["hidden_size"]
    if "audio_token_index" not in raw and "audio_token_id" not in raw:
        raise CheckpointError("config.json: neither audio_token_index nor audio_token_id is set.")
    return LalmConfig(
        family=NAME,
        encoder=EncoderConfig(
            n_mels=audio["num_mel_bins"],
            width=audio["d_model"],
            layers=audio["encoder_layers"],
            heads=audio["encoder_attention_heads"],
            ffn=audio["encoder_ffn_dim"],
            output_width=audio["output_dim"],
            chunk_frames=2 * audio["n_window"],
            max_positions=audio["max_source_positions"],
        ),
        decoder=DecoderConfig(
            vocab=text["vocab_size"],
            width=width,
            layers=text["num_hidden_layers"],
            heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or width // heads,
            ffn=text["intermediate_size"],
            rope_theta=float(text.get("rope_theta") or rope.get("rope_theta") or 1e6),
            eps=text["rms_norm_eps"],
            qkv_bias=True,
            tied=bool(raw.get("tie_word_embeddings", False)),
        ),
        audio_token=raw.get("audio_token_index", raw.get("audio_token_id")),
        stop_tokens=eos,
        pad_token=eos[0] if pad is None else pad,
        max_audio_seconds=MAX_AUDIO_SECONDS,
    )


def _refuse(section: Mapping[str, Any], name: str, supported: Mapping[str, Any]) -> None:
    for key, value in supported.items():
        if section.get(key, value) != value:
            raise CheckpointError(f"config.json: {name}.{key} = {section[key]!r} is not supported; expected {value!r}.")
