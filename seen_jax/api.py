"""The small public surface: calibrate, score and generate on top of `load`. Below them is `lalm.apply`."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seen_jax.audio.mix import mix_at_snr
from seen_jax.errors import AudioError, ConfigError
from seen_jax.models.edits import Edit
from seen_jax.models.encoder import Audio
from seen_jax.models.generate import Decoding
from seen_jax.models.generate import generate as generate_batch
from seen_jax.models.lalm import Batch, split_records
from seen_jax.models.model import Group, Model, by_length, encode, forward, roomy_batches
from seen_jax.models.processor import Request
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_SITES, PROJECTOR, Taps, check_site
from seen_jax.prefetch import overlapped
from seen_jax.subspace import Calibration, NoiseBasis, Statistics, Streamed

Wave = Float[np.ndarray, " _"]  # clips of one list differ in length
Progress = Callable[[int, int], None]  # (items done, items in all)

DEFAULT_PROMPT = "transcribe the speech"
NO_PAIRS = "calibration needs at least one clean clip and one noise clip."
KEEPING = 19  # times as long as a save took, the next one waits


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
        raise AudioError(NO_PAIRS)
    check_site(site)
    groups = _mixed(pairs, snr_db)
    total = 3 * len(pairs)
    pooled: dict[str, np.ndarray] = {}
    for g, (name, waves) in enumerate(groups.items()):
        pooled[name] = pool(model, waves, site, prompt, batch_size, _shifted(progress, g * len(pairs), total))
    return Calibration(site, Statistics(**pooled), {**_origin(model, snr_db, _hashes(groups)), **(card or {})})


def calibrate_stream(
    model: Model,
    pairs: Iterable[tuple[Wave, Wave]],
    site: str = ENCODER_MLP_ACT,
    snr_db: float = 0.0,
    prompt: str = DEFAULT_PROMPT,
    batch_size: int = 8,
    card: dict[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
    start: Calibration | None = None,
    keep: Callable[[Calibration], object] | None = None,
    seconds: float = 60.0,
) -> Calibration:
    """`calibrate` on pairs that do not fit in memory: one batch of audio and activations is held at a time.

    The same directions, curves and bases, from second moments (`subspace.Moments`); what needs the activations of
    single clips raises BasisError. Parts made on several machines are joined by `Calibration.merge`.

    pairs: (clean, noise), read once. progress: called with the number of pairs done. start: a streamed calibration of
    pairs that came before these, which counts with them. keep: called with the calibration so far, every `seconds` or
    more, so that no more than a twentieth of the time goes into it; what it saves is the `start` after an interruption.
    """
    check_site(site)
    if batch_size < 1:
        raise ConfigError(f"the batch size must be at least 1, not {batch_size}.")
    origin = {**_origin(model, snr_db, {}), **(card or {})}
    state: Streamed | None = None
    data: dict[str, list[str]] = {"clean": [], "noise": []}
    if start is not None:
        start.check_like(site, origin)
        state = start.source if isinstance(start.source, Streamed) else Streamed.of(start.source)
        data = {name: list(start.card["data"][name]) for name in data}
    rest, due = iter(pairs), time.monotonic() + seconds

    def take() -> tuple[Streamed, dict[str, list[str]]] | None:  # what it read is free when it returns
        if not (batch := list(itertools.islice(rest, batch_size))):
            return None
        groups = _mixed(batch, snr_db, first=len(data["clean"]))
        pooled = {name: pool(model, waves, site, prompt, batch_size) for name, waves in groups.items()}
        return Streamed.of(Statistics(**pooled)), _hashes(groups)

    def so_far() -> Calibration:
        if state is None:
            raise AudioError(NO_PAIRS)
        return Calibration(site, state, {**origin, "data": {name: list(hashes) for name, hashes in data.items()}})

    while taken := take():
        own, hashes = taken
        state = own if state is None else state.merge(own)
        for name in data:
            data[name] += hashes[name]
        if progress:
            progress(len(data["clean"]))
        if keep and (begun := time.monotonic()) >= due:
            keep(so_far())
            due = time.monotonic() + max(seconds, KEEPING * (time.monotonic() - begun))
    return so_far()


def _mixed(pairs: Sequence[tuple[Wave, Wave]], snr_db: float, first: int = 0) -> dict[str, list[Wave]]:
    """The clips of a calibration: clean, noise at its level, and both together; `first` numbers the pairs in errors."""
    groups: dict[str, list[Wave]] = {"clean": [], "noise": [], "noisy": []}
    for i, (c, n) in enumerate(pairs, first):
        try:
            mixed = mix_at_snr(c, n, snr_db).audio
        except AudioError as e:
            raise AudioError(f"calibration pair {i}: {e}") from None
        clean = np.asarray(c, np.float32)
        for name, wave in (("clean", clean), ("noise", (mixed - clean).astype(np.float32)), ("noisy", mixed)):
            groups[name].append(wave)
    return groups


def _hashes(groups: dict[str, list[Wave]]) -> dict[str, list[str]]:
    return {name: [hashlib.sha256(w.tobytes()).hexdigest()[:16] for w in groups[name]] for name in ("clean", "noise")}


def _origin(model: Model, snr_db: float, data: dict[str, list[str]]) -> dict[str, Any]:
    return {"model": model.name, "fingerprint": model.fingerprint, "snr_db": float(snr_db), "data": data}


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
    groups = roomy_batches(model, [Request([waves[i]], prompt) for i in order], batch_size, not lalm.taps.encoder_only)

    def pooled(prepared: tuple[Audio | Batch, list[list[int]]]) -> dict[str, np.ndarray]:
        rows, owners = prepared
        if isinstance(rows, Batch):
            taps = forward(lalm, model.variables, rows, {}).taps
        else:
            taps = split_records(encode(lalm, model.variables, rows, {}).records)[0]
        found = {site: np.asarray(taps[site], np.float32) for site in sites}
        encoder = [site for site in sites if site in ENCODER_SITES]
        return found | {site: per_clip(model, site, found[site], rows.frames, owners) for site in encoder}

    out: dict[str, np.ndarray] = {}
    prepare = partial(_prepared, model, lalm.taps.encoder_only)
    for group, found in zip(groups, overlapped(groups, prepare, pooled, model.concurrent), strict=True):
        for site, values in found.items():
            here = out.setdefault(site, np.zeros((values.shape[0], len(waves), values.shape[-1]), np.float32))
            for row, i in enumerate(group.indices):
                here[:, order[i]] = values[:, row]
        if progress:
            progress(group.indices[-1] + 1, len(waves))
    return out


def _prepared(model: Model, audio_only: bool, group: Group) -> tuple[Audio | Batch, list[list[int]]]:
    """(what the encoder or the whole model is given, the encoder rows of each clip)."""
    if audio_only:
        return model.processor.audio([clip for request in group.requests for clip in request.audio], group.room)
    batch, rows = model.processor.prepared(group.requests, room=group.room)
    return batch, [clip for own in rows for clip in own]


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
    encoder_only = basis.site in ENCODER_SITES
    groups = roomy_batches(model, [Request([audio[i]], prompt) for i in order], batch_size, not encoder_only)

    def measured(prepared: tuple[Audio | Batch, list[list[int]]]) -> list[Score]:
        rows, owners = prepared
        if isinstance(rows, Batch):
            see = forward(model.lalm, model.variables, rows, edits).see[basis.site]
        else:
            see = split_records(encode(model.lalm, model.variables, rows, edits).records)[1][basis.site]
        before, energy = jax.device_get((see.before, see.energy))
        if encoder_only:
            before, energy = (per_clip(model, basis.site, x, rows.frames, owners) for x in (before, energy))
        mean = np.asarray(basis.mean_see(before))
        return [
            Score(float(mean[i]), tuple(before[:, i].tolist()), tuple(energy[:, i].tolist()), basis.layers)
            for i in range(len(mean))
        ]

    scores: dict[int, Score] = {}
    prepare = partial(_prepared, model, encoder_only)
    for group, found in zip(groups, overlapped(groups, prepare, measured, model.concurrent), strict=True):
        scores |= {order[i]: found[row] for row, i in enumerate(group.indices)}
        if progress:
            progress(len(scores), len(audio))
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
    groups = roomy_batches(model, [requests[i] for i in order], batch_size)

    def prepare(group: Group) -> tuple[Batch, list[list[list[int]]], Array]:
        own = [order[i] for i in group.rows]
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), jnp.asarray(own))
        return *model.processor.prepared(group.requests, room=group.room), keys

    def answer(prepared: tuple[Batch, list[list[list[int]]], Array]) -> list[Answer]:
        batch, rows, keys = prepared
        out = jax.device_get(generate_batch(model.lalm, model.variables, batch, edits, decoding, keys))
        texts = model.processor.decode(out.tokens, out.lengths)
        ids = [tuple(row[:n].tolist()) for row, n in zip(out.tokens, out.lengths, strict=True)]
        if basis is None:
            return [Answer(*parts) for parts in zip(texts, ids, strict=True)]
        see = out.see[basis.site]
        before, after = (per_request(model, basis, x, batch.frames, rows) for x in (see.before, see.after))
        return [Answer(*parts) for parts in zip(texts, ids, before, after, strict=True)]

    answers: dict[int, Answer] = {}
    for group, found in zip(groups, overlapped(groups, prepare, answer, model.concurrent), strict=True):
        answers |= {order[i]: found[row] for row, i in enumerate(group.indices)}
        if progress:
            progress(len(answers), len(requests))
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
