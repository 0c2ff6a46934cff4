"""From encoder rows and positions to clips and requests: mean activations, values at real positions, and their times.

A family may cut a clip into several rows of its encoder; their values are joined so that the cuts do not show.
Axes: A encoder rows, T positions of a row, P audio tokens of a row, B prompts, S positions of a prompt."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from seen_jax.audio.features import HOP, SAMPLE_RATE
from seen_jax.models.batching import Prepared, Wave, group_requests, run_batches
from seen_jax.models.config import ConformerConfig, EncoderConfig
from seen_jax.models.encoder import within
from seen_jax.models.lalm import Batch, split_records
from seen_jax.models.model import Model, encode, measure
from seen_jax.models.processor import DEFAULT_PROMPT, Request
from seen_jax.models.sites import ENCODER_SITES, PROJECTOR, Taps
from seen_jax.progress import Progress, silent


def pool(
    model: Model,
    waves: Sequence[Wave],
    sites: Sequence[str],
    prompt: str = DEFAULT_PROMPT,
    batch_size: int = 8,
    progress: Progress = silent,
    stage: str = "pooling activations",
) -> dict[str, Float[np.ndarray, "layers clips width"]]:
    """{site: [L, clips, D] float32}: mean activations over the valid frames of each clip (16 kHz mono float32), all
    sites in one pass. prompt: asked about every clip; it matters at decoder sites only."""
    lalm = model.tapped(Taps(tuple(sites)))
    requests = [Request([wave], prompt) for wave in waves]
    groups = group_requests(model, requests, batch_size, text=not lalm.taps.encoder_only)

    def run(prepared: Prepared) -> list[dict[str, np.ndarray]]:
        taps, _ = measured(model, lalm, prepared, {})
        values = {site: of_clips(model, site, np.asarray(taps[site], np.float32), prepared) for site in sites}
        return [{site: x[:, row] for site, x in values.items()} for row in range(len(prepared.rows))]

    clips = run_batches(model, requests, run, groups, progress=progress, stage=stage)
    return {site: np.stack([clip[site] for clip in clips], axis=1) for site in sites}


def measured(model: Model, lalm: Any, prepared: Prepared, edits: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(taps, see) of a forward pass over a group, of the encoder alone if the group has no text."""
    if isinstance(prepared.inputs, Batch):
        return measure(lalm, model.variables, prepared.inputs, edits)
    return split_records(encode(lalm, model.variables, prepared.inputs, edits).records)


def of_clips(model: Model, site: str, values: Float[np.ndarray, "..."], prepared: Prepared) -> Float[np.ndarray, "..."]:
    """Means per encoder row [L, rows, ...] or [rows] -> per clip, by their real positions; decoder sites have these."""
    if site not in ENCODER_SITES:
        return values
    encoder = model.config.encoder
    count = encoder.token_count if site == PROJECTOR else encoder.position_count
    frames = np.asarray(prepared.inputs.frames)
    axis = min(values.ndim - 1, 1)
    clips = []
    for rows in prepared.clips:
        weight = np.asarray(count(frames[rows]), np.float64)
        share = weight / weight.sum() if weight.sum() else np.full(len(rows), 1 / len(rows))
        part = np.take(values, rows, axis)
        clips.append(
            part.take(0, axis) if len(rows) == 1 else np.tensordot(share, part, (0, axis)).astype(values.dtype)
        )
    return np.stack(clips, axis)


def of_requests(
    model: Model, site: str, values: Float[np.ndarray, "..."], prepared: Prepared
) -> Float[np.ndarray, "..."]:
    """Means per encoder row [L, rows] or [rows] -> means per request [L, requests] or [requests], over its clips."""
    if site not in ENCODER_SITES:
        return values
    clips = of_clips(model, site, values, prepared)
    ends = np.cumsum([len(request) for request in prepared.owners])[:-1]
    return np.stack([part.mean(-1) for part in np.split(clips, ends, axis=-1)], axis=-1).astype(clips.dtype)


def real_positions(
    model: Model, site: str, prepared: Prepared, audio_only: bool = True
) -> Bool[np.ndarray, "rows positions"]:
    """Which positions of a site are no padding: [A, T], [A, P] at the projector, [B, S] at decoder sites. audio_only:
    at decoder sites, only those of audio tokens."""
    if site in ENCODER_SITES:
        config, frames = model.config.encoder, np.asarray(prepared.inputs.frames)
        total = prepared.inputs.features.shape[1]
        if site != PROJECTOR:
            return within(config, frames, total)
        return np.arange(config.token_count(total)) < config.token_count(frames)[:, None]
    index = np.asarray(prepared.batch.audio_index)
    return index >= 0 if audio_only else np.arange(index.shape[1]) < np.asarray(prepared.batch.lengths)[:, None]


def per_request(
    model: Model, site: str, values: Any, prepared: Prepared, audio_only: bool = True
) -> list[Float[np.ndarray, "..."]]:
    """Values [L, rows, positions, ...] of a batch -> [L, T, ...] of each request at its `real_positions`; the encoder
    rows of its clips are joined in order."""
    values, real = np.asarray(values), real_positions(model, site, prepared, audio_only)
    rows = [[row for clip in request for row in clip] for request in prepared.owners]
    if site not in ENCODER_SITES:
        rows = [[row] for row in range(len(prepared.rows))]
    return [np.concatenate([values[:, row, real[row]] for row in request], axis=1) for request in rows]


def position_seconds(model: Model, site: str, prepared: Prepared) -> Float[np.ndarray, "rows positions"]:
    """When in its clip each position lies: the middle of the audio that it stands for, in seconds. NaN at text."""
    config, framing = model.config.encoder, model.processor.family.framing
    start = np.zeros(len(prepared.inputs.frames))  # of each encoder row, in samples
    for clip in prepared.clips:
        start[clip] = np.arange(len(clip)) * ((framing.segment or 0) * HOP or framing.piece or 0)
    middles = middle_frames if site in ENCODER_SITES and site != PROJECTOR else token_frames
    frames = middles(config, prepared.inputs.features.shape[1])
    # Mel frame i lies around sample 160 i; a frame of a conformer is two mel frames.
    middle = (2 * frames + 0.5) * HOP if isinstance(config, ConformerConfig) else frames * HOP
    times = (start[:, None] + middle) / SAMPLE_RATE
    if site in ENCODER_SITES:
        return times
    index = np.asarray(prepared.batch.audio_index)
    return np.where(index < 0, np.nan, times.reshape(-1)[np.maximum(index, 0)])


def position_step(config: EncoderConfig | ConformerConfig) -> float:
    """Seconds between neighbouring positions of an encoder. A frame of a conformer is two mel frames."""
    frames = 2 if isinstance(config, ConformerConfig) else int(np.prod(config.strides))
    return frames * HOP / SAMPLE_RATE


def middle_frames(config: EncoderConfig | ConformerConfig, total: int) -> Float[np.ndarray, " positions"]:
    """The frame around which each position of a row of `total` padded frames lies. A convolution of kernel 3, stride 2
    and padding 1 puts its i-th output around its 2i-th input; chunks convolved alone count from their own start."""
    stride = 1 if isinstance(config, ConformerConfig) else int(np.prod(config.strides))
    chunk = config.chunk(total)
    counts = {start: config.position_count(min(chunk, total - start)) for start in range(0, total, chunk)}
    return np.concatenate([start + stride * np.arange(n) for start, n in counts.items()]).astype(float)


def token_frames(config: EncoderConfig | ConformerConfig, total: int) -> Float[np.ndarray, " tokens"]:
    """The frame around which each audio token of a row of `total` padded frames lies."""
    if isinstance(config, ConformerConfig):
        window, query = np.divmod(np.arange(config.token_count(total)), config.queries)
        return window * config.window + (query + 0.5) * config.window / config.queries - 0.5
    frames = middle_frames(config, total)
    for step in config.post:
        size = {"pool": 2, "stack": config.stack}.get(step, 1)
        if step == "fill":
            more = np.arange(1, -len(frames) % config.stack + 1) * (frames[1] - frames[0] if len(frames) > 1 else 2)
            frames = np.concatenate([frames, frames[-1] + more])
        frames = frames[::2] if step == "conv" else frames[: len(frames) // size * size].reshape(-1, size).mean(1)
    return frames
