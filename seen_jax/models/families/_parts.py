"""What the families' files share: reading the parts of config.json, and tables of the parts that many of them have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seen_jax.errors import CheckpointError
from seen_jax.models.config import DecoderConfig, RopeScaling
from seen_jax.models.weights import DENSE, Rule, conv1d, linear, norm

# Published key names of a family whose language model lies under `language_model`; newer checkpoints lost a level.
LANGUAGE_MODEL_RENAMES = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.", ""),
)


def refuse(section: Mapping[str, Any], name: str, supported: Mapping[str, Any]) -> None:
    """CheckpointError for an attribute that the port does not have, by name."""
    for key, value in supported.items():
        if section.get(key, value) != value:
            raise CheckpointError(f"config.json: {name}.{key} = {section[key]!r} is not supported; expected {value!r}.")


def first(section: Mapping[str, Any], *names: str) -> Any:
    """The first attribute that is there: the same number has two names, old and new."""
    for name in names:
        if section.get(name) is not None:
            return section[name]
    raise CheckpointError(f"config.json lacks {' and '.join(names)}.")


def whisper(audio: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `EncoderConfig` from the audio section of a Whisper-like encoder."""
    activation = first(audio, "activation_function", "hidden_act")
    refuse({"activation_function": activation}, "audio_config", {"activation_function": "gelu"})
    refuse(audio, "audio_config", {"scale_embedding": False})
    return {
        "n_mels": audio["num_mel_bins"],
        "width": first(audio, "d_model", "hidden_size"),
        "layers": first(audio, "encoder_layers", "num_hidden_layers"),
        "heads": first(audio, "encoder_attention_heads", "num_attention_heads"),
        "ffn": first(audio, "encoder_ffn_dim", "intermediate_size"),
        "max_positions": first(audio, "max_source_positions", "max_position_embeddings"),
    }


def llama(text: Mapping[str, Any], qkv_bias: bool, tied: bool = False) -> DecoderConfig:
    """A Llama or Qwen2 language model from its section. Rope kinds that the port does not have are refused."""
    refuse(text, "text_config", {"hidden_act": "silu", "use_sliding_window": False, "mlp_bias": False})
    refuse(text, "text_config", {"attention_bias": qkv_bias} if "attention_bias" in text else {})
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope", "llama3"):
        raise CheckpointError(
            f"config.json: rope type '{kind}' is not supported; expected 'default', 'mrope' or 'llama3'."
        )
    heads, width = text["num_attention_heads"], text["hidden_size"]
    return DecoderConfig(
        vocab=text["vocab_size"],
        width=width,
        layers=text["num_hidden_layers"],
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_dim=text.get("head_dim") or width // heads,
        ffn=text["intermediate_size"],
        rope_theta=float(text.get("rope_theta") or rope["rope_theta"]),
        eps=text["rms_norm_eps"],
        qkv_bias=qkv_bias,
        tied=tied,
        rope_scaling=RopeScaling(
            float(rope["factor"]),
            float(rope["low_freq_factor"]),
            float(rope["high_freq_factor"]),
            int(rope["original_max_position_embeddings"]),
        )
        if kind == "llama3"
        else None,
    )


def tower_rules(key: str, norm_post: str, table: bool = False) -> list[Rule]:
    """The Whisper encoder under its Hugging Face names."""
    stem = [*conv1d(f"{key}.conv1", "encoder.conv1"), *conv1d(f"{key}.conv2", "encoder.conv2")]
    rules = [*stem, *tower_layer_rules(key, norm_post)]
    return rules + [Rule(f"{key}.embed_positions.weight", ("encoder", "positions"))] * table


def tower_layer_rules(key: str, norm_post: str, k_bias: bool = False) -> list[Rule]:
    """The transformer layers of the Whisper encoder, and the norm behind them."""
    layer = f"{key}.layers.{{i}}"
    return [
        *norm(f"{key}.{norm_post}", "encoder.norm_post"),
        *norm(f"{layer}.self_attn_layer_norm", "encoder.layers.norm1"),
        *linear(f"{layer}.self_attn.q_proj", "encoder.layers.q"),
        *linear(f"{layer}.self_attn.k_proj", "encoder.layers.k", k_bias),
        *linear(f"{layer}.self_attn.v_proj", "encoder.layers.v"),
        *linear(f"{layer}.self_attn.out_proj", "encoder.layers.out"),
        *norm(f"{layer}.final_layer_norm", "encoder.layers.norm2"),
        *linear(f"{layer}.fc1", "encoder.layers.fc1"),
        *linear(f"{layer}.fc2", "encoder.layers.fc2"),
    ]


def mlp_rules(key: str, bias: bool) -> list[Rule]:
    """The two linear maps of an MLP projector."""
    return linear(f"{key}.linear_1", "encoder.proj1", bias) + linear(f"{key}.linear_2", "encoder.proj2", bias)


def body_rules(body: str, head: str, decoder: DecoderConfig) -> list[Rule]:
    """The language model under its Hugging Face names. body: the key of the model, head: that of the output map."""
    layer = f"{body}.layers.{{i}}"
    rules = [
        Rule(f"{body}.embed_tokens.weight", ("decoder", "embed", "embedding")),
        *norm(f"{body}.norm", "decoder.norm", bias=False),
        *norm(f"{layer}.input_layernorm", "decoder.layers.norm1", bias=False),
        *norm(f"{layer}.post_attention_layernorm", "decoder.layers.norm2", bias=False),
        *linear(f"{layer}.self_attn.o_proj", "decoder.layers.o", bias=False),
    ]
    for name in "qkv":
        rules += linear(f"{layer}.self_attn.{name}_proj", f"decoder.layers.{name}", decoder.qkv_bias)
    if decoder.qk_norm:
        for name in ("q_norm", "k_norm"):
            rules += norm(f"{layer}.self_attn.{name}", f"decoder.layers.{name}", bias=False)
    if decoder.experts:
        rules += linear(f"{layer}.mlp.gate", "decoder.layers.experts.router", bias=False)
    for name in ("gate", "up", "down"):
        if decoder.experts:
            key = f"{layer}.mlp.experts.{{e}}.{name}_proj.weight"
            rules.append(Rule(key, ("decoder", "layers", "experts", name), DENSE))
        else:
            rules += linear(f"{layer}.mlp.{name}_proj", f"decoder.layers.{name}", bias=False)
    return rules if decoder.tied else rules + linear(head, "decoder.lm_head", bias=False)
