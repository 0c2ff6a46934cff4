"""GLM-ASR. Clips are read in windows of 30 s, up to 10.5 minutes. Its encoder has rotary embedding on half of each head
instead of positions, and attends to the silence that fills a window."""

from typing import ClassVar

from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.families import _parts
from seen_jax.models.family import Keys, Raw, expect
from seen_jax.models.framing import WINDOW, Framing
from seen_jax.models.weights import Rule, norm

STACK = 4
ROPE = Keys("rope_theta partial_rotary_factor", only={"rope_type": ("default",)})
CLIP = "<|begin_of_audio|><|pad|><|end_of_audio|><|user|>\n"


class GlmAsr(_parts.LlamaFamily):
    name = "glm_asr"
    model_types = ("glmasr",)
    hub = ("zai-org/GLM-ASR-Nano-2512",)
    licence = "MIT"
    framing = Framing(seconds=630.0, cut=True, piece=WINDOW, unit=WINDOW, filled="silence", keys="seen")
    sections: ClassVar = {
        "": _parts.TOP | _parts.PROJECTOR_GELU,
        "audio_config": Keys(
            "num_mel_bins hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
            "head_dim rope_parameters", "max_position_embeddings attention_dropout", {"hidden_act": ("gelu",)},
        ) | _parts.model_type("glmasr_encoder"),
        "text_config": _parts.LLAMA | _parts.model_type("llama", "mistral"),
    }  # fmt: skip
    audio = "<|pad|>"
    chat_template = (
        "{% for message in messages %}<|{{ message['role'] }}|>\n"
        + _parts.content(_parts.in_order(CLIP))
        + "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> EncoderConfig:
        audio, rope = raw["audio_config"], raw["audio_config"]["rope_parameters"]
        heads, width = audio["num_attention_heads"], audio["hidden_size"]
        sizes = {"num_key_value_heads": heads, "head_dim": width // heads, "intermediate_size": STACK * width}
        expect(audio, "audio_config", sizes)
        ROPE.check(rope, "audio_config.rope_parameters")
        return _parts.whisper(
            audio, decoder.width, positions="rotary", rope_theta=float(rope["rope_theta"]),
            rotary=int(width // heads * rope.get("partial_rotary_factor", 1.0)),
            post=("norm", "stack", "mlp"), stack=STACK, hidden=2 * decoder.width,
        )  # fmt: skip

    def rules(self, config: LalmConfig) -> list[Rule]:
        q, k, v, out = (f"self_attn.{name}_proj" for name in "qkvo")
        names = ("input_layernorm", q, k, v, out, "post_attention_layernorm", "mlp.fc1", "mlp.fc2")
        return [
            *_parts.stem_rules("audio_tower"),
            *norm("audio_tower.norm", "encoder.norm_post"),
            *_parts.layer_rules("audio_tower.layers.{i}", names),
            *_parts.mlp_rules("multi_modal_projector"),
            *_parts.body_rules(config.decoder),
        ]


FAMILY = GlmAsr()
