"""Prompts of the paper's tasks, per model: data in assets/prompts.yaml."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float

from seen_jax.errors import ConfigError
from seen_jax.models.model import Model
from seen_jax.models.processor import Request

TASKS = ("multiple_choice", "transcription")
FILE = Path(__file__).parent.parent / "assets" / "prompts.yaml"


@functools.lru_cache
def templates() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """{model or family: {task: turns}} as the file has them."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def task_messages(
    names: Sequence[str], task: str, question: str = "", choices: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The chat of a task for the first of `names` that has one, else the default, in the Hugging Face form. ConfigError
    for an unknown task, and for a multiple choice without a question."""
    if task not in TASKS:
        raise ConfigError(f"unknown task '{task}'. Tasks: {', '.join(TASKS)}.")
    if task == "multiple_choice" and not question:
        raise ConfigError("a multiple choice needs a question.")
    known = templates()
    turns = next(known[name][task] for name in (*names, "default") if task in known.get(name, ()))
    options = "".join(f"\n{choice}" for choice in choices)
    values = {"question": question, "choices": list(choices) if choices else "", "options": options}

    def filled(content: str | list[str]) -> Any:
        if isinstance(content, str):
            return content.format(**values)
        text = lambda part: {"type": "text", "text": part.format(**values)}
        return [{"type": "audio"} if part == "audio" else text(part) for part in content]

    return [{"role": turn["role"], "content": filled(turn["content"])} for turn in turns]


def task_request(
    model: Model, task: str, wave: Float[np.ndarray, " _"], question: str = "", choices: Sequence[str] = ()
) -> Request:
    """One clip (16 kHz mono float32) under the model's own prompt for a task."""
    return Request([wave], messages=task_messages((model.name, model.config.family), task, question, choices))
