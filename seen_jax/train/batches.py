"""Examples of a dataset -> padded training batches, in an order that depends on seed and step alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from seen_jax.models.encoder import Audio
from seen_jax.models.lalm import Batch
from seen_jax.train.steps import SILENCE, Examples, token_total
from seen_jax.train.tasks import MAX_SAMPLES, TASKS, heard_words

PREFIX, MIDDLE, CLOSING, STOP = (
    "<|im_start|>user\n<|audio_bos|>",
    "<|audio_eos|>",
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>",
)
TOKEN_SECONDS = 0.04


def frame_labels(words: Sequence[int], spans: Sequence[tuple[float, float]], n: int) -> np.ndarray:
    """One label per audio token [n]: the word's number in the middle of its span, 0 (blank) between words."""
    labels = np.zeros(n, np.int32)
    for word, (start, end) in zip(words, spans, strict=True):
        margin = 0.1 * (end - start)
        first = min(round((start + margin) / TOKEN_SECONDS), n - 1)
        labels[first : max(round((end - margin) / TOKEN_SECONDS), first + 1)] = word
    return labels


class Batcher:
    """Holds the token ids of all examples of a dataset and assembles batches from indices.

    per_clip: audio tokens that the model makes of a padded clip, at least those of the longest clip.
    """

    def __init__(self, data: Any, tokenizer: Any, audio_token: int, pad_token: int, per_clip: int):
        self.data, self.pad, self.audio_token, self.per_clip = data, pad_token, audio_token, per_clip
        self.pools = [[i for i, row in enumerate(data.meta) if row["task"] == task] for task in TASKS]
        encode = lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"]  # noqa: E731
        self.prefix = encode([PREFIX])[0]
        self.middle = encode([MIDDLE + m["prompt"] + CLOSING for m in data.meta])
        self.answers = encode([f" {m['answer']}{STOP}" for m in data.meta])
        names = {word: i + 1 for i, word in enumerate(heard_words())}
        self.labels = [[names[word] for word in m["words"]] for m in data.meta]
        words = sorted(names, key=names.__getitem__)
        self.word_tokens = np.asarray([audio_token, *(ids[0] for ids in encode([f" {word}" for word in words]))])
        longest = max(len(m) + len(a) for m, a in zip(self.middle, self.answers, strict=True))
        self.length = -(-(len(self.prefix) + int(token_total(MAX_SAMPLES)) + longest) // 16) * 16

    def indices(self, step: int, size: int, seed: int) -> np.ndarray:
        """Examples of a training step: every task alike."""
        rng = np.random.default_rng([seed, step])
        return np.concatenate([rng.choice(pool, -(-size // len(TASKS)), replace=False) for pool in self.pools])[:size]

    def batch(self, indices: Sequence[int] | np.ndarray, answers: bool = True) -> Examples:
        """answers=False leaves the answers out: prompts to generate from."""
        rows = len(indices)
        tokens = np.full((rows, self.length), self.pad, np.int32)
        audio_index = np.full((rows, self.length), -1, np.int32)
        mask = np.zeros((rows, self.length), bool)
        labels = np.zeros((rows, self.per_clip), np.int32)
        lengths = np.zeros(rows, np.int32)
        waves = np.zeros((rows, MAX_SAMPLES + SILENCE), np.float32)
        waves[:, :MAX_SAMPLES] = self.data.audio(np.asarray(indices))
        samples = np.asarray(self.data.lengths)[np.asarray(indices)].astype(np.int32)
        stand_in = tokens.copy()
        for row, i in enumerate(indices):
            n = int(token_total(samples[row]))
            start = len(self.prefix)
            prompt = [*self.prefix, *[self.audio_token] * n, *self.middle[i]]
            full = prompt + self.answers[i] if answers else prompt
            tokens[row, : len(full)] = full
            lengths[row] = len(full)
            mask[row, len(prompt) - 1 : len(full) - 1] = True
            audio_index[row, start : start + n] = row * self.per_clip + np.arange(n)
            labels[row, :n] = frame_labels(self.labels[i], self.data.meta[i]["spans"], n)
            stand_in[row] = tokens[row]
            stand_in[row, start : start + n] = self.word_tokens[labels[row, :n]]
        return Examples(waves, samples, tokens, lengths, audio_index, mask, labels, stand_in)

    def stream(self, first: int, last: int, size: int, seed: int) -> Iterator[tuple[int, Examples]]:
        """(step, batch) for steps first..last-1; the next batch is assembled while the current one is used."""
        make = lambda step: self.batch(self.indices(step, size, seed))  # noqa: E731
        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(make, step) for step in range(first, min(first + 2, last))]
            for step in range(first, last):
                current = ahead.pop(0).result()
                if step + 2 < last:
                    ahead.append(pool.submit(make, step + 2))
                yield step, current


def prompts(x: Examples, audio: Audio) -> Batch:
    """The model inputs of a training batch, given its log-mel features."""
    return Batch(x.tokens, x.lengths, audio.features, audio.frames, x.audio_index)
