"""Requests (audio + text) -> a right-padded Batch: chat prompt, placeholder expansion, log-mel."""

import dataclasses
import json
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from seen_jax.errors import AudioError, ConfigError
from seen_jax.models.config import LalmConfig
from seen_jax.models.encoder import Audio
from seen_jax.models.family import Family
from seen_jax.models.lalm import Batch
from seen_jax.models.sharding import fill, place

DEFAULT_PROMPT = "transcribe the speech"
TEXT_MULTIPLE = 32
FINE_MULTIPLE, FINE_PARTS = 8, 30  # of batches that share a bucket: there are few of them anyway
REMEMBERED = 4096  # prompts whose token ids are kept


class Bucket(NamedTuple):
    """The least that a batch is padded to. frames: mel frames of an encoder row; tokens: of a prompt."""

    frames: int = 0
    tokens: int = 0


NO_BUCKET = Bucket()


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """One question about one or more clips, audio before text, as the paper asks.

    audio: the clips, 16 kHz mono float32; in any form (paths, ...) for `generate`, `score` and `run`.
    prompt, system: the question, and the system prompt or None.
    messages: a whole chat instead, in the Hugging Face form; audio parts ({"type": "audio"}) take the clips in order.

    >>> seen_jax.generate(model, seen_jax.Request([clips[0]], "name the music")).see is None
    True
    """

    audio: Sequence[Any]
    prompt: str = ""
    system: str | None = None
    messages: Sequence[dict[str, Any]] | None = None

    def with_audio(self, audio: Sequence[Float[np.ndarray, " _"]]) -> "Request":
        """The same question about other clips."""
        return dataclasses.replace(self, audio=audio)

    def turns(self) -> list[int]:
        """How many clips each message has."""
        contents = [message.get("content") for message in self.chat()]
        parts = [content if isinstance(content, list) else [] for content in contents]
        return [sum(part.get("type") == "audio" for part in content) for content in parts]

    def chat(self) -> list[dict[str, Any]]:
        if self.messages is not None:
            return list(self.messages)
        system = [{"role": "system", "content": [{"type": "text", "text": self.system}]}] if self.system else []
        parts = [{"type": "audio"} for _ in self.audio]
        return [*system, {"role": "user", "content": [*parts, {"type": "text", "text": self.prompt}]}]


@dataclasses.dataclass(frozen=True)
class Processor:
    """Tokenizer, chat template and feature framing of one model. mesh: devices that batches are split over, or None."""

    tokenizer: Any
    config: LalmConfig
    family: Family
    mesh: Any = None
    _prompts: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)
    _lock: Any = dataclasses.field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def checked(self, wave: np.ndarray) -> np.ndarray:
        """The part of a clip that the family hears, float32; AudioError past its longest clip."""
        return self.family.framing.check(np.asarray(wave, np.float32), self.config.family)

    def check_seconds(self, seconds: float) -> None:
        """AudioError for a clip that is too long for the family by its file's header."""
        self.family.framing.check_seconds(seconds, self.config.family)

    def prompt(self, request: Request, counts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
        """(token ids, positions of the audio tokens) of a prompt whose clips have `counts` audio tokens per row. The
        same prompt is asked about a clip again and again: without noise, with every noise, under every edit."""
        key = getattr(self.tokenizer, "chat_template", None), json.dumps([request.chat(), counts], default=repr)
        with self._lock:  # threads must not share a tokenizer that may set itself up
            if key not in self._prompts:
                if len(self._prompts) >= REMEMBERED:
                    self._prompts.clear()
                self._prompts[key] = self.family.prompt(self.tokenizer, request.chat(), counts, self.config.audio_token)
            return self._prompts[key]

    def audio(
        self, waves: Sequence[np.ndarray], bucket: Bucket = NO_BUCKET, prompts: Sequence[int] | None = None
    ) -> tuple[Audio, list[list[int]]]:
        """The encoder rows of some clips, and which of them belong to each clip. On a mesh empty rows may follow.
        prompts: how many of the clips each prompt has; None: one."""
        checked = [self.checked(wave) for wave in waves]
        audio, owners = self.family.framing.audio(checked, self.config.encoder, bucket.frames, prompts)
        return place(fill(audio, self.mesh), self.mesh), owners

    def heard(self, request: Request) -> list[np.ndarray]:
        """The clips of a request as the encoder gets them: those of a message may be one."""
        clips, turns = [self.checked(wave) for wave in request.audio], request.turns()
        if not self.family.framing.joined or sum(turns) != len(clips):
            return clips
        remaining = iter(clips)
        return [np.concatenate([next(remaining) for _ in range(turn)]) for turn in turns if turn]

    def _counts(self, samples: int) -> list[int]:
        """Audio tokens of each encoder row of a clip of so many samples."""
        framing = self.family.framing
        return [int(self.config.encoder.token_count(row.frames)) for row in framing.rows(framing.used_samples(samples))]

    def bucket(
        self, requests: Sequence[Request], samples: Sequence[Sequence[int]] | None = None, text: bool = True
    ) -> Bucket:
        """The sizes that a batch of requests needs, without text if only the encoder is. samples: lengths of the clips
        of each request, where the requests do not hold them."""
        framing, config, frames, tokens = self.family.framing, self.config.encoder, 0, 0
        for k, request in enumerate(requests):
            lengths = [len(wave) for wave in request.audio] if samples is None else samples[k]
            heard = [sum(lengths)] if framing.joined else lengths  # no row is longer than that
            clips = [framing.rows(framing.used_samples(n)) if n else [] for n in heard]
            frames = max(frames, *(config.padded(row.visible_frames, FINE_PARTS) for rows in clips for row in rows), 0)
            counts = [self._counts(n) if n else [] for n in lengths]
            tokens = max(tokens, len(self.prompt(request, counts)[0])) if text else 0
        return Bucket(frames, tokens)

    def prepare(self, requests: Sequence[Request]) -> Batch:
        """One batch of requests, padded as text and encoder want it."""
        return self.prepared(requests)[0]

    def prepared(
        self, requests: Sequence[Request], bucket: Bucket = NO_BUCKET, text: bool = True
    ) -> tuple[Any, list[list[list[int]]]]:
        """A `Batch` of requests, or its `Audio` without text, and the encoder rows of every clip of every request, as
        `heard` gives them. Text is padded to a multiple of 32, audio as the encoder wants it, or both to a bucket's
        sizes. AudioError for a request without audio; ConfigError for a prompt that holds the text that stands for
        audio, and for clips of one message that the original cannot place."""
        if not requests or not all(request.audio for request in requests):
            raise AudioError("a request without audio: every request needs at least one clip.")
        heard = [self.heard(request) for request in requests]
        audio, owners = self.audio([wave for clips in heard for wave in clips], bucket, [len(clips) for clips in heard])
        remaining = iter(owners)
        rows = [[next(remaining) for _ in clips] for clips in heard]
        if not text:
            return audio, rows
        counts = np.asarray(self.config.encoder.token_count(np.asarray(audio.frames)))
        per_row = int(self.config.encoder.token_count(audio.features.shape[1]))
        prompts = [self.prompt(request, [self._counts(len(x)) for x in request.audio]) for request in requests]
        longest = max(len(ids) for ids, _ in prompts)
        multiple = FINE_MULTIPLE if longest <= bucket.tokens else TEXT_MULTIPLE
        length = -(-max(bucket.tokens, longest) // multiple) * multiple
        tokens = np.full((len(requests), length), self.config.pad_token, np.int32)
        index = np.full((len(requests), length), -1, np.int32)
        for b, ((ids, places), clips) in enumerate(zip(prompts, rows, strict=True)):
            tokens[b, : len(ids)] = ids
            sources = [r * per_row + i for clip in clips for r in clip for i in range(counts[r])]
            if self.family.framing.joined and len(requests[b].audio) > 1:
                sources = sources[: len(places)]  # what is left over is not read
                if len(sources) < len(places):
                    problem = f"make {len(sources)} audio tokens together, and have {len(places)} places in its prompt"
                    raise ConfigError(
                        f"request {b}: its clips {problem}, on which the original fails; give each its own message."
                    )
            if len(places) != len(sources):
                problem = f"{len(places)} audio placeholders for {len(sources)} audio tokens"
                raise ConfigError(f"request {b}: {problem}; a prompt must not contain {self.family.audio} itself.")
            index[b, places] = sources
        lengths = np.asarray([len(ids) for ids, _ in prompts], np.int32)
        tokens, lengths, index = place((tokens, lengths, index), self.mesh)
        return Batch(tokens, lengths, audio_index=index, **vars(audio)), rows

    def decode(self, tokens: np.ndarray, lengths: np.ndarray) -> list[str]:
        """Generated ids -> texts."""
        rows = zip(np.asarray(tokens), np.asarray(lengths), strict=True)
        return [self.tokenizer.decode(row[:n], skip_special_tokens=True).strip() for row, n in rows]
