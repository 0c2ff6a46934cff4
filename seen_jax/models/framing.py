"""How a model family cuts audio into rows of its encoder, before any weight is involved."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from seen_jax.audio.features import HOP, HTK_FFT, SAMPLE_RATE, log_mel, pad_waves
from seen_jax.audio.features import WINDOW as STFT_WINDOW
from seen_jax.errors import AudioError
from seen_jax.models.config import ConformerConfig, EncoderConfig
from seen_jax.models.encoder import Audio

WINDOW = 30 * SAMPLE_RATE  # Whisper's window: most encoders read 30 s at a time


class Row(NamedTuple):
    """One row of the encoder. piece: which piece of the clip; first: its first mel frame there; seen: frames from there
    on that the convolutions see; frames: those of them that are real."""

    piece: int
    first: int
    seen: int
    frames: int


@dataclasses.dataclass(frozen=True)
class Framing:
    """The front end of a family.

    seconds: the longest clip. cut: the rest of a longer one is left out, with a warning (the originals do it silently);
    otherwise it is an error. piece: samples whose log-mel is made at a time (the loudest bin sets the floor, 8 decades
    below); None: the whole clip. unit: a piece is filled up with zeros to a multiple of so many samples, exactly.
    segment: mel frames per encoder row; None: the whole piece. filled: the convolutions also see what fills a row up:
    "silence", or "zeros" (feature value 0 behind the last frame) in a clip of several rows, or "chunk": in a row of
    several chunks, up to the end of the last one. keys: attention sees the
    positions of real frames, all that the convolutions see, or (a slip of MiniCPM-o) as many as there are mel frames.
    reflected: what follows a piece is its own reflection, not zeros, and an incomplete hop at its end is no frame: what
    the originals do to a clip alone that they pad to the longest. least: samples to which a shorter clip is filled up
    with zeros. tail: zero samples behind every piece. behind: frames at the end of a piece that the convolutions alone
    see.
    """

    seconds: float
    cut: bool = False
    piece: int | None = None
    unit: int | None = None
    segment: int | None = None
    filled: Literal["silence", "zeros", "chunk"] | None = None
    keys: Literal["frames", "seen", "mel"] = "frames"
    reflected: bool = False
    least: int = 0
    tail: int = 0
    behind: int = 0

    def check(self, wave: np.ndarray, family: str) -> np.ndarray:
        """The wave, or its beginning. AudioError for an empty clip, and past the longest one unless it is cut."""
        if wave.ndim != 1 or not len(wave):
            raise AudioError(f"a clip must be one-dimensional and not empty, not of shape {wave.shape}.")
        wave = np.pad(wave, (0, max(0, self.least - len(wave))))
        if not self._frames(len(wave)):
            raise AudioError(f"a clip of {len(wave)} samples is too short: {family} needs at least {HOP}.")
        limit = self.heard(len(wave))
        if len(wave) <= limit:
            return wave
        lasts = f"the clip lasts {len(wave) / SAMPLE_RATE:.1f} s; {family}"
        if not self.cut:
            raise AudioError(f"{lasts} takes at most {self.seconds:.0f} s: cut it.")
        warnings.warn(f"{lasts} hears the first {self.seconds:.0f} s.", stacklevel=3)
        return wave[:limit]

    def heard(self, samples: int) -> int:
        """How long a clip of so many samples is for the model."""
        return min(max(samples, self.least), round(self.seconds * SAMPLE_RATE))

    def rows(self, samples: int) -> list[Row]:
        """The encoder rows of a clip."""
        rows = []
        piece = self.piece or samples
        for number, start in enumerate(range(0, samples, piece)):
            n = min(piece, samples - start)
            frames = self._frames(n)
            segment = self.segment or frames
            for first in range(0, frames, segment):
                seen = min(segment, frames - first)
                rows.append(Row(number, first, seen, min(seen, frames - self.behind - first)))
        return rows

    def _frames(self, samples: int) -> int:
        """Mel frames of a piece."""
        if self.reflected:
            return self._filled(samples) // HOP
        return (samples + self.tail) // HOP if self.tail else -(-samples // HOP)

    def _filled(self, samples: int) -> int:
        return samples if self.unit is None else -(-samples // self.unit) * self.unit

    def audio(
        self, waves: Sequence[Float[np.ndarray, " _"]], config: EncoderConfig | ConformerConfig, least: int = 0
    ) -> tuple[Audio, list[list[int]]]:
        """The encoder rows of some clips (checked before), and the numbers of the rows of each clip.

        least: mel frames to which the rows are padded if they have no more; a size that `config.padded` gives.
        """
        pieces: list[np.ndarray] = []
        plan: list[Row] = []
        owners: list[list[int]] = []
        for wave in waves:
            rows = self.rows(len(wave))
            owners.append(list(range(len(plan), len(plan) + len(rows))))
            plan += [row._replace(piece=row.piece + len(pieces)) for row in rows]
            size = self.piece or len(wave)
            pieces += [np.pad(wave[i : i + size], (0, self.tail)) for i in range(0, len(wave), size)]
        mels = self._log_mels(pieces, config.n_mels, least * HOP if self.piece is None else 0)
        total = _room(config, max(row.seen for row in plan), least)
        frames = np.array([row.frames for row in plan])
        seen = np.array([row.seen for row in plan])
        features = np.zeros((len(plan), total, config.n_mels), np.float32)
        for out, row in zip(features, plan, strict=True):
            part = mels[row.piece][row.first :][: total if self.filled == "silence" else row.seen]
            out[: len(part)] = part
        if self.filled == "silence":
            seen = np.full_like(seen, total)
        elif self.filled == "zeros":
            seen = np.array([seen[own].max() for own in owners for _ in own])
        elif self.filled == "chunk":
            chunk = config.chunk(total)
            seen = np.where(seen > chunk, -(-seen // chunk) * chunk, seen)
        keys = {"seen": config.position_count(seen), "mel": np.minimum(frames, config.position_count(seen))}.get(
            self.keys
        )
        ints = lambda x: None if x is None else np.asarray(x, np.int32)  # noqa: E731
        return Audio(features, ints(frames), ints(seen) if self.filled or self.behind else None, ints(keys)), owners

    def _log_mels(self, pieces: Sequence[np.ndarray], n_mels: int, least: int) -> list[Float[np.ndarray, "_ mels"]]:
        """One log-mel per piece, on the host, where a cut compiles nothing. Equal padded lengths are one batch, with
        room for a piece of `least` samples."""
        if self.reflected:
            whole = [np.pad(piece, (0, self._filled(len(piece)) - len(piece))) for piece in pieces]
            padded, _ = pad_waves([np.pad(p, (0, STFT_WINDOW // 2), mode="reflect") for p in whole], least=least)
            real = np.asarray([len(piece) // HOP for piece in whole], np.int32)
            return list(np.asarray(log_mel(padded, n_mels, real)))
        if self.unit is None:
            size = 2 * SAMPLE_RATE if least else SAMPLE_RATE  # coarse: rooms of a run often share a program then
            return list(np.asarray(log_mel(pad_waves(pieces, size, least=least)[0], n_mels)))
        length = [self._filled(len(piece)) for piece in pieces]
        found: dict[int, np.ndarray] = {}
        for size in sorted(set(length)):
            own = [i for i, n in enumerate(length) if n == size]
            padded = np.stack([np.pad(pieces[i], (0, size - len(pieces[i]))) for i in own])
            found |= dict(zip(own, np.asarray(log_mel(padded.astype(np.float32), n_mels)), strict=True))
        return [found[i] for i in range(len(pieces))]


def _room(config: EncoderConfig | ConformerConfig, frames: int, least: int) -> int:
    return least if frames <= least else config.padded(frames)


@dataclasses.dataclass(frozen=True)
class PairedFraming(Framing):
    """The front end of Granite Speech: a clip is one row, and its frames are pairs of mel frames.

    A clip is followed by its own reflection, so n samples make n // 160 + 1 mel frames. An odd last one is dropped, but
    may hold the loudest bin.
    """

    def check(self, wave: np.ndarray, family: str) -> np.ndarray:
        """The wave. AudioError past the longest clip, and where it is too short to be reflected."""
        if wave.ndim == 1 and 0 < len(wave) <= HTK_FFT // 2:
            raise AudioError(f"a clip of {len(wave)} samples is too short: {family} needs at least {HTK_FFT // 2 + 1}.")
        return super().check(wave, family)

    def _frames(self, samples: int) -> int:
        return (samples // HOP + 1) // 2

    def audio(
        self, waves: Sequence[Float[np.ndarray, " _"]], config: EncoderConfig | ConformerConfig, least: int = 0
    ) -> tuple[Audio, list[list[int]]]:
        """One row per clip."""
        reflected = [np.pad(wave, (0, STFT_WINDOW // 2), mode="reflect") for wave in waves]
        padded, _ = pad_waves(reflected, least=2 * least * HOP)
        real = np.asarray([len(wave) // HOP + 1 for wave in waves], np.int32)
        mels = np.asarray(log_mel(padded, config.n_mels // 2, real, htk=True))
        frames = [self._frames(len(wave)) for wave in waves]
        total = _room(config, max(frames), least)
        features = np.zeros((len(waves), total, config.n_mels), np.float32)
        for out, mel, n in zip(features, mels, frames, strict=True):
            out[:n] = mel[: 2 * n].reshape(n, -1)
        return Audio(features, np.asarray(frames, np.int32)), [[i] for i in range(len(waves))]
