"""MiniCPM-o 2.6 (audio + text). The clips of a message are read as one, in slices of 30 s; a slice sees zeros as far as
the longest of its prompt. Its encoder looks back without end and forward to the end of the own second; its prompt wraps
every second of audio. Vision, speech output and their weights are skipped."""

from typing import Any, ClassVar

from seen_jax.errors import CheckpointError
from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.families import _parts
from seen_jax.models.family import Keys, Raw, completed
from seen_jax.models.framing import WINDOW, Framing
from seen_jax.models.weights import Rule

GROUP = 25  # audio tokens of a second

# As published for chats with audio; a message's parts are joined by line breaks. No system turn is put in.
LINES = (
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}(<audio>./</audio>){% else %}{{ part['text'] }}{% endif %}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
)


class MiniCPMo(_parts.LlamaFamily):
    name = "minicpm_o"
    model_types = ("minicpmo",)
    hub = ("openbmb/MiniCPM-o-2_6",)
    licence = "Apache-2.0"
    framing = Framing(seconds=1200.0, piece=WINDOW, unit=WINDOW, filled="prompt", keys="mel", joined=True)
    verified = _parts.COMPOSED.format("Qwen2")
    published: ClassVar = {
        "audio_config": _parts.whisper_sizes(80, 1024, 24, 16),
        "vocab_size": 151700,
        **_parts.QWEN2_7B,
    }
    unused = (r"^vpm\.", r"^resampler\.", r"^tts\.")
    renames = ()
    qkv_bias = True
    sections: ClassVar = {
        "": _parts.LLAMA
        | Keys(
            "audio_config text_config",
            "version batch_vision_input drop_vision_last_layer image_size patch_size query_num slice_config slice_mode "
            "use_image_id vision_batch_size vision_config init_vision init_tts tts_config listen_speak_type "
            "stream_input",
            {"init_audio": (True,), "audio_pool_step": (2,), "audio_chunk_length": (1.0,), "chunk_input": (True,)},
        ),
        "audio_config": _parts.WHOLE_WHISPER,
        "text_config": _parts.LLAMA,
    }
    tokens = ("<unk>",)
    stops = ("<|im_end|>", "<|endoftext|>")
    embeds_prompt = True
    audio = "(<audio>./</audio>)"
    chat_template = _parts.chatml(LINES, start="", answer="<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>")
    own_template = True  # the processor passes it, whatever the tokenizer's says

    def expand(self, tokens: int) -> str:
        """Every second in its own markers."""
        groups = [min(GROUP, tokens - i) for i in range(0, tokens, GROUP)]
        return "".join("<|audio_start|>" + "<unk>" * n + "<|audio_end|>" for n in groups)

    def complete(self, raw: Raw) -> dict[str, Any]:
        """The language model's keys stand at the top level."""
        if "audio_config" not in raw:
            raise CheckpointError("config.json has no audio_config: only MiniCPM-o 2.6 with its audio is supported.")
        text = completed("qwen2", {key: raw[key] for key in _parts.LLAMA.known if key in raw})
        return {**raw, "audio_config": completed("whisper", raw["audio_config"]), "text_config": text}

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> EncoderConfig:
        return _parts.whisper(
            raw["audio_config"], decoder.width, post=("norm", "mlp", "pool"), hidden=decoder.width, activation="relu",
            positions="table", pad_frames=200, block=50,
        )  # fmt: skip

    def rules(self, config: LalmConfig) -> list[Rule]:
        projector = _parts.mlp_rules("audio_projection_layer", joint="")
        body = _parts.body_rules(config.decoder, "llm.")
        return [*_parts.tower_rules("apm", "layer_norm", table=True), *projector, *body]


FAMILY = MiniCPMo()
