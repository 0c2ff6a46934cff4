"""The prompts of the paper's tasks: the released scripts' words for its three models, some prompt for every family."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tiny_omni import prompt_ids

from seen_jax.errors import ConfigError
from seen_jax.models.prompts import TASKS, task_messages, task_request, templates
from seen_jax.registry import FAMILIES

minicpm_o, qwen2_5_omni, step_audio_2 = (FAMILIES[name] for name in ("minicpm_o", "qwen2_5_omni", "step_audio_2"))

QUESTION, CHOICES = "Which word appears first", ("A. ghastly", "B. grinning")


def rendered(family, task: str) -> str:
    """The prompt's text with the clip's marker in it."""
    import jinja2

    messages = task_messages((family.name,), task, QUESTION, CHOICES)
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(family.chat_template).render(messages=messages, add_generation_prompt=True)


def test_parity_with_the_released_scripts_of_qwen2_5_omni():
    audio = "<|audio_bos|><|AUDIO|><|audio_eos|>"
    assert rendered(qwen2_5_omni, "multiple_choice") == (
        "<|im_start|>system\nYou are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
        "perceiving auditory and visual inputs, as well as generating text and speech.Answer the multiple-choice "
        "question by outputting ONLY one letter.<|im_end|>\n"
        f"<|im_start|>user\n{audio}Which word appears first['A. ghastly', 'B. grinning']<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert rendered(qwen2_5_omni, "transcription") == (
        "<|im_start|>system\nYou are an automatic speech recognition system.Transcribe the audio exactly as spoken."
        "Do not summarize, do not translate, do not add or remove any words.<|im_end|>\n"
        f"<|im_start|>user\n{audio}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_parity_with_the_released_scripts_of_minicpm_o():
    audio, end = "(<audio>./</audio>)", "<|im_start|>assistant\n<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>"
    assert rendered(minicpm_o, "multiple_choice") == (
        "<|im_start|>user\nYou are a helpful assistant. You can accept video, audio and text input and output voice "
        "and text. <|im_end|>\n<|im_start|>user\nWhich word appears first['A. ghastly', 'B. grinning']Answer the "
        f"multiple-choice question by outputting ONLY one letter.{audio}<|im_end|>\n{end}"
    )
    assert rendered(minicpm_o, "transcription") == (
        "<|im_start|>user\nPlease listen to the audio snippet carefully and transcribe the content.\n"
        f"{audio}<|im_end|>\n{end}"
    )


class Pieces:
    """A tokenizer whose tokens are the pieces that it is given, one by one."""

    def __init__(self):
        self.pieces: list[str] = []

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        self.pieces.append(text)
        return {"input_ids": [len(self.pieces) - 1]}

    encode = __call__

    def convert_tokens_to_ids(self, token: str) -> int:
        return -1


@pytest.mark.parametrize("task", TASKS)
def test_parity_with_the_released_scripts_of_step_audio_2(task):
    tokenizer = Pieces()
    step_audio_2.prompt(tokenizer, task_messages((step_audio_2.name,), task, QUESTION, CHOICES), [[3]], 0)
    text = "".join(tokenizer.pieces)
    system, human = {
        "multiple_choice": (
            "You are an expert in audio analysis, please analyze the audio content and answer the questions "
            "accurately.",
            "Which word appears first['A. ghastly', 'B. grinning'],you only need to give the final answer.",
        ),
        "transcription": (
            "You are a speech recognition system. Please record the content of the speech you hear.Do not add or "
            "remove any words.",
            "",
        ),
    }[task]
    audio = "<audio_start>" + 3 * "<audio_patch>" + "<audio_end>"
    assert text == f"<|BOT|>system\n{system}<|EOT|><|BOT|>human\n{audio}{human}<|EOT|><|BOT|>assistant\n"


@pytest.mark.parametrize("family", [*FAMILIES, "seen-tiny", "unheard of"])
@pytest.mark.parametrize("task", TASKS)
def test_every_family_has_a_prompt_with_one_clip(family, task):
    messages = task_messages((family,), task, QUESTION, CHOICES)
    parts = [m["content"] if isinstance(m["content"], list) else [m["content"]] for m in messages]
    audio = [p for content in parts for p in content if p == {"type": "audio"} or "(<audio>./</audio>)" in str(p)]
    assert len(audio) == 1
    assert ("ghastly" in str(messages)) == (task == "multiple_choice" and family != "seen-tiny")


def test_every_template_belongs_to_a_model():
    assert set(templates()) == {*FAMILIES, "seen-tiny", "default"} & set(templates())
    assert {task for tasks in templates().values() for task in tasks} == set(TASKS)


def test_braces_in_a_question_stay(model):
    assert "{x}" in str(task_messages((), "multiple_choice", "what is {x}?", ["A. {y}"]))


def test_a_request_of_a_task_can_be_prepared(model):
    wave = np.ones(8000, np.float32)
    ids = prompt_ids(model, task_request(model, "transcription", wave))
    text = model.processor.tokenizer.decode(ids)
    assert "automatic speech recognition" in text and ids.count(model.config.audio_token) == 12
    renamed = dataclasses.replace(model, name="seen-tiny")
    assert "transcribe the speech" in model.processor.tokenizer.decode(
        prompt_ids(model, task_request(renamed, "transcription", wave))
    )


def test_tasks_that_make_no_sense_are_refused(model):
    with pytest.raises(ConfigError, match=r"unknown task 'poetry'\. Tasks: multiple_choice, transcription"):
        task_messages((), "poetry")
    with pytest.raises(ConfigError, match="needs a question"):
        task_request(model, "multiple_choice", np.ones(800, np.float32))
