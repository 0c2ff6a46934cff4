"""MiniCPM-o 2.6 (audio + text): config.json, weight table, prompt. Clips are read in slices of 30 s.

Its encoder looks back without end and forward to the end of the own second; its prompt wraps every second of audio.
Vision, speech output and their weights are skipped. The folder's own classes are remote code, which never runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seen_jax.errors import CheckpointError
from seen_jax.models.config import EncoderConfig, LalmConfig
from seen_jax.models.families._parts import body_rules, llama, refuse, tower_rules, whisper
from seen_jax.models.framing import WINDOW, Framing
from seen_jax.models.weights import Rule, linear

NAME = "minicpm_o"
MODEL_TYPES = ("minicpmo",)
VERIFIED = "parity with a reference composed of transformers' Whisper layers and Qwen2, on random tiny configs"
PUBLISHED: dict[str, Any] = {
    "audio_config": {
        "d_model": 1024,
        "encoder_layers": 24,
        "encoder_attention_heads": 16,
        "encoder_ffn_dim": 4096,
        "num_mel_bins": 80,
    },
    "vocab_size": 151700,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tokens": {"<unk>": 0},
}

FRAMING = Framing(seconds=1200.0, piece=WINDOW, unit=WINDOW, filled="zeros", keys="mel")

RENAMES: tuple[tuple[str, str], ...] = ()
UNUSED = (r"^vpm\.", r"^resampler\.", r"^tts\.")

AUDIO = "(<audio>./</audio>)"
TOKENS = ("<unk>",)
GROUP = 25  # audio tokens of a second

# As published for chats with audio; a message's parts are joined by line breaks. No system turn is put in.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}(<audio>./</audio>){% else %}{{ part['text'] }}{% endif %}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>{% endif %}"
)
OWN_TEMPLATE = True  # the processor passes it, whatever the tokenizer's says


def expand(tokens: int) -> str:
    """What stands for a clip of so many audio tokens: every second in its own markers."""
    groups = [min(GROUP, tokens - i) for i in range(0, tokens, GROUP)]
    return "".join("<|audio_start|>" + "<unk>" * n + "<|audio_end|>" for n in groups)


def complete(raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the defaults of the parts' own classes."""
    from transformers import Qwen2Config, WhisperConfig

    refuse(raw, "config", {"audio_pool_step": 2, "audio_chunk_length": 1.0, "chunk_input": True})
    if "audio_config" not in raw:
        raise CheckpointError("config.json has no audio_config: only MiniCPM-o 2.6 with its audio part is supported.")
    text = {key: raw[key] for key in Qwen2Config().to_dict() if key in raw and key != "model_type"}
    if "rope_theta" in raw:
        text["rope_theta"] = raw["rope_theta"]
    audio = WhisperConfig.from_dict(dict(raw["audio_config"])).to_dict()
    return {**raw, "audio_config": audio, "text_config": Qwen2Config.from_dict(text).to_dict()}


def rules(config: LalmConfig) -> list[Rule]:
    """The weight table, in published names."""
    return [
        *tower_rules("apm", "layer_norm", table=True),
        *linear("audio_projection_layer.linear1", "encoder.proj1"),
        *linear("audio_projection_layer.linear2", "encoder.proj2"),
        *body_rules("llm.model", "llm.lm_head", config.decoder),
    ]


def config(raw: Mapping[str, Any], eos: tuple[int, ...], pad: int | None) -> LalmConfig:
    """config.json -> LalmConfig. Unsupported attribute values are refused by name."""
    decoder = llama(raw["text_config"], qkv_bias=True, tied=bool(raw.get("tie_word_embeddings", False)))
    if (audio_token := raw["tokens"]["<unk>"]) is None:
        raise CheckpointError("tokenizer.json has no token <unk>, which stands for audio in MiniCPM-o.")
    return LalmConfig(
        family=NAME,
        encoder=EncoderConfig(
            **whisper(raw["audio_config"]),
            output_width=decoder.width,
            pad_frames=200,
            positions="table",
            block=50,
            post=("norm", "mlp", "pool"),
            hidden=decoder.width,
            activation="relu",
        ),
        decoder=decoder,
        audio_token=audio_token,
        stop_tokens=eos,
        pad_token=eos[0] if pad is None else pad,
    )
