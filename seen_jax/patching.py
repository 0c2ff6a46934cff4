"""Activation patching: activations of a clean run are put into a noisy one, to see what an edit there could gain."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Unpack

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from seen_jax.audio.io import is_one_clip
from seen_jax.checks import as_requests, check_finite
from seen_jax.edits import Layers, Matrix, Share, share_of
from seen_jax.errors import AudioError, ConfigError
from seen_jax.models.batching import Prepared, group_requests, run_batches
from seen_jax.models.edits import Patch
from seen_jax.models.generate import generate
from seen_jax.models.model import Model, measure
from seen_jax.models.pooling import position_seconds, real_positions
from seen_jax.models.processor import Bucket, Request
from seen_jax.models.sites import Taps
from seen_jax.options import PatchOptions, chosen_options, listed
from seen_jax.subspace import NoiseBasis


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Patched:
    """The answer of a noisy run into which activations of a clean one were put.

    text: without special tokens. tokens: the generated ids before the stop token.
    logits: [V] float32, of the first generated token.
    finished: whether the answer ended by itself; False if it was cut at `Decoding.max_new_tokens`.

    >>> seen_jax.Patched("a dog", (5, 7), np.zeros(50, np.float32))
    Patched('a dog', logits=[50], finished=True)
    """

    text: str
    tokens: tuple[int, ...]
    logits: Float[np.ndarray, " vocab"]
    finished: bool = True

    def __repr__(self) -> str:
        return f"Patched({self.text!r}, logits={list(self.logits.shape)}, finished={self.finished})"


def patch(
    model: Model,
    clean: Any,
    noisy: Any,
    site: str,
    layers: Layers | None = None,
    subspace: NoiseBasis | Matrix | None = None,
    **options: Unpack[PatchOptions],
) -> Patched | list[Patched]:
    """Answer noisy clips with the activations of clean ones in their place: a <- a + P (clean - a) at every position of
    the prompt. P is everything, Q Q^T inside a subspace, or 1 - Q Q^T outside of it. What comes back is what an edit
    could gain there if it restored the activations perfectly; it needs no calibration. Returns a `Patched`, or a list
    of them for a list of clips.

    model: of `load`. clean, noisy: the same clips without and with noise, as many and of one length, in any form.
    site: one of `SITES`. Generated tokens are never patched.
    layers: indices, "all", or a third of the stack; None: those of the basis, or all.
    subspace: a `NoiseBasis`, or directions as `projection` takes them, such as np.eye(D)[:, 64:128] for some channels;
    None: everything.
    outside: patch all but the subspace.
    span: (start, end) in seconds: patch only positions that stand for audio from there. None: all, text too.
    prompt, batch_size, progress: as for `score`. decoding: as for `generate`, greedy.
    Raises AudioError and ConfigError as `generate`, also for pairs that differ in length or question, and BasisError
    and ConfigError as `projection`.

    >>> noisy = [clip + 0.3 * noise for clip, noise in zip(clips, noises)]
    >>> everything = seen_jax.patch(model, clips, noisy, "encoder.resid", layers=[3])
    >>> [p.text for p in everything] == [a.text for a in seen_jax.generate(model, clips)]
    True
    >>> seen_jax.patch(model, clips[0], noisy[0], "encoder.mlp_act", subspace=basis)
    Patched(..., logits=[913], finished=True)
    """
    results = _patched(model, (listed(clean), listed(noisy)), site, (layers, subspace), options)
    return results[0] if is_one_clip(noisy) else results


def _patched(
    model: Model, clips: tuple[Sequence[Any], Sequence[Any]], site: str, part: tuple[Any, Any], options: PatchOptions
) -> list[Patched]:
    chosen = chosen_options(options, PatchOptions, "patch")
    model.need_decoder("patch")
    share = share_of(model, model.check_site(site), *part, outside=bool(chosen.outside))
    if chosen.decoding is not None and chosen.decoding.temperature:
        raise ConfigError("patched answers are greedy, so that they can be compared: set the temperature to 0.")
    clean, noisy = (as_requests(side, chosen.prompt) for side in clips)
    check_pairs(model, clean, noisy)

    def run(prepared: Prepared) -> list[Patched]:
        target = site_activations(model, site, prepared, [clean[i] for i in prepared.rows])
        edit = make_patch(target, share, _inside(model, site, prepared, chosen.span))
        out = generate(model.lalm, model.variables, prepared.batch, {site: edit}, chosen.decoding)
        out = jax.device_get(out)
        check_finite(model, prepared, out.finite)
        texts, ends = model.processor.decode(out.tokens, out.lengths), out.finished.tolist()
        ids = [tuple(row[:n].tolist()) for row, n in zip(out.tokens, out.lengths, strict=True)]
        return [Patched(*row) for row in zip(texts, ids, out.logits, ends, strict=True)]

    groups = group_requests(model, noisy, chosen.batch_size)
    return run_batches(model, noisy, run, groups, progress=chosen.progress, stage="patching")


def check_pairs(model: Model, clean: Sequence[Request], noisy: Sequence[Request]) -> None:
    """Raise ConfigError or AudioError unless every clean request asks what its noisy one does about clips as long."""
    if len(clean) != len(noisy):
        raise ConfigError(f"{len(clean)} clean clips for {len(noisy)} noisy ones: give one for each.")
    framing = model.processor.family.framing
    for i, pair in enumerate(zip(clean, noisy, strict=True)):
        counts = [[sum(r.frames for r in framing.rows(len(x))) for x in model.processor.heard(side)] for side in pair]
        if counts[0] != counts[1]:
            numbers = " and ".join(f"{sum(count)} frames" for count in counts)
            raise AudioError(f"clip {i}: its clean and its noisy audio have {numbers}: patching needs equal lengths.")
        if pair[0].chat() != pair[1].chat():
            raise ConfigError(f"clip {i}: its clean and its noisy request ask different questions: ask the same.")


def site_activations(
    model: Model, site: str, prepared: Prepared, requests: Sequence[Request] | None = None
) -> Float[Array, "layers rows positions width"]:
    """The activations of a site at all positions of a batch; of other requests of the same lengths, one per row, if
    they are given."""
    batch = prepared.batch
    if requests is not None:
        bucket = Bucket(batch.features.shape[1], batch.tokens.shape[1])
        batch, _ = model.processor.prepared(requests, bucket)
    return measure(model.tapped(Taps((site,), "full")), model.variables, batch, {})[0][site]


def make_patch(
    target: Float[Array, "layers rows positions width"],
    share: Share,
    where: Bool[np.ndarray, "rows positions"] | None = None,
) -> Patch:
    """Puts a part of the activations of another run of a batch into it. where: at which positions; None: at all."""
    mask = np.ones(target.shape[1:3], bool) if where is None else where
    return Patch(target, np.broadcast_to(mask, target.shape[:3]), *share)


def _inside(
    model: Model, site: str, prepared: Prepared, span: tuple[float, float] | None
) -> Bool[np.ndarray, "rows positions"] | None:
    """The positions whose audio lies in a span of seconds; None for all, padding that the model sees included."""
    if span is None:
        return None
    seconds = position_seconds(model, site, prepared)
    inside = (seconds >= span[0]) & (seconds < span[1])
    if not (inside & real_positions(model, site, prepared)).any():
        raise ConfigError(
            f"no position of {site} lies between {span[0]} and {span[1]} s: give (start, end) in seconds."
        )
    return inside
