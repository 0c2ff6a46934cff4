"""Granite Speech. Clips up to 5 minutes: 10 audio tokens a second, and the published language model has 4096 positions.
A conformer and a Q-Former instead of Whisper's encoder. The language model scales embeddings, residuals and attention;
its logits are not divided by `logits_scaling`, as in transformers 5.24 (earlier ones did)."""

import dataclasses
from typing import Any, ClassVar

from seen_jax.models.config import ConformerConfig, DecoderConfig, LalmConfig
from seen_jax.models.families import _parts
from seen_jax.models.family import Chat, Keys, Raw, expect
from seen_jax.models.framing import PairedFraming
from seen_jax.models.weights import POINTWISE, REVERSED, Rule, linear, norm


class GraniteSpeech(_parts.LlamaFamily):
    name = "granite_speech"
    model_types = ("granite_speech",)
    hub = ("ibm-granite/granite-4.0-1b-speech",)
    licence = "Apache-2.0"
    published: ClassVar = {
        "audio_token_index": 100352, "has_lora_adapter": False, "tie_word_embeddings": False,
        "encoder_config": {"model_type": "granite_speech_encoder", "num_layers": 16, "output_dim": 348},
        "projector_config": {
            "model_type": "blip_2_qformer", "cross_attention_frequency": 1, "encoder_hidden_size": 1024,
            "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 2,
        },
        "text_config": {
            "model_type": "granite", "vocab_size": 100353, **_parts.llama_sizes(2048, 4096, 40, 16, 4),
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
            "attention_multiplier": 0.0078125, "logits_scaling": 8.0,
        },
    }  # fmt: skip
    framing = PairedFraming(seconds=300.0)
    unused = (r"\.batch_norm\.num_batches_tracked$",)
    sections: ClassVar = {
        "": _parts.TOP | Keys("encoder_config projector_config has_lora_adapter window_size downsample_rate"),
        "encoder_config": Keys(
            "input_dim num_layers hidden_dim feedforward_mult num_heads dim_head output_dim context_size max_pos_emb "
            "conv_kernel_size conv_expansion_factor",
            "dropout",
            {"use_max_pos_emb_in_pos_emb_calc": (True,)},
        ) | _parts.model_type("granite_speech_encoder"),
        "projector_config": Keys(
            "hidden_size num_hidden_layers num_attention_heads intermediate_size layer_norm_eps encoder_hidden_size",
            "vocab_size hidden_dropout_prob attention_probs_dropout_prob max_position_embeddings",
            {"hidden_act": ("gelu",), "cross_attention_frequency": (1,), "use_qformer_text_input": (False,),
             "position_embedding_type": ("absolute",)},
        ) | _parts.model_type("blip_2_qformer"),
        "text_config": _parts.LLAMA | _parts.model_type("granite")
        | Keys("embedding_multiplier residual_multiplier attention_multiplier", "logits_scaling"),
    }  # fmt: skip
    audio = "<|audio|>"
    chat_template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}USER: {{ message['content'] }}\n ASSISTANT:"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] }}{% endif %}{% endfor %}"
    )

    def flat(self, chat: Chat) -> list[Any]:
        """The published templates take texts: the parts of a message are joined."""
        return _parts.joined(chat, self.audio)

    def config(self, raw: Raw, eos: tuple[int, ...], pad: int | None) -> LalmConfig:
        return dataclasses.replace(super().config(raw, eos, pad), lora=raw["has_lora_adapter"])

    def decoder(self, raw: Raw) -> DecoderConfig:
        scale = lambda part: float(raw["text_config"][f"{part}_multiplier"])
        scales: dict[str, Any] = {f"{part}_scale": scale(part) for part in ("embedding", "residual", "attention")}
        return _parts.llama(raw, self.qkv_bias, **scales)

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> ConformerConfig:
        encoder, former, width = raw["encoder_config"], raw["projector_config"], raw["encoder_config"]["hidden_dim"]
        expect(former, "projector_config", {"encoder_hidden_size": width})
        return ConformerConfig(
            n_mels=encoder["input_dim"], width=width, layers=encoder["num_layers"], heads=encoder["num_heads"],
            head_dim=encoder["dim_head"], ffn=width * encoder["feedforward_mult"], output_width=decoder.width,
            pad_frames=encoder["context_size"], distance=encoder["max_pos_emb"],
            conv=width * encoder["conv_expansion_factor"], kernel=encoder["conv_kernel_size"],
            labels=encoder["output_dim"], window=raw["window_size"],
            queries=raw["window_size"] // raw["downsample_rate"], query_width=former["hidden_size"],
            query_layers=former["num_hidden_layers"], query_heads=former["num_attention_heads"],
            query_ffn=former["intermediate_size"], query_eps=former["layer_norm_eps"],
        )  # fmt: skip

    def rules(self, config: LalmConfig) -> list[Rule]:
        block, ours = "encoder.layers.{i}", "encoder.layers"
        former, query = "projector.qformer.encoder.layer.{i}", "encoder.qformer"
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
            *linear(f"{block}.conv.up_conv", f"{ours}.conv_up", layout=POINTWISE),
            *linear(f"{block}.conv.down_conv", f"{ours}.conv_down", layout=POINTWISE),
            Rule(f"{block}.conv.depth_conv.conv.weight", ("encoder", "layers", "depthwise"), REVERSED),
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
            *_parts.body_rules(config.decoder),
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


FAMILY = GraniteSpeech()
