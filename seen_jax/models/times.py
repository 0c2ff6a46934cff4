"""Which positions of a site are real, and when in its clip each of them lies.

Axes: A encoder rows, T positions of a row, P audio tokens of a row, B prompts, S positions of a prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from seen_jax.audio.features import HOP, SAMPLE_RATE
from seen_jax.models.batching import Prepared
from seen_jax.models.config import ConformerConfig, EncoderConfig
from seen_jax.models.encoder import within
from seen_jax.models.lalm import Batch
from seen_jax.models.model import Model
from seen_jax.models.sites import ENCODER_SITES, PROJECTOR


def real_positions(
    model: Model, site: str, prepared: Prepared, audio_only: bool = True
) -> Bool[np.ndarray, "rows positions"]:
    """Which positions of a site are no padding: [A, T], [A, P] at the projector, [B, S] at decoder sites.

    audio_only: at decoder sites, only those of audio tokens.
    """
    if site in ENCODER_SITES:
        config, frames = model.config.encoder, np.asarray(prepared.inputs.frames)
        total = prepared.inputs.features.shape[1]
        if site != PROJECTOR:
            return np.asarray(within(config, frames, total))
        return np.arange(int(config.token_count(total))) < np.asarray(config.token_count(frames))[:, None]
    assert isinstance(prepared.inputs, Batch)
    index = np.asarray(prepared.inputs.audio_index)
    return index >= 0 if audio_only else np.arange(index.shape[1]) < np.asarray(prepared.inputs.lengths)[:, None]


def per_request(
    site: str, values: Any, real: Bool[np.ndarray, "rows positions"], prepared: Prepared
) -> list[np.ndarray]:
    """Values [L, rows, positions, ...] of a batch -> [L, T, ...] of each request: padding is cut, and the encoder rows
    of its clips are joined in order."""
    values = np.asarray(values)
    if site not in ENCODER_SITES:
        return [values[:, row, real[row]] for row in range(len(prepared.rows))]
    rows = [[row for clip in request for row in clip] for request in prepared.owners]
    return [np.concatenate([values[:, row, real[row]] for row in request], axis=1) for request in rows]


def position_seconds(model: Model, site: str, prepared: Prepared) -> Float[np.ndarray, "rows positions"]:
    """When in its clip each position lies: the middle of the audio that it stands for, in seconds. NaN at text."""
    config, framing = model.config.encoder, model.processor.family.framing
    start = np.zeros(len(prepared.inputs.frames))  # of each encoder row, in samples
    for clip in prepared.clips:
        start[clip] = np.arange(len(clip)) * ((framing.segment or 0) * HOP or framing.piece or 0)
    frames_of = middle_frames if site in ENCODER_SITES and site != PROJECTOR else token_frames
    frames = frames_of(config, prepared.inputs.features.shape[1])
    # Mel frame i lies around sample 160 i; a frame of a conformer is two mel frames.
    middle = (2 * frames + 0.5) * HOP if isinstance(config, ConformerConfig) else frames * HOP
    times = (start[:, None] + middle) / SAMPLE_RATE
    if site in ENCODER_SITES:
        return times
    assert isinstance(prepared.inputs, Batch)
    index = np.asarray(prepared.inputs.audio_index)
    return np.where(index < 0, np.nan, times.reshape(-1)[np.maximum(index, 0)])


def middle_frames(config: EncoderConfig | ConformerConfig, total: int) -> Float[np.ndarray, " positions"]:
    """The frame around which each position of a row of `total` padded frames lies.

    A convolution of kernel 3, stride 2 and padding 1 puts its i-th output around its 2i-th input; chunks that are
    convolved alone count from their own first frame.
    """
    stride = 1 if isinstance(config, ConformerConfig) else int(np.prod(config.strides))
    chunk, starts = config.chunk(total), range(0, total, config.chunk(total))
    counts = [int(config.position_count(min(chunk, total - start))) for start in starts]
    return np.concatenate([start + stride * np.arange(n) for start, n in zip(starts, counts, strict=True)]).astype(
        float
    )


def token_frames(config: EncoderConfig | ConformerConfig, total: int) -> Float[np.ndarray, " tokens"]:
    """The frame around which each audio token of a row of `total` padded frames lies."""
    if isinstance(config, ConformerConfig):
        token = np.arange(int(config.token_count(total)))
        window, query = np.divmod(token, config.queries)
        return window * config.window + (query + 0.5) * config.window / config.queries - 0.5
    frames = middle_frames(config, total)
    for step in config.post:
        size = {"pool": 2, "stack": config.stack}.get(step, 1)
        if step == "fill":
            more = np.arange(1, -len(frames) % config.stack + 1) * (frames[1] - frames[0] if len(frames) > 1 else 2)
            frames = np.concatenate([frames, frames[-1] + more])
        frames = frames[::2] if step == "conv" else frames[: len(frames) // size * size].reshape(-1, size).mean(1)
    return frames
