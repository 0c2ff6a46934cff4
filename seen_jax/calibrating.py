"""Calibration of a model (paper: offline, step 1): pooled activations of clips, in memory or streamed."""

import itertools
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Unpack

from seen_jax.audio import as_wave, mix_at_snr
from seen_jax.errors import AudioError, ConfigError
from seen_jax.files import digest
from seen_jax.models.batching import Wave
from seen_jax.models.model import Model
from seen_jax.models.pooling import pool
from seen_jax.models.sites import ENCODER_MLP_ACT
from seen_jax.options import CalibrateOptions, StreamOptions, chosen_options, listed
from seen_jax.progress import Progress, shifted, silent
from seen_jax.subspace import Calibration, Statistics, Streamed

NO_PAIRS = "calibration needs at least one clean clip and one noise clip."
SAVE_SHARE = 19  # the next save waits this many times as long as the last one took


def calibrate(
    model: Model,
    clean: Any,
    noise: Any,
    site: str = ENCODER_MLP_ACT,
    snr_db: float = 0.0,
    **options: Unpack[CalibrateOptions],
) -> Calibration:
    """Pool activations of clean, noise-only and noisy clips at one site (paper: offline calibration, step 1).

    model: of `load`.
    clean, noise: clips, aligned pair by pair (the shorter list sets the number). Each noise clip is looped or cut to
    its partner's length; the mixture of both gives the noisy statistics of noise_source="difference".
    site: one of `SITES`. snr_db: signal-to-noise ratio in dB to which the noise is scaled.
    prompt: asked about every clip; it matters at decoder sites only.
    card: what to remember of the data's origin, for example {"noise": "crowd"}.
    batch_size: clips per pass. progress: called as progress("calibrating", passes done, passes in all).
    Raises AudioError where there is no pair, for audio that cannot be used and for digital silence; ConfigError for an
    unknown site, and for an SNR or batch size that makes no sense.

    >>> seen_jax.calibrate(model, clips, noises, snr_db=0.0, card={"noise": "white"}).card["noise"]
    'white'
    """
    chosen = chosen_options(options, CalibrateOptions, "calibrate")
    model.check_site(site)
    pairs = list(zip(listed(clean), listed(noise), strict=False))
    if not pairs:
        raise AudioError(NO_PAIRS)
    statistics, data = _pooled(model, pairs, site, snr_db, chosen, chosen.progress, 0)
    return Calibration(site, statistics, {**_origin(model, site, snr_db), "data": data, **(chosen.card or {})})


def calibrate_stream(
    model: Model,
    pairs: Iterable[tuple[Any, Any]],
    site: str = ENCODER_MLP_ACT,
    snr_db: float = 0.0,
    **options: Unpack[StreamOptions],
) -> Calibration:
    """`calibrate` on pairs that do not fit in memory: one batch of audio and activations is held at a time.

    The same directions, curves and bases, from second moments (`subspace.Moments`); what needs the activations of
    single clips raises BasisError. Parts made on several machines are joined by `Calibration.merge`.

    model, site, snr_db, prompt, card, batch_size: as for `calibrate`. pairs: (clean clip, noise clip), read once.
    progress: called as progress("calibrating", pairs done, 0).
    start: a calibration of earlier pairs, which count with these.
    keep: called with the calibration so far, to save it; what it saved is the `start` after an interruption.
    seconds: between two calls of `keep`, at least; longer where it takes more than a twentieth of the time.
    Raises AudioError and ConfigError as `calibrate`, and BasisError for a `start` of another model, site, noise or SNR.

    >>> seen_jax.calibrate_stream(model, zip(clips, noises), batch_size=2).source.shape
    (4, 3, 768)
    """
    chosen = chosen_options(options, StreamOptions, "calibrate_stream")
    model.check_site(site)
    if chosen.batch_size < 1:
        raise ConfigError(f"the batch size must be at least 1, not {chosen.batch_size}.")
    card = {**_origin(model, site, snr_db), **(chosen.card or {})}
    source: Streamed | None = None
    data: dict[str, list[str]] = {"clean": [], "noise": []}
    if (start := chosen.start) is not None:
        start.check_like(site, card)
        source = start.source if isinstance(start.source, Streamed) else Streamed.of(start.source)
        data = {name: list(start.card["data"][name]) for name in data}
    rest, due = iter(pairs), time.monotonic() + chosen.seconds

    def next_part() -> tuple[Statistics, dict[str, list[str]]] | None:  # the audio it read is free when it returns
        batch = list(itertools.islice(rest, chosen.batch_size))
        return _pooled(model, batch, site, snr_db, chosen, silent, len(data["clean"])) if batch else None

    def so_far() -> Calibration:
        if source is None:
            raise AudioError(NO_PAIRS)
        return Calibration(site, source, {**card, "data": {name: list(hashes) for name, hashes in data.items()}})

    while part := next_part():
        source = Streamed.of(part[0]) if source is None else source.merge(Streamed.of(part[0]))
        for name in data:
            data[name] += part[1][name]
        chosen.progress("calibrating", len(data["clean"]), 0)
        if chosen.keep and (begun := time.monotonic()) >= due:
            chosen.keep(so_far())
            due = time.monotonic() + max(chosen.seconds, SAVE_SHARE * (time.monotonic() - begun))
    return so_far()


def _pooled(
    model: Model, pairs: list[Any], site: str, snr_db: float, chosen: SimpleNamespace, progress: Progress, first: int
) -> tuple[Statistics, dict[str, list[str]]]:
    """Pooled activations of clean, noise and noisy clips, and hashes of the first two."""
    groups, pooled = mixed(pairs, snr_db, first), {}
    for done, (name, waves) in enumerate(groups.items()):
        tick = shifted(progress, done * len(pairs), 3 * len(pairs))
        pooled[name] = pool(model, waves, [site], chosen.prompt, chosen.batch_size, tick, "calibrating")[site]
    hashes = {name: [digest([wave.tobytes()]) for wave in groups[name]] for name in ("clean", "noise")}
    return Statistics(**pooled), hashes


def mixed(pairs: Iterable[tuple[Any, Any]], snr_db: float, first: int = 0) -> dict[str, list[Wave]]:
    """The clips of a calibration: clean, noise at its level, and both together; `first` numbers the pairs in errors."""
    groups: dict[str, list[Wave]] = {"clean": [], "noise": [], "noisy": []}
    for i, pair in enumerate(pairs, first):
        try:
            clean, noise = map(as_wave, pair, ("clean audio", "noise"))
            noisy = mix_at_snr(clean, noise, snr_db).audio
        except AudioError as e:
            raise AudioError(f"calibration pair {i}: {e}") from None
        for name, wave in (("clean", clean), ("noise", noisy - clean), ("noisy", noisy)):
            groups[name].append(wave)
    return groups


def _origin(model: Model, site: str, snr_db: float) -> dict[str, Any]:
    return {**model.identity(site).card(), "snr_db": float(snr_db)}
