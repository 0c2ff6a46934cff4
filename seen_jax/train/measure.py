"""How well a model does the four tasks: letters by regular expression, transcripts by word error rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from seen_jax.models.generate import Decoding, generate
from seen_jax.models.lalm import Lalm
from seen_jax.train.batches import Batcher, prompts
from seen_jax.train.steps import features
from seen_jax.train.tasks import TASKS, answer_letter


def answers(
    lalm: Lalm,
    variables: Any,
    batcher: Batcher,
    tokenizer: Any,
    indices: Sequence[int],
    size: int = 50,
    transform: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    max_new_tokens: int = 10,
) -> list[str]:
    """Greedy answers for examples of a dataset. transform: (waves, samples) -> waves, e.g. adds noise."""
    texts: list[str] = []
    front = jax.jit(features, static_argnums=0)
    for start in range(0, len(indices), size):
        chosen = list(indices[start : start + size])
        padded = chosen + [chosen[0]] * (size - len(chosen))  # one shape, one compilation
        x = batcher.batch(padded, answers=False)
        if transform is not None:
            x = x._replace(waves=transform(np.asarray(x.waves), np.asarray(x.samples)))
        audio = front(lalm, x.waves, x.samples)
        out = generate(lalm, variables, prompts(x, audio), decoding=Decoding(max_new_tokens))
        tokens, lengths = np.asarray(out.tokens), np.asarray(out.lengths)
        texts += [
            tokenizer.decode(row[:n], skip_special_tokens=True).strip() for row, n in zip(tokens, lengths, strict=True)
        ][: len(chosen)]
    return texts


def task_scores(meta: Sequence[Any], texts: Sequence[str]) -> dict[str, float]:
    """Per task: `<task>` = share of right letters (multiple choice) or exact transcripts; `wer` of the transcripts."""
    import jiwer

    scores: dict[str, float] = {}
    for task in TASKS:
        pairs = [(m, t) for m, t in zip(meta, texts, strict=True) if m["task"] == task]
        if not pairs:
            continue
        if task == "transcription":
            scores[task] = float(np.mean([m["answer"] == t for m, t in pairs]))
            scores["wer"] = jiwer.wer([m["answer"] for m, _ in pairs], [t for _, t in pairs])
        else:
            scores[task] = float(np.mean([m["letter"] == answer_letter(t) for m, t in pairs]))
    return scores
