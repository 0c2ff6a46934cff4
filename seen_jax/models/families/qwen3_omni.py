"""Qwen3-Omni thinker, audio + text, with a mixture of experts. Loads the published checkpoints (keys under `thinker.`,
one per expert) and those that current `transformers` writes, without vision, talker and code2wav."""

from typing import ClassVar

from seen_jax.errors import CheckpointError
from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.families import _parts
from seen_jax.models.family import Keys, Raw, expect
from seen_jax.models.framing import Framing
from seen_jax.models.weights import Rule, linear

POSITIONS = 13  # of a whole chunk; a constant in the original


class Qwen3Omni(_parts.Thinker):
    name = "qwen3_omni"
    model_types = ("qwen3_omni_moe", "qwen3_omni_moe_thinker")
    hub = ("Qwen/Qwen3-Omni-30B-A3B-Instruct",)
    licence = "Apache-2.0"
    published: ClassVar = {
        "thinker_config": {
            "audio_config": {"output_dim": 2048}, "audio_token_id": 151675, "audio_start_token_id": 151669,
            "text_config": {
                "vocab_size": 152064, "num_hidden_layers": 48, "num_attention_heads": 32, "head_dim": 128,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [24, 20, 20]},
            },
        }
    }  # fmt: skip
    # The original has no limit; 40 minutes (31,200 audio tokens) is ours. The rest of a clip's last chunk is convolved.
    framing = Framing(seconds=2400.0, reflected=True, filled="chunks")
    unused = (r"^visual\.", r"^talker\.", r"^code2wav\.", r"^code_predictor\.")
    sections: ClassVar = {
        "": _parts.Thinker.top,
        "audio_config": _parts.WHISPER | _parts.model_type("qwen3_omni_moe_audio_encoder")
        | Keys("n_window n_window_infer output_dim downsample_hidden_size", "conv_chunksize"),
        "text_config": _parts.LLAMA | _parts.model_type("qwen3_omni_moe_text")
        | Keys(
            "moe_intermediate_size num_experts num_experts_per_tok norm_topk_prob",
            "output_router_logits router_aux_loss_coef",
            {"decoder_sparse_step": (1,), "mlp_only_layers": ([],), "shared_expert_intermediate_size": (0,),
             "use_qk_norm": (True,)},
        ),
    }  # fmt: skip
    stops = ("<|im_end|>",)  # of the original's `generate`, whatever the folder states
    audio = "<|audio_pad|>"
    chat_template = _parts.chatml(_parts.in_order("<|audio_start|><|audio_pad|><|audio_end|>"), start="")

    def decoder(self, raw: Raw) -> DecoderConfig:
        text = raw["text_config"]
        return _parts.llama(
            raw, self.qkv_bias, self.rope_keys, ffn=text["moe_intermediate_size"], qk_norm=True,
            experts=text["num_experts"], top_k=text["num_experts_per_tok"], renormalise=text["norm_topk_prob"],
        )  # fmt: skip

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> EncoderConfig:
        audio = raw["audio_config"]
        expect(audio, "audio_config", {"output_dim": decoder.width})
        chunk, window = 2 * audio["n_window"], audio["n_window_infer"]
        encoder = _parts.whisper(
            audio, decoder.width, pad_frames=window // chunk * chunk, chunked=True, conv_frames=chunk,
            channels=audio["downsample_hidden_size"], k_bias=True, post=("norm", "mlp"), hidden=audio["d_model"],
        )  # fmt: skip
        if encoder.position_count(chunk) != POSITIONS or not encoder.pad_frames:
            wanted = f"chunks of {POSITIONS} positions (n_window 49 to 52), one or more to a window"
            value = f"{audio['n_window']} with n_window_infer = {window}"
            raise CheckpointError(f"config.json: audio_config.n_window = {value} is not supported; expected {wanted}.")
        return encoder

    def rules(self, config: LalmConfig) -> list[Rule]:
        return [
            *(rule for i in "123" for rule in linear(f"audio_tower.conv2d{i}", f"encoder.conv{i}")),
            *linear("audio_tower.conv_out", "encoder.conv_out", bias=False),
            *_parts.tower_layer_rules("audio_tower", "ln_post", k_bias=True),
            *(rule for i in "12" for rule in linear(f"audio_tower.proj{i}", f"encoder.proj{i}")),
            *_parts.body_rules(config.decoder, ""),
        ]


FAMILY = Qwen3Omni()
