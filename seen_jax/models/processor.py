"""Requests (audio + text) -> a right-padded Batch: chat prompt, placeholder expansion, log-mel."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from seen_jax.audio.features import SAMPLE_RATE, frame_count, log_mel, pad_waves
from seen_jax.errors import AudioError, ConfigError
from seen_jax.models.config import LalmConfig
from seen_jax.models.encoder import token_count
from seen_jax.models.lalm import Batch

TEXT_BUCKET = 32


@dataclasses.dataclass(frozen=True)
class Request:
    """One question about one or more clips (16 kHz mono float32), audio before text, as the paper asks.

    messages: a whole chat instead of `prompt`, in the Hugging Face form; audio parts ({"type": "audio"}) take the
    clips in order.
    """

    audio: Sequence[Float[np.ndarray, " _"]]
    prompt: str = ""
    system: str | None = None
    messages: Sequence[dict[str, Any]] | None = None

    def chat(self) -> list[dict[str, Any]]:
        if self.messages is not None:
            return list(self.messages)
        system = [{"role": "system", "content": [{"type": "text", "text": self.system}]}] if self.system else []
        parts = [{"type": "audio"} for _ in self.audio]
        return [*system, {"role": "user", "content": [*parts, {"type": "text", "text": self.prompt}]}]


@dataclasses.dataclass(frozen=True)
class Processor:
    """Tokenizer, chat template and feature framing of one model."""

    tokenizer: Any
    config: LalmConfig
    family: ModuleType

    def prompt_ids(self, request: Request) -> list[int]:
        """Token ids of the whole prompt, each audio already expanded to its audio tokens."""
        template = self.tokenizer.chat_template or self.family.CHAT_TEMPLATE
        text = self.tokenizer.apply_chat_template(
            request.chat(), chat_template=template, tokenize=False, add_generation_prompt=True
        )
        pieces = text.split(self.family.AUDIO)
        if len(pieces) - 1 != len(request.audio):
            raise ConfigError(
                f"the prompt has {len(pieces) - 1} audio places ({self.family.AUDIO}) for {len(request.audio)} clips."
            )
        expanded = pieces[0]
        for wave, piece in zip(request.audio, pieces[1:], strict=True):
            expanded += self.family.AUDIO * int(token_count(self.frames(wave))) + piece
        return self.tokenizer(expanded, add_special_tokens=False)["input_ids"]

    def frames(self, wave: np.ndarray) -> int:
        """Mel frames of a clip; AudioError past the family's longest clip."""
        if len(wave) > self.config.max_audio_seconds * SAMPLE_RATE:
            raise AudioError(
                f"the clip lasts {len(wave) / SAMPLE_RATE:.1f} s; {self.config.family} takes at most "
                f"{self.config.max_audio_seconds:.0f} s: cut it."
            )
        return frame_count(len(wave))

    def prepare(self, requests: Sequence[Request], text_bucket: int = TEXT_BUCKET) -> Batch:
        """One batch of requests; text is padded to a multiple of `text_bucket`, audio to whole encoder chunks."""
        waves = [np.asarray(wave, np.float32) for request in requests for wave in request.audio]
        if not waves or not all(request.audio for request in requests):
            raise AudioError("a request without audio: every request needs at least one clip.")
        ids = [self.prompt_ids(request) for request in requests]
        length = -(-max(map(len, ids)) // text_bucket) * text_bucket
        tokens = np.full((len(ids), length), self.config.pad_token, np.int32)
        for row, values in zip(tokens, ids, strict=True):
            row[: len(values)] = values
        features, frames = self.features(waves)
        return Batch(
            tokens=jnp.asarray(tokens),
            lengths=jnp.asarray([len(values) for values in ids], jnp.int32),
            features=features,
            frames=jnp.asarray(frames),
            audio_index=jnp.asarray(self._audio_index(ids, requests, frames, features.shape[1], length)),
        )

    def features(self, waves: Sequence[np.ndarray]) -> tuple[Any, np.ndarray]:
        """Log-mel [A, F, M] padded to whole chunks, and the real frames per audio [A]."""
        chunk = self.config.encoder.chunk_frames
        padded, _ = pad_waves(waves)
        frames = np.asarray([self.frames(wave) for wave in waves], np.int32)
        total = -(-int(frames.max()) // chunk) * chunk
        mel = log_mel(jnp.asarray(padded), self.config.encoder.n_mels)
        extra = max(total - mel.shape[1], 0)
        return jnp.pad(mel, ((0, 0), (0, extra), (0, 0)))[:, :total], frames

    def _audio_index(self, ids, requests, frames, padded_frames: int, length: int) -> np.ndarray:
        per_audio = int(token_count(padded_frames))
        index = np.full((len(ids), length), -1, np.int32)
        audio = 0
        for row, (values, request) in enumerate(zip(ids, requests, strict=True)):
            rows: list[int] = []
            for _ in request.audio:
                rows += range(audio * per_audio, audio * per_audio + int(token_count(frames[audio])))
                audio += 1
            places = [i for i, token in enumerate(values) if token == self.config.audio_token]
            if len(places) != len(rows):
                raise ConfigError(
                    f"request {row}: {len(places)} audio placeholders for {len(rows)} audio tokens; "
                    f"a prompt must not contain {self.family.AUDIO} itself."
                )
            index[row, places] = rows
        return index

    def decode(self, tokens: np.ndarray, lengths: np.ndarray) -> list[str]:
        """Generated ids -> texts."""
        return [
            self.tokenizer.decode(row[:n], skip_special_tokens=True).strip()
            for row, n in zip(np.asarray(tokens), np.asarray(lengths), strict=True)
        ]
