"""How a model family cuts audio into rows of its encoder, before any weight is involved."""

import dataclasses
import itertools
import math
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
_reflected = lambda piece: np.pad(piece, (0, STFT_WINDOW // 2), mode="reflect")


class Row(NamedTuple):
    """One row of the encoder."""

    piece: int  # number of its piece of the clip
    first: int  # its first mel frame in the piece
    visible_frames: int  # how many frames the convolutions see
    frames: int  # how many of them are real


@dataclasses.dataclass(frozen=True)
class Framing:
    """The front end of a family."""

    seconds: float  # the longest clip
    cut: bool = False  # a longer one is cut with a warning (the originals do so silently); otherwise it is an error
    piece: int | None = None  # samples per log-mel, whose loudest bin sets the floor 8 decades below; None: the clip
    unit: int | None = None  # a piece is padded with zeros to a multiple of this many samples
    segment: int | None = None  # mel frames per encoder row; None: the whole piece
    # What the convolutions also see behind the frames of a row: "silence" up to its end; "zeros" (feature value 0) as
    # far as the longest row of the clip, or of the "prompt"; as far as its last "chunk" ends; "chunks", the same, but
    # only in a row of several.
    filled: Literal["silence", "zeros", "prompt", "chunk", "chunks"] | None = None
    # Positions that attention sees: those of real frames, of all frames "seen" by the convolutions, or by a slip of the
    # originals as many as there are "mel" frames (MiniCPM-o), or every second frame, counted from the end of those that
    # the convolutions see ("stepped", Step-Audio-2).
    keys: Literal["frames", "seen", "mel", "stepped"] = "frames"
    joined: bool = False  # the clips of a message are one, though each has its own place in the prompt (MiniCPM-o)
    reflected: bool = False  # its own reflection follows a piece, not zeros; an incomplete hop at its end is no frame
    least: int = 0  # samples to which a shorter clip is padded with zeros
    tail: int = 0  # zero samples behind every piece
    behind: int = 0  # last frames of a piece that only the convolutions see

    def check(self, wave: np.ndarray, family: str) -> np.ndarray:
        """The part of a clip that the model gets. AudioError if it is empty, too short, or too long and not cut."""
        if wave.ndim != 1 or not len(wave):
            raise AudioError(f"a clip must be one-dimensional and not empty, not of shape {wave.shape}.")
        wave = np.pad(wave, (0, max(0, self.least - len(wave))))
        if not self._frames(len(wave)):
            raise AudioError(f"a clip of {len(wave)} samples is too short: {family} needs at least {HOP}.")
        limit = self.used_samples(len(wave))
        if len(wave) <= limit:
            return wave
        seconds = len(wave) / SAMPLE_RATE
        self.check_seconds(seconds, family, 0.0)
        warnings.warn(f"the clip lasts {seconds:.1f} s; {family} hears the first {self.seconds:.0f} s.", stacklevel=3)
        return wave[:limit]

    @property
    def longest(self) -> float:
        """Seconds of the longest clip that is no error."""
        return math.inf if self.cut else self.seconds

    def check_seconds(self, seconds: float, family: str, slack: float = 1.0) -> None:
        """AudioError for a clip that is too long and not cut, so that nobody reads it. slack: seconds by which a file's
        header may be off."""
        if seconds > self.longest + slack:
            raise AudioError(f"the clip lasts {seconds:.1f} s; {family} takes at most {self.seconds:.0f} s: cut it.")

    def used_samples(self, samples: int) -> int:
        """Samples that the model gets of a clip of this length."""
        return min(max(samples, self.least), round(self.seconds * SAMPLE_RATE))

    def rows(self, samples: int) -> list[Row]:
        """The encoder rows of a clip."""
        rows = []
        piece = self.piece or samples
        for number, start in enumerate(range(0, samples, piece)):
            frames = self._frames(min(piece, samples - start))
            segment = self.segment or frames
            for first in range(0, frames, segment):
                visible = min(segment, frames - first)
                rows.append(Row(number, first, visible, min(visible, frames - self.behind - first)))
        return rows

    def _frames(self, samples: int) -> int:
        """Mel frames of a piece."""
        if self.reflected:
            return self._filled(samples) // HOP
        return (samples + self.tail) // HOP if self.tail else -(-samples // HOP)

    def _filled(self, samples: int) -> int:
        return samples if self.unit is None else -(-samples // self.unit) * self.unit

    def audio(
        self,
        waves: Sequence[Float[np.ndarray, " _"]],
        config: EncoderConfig | ConformerConfig,
        min_frames: int = 0,
        prompts: Sequence[int] | None = None,
    ) -> tuple[Audio, list[list[int]]]:
        """The encoder rows of some clips, as `check` returns them, and the numbers of the rows of each clip.
        min_frames: mel frames to which shorter rows are padded; a size that `config.padded` gives. prompts: how many
        of the clips each prompt has; None: one."""
        pieces: list[np.ndarray] = []
        rows: list[Row] = []
        owners: list[list[int]] = []
        for wave in waves:
            clip = self.rows(len(wave))
            owners.append(list(range(len(rows), len(rows) + len(clip))))
            rows += [row._replace(piece=row.piece + len(pieces)) for row in clip]
            for start in range(0, len(wave), self.piece or len(wave)):
                piece = wave[start:][: self.piece]
                pieces.append(np.pad(piece, (0, self._filled(len(piece)) + self.tail - len(piece))))
        mels = self._log_mels(pieces, config.n_mels, min_frames * HOP if self.piece is None else 0)
        frames, visible = (np.array([getattr(row, name) for row in rows]) for name in ("frames", "visible_frames"))
        longest = int(visible.max())
        total = min_frames if longest <= min_frames else config.padded(longest)
        features = np.zeros((len(rows), total, config.n_mels), np.float32)
        for out, row in zip(features, rows, strict=True):
            part = mels[row.piece][row.first :][: total if self.filled == "silence" else row.visible_frames]
            out[: len(part)] = part
        if self.filled == "silence":
            visible = np.full_like(visible, total)
        elif self.filled == "zeros":
            visible = np.array([visible[clip].max() for clip in owners for _ in clip])
        elif self.filled == "prompt":
            ends = np.cumsum([0, *(prompts or [1] * len(owners))])
            parts = [[r for clip in owners[a:b] for r in clip] for a, b in itertools.pairwise(ends.tolist())]
            visible = np.array([visible[part].max() for part in parts for _ in part])
        elif self.filled in ("chunk", "chunks"):
            chunk = config.chunk(total)
            whole = -(-visible // chunk) * chunk
            visible = whole if self.filled == "chunk" else np.where(visible > chunk, whole, visible)
        positions = config.position_count(visible)
        stepped = (frames + visible % 2) // 2
        attended = {"seen": positions, "mel": np.minimum(frames, positions), "stepped": stepped}.get(self.keys)
        ints = lambda x: None if x is None else np.asarray(x, np.int32)
        padding_counts = self.filled or self.behind
        return Audio(features, ints(frames), ints(visible) if padding_counts else None, ints(attended)), owners

    def _log_mels(self, pieces: Sequence[np.ndarray], n_mels: int, min_samples: int) -> list[np.ndarray]:
        """One log-mel per piece, on the host, where cutting compiles nothing; pieces of one length are one batch."""
        if self.reflected:
            padded = pad_waves([_reflected(piece) for piece in pieces], least=min_samples)
            real = np.asarray([len(piece) // HOP for piece in pieces], np.int32)
            return list(np.asarray(log_mel(padded, n_mels, real)))
        if self.unit is None:
            size = 2 * SAMPLE_RATE if min_samples else SAMPLE_RATE  # coarse: the buckets of a run often share a program
            return list(np.asarray(log_mel(pad_waves(pieces, size, least=min_samples), n_mels)))
        mels: dict[int, np.ndarray] = {}
        for length in sorted({len(piece) for piece in pieces}):
            indices = [i for i, piece in enumerate(pieces) if len(piece) == length]
            batch = np.stack([pieces[i] for i in indices], dtype=np.float32)
            mels |= zip(indices, np.asarray(log_mel(batch, n_mels)), strict=True)
        return [mels[i] for i in range(len(pieces))]


@dataclasses.dataclass(frozen=True)
class PairedFraming(Framing):
    """The front end of Granite Speech: a clip is one row of pairs of mel frames, followed by its own reflection, so n
    samples make n // 160 + 1 mel frames. An odd last one is dropped, but its loudest bin may set the floor."""

    def check(self, wave: np.ndarray, family: str) -> np.ndarray:
        """The wave. AudioError if it is too long, or too short to be reflected."""
        if wave.ndim == 1 and 0 < len(wave) <= HTK_FFT // 2:
            raise AudioError(f"a clip of {len(wave)} samples is too short: {family} needs at least {HTK_FFT // 2 + 1}.")
        return super().check(wave, family)

    def _frames(self, samples: int) -> int:
        return (samples // HOP + 1) // 2

    def _log_mels(self, pieces: Sequence[np.ndarray], n_mels: int, min_samples: int) -> list[np.ndarray]:
        padded = pad_waves([_reflected(piece) for piece in pieces], least=2 * min_samples)
        real = np.asarray([len(piece) // HOP + 1 for piece in pieces], np.int32)
        mels = np.asarray(log_mel(padded, n_mels // 2, real, htk=True))
        counts = [self._frames(len(piece)) for piece in pieces]
        return [mel[: 2 * n].reshape(n, n_mels) for mel, n in zip(mels, counts, strict=True)]
