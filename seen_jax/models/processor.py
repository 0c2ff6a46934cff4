"""Requests (audio + text) -> a right-padded Batch: chat prompt, placeholder expansion, log-mel."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float

from seen_jax.errors import AudioError, ConfigError
from seen_jax.models.buckets import NO_ROOM, Room
from seen_jax.models.config import LalmConfig
from seen_jax.models.encoder import Audio
from seen_jax.models.lalm import Batch
from seen_jax.models.sharding import fill, place

TEXT_BUCKET = 32
FINE_BUCKET, FINE_PARTS = 8, 30  # of batches that share a room: there are few of them anyway
KNOWN = 4096  # prompts whose token ids are remembered


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
    """Tokenizer, chat template and feature framing of one model. mesh: devices that batches are split over, or None."""

    tokenizer: Any
    config: LalmConfig
    family: ModuleType
    mesh: Any = None
    _known: dict[Any, tuple[list[int], list[int]]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _lock: Any = dataclasses.field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def prompt_ids(self, request: Request) -> list[int]:
        """Token ids of the whole prompt, each audio already expanded to its audio tokens."""
        return self.prompt(request, [self.tokens_of(wave) for wave in request.audio])[0]

    def tokens_of(self, wave: np.ndarray) -> list[int]:
        """Audio tokens of each encoder row of a clip. AudioError past the family's longest clip."""
        rows = self.family.FRAMING.rows(len(self.checked(wave)))
        return [int(self.config.encoder.token_count(row.frames)) for row in rows]

    def checked(self, wave: np.ndarray) -> np.ndarray:
        """The part of a clip that the family hears, float32; AudioError past its longest clip."""
        return self.family.FRAMING.check(np.asarray(wave, np.float32), self.config.family)

    def prompt(self, request: Request, counts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
        """(token ids, positions of the audio tokens) of a prompt whose clips have `counts` audio tokens per row.

        The same prompt is asked about a clip again and again: without noise, with every noise, under every edit.
        """
        key = getattr(self.tokenizer, "chat_template", None), json.dumps([request.chat(), counts], default=repr)
        with self._lock:  # threads must not share a tokenizer that may set itself up
            if key not in self._known:
                if len(self._known) >= KNOWN:
                    self._known.clear()
                self._known[key] = self._prompt(request, counts)
            return self._known[key]

    def _prompt(self, request: Request, counts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
        if hasattr(self.family, "prompt"):
            return self.family.prompt(self.tokenizer, request.chat(), counts)
        marker = self.family.AUDIO
        own = None if getattr(self.family, "OWN_TEMPLATE", False) else self.tokenizer.chat_template
        template = own or self.family.CHAT_TEMPLATE
        chat = getattr(self.family, "flat", list)(request.chat())
        text = self.tokenizer.apply_chat_template(
            chat, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        pieces = text.split(marker)
        if len(pieces) - 1 != len(counts):
            raise ConfigError(f"the prompt has {len(pieces) - 1} audio places ({marker}) for {len(counts)} clips.")
        expand = getattr(self.family, "expand", lambda tokens: marker * tokens)
        expanded = pieces[0]
        for rows, piece in zip(counts, pieces[1:], strict=True):
            expanded += expand(sum(rows)) + piece
        ids = self.tokenizer(expanded, add_special_tokens=False)["input_ids"]
        return ids, [i for i, token in enumerate(ids) if token == self.config.audio_token]

    def audio(self, waves: Sequence[np.ndarray], room: Room = NO_ROOM) -> tuple[Audio, list[list[int]]]:
        """The encoder rows of some clips, and which of them belong to each clip. On a mesh empty rows may follow."""
        checked = [self.checked(wave) for wave in waves]
        audio, owners = self.family.FRAMING.audio(checked, self.config.encoder, room.frames)
        return place(fill(audio, self.mesh), self.mesh), owners

    def room(
        self, requests: Sequence[Request], samples: Sequence[Sequence[int]] | None = None, text: bool = True
    ) -> Room:
        """What a batch of requests needs. samples: of their clips, where the requests do not hold them. text: False:
        nobody will look at the prompts."""
        framing, config, frames, tokens = self.family.FRAMING, self.config.encoder, 0, 0
        for k, request in enumerate(requests):
            lengths = [len(wave) for wave in request.audio] if samples is None else samples[k]
            rows = [framing.rows(framing.heard(n)) if n else [] for n in lengths]
            frames = max(frames, *(config.padded(row.seen, FINE_PARTS) for own in rows for row in own), 0)
            counts = [[int(config.token_count(row.frames)) for row in own] for own in rows]
            tokens = max(tokens, len(self.prompt(request, counts)[0])) if text else 0
        return Room(frames, tokens)

    def prepare(self, requests: Sequence[Request], text_bucket: int = TEXT_BUCKET, room: Room = NO_ROOM) -> Batch:
        """One batch of requests; text is padded to a multiple of `text_bucket`, audio as the encoder wants it, or
        both to what a room has."""
        return self.prepared(requests, text_bucket, room)[0]

    def prepared(
        self, requests: Sequence[Request], text_bucket: int = TEXT_BUCKET, room: Room = NO_ROOM
    ) -> tuple[Batch, list[list[list[int]]]]:
        """`prepare`, and the encoder rows of every clip of every request."""
        if not requests or not all(request.audio for request in requests):
            raise AudioError("a request without audio: every request needs at least one clip.")
        audio, owners = self.audio([wave for request in requests for wave in request.audio], room)
        counts = np.asarray(self.config.encoder.token_count(np.asarray(audio.frames)))
        per_row = int(self.config.encoder.token_count(audio.features.shape[1]))
        clips = iter(owners)
        rows = [[next(clips) for _ in request.audio] for request in requests]
        prompts = [self.prompt(q, [counts[r].tolist() for r in own]) for q, own in zip(requests, rows, strict=True)]
        longest = max(len(ids) for ids, _ in prompts)
        bucket = FINE_BUCKET if longest <= room.tokens else text_bucket
        length = -(-max(room.tokens, longest) // bucket) * bucket
        tokens = np.full((len(requests), length), self.config.pad_token, np.int32)
        index = np.full((len(requests), length), -1, np.int32)
        for b, ((ids, places), own) in enumerate(zip(prompts, rows, strict=True)):
            tokens[b, : len(ids)] = ids
            sources = [r * per_row + i for clip in own for r in clip for i in range(counts[r])]
            if len(places) != len(sources):
                raise ConfigError(
                    f"request {b}: {len(places)} audio placeholders for {len(sources)} audio tokens; "
                    f"a prompt must not contain {self.family.AUDIO} itself."
                )
            index[b, places] = sources
        lengths = np.asarray([len(ids) for ids, _ in prompts], np.int32)
        placed = place((tokens, lengths, index), self.mesh)
        return Batch(placed[0], placed[1], audio.features, audio.frames, placed[2], audio.seen, audio.keys), rows

    def decode(self, tokens: np.ndarray, lengths: np.ndarray) -> list[str]:
        """Generated ids -> texts."""
        return [
            self.tokenizer.decode(row[:n], skip_special_tokens=True).strip()
            for row, n in zip(np.asarray(tokens), np.asarray(lengths), strict=True)
        ]
