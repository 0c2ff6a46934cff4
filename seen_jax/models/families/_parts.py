"""What families share: known keys of config.json, the parts that they make, weight tables and chat templates."""

from collections.abc import Iterator, Sequence
from typing import Any

from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig, RopeScaling
from seen_jax.models.family import Chat, Counts, Family, Keys, Raw, check_places, expect, first, unsupported
from seen_jax.models.weights import REVERSED, Rule, linear, norm

PARITY = "parity with transformers on random tiny configs"
COMPOSED = "parity with a reference composed of transformers' Whisper layers and {}, on random tiny configs"


TOP = Keys("audio_config text_config audio_token_id audio_token_index tie_word_embeddings", "vocab_size")
PROJECTOR_GELU = Keys(only={"projector_hidden_act": ("gelu",)})

WHISPER = Keys(
    "num_mel_bins d_model hidden_size encoder_layers num_hidden_layers encoder_attention_heads num_attention_heads "
    "encoder_ffn_dim intermediate_size max_source_positions",
    "dropout attention_dropout activation_dropout encoder_layerdrop layerdrop vocab_size",
    {"activation_function": ("gelu",), "scale_embedding": (False,)},
)
# The section of a whole Whisper, whose decoder is not used.
WHOLE_WHISPER = WHISPER | Keys(
    ignores="decoder_layers decoder_attention_heads decoder_ffn_dim decoder_layerdrop max_target_positions "
    "use_weighted_layer_sum classifier_proj_size apply_spec_augment mask_time_prob mask_time_length "
    "mask_time_min_masks mask_feature_prob mask_feature_length mask_feature_min_masks median_filter_width"
)

LLAMA = Keys(
    "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size "
    "rms_norm_eps rope_theta rope_scaling rope_parameters tie_word_embeddings attention_bias sliding_window "
    "max_position_embeddings layer_types",
    "attention_dropout max_window_layers pretraining_tp use_mrope",
    {"hidden_act": ("silu",), "use_sliding_window": (False,), "mlp_bias": (False,)},
)
ROPE = Keys(
    "rope_theta factor low_freq_factor high_freq_factor original_max_position_embeddings",
    "type mrope_section mrope_interleaved interleaved",  # positions are the same in all three directions
    {"rope_type": ("default", "llama3")},
)
MROPE = ROPE | Keys(only={"rope_type": ("default", "mrope")})  # of the Omni models, whose classes alone know it


def model_type(*names: str) -> Keys:
    """Restrict a section to these model types."""
    return Keys(only={"model_type": names})


def whisper(audio: Raw, output_width: int, **fields: Any) -> EncoderConfig:
    """A Whisper-like encoder from its section. Rows fit its table of positions, or `pad_frames` of fields."""
    positions = audio.get("max_source_positions", 1500)
    return EncoderConfig(
        n_mels=audio["num_mel_bins"], width=first(audio, "d_model", "hidden_size"),
        layers=first(audio, "encoder_layers", "num_hidden_layers"),
        heads=first(audio, "encoder_attention_heads", "num_attention_heads"),
        ffn=first(audio, "encoder_ffn_dim", "intermediate_size"),
        max_positions=positions, output_width=output_width, **{"pad_frames": 2 * positions, **fields},
    )  # fmt: skip


def llama(raw: Raw, qkv_bias: bool, rope_keys: Keys = ROPE, **fields: Any) -> DecoderConfig:
    """A Llama or Qwen2 language model from text_config. Unknown rotary embeddings and attention are refused."""
    text, name = raw["text_config"], "text_config"
    expect(text, name, {"attention_bias": qkv_bias})
    if set(text.get("layer_types") or ()) - {"full_attention"}:
        raise unsupported(name, "layer_types", text["layer_types"], "expected 'full_attention' for every layer")
    window, longest = text.get("sliding_window"), text["max_position_embeddings"]
    if window is not None and window < longest:
        least = f"max_position_embeddings ({longest})"
        raise unsupported(name, "sliding_window", window, f"expected null, or {least} or more")
    rope = text["rope_parameters"]
    rope_keys.check(rope, f"{name}.rope_parameters")
    llama3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    heads, width = text["num_attention_heads"], text["hidden_size"]
    return DecoderConfig(
        vocab=text["vocab_size"], width=width, layers=text["num_hidden_layers"], heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads, head_dim=text.get("head_dim") or width // heads,
        rope_theta=float(rope["rope_theta"]), eps=text["rms_norm_eps"], qkv_bias=qkv_bias,
        rope_scaling=RopeScaling(*(rope[key] for key in llama3)) if rope["rope_type"] == "llama3" else None,
        **{"ffn": text["intermediate_size"], "tied": bool(raw.get("tie_word_embeddings", False)), **fields},
    )  # fmt: skip


def llama_sizes(width: int, ffn: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    """Sizes in the section of a published language model."""
    sizes = {"hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": layers}
    return {**sizes, "num_attention_heads": heads, "num_key_value_heads": kv_heads}


QWEN2_7B = {**llama_sizes(3584, 18944, 28, 28, 4), "rms_norm_eps": 1e-6, "rope_theta": 1e6}


def whisper_sizes(n_mels: int, width: int, layers: int, heads: int) -> dict[str, int]:
    """The section of a published Whisper encoder."""
    sizes = {"num_mel_bins": n_mels, "d_model": width, "encoder_layers": layers, "encoder_attention_heads": heads}
    return {**sizes, "encoder_ffn_dim": 4 * width}


def tower_rules(key: str, norm_post: str, table: bool = False) -> list[Rule]:
    """The Whisper encoder under its Hugging Face names."""
    rules = [*stem_rules(key), *tower_layer_rules(key, norm_post)]
    return rules + [Rule(f"{key}.embed_positions.weight", ("encoder", "positions"))] * table


def stem_rules(key: str) -> list[Rule]:
    """The two convolutions of a Whisper encoder."""
    return [rule for name in ("conv1", "conv2") for rule in linear(f"{key}.{name}", f"encoder.{name}")]


def tower_layer_rules(key: str, norm_post: str, k_bias: bool = False) -> list[Rule]:
    """The transformer layers of the Whisper encoder, and the norm behind them."""
    q, k, v = (f"self_attn.{name}_proj" for name in "qkv")
    names = ("self_attn_layer_norm", q, k, v, "self_attn.out_proj", "final_layer_norm", "fc1", "fc2")
    return [*norm(f"{key}.{norm_post}", "encoder.norm_post"), *layer_rules(f"{key}.layers.{{i}}", names, k_bias)]


def layer_rules(layer: str, names: tuple[str, ...], k_bias: bool = False) -> list[Rule]:
    """One encoder layer. names: of its first norm, of query, key, value and output, of its second norm and the MLP."""
    rules: list[Rule] = []
    for ours, name in zip(("norm1", "q", "k", "v", "out", "norm2", "fc1", "fc2"), names, strict=True):
        make = norm if ours.startswith("norm") else linear
        rules += make(f"{layer}.{name}", f"encoder.layers.{ours}", ours != "k" or k_bias)
    return rules


def mlp_rules(key: str, bias: bool = True, joint: str = "_") -> list[Rule]:
    """The two linear maps of an MLP projector."""
    return [rule for i in "12" for rule in linear(f"{key}.linear{joint}{i}", f"encoder.proj{i}", bias)]


def body_rules(decoder: DecoderConfig, prefix: str = "language_model.", body: str = "model.") -> list[Rule]:
    """The language model under its Hugging Face names, behind `prefix`; all but its output map lies in `body`."""
    body, ours = prefix + body, "decoder.layers"
    layer = f"{body}layers.{{i}}"
    norms = {"input_layernorm": "norm1", "post_attention_layernorm": "norm2"}
    if decoder.post_norms:
        norms["post_attention_layernorm"] = "norm1_out"
        norms |= {"pre_feedforward_layernorm": "norm2", "post_feedforward_layernorm": "norm2_out"}
    if decoder.qk_norm:
        norms |= {"self_attn.q_norm": "q_norm", "self_attn.k_norm": "k_norm"}
    gated = ("gate", "up", "down")
    maps = {"mlp.gate": "experts.router"} if decoder.experts else {f"mlp.{name}_proj": name for name in gated}
    rules = [
        Rule(f"{body}embed_tokens.weight", ("decoder", "embed", "embedding")),
        *norm(f"{body}norm", "decoder.norm", bias=False),
        *linear(f"{layer}.self_attn.o_proj", f"{ours}.o", bias=False),
    ]
    for name in "qkv":
        rules += linear(f"{layer}.self_attn.{name}_proj", f"{ours}.{name}", decoder.qkv_bias)
    for key, name in norms.items():
        rules += norm(f"{layer}.{key}", f"{ours}.{name}", bias=False)
    for key, name in maps.items():
        rules += linear(f"{layer}.{key}", f"{ours}.{name}", bias=False)
    if decoder.experts:
        where = ("decoder", "layers", "experts")
        rules += [Rule(f"{layer}.mlp.experts.{{e}}.{name}_proj.weight", (*where, name), REVERSED) for name in gated]
    return rules if decoder.tied else rules + linear(f"{prefix}lm_head", "decoder.lm_head", bias=False)


def clips_of(chat: Chat, counts: Counts, audio: str) -> Iterator[Sequence[int]]:
    """The counts of the clips in the order of the chat's audio parts; ConfigError unless there are as many."""
    contents = [message["content"] for message in chat if not isinstance(message["content"], str)]
    check_places(sum(part["type"] == "audio" for content in contents for part in content), counts, audio)
    return iter(counts)


def joined(chat: Chat, audio: str, between: str = "") -> list[Any]:
    """The chat with the parts of every message joined to one text."""
    text = lambda part: audio if part["type"] == "audio" else part["text"]
    return [
        dict(m) if isinstance(m["content"], str) else {**m, "content": between.join(map(text, m["content"]))}
        for m in chat
    ]


SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)


def content(parts: str) -> str:
    """The content of a message: a text, or what the template `parts` makes of its parts."""
    return "{% if message['content'] is string %}{{ message['content'] }}{% else %}" + parts + "{% endif %}"


def in_order(audio: str) -> str:
    """The parts of a message in their order. audio: the template of a clip."""
    part = "{% if part['type'] == 'audio' %}" + audio + "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    return "{% for part in message['content'] %}" + part + "{% endfor %}"


def chatml(parts: str, start: str = SYSTEM, answer: str = "") -> str:
    """A ChatML template. parts: the template of a message's parts; answer: how the assistant's turn begins."""
    turn = "<|im_start|>{{ message['role'] }}\n" + content(parts) + "<|im_end|>\n"
    end = "{% if add_generation_prompt %}<|im_start|>assistant\n" + answer + "{% endif %}"
    return start + "{% for message in messages %}" + turn + "{% endfor %}" + end


class LlamaFamily(Family):
    """A family with a Llama or Qwen2 language model. qkv_bias: whether its queries, keys and values have a bias."""

    verified = PARITY
    renames: tuple[tuple[str, str], ...] = (  # to a language model under `language_model`; newer folders lost a level
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^model\.", ""),
    )
    qkv_bias = False
    rope_keys = ROPE

    def decoder(self, raw: Raw) -> DecoderConfig:
        return llama(raw, self.qkv_bias, self.rope_keys)


class WhisperFamily(LlamaFamily):
    """A family whose folders hold a Whisper encoder, a projector and a language model under the usual names."""

    def projector_rules(self, encoder: EncoderConfig) -> list[Rule]:
        """The weight table of the projector."""
        raise NotImplementedError

    def rules(self, config: LalmConfig) -> list[Rule]:
        assert isinstance(config.encoder, EncoderConfig)
        tower = tower_rules("audio_tower", "layer_norm", table=True)
        return [*tower, *self.projector_rules(config.encoder), *body_rules(config.decoder)]


class Thinker(LlamaFamily):
    """The thinker of a Qwen Omni model, audio + text, alone or inside the config.json of the whole model."""

    rope_keys = MROPE
    renames = (
        (r"^(thinker\.)?model\.audio_tower\.", "audio_tower."),
        (r"^(thinker\.)?model\.visual\.", "visual."),
        (r"^(thinker\.)?model\.language_model\.", "model."),
        (r"^thinker\.", ""),
    )
    whole = Keys(
        "thinker_config",
        "talker_config token2wav_config code2wav_config enable_audio_output enable_talker im_start_token_id "
        "im_end_token_id system_token_id user_token_id assistant_token_id tts_pad_token_id tts_bos_token_id "
        "tts_eos_token_id",
    )
    top = TOP | Keys(
        ignores="vision_config image_token_index image_token_id video_token_index video_token_id audio_start_token_id "
        "audio_end_token_id vision_start_token_id vision_end_token_id vision_token_id position_id_per_seconds "
        "seconds_per_chunk user_token_id"
    )

    def check_sections(self, raw: Raw) -> None:
        super().check_sections(raw.get("thinker_config") or raw)

    def complete(self, raw: Raw) -> dict[str, Any]:
        full = super().complete(raw)
        if "thinker_config" in full:
            self.whole.check(full, "")
        return full.get("thinker_config", full)
