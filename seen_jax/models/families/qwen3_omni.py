"""Qwen3-Omni thinker, audio + text: config.json, weight table, prompt. Its language model is a mixture of experts.

Loads the published checkpoints (keys under `thinker.`, one per expert) and those that current `transformers` writes.
Vision, talker and code2wav weights are skipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from seen_jax.errors import CheckpointError
from seen_jax.models.config import EncoderConfig, LalmConfig
from seen_jax.models.families._parts import body_rules, llama, refuse, tower_layer_rules, whisper
from seen_jax.models.framing import Framing
from seen_jax.models.weights import Rule, conv2d, linear

NAME = "qwen3_omni"
MODEL_TYPES = ("qwen3_omni_moe", "qwen3_omni_moe_thinker")
VERIFIED = "parity with transformers on random tiny configs"

PUBLISHED: dict[str, Any] = {
    "thinker_config": {
        "audio_config": {"output_dim": 2048},
        "text_config": {
            "vocab_size": 152064,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "head_dim": 128,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [24, 20, 20]},
        },
        "audio_token_id": 151675,
        "audio_start_token_id": 151669,
    }
}

# The original has no limit; 40 minutes (31,200 audio tokens) is ours. What fills a clip's last chunk up is convolved.
FRAMING = Framing(seconds=2400.0, reflected=True, filled="chunk")
POSITIONS = 13  # of a whole chunk; a constant in the original

RENAMES = (
    (r"^(thinker\.)?model\.audio_tower\.", "audio_tower."),
    (r"^(thinker\.)?model\.visual\.", "visual."),
    (r"^(thinker\.)?model\.language_model\.", "model."),
    (r"^thinker\.", ""),
)
UNUSED = (r"^visual\.", r"^talker\.", r"^code2wav\.", r"^code_predictor\.")

AUDIO = "<|audio_pad|>"

# ChatML without a system turn of its own; used where a folder brings no template.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def rules(config: LalmConfig) -> list[Rule]:
    """The weight table, in canonical (published, without `thinker.`) names."""
    return [
        *conv2d("audio_tower.conv2d1", "encoder.conv1"),
        *conv2d("audio_tower.conv2d2", "encoder.conv2"),
        *conv2d("audio_tower.conv2d3", "encoder.conv3"),
        *linear("audio_tower.conv_out", "encoder.conv_out", bias=False),
        *tower_layer_rules("audio_tower", "ln_post", k_bias=True),
        *linear("audio_tower.proj1", "encoder.proj1"),
        *linear("audio_tower.proj2", "encoder.proj2"),
        *body_rules("model", "lm_head", config.decoder),
    ]


def config(raw: Mapping[str, Any], eos: tuple[int, ...], pad: int | None) -> LalmConfig:
    """config.json (whole model or thinker) -> LalmConfig. Unsupported attribute values are refused by name."""
    raw = raw.get("thinker_config", raw)
    audio, text = raw["audio_config"], raw["text_config"]
    refuse(text, "text_config", {"decoder_sparse_step": 1, "mlp_only_layers": []})
    fields = whisper(audio)
    chunk = 2 * audio["n_window"]
    encoder = EncoderConfig(
        **fields,
        output_width=audio["output_dim"],
        pad_frames=audio["n_window_infer"] // chunk * chunk,
        chunked=True,
        conv_frames=chunk,
        channels=audio["downsample_hidden_size"],
        k_bias=True,
        post=("norm", "mlp"),
        hidden=fields["width"],
    )
    if encoder.position_count(chunk) != POSITIONS or not encoder.pad_frames:
        raise CheckpointError(
            f"config.json: audio_config.n_window = {audio['n_window']} with n_window_infer = {audio['n_window_infer']} "
            f"is not supported; expected chunks of {POSITIONS} positions (n_window 49 to 52), one or more to a window."
        )
    decoder = llama(text, qkv_bias=False, tied=bool(raw.get("tie_word_embeddings", False)))
    return LalmConfig(
        family=NAME,
        encoder=encoder,
        decoder=dataclasses.replace(
            decoder,
            ffn=text["moe_intermediate_size"],
            qk_norm=True,
            experts=text["num_experts"],
            top_k=text["num_experts_per_tok"],
            renormalise=text["norm_topk_prob"],
        ),
        audio_token=raw["audio_token_id"],
        stop_tokens=eos,
        pad_token=eos[0] if pad is None else pad,
    )
