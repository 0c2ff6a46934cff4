"""Examples of a dataset -> padded training batches, in an order that depends on seed and step alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from seen_jax.audio.features import HOP
from seen_jax.models.config import LalmConfig
from seen_jax.prefetch import prefetch
from seen_jax.train.dataset import Dataset
from seen_jax.train.steps import SILENCE, Examples
from seen_jax.train.tasks import MAX_SAMPLES, TASKS, audible_words

PREFIX, MIDDLE = "<|im_start|>user\n<|audio_bos|>", "<|audio_eos|>"
CLOSING, STOP = "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"
TOKEN_SECONDS = 0.04


def frame_labels(words: Sequence[int], spans: Sequence[Sequence[float]], n: int) -> np.ndarray:
    """One label per audio token [n]: the word's number in the middle of its span, 0 (blank) between words."""
    labels = np.zeros(n, np.int32)
    for word, (start, end) in zip(words, spans, strict=True):
        margin = 0.1 * (end - start)
        first = min(round((start + margin) / TOKEN_SECONDS), n - 1)
        labels[first : max(round((end - margin) / TOKEN_SECONDS), first + 1)] = word
    return labels


class Batcher:
    """Holds the token ids of all examples of a dataset and assembles batches from indices."""

    def __init__(self, data: Dataset, tokenizer: Any, config: LalmConfig):
        self.data, self.config = data, config
        self.per_clip = int(config.encoder.token_count(config.encoder.pad_frames))
        self.pools = [[i for i, row in enumerate(data.meta) if row["task"] == task] for task in TASKS]
        encode = lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"]
        self.prefix = encode([PREFIX])[0]
        self.middle = encode([MIDDLE + m["prompt"] + CLOSING for m in data.meta])
        self.answers = encode([f" {m['answer']}{STOP}" for m in data.meta])
        names = {word: i + 1 for i, word in enumerate(audible_words())}
        self.labels = [[names[word] for word in m["words"]] for m in data.meta]
        self.word_tokens = np.asarray([config.audio_token, *(ids[0] for ids in encode([f" {word}" for word in names]))])
        longest = max(len(m) + len(a) for m, a in zip(self.middle, self.answers, strict=True))
        self.length = -(-(len(self.prefix) + self._audio_tokens(MAX_SAMPLES) + longest) // 16) * 16

    def _audio_tokens(self, samples: int) -> int:
        return int(self.config.encoder.token_count(-(-samples // HOP)))

    def indices(self, step: int, size: int, seed: int) -> np.ndarray:
        """Examples of a training step: as many of each task."""
        rng = np.random.default_rng([seed, step])
        return np.concatenate([rng.choice(pool, -(-size // len(TASKS)), replace=False) for pool in self.pools])[:size]

    def batch(self, indices: Sequence[int] | np.ndarray) -> Examples:
        rows = len(indices)
        tokens = np.full((rows, self.length), self.config.pad_token, np.int32)
        audio_index = np.full((rows, self.length), -1, np.int32)
        mask = np.zeros((rows, self.length), bool)
        labels = np.zeros((rows, self.per_clip), np.int32)
        lengths = np.zeros(rows, np.int32)
        waves = np.zeros((rows, MAX_SAMPLES + SILENCE), np.float32)
        waves[:, :MAX_SAMPLES] = self.data.audio(np.asarray(indices))
        samples = np.asarray(self.data.lengths)[np.asarray(indices)].astype(np.int32)
        stand_in = tokens.copy()
        for row, i in enumerate(indices):
            n = self._audio_tokens(int(samples[row]))
            start = len(self.prefix)
            prompt = [*self.prefix, *[self.config.audio_token] * n, *self.middle[i]]
            full = prompt + self.answers[i]
            tokens[row, : len(full)] = full
            lengths[row] = len(full)
            mask[row, len(prompt) - 1 : len(full) - 1] = True
            audio_index[row, start : start + n] = row * self.per_clip + np.arange(n)
            labels[row, :n] = frame_labels(self.labels[i], self.data.meta[i]["spans"], n)
            stand_in[row] = tokens[row]
            stand_in[row, start : start + n] = self.word_tokens[labels[row, :n]]
        return Examples(waves, samples, tokens, lengths, audio_index, mask, labels, stand_in)

    def stream(self, first: int, last: int, size: int, seed: int) -> Iterator[tuple[int, Examples]]:
        """(step, batch) for steps first..last-1; the next batches are assembled while the current one is used."""
        make = lambda step: self.batch(self.indices(step, size, seed))
        steps = range(first, last)
        return zip(steps, prefetch(partial(make, step) for step in steps), strict=True)
