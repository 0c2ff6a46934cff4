"""The small public surface: calibrate, score and generate on top of `load`. Below them is `lalm.apply`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from seen_jax.audio.mix import mix_at_snr
from seen_jax.errors import AudioError, ConfigError
from seen_jax.models.edits import Edit
from seen_jax.models.generate import Decoding
from seen_jax.models.generate import generate as generate_batch
from seen_jax.models.lalm import split_records
from seen_jax.models.model import Model, by_length, encode, forward, roomy_batches
from seen_jax.models.processor import Request
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_SITES, PROJECTOR, Taps, check_site
from seen_jax.subspace import Calibration, NoiseBasis, Statistics

Wave = Float[np.ndarray, " _"]  # clips of one list differ in length
Progress = Callable[[int, int], None]  # (items done, items in all)

DEFAULT_PROMPT = "transcribe the speech"


@dataclasses.dataclass(frozen=True)
class Score:
    """SEE of one clip. see: mean over the kept layers, in [0, 1]. per_layer: [L] (0 where the rank is 0). energy: [L]
    raw projected energy ||a Q||^2 per frame. kept: the layers that count."""

    see: float
    per_layer: tuple[float, ...]
    energy: tuple[float, ...]
    kept: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A generated text and, where a basis was given, the SEE of its input before and after SEEN (same pass)."""

    text: str
    tokens: tuple[int, ...]
    see: float | None = None
    see_after: float | None = None


def seen_edit(model: Model, basis: NoiseBasis, strength: float = 1.0) -> dict[str, Edit]:
    """SEEN (paper: A <- A - lambda (A Q) Q^T at every frame of every kept layer) as the edits of a forward pass.

    strength 0 measures SEE and changes nothing. Raises BasisError for a basis of another model.
    """
    if not np.isfinite(strength):
        raise ConfigError(f"SEEN's strength must be a finite number, not {strength}.")
    layers, width = model.config.site_shape(check_site(basis.site))
    basis.check(basis.site, layers, width, model.fingerprint)
    q = jnp.asarray(basis.q)
    return {basis.site: Edit(u=q, scale=basis.strengths(strength))}


def calibrate(
    model: Model,
    clean: Sequence[Wave],
    noise: Sequence[Wave],
    site: str = ENCODER_MLP_ACT,
    snr_db: float = 0.0,
    prompt: str = DEFAULT_PROMPT,
    batch_size: int = 8,
    card: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Pool activations of clean, noise-only and noisy clips at `site` (paper: offline calibration, step 1).

    clean, noise: 16 kHz mono float32, aligned pair by pair (the shorter list sets the number). Each noise clip is
    looped or cut to its partner's length and scaled to `snr_db` against it; the mixture of both gives the noisy
    statistics of the "difference" reading. prompt: used at decoder sites only. card: what to remember of the data's
    origin (for example {"noise": "crowd"}).
    """
    pairs = list(zip(clean, noise, strict=False))
    if not pairs:
        raise AudioError("calibration needs at least one clean clip and one noise clip.")
    check_site(site)
    noises, mixtures = [], []
    for i, (c, n) in enumerate(pairs):
        try:
            mixed = mix_at_snr(c, n, snr_db).audio
        except AudioError as e:
            raise AudioError(f"calibration pair {i}: {e}") from None
        mixtures.append(mixed)
        noises.append((mixed - np.asarray(c, np.float32)).astype(np.float32))
    groups = {"clean": [np.asarray(c, np.float32) for c, _ in pairs], "noise": noises, "noisy": mixtures}
    total = 3 * len(pairs)
    pooled: dict[str, np.ndarray] = {}
    for g, (name, waves) in enumerate(groups.items()):
        pooled[name] = pool(model, waves, site, prompt, batch_size, _shifted(progress, g * len(pairs), total))
    data = {name: [hashlib.sha256(w.tobytes()).hexdigest()[:16] for w in groups[name]] for name in ("clean", "noise")}
    origin = {"model": model.name, "fingerprint": model.fingerprint, "snr_db": float(snr_db), "data": data}
    return Calibration(site, Statistics(**pooled), {**origin, **(card or {})})


def _shifted(progress: Progress | None, done_before: int, total: int) -> Progress | None:
    return (lambda done, _: progress(done_before + done, total)) if progress else None


def pool(
    model: Model,
    waves: Sequence[Wave],
    site: str,
    prompt: str = DEFAULT_PROMPT,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Float[np.ndarray, "layers clips width"]:
    """Mean activations over valid frames of each clip at `site`, float32. Padding frames never count."""
    return pool_sites(model, waves, (site,), prompt, batch_size, progress)[site]


def pool_sites(
    model: Model,
    waves: Sequence[Wave],
    sites: Sequence[str],
    prompt: str = DEFAULT_PROMPT,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> dict[str, Float[np.ndarray, "layers clips width"]]:
    """`pool` at several sites, in one pass."""
    lalm = model.tapped(Taps(tuple(sites)))
    order = by_length(waves)
    out: dict[str, np.ndarray] = {}
    requests = [Request([waves[i]], prompt) for i in order]
    for indices, group, room in roomy_batches(model, requests, batch_size, not lalm.taps.encoder_only):
        if lalm.taps.encoder_only:
            audio, owners = model.processor.audio([r.audio[0] for r in group], room)
            frames, taps = audio.frames, split_records(encode(lalm, model.variables, audio, {}).records)[0]
        else:
            batch, rows = model.processor.prepared(group, room=room)
            owners = [clip for own in rows for clip in own]
            frames, taps = batch.frames, forward(lalm, model.variables, batch, {}).taps
        for site in sites:
            values = np.asarray(taps[site], np.float32)
            values = per_clip(model, site, values, frames, owners) if site in ENCODER_SITES else values
            here = out.setdefault(site, np.zeros((values.shape[0], len(waves), values.shape[-1]), np.float32))
            for row, i in enumerate(indices):
                here[:, order[i]] = values[:, row]
        if progress:
            progress(indices[-1] + 1, len(waves))
    return out


def per_clip(model: Model, site: str, values: np.ndarray, frames: Any, owners: Sequence[Sequence[int]]) -> np.ndarray:
    """Means of encoder rows -> means of clips. values: [L, rows, ...] or [rows]; owners: the rows of each clip.

    Rows count by their real positions, so that the cuts of a family do not show.
    """
    encoder = model.config.encoder
    count = encoder.token_count if site == PROJECTOR else encoder.position_count
    axis = min(values.ndim - 1, 1)
    out = []
    for own in owners:
        weight = np.asarray(count(np.asarray(frames)[list(own)]), np.float64)
        share = weight / weight.sum() if weight.sum() else np.full(len(own), 1 / len(own))
        part = np.take(values, list(own), axis)
        out.append(part.take(0, axis) if len(own) == 1 else np.tensordot(share, part, (0, axis)).astype(values.dtype))
    return np.stack(out, axis)


def score(
    model: Model,
    audio: Sequence[Wave],
    basis: NoiseBasis,
    prompt: str = DEFAULT_PROMPT,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> list[Score]:
    """SEE of each clip (paper: online measurement). prompt: used at decoder sites only."""
    edits = seen_edit(model, basis, 0.0)
    order = by_length(audio)
    scores: dict[int, Score] = {}
    requests = [Request([audio[i]], prompt) for i in order]
    for indices, group, room in roomy_batches(model, requests, batch_size, basis.site not in ENCODER_SITES):
        if basis.site in ENCODER_SITES:
            rows, owners = model.processor.audio([r.audio[0] for r in group], room)
            _, see = split_records(encode(model.lalm, model.variables, rows, edits).records)
            clips = lambda x, r=rows, o=owners: per_clip(model, basis.site, np.asarray(x), r.frames, o)  # noqa: E731
            here = jax.tree.map(clips, see[basis.site])
        else:
            batch = model.processor.prepare(group, room=room)
            here = jax.device_get(forward(model.lalm, model.variables, batch, edits).see[basis.site])
        mean = np.asarray(basis.mean_see(here.before))
        for row, i in enumerate(indices):
            layer = tuple(float(x) for x in here.before[:, row])
            energy = tuple(float(x) for x in here.energy[:, row])
            scores[order[i]] = Score(float(mean[row]), layer, energy, basis.layers)
        if progress:
            progress(indices[-1] + 1, len(audio))
    return [scores[i] for i in range(len(audio))]


def generate(
    model: Model,
    audio: Sequence[Wave] | Sequence[Request],
    prompt: str | Sequence[str] = DEFAULT_PROMPT,
    basis: NoiseBasis | None = None,
    strength: float = 1.0,
    decoding: Decoding | None = None,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> list[Answer]:
    """Answer a prompt (or one prompt per clip) about each clip, greedily unless `decoding` samples.

    basis: apply SEEN with `strength` (lambda) and report SEE before and after; strength 0 only measures.
    """
    requests = _requests(audio, prompt)
    edits = seen_edit(model, basis, strength) if basis is not None else {}
    order = sorted(range(len(requests)), key=lambda i: sum(len(w) for w in requests[i].audio))
    answers: dict[int, Answer] = {}
    for indices, group, room in roomy_batches(model, [requests[i] for i in order], batch_size):
        batch, rows = model.processor.prepared(group, room=room)
        own = [order[i] for i in indices] + [order[indices[0]]] * (len(group) - len(indices))
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), jnp.asarray(own))
        out = jax.device_get(generate_batch(model.lalm, model.variables, batch, edits, decoding, keys))
        texts = model.processor.decode(out.tokens, out.lengths)
        see = None
        if basis is not None:
            here = out.see[basis.site]
            see = [per_request(model, basis, x, batch.frames, rows) for x in (here.before, here.after)]
        for row, i in enumerate(indices):
            ids = tuple(int(t) for t in out.tokens[row, : out.lengths[row]])
            before, after = (None, None) if see is None else (see[0][row], see[1][row])
            answers[order[i]] = Answer(texts[row], ids, before, after)
        if progress:
            progress(indices[-1] + 1, len(requests))
    return [answers[i] for i in range(len(requests))]


def per_request(
    model: Model, basis: NoiseBasis, see: Any, frames: Any, rows: Sequence[Sequence[Sequence[int]]]
) -> list[float]:
    """SEE [L, rows or requests] -> SEE per request; one with several clips gets the mean over its clips."""
    mean = np.asarray(basis.mean_see(see))
    if basis.site not in ENCODER_SITES:
        return mean.tolist()
    clips = per_clip(model, basis.site, mean, frames, [clip for request in rows for clip in request])
    ends = np.cumsum([len(request) for request in rows])[:-1]
    return [float(part.mean()) for part in np.split(clips, ends)]


def _requests(audio: Sequence[Any], prompt: str | Sequence[str]) -> list[Request]:
    prompts = [prompt] * len(audio) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(audio):
        raise ConfigError(f"{len(prompts)} prompts for {len(audio)} clips: give one prompt, or one per clip.")
    return [a if isinstance(a, Request) else Request([a], p) for a, p in zip(audio, prompts, strict=True)]
