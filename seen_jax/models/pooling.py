"""Mean activations of clips, and measurements of encoder rows brought to clips and requests.

A family may cut a clip into several rows of its encoder; their values are joined so that the cuts do not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from seen_jax.models.batching import Prepared, Wave, group_requests, run_batches
from seen_jax.models.lalm import Batch, Output, split_records
from seen_jax.models.model import Model, encode, forward
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
    """Mean activations over the valid frames of each clip at several sites, in one pass.

    Args:
        waves: 16 kHz mono float32.
        prompt: asked about every clip; it matters at decoder sites only.

    Returns:
        {site: [L, clips, D] float32}.
    """
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
        out: Output = forward(lalm, model.variables, prepared.inputs, edits)
        return out.taps, out.see
    return split_records(encode(lalm, model.variables, prepared.inputs, edits).records)


def of_clips(model: Model, site: str, values: Float[np.ndarray, "..."], prepared: Prepared) -> Float[np.ndarray, "..."]:
    """Means per encoder row [L, rows, ...] or [rows] -> means per clip; at decoder sites they are that already.

    Rows count by their real positions.
    """
    if site not in ENCODER_SITES:
        return values
    encoder = model.config.encoder
    count = encoder.token_count if site == PROJECTOR else encoder.position_count
    frames = np.asarray(prepared.inputs.frames)
    axis = min(values.ndim - 1, 1)
    clips = []
    for rows in prepared.clips:
        part = np.take(values, rows, axis)
        weight = np.asarray(count(frames[rows]), np.float64)
        share = weight / weight.sum() if weight.sum() else np.full(len(rows), 1 / len(rows))
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
    if len(prepared.owners) == clips.shape[-1]:
        return clips
    ends = np.cumsum([len(request) for request in prepared.owners])[:-1]
    return np.stack([part.mean(-1) for part in np.split(clips, ends, axis=-1)], axis=-1).astype(clips.dtype)
