"""Qwen3-ASR. The encoder of Qwen3-Omni and a dense Qwen3, trained for transcripts alone. Loads the folders that
`transformers` reads (Qwen3-ASR-1.7B-hf) and those published before (Qwen3-ASR-1.7B), with a thinker_config."""

import warnings
from typing import Any, ClassVar

from seen_jax.errors import CheckpointError
from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.families import _parts, qwen3_omni
from seen_jax.models.family import Chat, Keys, Raw
from seen_jax.models.framing import Framing
from seen_jax.models.weights import Rule, linear

CLIP = "<|audio_start|><|audio_pad|><|audio_end|>"
TURN = "<|im_start|>{}\n{}<|im_end|>\n"
TEXT = "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
FIRST_NAMES = {"audio_config": ("qwen3_asr_audio_encoder",), "text_config": ("qwen3_asr_text",)}


def every(role: str, inner: str) -> str:
    """A template over the turns of a role."""
    return "{% for message in messages if message['role'] == '" + role + "' %}" + inner + "{% endfor %}"


class Qwen3Asr(_parts.LlamaFamily):
    name = "qwen3_asr"
    model_types = ("qwen3_asr",)
    hub = ("Qwen/Qwen3-ASR-1.7B-hf", "Qwen/Qwen3-ASR-0.6B-hf")
    licence = "Apache-2.0"
    published: ClassVar = {
        "audio_config": {"output_dim": 2048},
        "text_config": {
            **_parts.llama_sizes(2048, 6144, 28, 16, 8), "head_dim": 128, "max_position_embeddings": 65536,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    }  # fmt: skip
    # The authors' own package cuts a longer clip into several, and fills one of less than half a second.
    framing = Framing(seconds=1200.0, reflected=True, least=8000, filled="chunk")
    renames = (
        (r"^thinker\.audio_tower\.proj", "model.multi_modal_projector.linear_"),
        (r"^thinker\.model\.", "model.language_model."),
        (r"^thinker\.lm_head\.", "lm_head."),
        (r"^thinker\.", "model."),
    )
    sections: ClassVar = {
        "": _parts.TOP | Keys(
            ignores="support_languages timestamp_token_id token_classification_bias audio_start_token_id "
            "audio_end_token_id user_token_id"
        ),
        "audio_config": _parts.WHISPER | _parts.model_type("qwen3_asr_encoder")
        | Keys("n_window n_window_infer output_dim downsample_hidden_size", "conv_chunksize num_key_value_heads",
               {"max_position_embeddings": (qwen3_omni.POSITIONS,)}),
        "text_config": _parts.LLAMA | _parts.model_type("qwen3")
        | Keys(  # published beside a model without experts
            ignores="decoder_sparse_step moe_intermediate_size num_experts num_experts_per_tok norm_topk_prob "
            "output_router_logits router_aux_loss_coef mlp_only_layers"
        ),
    }  # fmt: skip
    audio = "<|audio_pad|>"
    chat_template = (
        TURN.format("system", every("system", _parts.content(TEXT)))
        + TURN.format(
            "user",
            "{% for message in messages if message['content'] is not string %}{% for part in "
            "message['content'] if part['type'] == 'audio' %}" + CLIP + "{% endfor %}{% endfor %}",
        )
        + every("assistant", TURN.format("assistant", _parts.content(TEXT)))
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    def complete(self, raw: Raw) -> dict[str, Any]:
        import transformers

        if self.model_types[0] not in transformers.CONFIG_MAPPING:
            release = f"transformers {transformers.__version__}"
            raise CheckpointError(f"{release} has no Qwen3-ASR yet: pip install -U transformers.")
        thinker = raw.get("thinker_config") or {}
        if "classify_num" in thinker or "Qwen3ASRForTokenClassification" in (raw.get("architectures") or ()):
            problem = "describes a Qwen3 forced aligner, which dates words and answers nothing"
            raise CheckpointError(f"config.json {problem}.")
        flat = {key: value for key, value in raw.items() if key != "thinker_config"}
        flat |= {key: value for key, value in thinker.items() if key not in ("model_type", "architectures")}
        for name, kinds in FIRST_NAMES.items():
            if name in thinker and thinker[name].get("model_type") in kinds:
                flat[name] = {key: value for key, value in thinker[name].items() if key != "model_type"}
        if "text_config" in thinker:
            flat["tie_word_embeddings"] = thinker["text_config"].get("tie_word_embeddings", True)
        return super().complete(flat)

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> EncoderConfig:
        return qwen3_omni.FAMILY.encoder(raw, decoder)

    def decoder(self, raw: Raw) -> DecoderConfig:
        return _parts.llama(raw, self.qkv_bias, qk_norm=True)

    def rules(self, config: LalmConfig) -> list[Rule]:
        tower = "model.audio_tower"
        return [
            *(rule for i in "123" for rule in linear(f"{tower}.conv2d{i}", f"encoder.conv{i}")),
            *linear(f"{tower}.conv_out", "encoder.conv_out", bias=False),
            *_parts.tower_layer_rules(tower, "ln_post", k_bias=True),
            *_parts.mlp_rules("model.multi_modal_projector"),
            *_parts.body_rules(config.decoder, "", "model.language_model."),
        ]

    def render(self, tokenizer: Any, chat: Chat) -> str:
        """The text of a chat up to the answer, which goes on where a last assistant's turn ends: after
        "language English<asr_text>" comes the transcript alone. Warns of a user's text, which the published template
        leaves out."""
        texts = _parts.joined(chat, "")
        begun = texts[-1]["content"] if texts and texts[-1]["role"] == "assistant" else ""
        text = super().render(tokenizer, chat[:-1] if begun else chat)
        if any(message["role"] == "user" and message["content"] not in text for message in texts):
            problem = "qwen3_asr reads a user's audio and no text"
            warnings.warn(f"{problem}: only a system turn can hold words.", stacklevel=3)
        return text + begun


FAMILY = Qwen3Asr()
