"""How well a model does the four tasks: letters of multiple choice, transcripts by word error rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from seen_jax.api import generate
from seen_jax.data.letters import answer_letter
from seen_jax.models.generate import Decoding
from seen_jax.models.model import Model
from seen_jax.models.processor import Request
from seen_jax.train.tasks import TASKS

Meta = Sequence[Mapping[str, Any]]  # of examples, see `Dataset.meta`


def answers(model: Model, waves: Sequence[Float[np.ndarray, " _"]], meta: Meta) -> list[str]:
    """The greedy answer to each example's prompt about its clip."""
    requests = [Request([wave], row["prompt"]) for wave, row in zip(waves, meta, strict=True)]
    return [answer.text for answer in generate(model, requests, decoding=Decoding(10), batch_size=50)]


def key(row: Mapping[str, Any], output: str) -> str | None:
    """What counts of an output: the letter that it means, the text of a transcript."""
    return answer_letter(output, row["choices"]) if row["choices"] else output


def task_scores(meta: Meta, outputs: Sequence[str]) -> dict[str, float]:
    """Per task: `<task>` = share of right letters (multiple choice) or exact transcripts; `wer` of the transcripts."""
    import jiwer

    scores: dict[str, float] = {}
    for task in TASKS:
        pairs = [(row, output) for row, output in zip(meta, outputs, strict=True) if row["task"] == task]
        right = [key(row, output) == (row["letter"] or row["answer"]) for row, output in pairs]
        if pairs:
            scores[task] = float(np.mean(right))
        if pairs and task == "transcription":
            scores["wer"] = jiwer.wer([row["answer"] for row, _ in pairs], [output for _, output in pairs])
    return scores
