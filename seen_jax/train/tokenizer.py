"""The tokenizer of a trained model: byte-level BPE in which every word of the tasks, with the space before it, is one
token. Answers begin with a space, so that a word in an answer is the same token as in the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seen_jax.errors import ConfigError
from seen_jax.files import to_json

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"),
    *("<|IMAGE|>", "<|VIDEO|>", "<|vision_bos|>", "<|vision_eos|>"),
)
NAMED = {f"{token[2:-2].lower()}_token": token for token in SPECIAL[3:]}

# ChatML without the default system turn of the large models, which would cost a tenth of the prompt here.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(folder: Path, words: Sequence[str], openers: Sequence[str]) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja for a vocabulary of words.

    Any text can be encoded; bytes are the fallback. openers: words that begin a prompt, so no space is before them.
    Raises ConfigError if a word does not become one token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=1,
        show_progress=False,
    )
    forms = [f" {word}" for word in words] + [*openers, "system", "user", "assistant"]
    tokenizer.train_from_iterator(forms, trainer)
    broken = [form for form in forms if len(tokenizer.encode(form).ids) != 1]
    if broken:
        raise ConfigError(f"these words are not one token each: {', '.join(broken[:10])}")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 32768,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "bos_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": NAMED,
        **NAMED,
    }
    (folder / "tokenizer_config.json").write_text(to_json(settings))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
