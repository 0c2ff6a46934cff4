"""Step-Audio-2-mini (text output). Clips are read in segments of 25 s, as 12.5 audio tokens a second. The
segments of a prompt are padded to the longest, and the convolutions of the shorter ones see that padding."""

from typing import Any, ClassVar

from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.families import _parts
from seen_jax.models.family import Chat, Counts, Keys, Raw, completed, first
from seen_jax.models.framing import Framing
from seen_jax.models.weights import Rule, linear, norm

HIDDEN = 2048  # of the adapter, in every released model
STOPS = (151643, 151645, 151665)  # which the configuration class of the release adds to those of the folder


class StepAudio2(_parts.LlamaFamily):
    name = "step_audio_2"
    model_types = ("step_audio_2",)
    hub = ("stepfun-ai/Step-Audio-2-mini",)
    licence = "Apache-2.0"
    verified = _parts.COMPOSED.format("Qwen2")
    published: ClassVar = {
        "audio_encoder_config": {
            "n_mels": 128, "n_audio_ctx": 1500, "n_audio_state": 1280, "n_audio_head": 20, "n_audio_layer": 32,
            "llm_dim": 3584, "kernel_size": 3, "adapter_stride": 2,
        },
        "text_config": {"vocab_size": 158720, **_parts.QWEN2_7B},
    }  # fmt: skip
    framing = Framing(seconds=1200.0, piece=25 * 16_000, filled="prompt", keys="stepped", tail=479, behind=2)
    renames = ()
    qkv_bias = True
    sections: ClassVar = {
        "": Keys("audio_encoder_config text_config tie_word_embeddings", "vocab_size sliding_window max_window_layers",
                 {"use_sliding_window": (False,)}),
        "audio_encoder_config": Keys("n_mels n_audio_ctx n_audio_state n_audio_head n_audio_layer llm_dim",
                                     "n_codebook_size", {"kernel_size": (3,), "adapter_stride": (2,)}),
        "text_config": _parts.LLAMA,
    }  # fmt: skip
    tokens = ("<audio_patch>",)
    stops = ("<|EOT|>",)  # where the official example ends an answer
    audio = "<audio_patch>"

    def prompt(self, tokenizer: Any, chat: Chat, counts: Counts, audio_token: int) -> tuple[list[int], list[int]]:
        """Pieces are tokenized apart, so that nothing merges across them."""
        pieces: list[str] = []
        clips = _parts.clips_of(chat, counts, self.audio)
        for message in chat:
            role = "human" if message["role"] == "user" else message["role"]
            if isinstance(message["content"], str):
                pieces += [f"<|BOT|>{role}\n{message['content']}", "<|EOT|>"]
                continue
            pieces.append(f"<|BOT|>{role}\n")
            for part in message["content"]:
                if part["type"] == "audio":
                    pieces += [f"<audio_start>{self.audio * n}<audio_end>" for n in next(clips)]
                else:
                    pieces.append(part["text"])
            pieces.append("<|EOT|>")
        pieces.append("<|BOT|>assistant\n")
        ids = [i for piece in pieces for i in tokenizer(piece, add_special_tokens=False)["input_ids"]]
        return ids, [i for i, token in enumerate(ids) if token == audio_token]

    def complete(self, raw: Raw) -> dict[str, Any]:
        """The language model's section has its own model type, name for the key/value heads, and defaults."""
        text = {"rms_norm_eps": 1e-6, **raw["text_config"]}
        if "rope_parameters" not in text:
            text.setdefault("rope_theta", 1e6)
        groups = text.pop("num_attention_groups", None) or text.get("num_key_value_heads")
        text.pop("model_type", None)
        return {**raw, "text_config": completed("qwen2", {**text, "num_key_value_heads": groups})}

    def config(self, raw: Raw, eos: tuple[int, ...], pad: int | None) -> LalmConfig:
        there = (token for token in STOPS if token < raw["text_config"]["vocab_size"])
        return super().config(raw, (*eos, *there), pad)

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> EncoderConfig:
        audio = raw["audio_encoder_config"]
        return EncoderConfig(
            n_mels=first(audio, "n_mels"), width=audio["n_audio_state"], layers=audio["n_audio_layer"],
            heads=audio["n_audio_head"], ffn=4 * audio["n_audio_state"], max_positions=audio["n_audio_ctx"],
            output_width=audio["llm_dim"], pad_frames=200, positions="table",
            post=("pool", "norm", "conv", "mlp"), hidden=HIDDEN, activation="relu",
        )  # fmt: skip

    def rules(self, config: LalmConfig) -> list[Rule]:
        """The encoder's names are those of OpenAI's Whisper."""
        attention = ("attn_ln", "attn.query", "attn.key", "attn.value", "attn.out")
        return [
            *_parts.stem_rules("encoder"),
            Rule("encoder.positional_embedding.weight", ("encoder", "positions")),
            *norm("encoder.after_norm", "encoder.norm_post"),
            *_parts.layer_rules("encoder.blocks.{i}", (*attention, "mlp_ln", "mlp.0", "mlp.2")),
            *linear("adapter.conv", "encoder.proj_conv"),
            *_parts.mlp_rules("adapter", joint=""),
            *_parts.body_rules(config.decoder, ""),
        ]


FAMILY = StepAudio2()
