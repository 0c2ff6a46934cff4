"""Which reading of the method works on a model: chosen on validation clips, never on the clips that it is shown on.

    python -m seen_jax.evaluate.choose --out choice.json

Every noisy clip is answered once. The SEE of all candidate bases is taken from that pass's activations, so candidates
cost no passes of their own, save for the last check that SEEN leaves clean audio alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from seen_jax.api import Progress, calibrate, seen_edit
from seen_jax.data.items import Item, load_clips, voices
from seen_jax.errors import ConfigError
from seen_jax.evaluate import metrics
from seen_jax.evaluate.readings import TIE, Candidate, Scored, candidates, pick, rank, to_json
from seen_jax.evaluate.sweep import MAX_NEW_TOKENS, answer, common_rank, mix, noises_for, prepared, with_waves
from seen_jax.models.encoder import within
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.lalm import Batch
from seen_jax.models.model import Model
from seen_jax.models.sites import DECODER_SITES, PROJECTOR, Taps
from seen_jax.subspace import Calibration, NoiseBasis, see

SNRS = (-10.0, -5.0, 0.0, 5.0, 10.0, 20.0, 30.0)
NOISES = ("white", "babble", "engine")


@jax.jit
def see_of_stack(
    a: Float[Array, "layers items positions width"],
    q: Float[Array, "bases layers width rank"],
    mask: Bool[Array, "items positions"],
) -> Float[Array, "bases layers items"]:
    """SEE of each clip at every layer, for several bases at once."""
    return jax.lax.map(lambda one: jax.vmap(see, in_axes=(0, 0, None))(a, one, mask), q)


def counted(model: Model, site: str, batch: Batch) -> Bool[np.ndarray, "items positions"]:
    """The positions over which SEE is averaged at a site: real frames, or audio tokens."""
    encoder, frames, total = model.config.encoder, np.asarray(batch.frames), batch.features.shape[1]
    if site in DECODER_SITES:
        return np.asarray(batch.audio_index) >= 0
    if site == PROJECTOR:
        return np.arange(encoder.token_count(total)) < encoder.token_count(frames)[:, None]
    return within(encoder, frames, total)


def measure(
    model: Model,
    items: Sequence[Item],
    noises: Sequence[str],
    snrs: Sequence[float],
    bases: Mapping[tuple[str, str], Float[np.ndarray, "bases layers width rank"]],
    seed: int = 0,
    batch_size: int = 16,
    speech: Sequence[np.ndarray] | None = None,
    progress: Progress | None = None,
) -> tuple[dict[tuple[str, float | None], list[str]], dict[tuple[str, str, float | None], np.ndarray]]:
    """Outputs per (noise, SNR) in item order, and mean SEE [bases, layers] over the items per (site, noise, SNR).

    bases: per (site, noise), stacked. Every clip is answered once. SNR None is clean audio.
    """
    sites = tuple(dict.fromkeys(site for site, _ in bases))
    tapped = model.tapped(Taps(sites, "full"))
    waves = {n: noises_for(n, [item.wave for item in items], f"choose/{n}", seed, speech) for n in noises}
    levels = [None, *snrs]
    outputs = {(n, s): [""] * len(items) for n in noises for s in levels}
    sums: dict[tuple[str, str, float | None], np.ndarray] = {}
    done, total = 0, len(noises) * len(levels) * len(items)
    for own, rows, batch in prepared(model, items, batch_size):
        masks = {site: counted(model, site, batch) for site in sites}
        for noise, snr in itertools.product(noises, levels):
            mixed = with_waves(model, batch, [mix(items[i], waves[noise][i], snr) for i in rows])
            out = generate(tapped, model.variables, mixed, {}, Decoding(MAX_NEW_TOKENS))
            texts = model.processor.decode(np.asarray(out.tokens), np.asarray(out.lengths))
            for i, text in zip(own, texts, strict=False):
                outputs[noise, snr][i] = text
            for site in sites:
                values = np.asarray(see_of_stack(out.taps[site], bases[site, noise], masks[site]))
                key = (site, noise, snr)
                sums[key] = sums.get(key, 0) + values[..., : len(own)].sum(-1)
            done += len(own)
            if progress:
                progress(done, total)
    return outputs, {key: value / len(items) for key, value in sums.items()}


def choose(
    model: Model,
    items: Sequence[Item],
    calibrations: Mapping[tuple[str, str], Calibration],
    noises: Sequence[str] = NOISES,
    snrs: Sequence[float] = SNRS,
    options: Sequence[Candidate] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    speech: Sequence[np.ndarray] | None = None,
    check: int = 12,
    progress: Progress | None = None,
) -> tuple[Scored, list[Scored]]:
    """The chosen reading and all candidates, best first.

    items: validation clips. calibrations: per (site, noise), from other clips. check: SEEN's effect on clean audio is
    measured for so many of the best candidates, and for further ones until one passes and no other is as good. Raises
    ConfigError as `pick`.
    """
    options = list(options) if options is not None else candidates()
    needed = [(site, noise) for site in dict.fromkeys(o.site for o in options) for noise in noises]
    if missing := [pair for pair in needed if pair not in calibrations]:
        raise ConfigError(f"no calibration for {missing}")
    bases: dict[tuple[Candidate, str], NoiseBasis] = {
        (o, noise): calibrations[o.site, noise].select(o.selection) for o in options for noise in noises
    }
    stacks: dict[tuple[str, str], np.ndarray] = {}
    place: dict[tuple[Candidate, str], int] = {}
    for site, noise in needed:
        stacks[site, noise], where = _stack({o: bases[o, noise] for o in options if o.site == site})
        place |= {(o, noise): index for o, index in where.items()}
    outputs, sees = measure(model, items, noises, snrs, stacks, seed, batch_size, speech, progress)
    gsr = {noise: [metrics.gsr(outputs[noise, None], outputs[noise, snr]) for snr in snrs] for noise in noises}

    def score(option: Candidate) -> Scored:
        mean = {
            (n, s): float(bases[option, n].mean_see(jnp.asarray(sees[option.site, n, s][place[option, n]])))
            for n in noises
            for s in [None, *snrs]
        }
        pearson = {n: metrics.correlation([mean[n, s] for s in snrs], gsr[n], resamples=0).value for n in noises}
        noisy = float(np.mean([mean[n, s] for n in noises for s in snrs]))
        quiet = float(np.mean([mean[n, None] for n in noises]))
        ranks, layers = ({n: getattr(bases[option, n], name) for n in noises} for name in ("ranks", "layers"))
        return Scored(option, pearson, noisy, quiet, ranks, layers)

    clean = outputs[noises[0], None]
    ranked = rank([score(option) for option in options])
    for i, scored in enumerate(ranked):
        best = next((s.mean for s in ranked[:i] if s.passes), math.inf)
        if math.isnan(scored.mean) or (i >= check and scored.mean > best + TIE):
            break
        own = {noise: bases[scored.candidate, noise] for noise in noises}
        ranked[i] = dataclasses.replace(scored, clean_gsr=clean_gsr(model, items, clean, own, batch_size))
    return pick(ranked), ranked


def _stack(bases: Mapping[Candidate, NoiseBasis]) -> tuple[np.ndarray, dict[Candidate, int]]:
    """Different bases [bases, layers, width, rank] and which of them each candidate has: layers are not part of it."""
    padded = common_rank({str(i): basis for i, basis in enumerate(bases.values())})
    found: dict[bytes, int] = {}
    arrays: list[np.ndarray] = []
    where: dict[Candidate, int] = {}
    for option, basis in zip(bases, padded.values(), strict=True):
        q = np.asarray(basis.q)
        key = q.tobytes()
        if key not in found:
            found[key] = len(arrays)
            arrays.append(q)
        where[option] = found[key]
    return np.stack(arrays), where


def clean_gsr(
    model: Model,
    items: Sequence[Item],
    clean_outputs: Sequence[str],
    bases: Mapping[str, NoiseBasis],
    batch_size: int = 16,
) -> float:
    """GSR of clean audio with SEEN switched on, the lowest over the bases. clean_outputs: without it, in item order."""
    worst = 1.0
    for basis in common_rank(bases).values():
        edits, outputs = seen_edit(model, basis), [""] * len(items)
        for own, _, batch in prepared(model, items, batch_size):
            for i, parts in zip(own, answer(model, batch, edits, basis, MAX_NEW_TOKENS), strict=False):
                outputs[i] = parts[0]
        worst = min(worst, metrics.gsr(clean_outputs, outputs))
    return worst


def choose_on_clips(
    model: Model, noises: Sequence[str], batch_size: int, progress: Progress | None = None
) -> dict[str, Any]:
    """`choose` with the package's calibration and validation clips; returns JSON values."""
    own, items = load_clips("calibration"), load_clips("validation")
    clean = [item.wave for item in own]
    speech = voices(own)
    options = candidates()
    calibrations = {
        (site, noise): calibrate(
            model,
            clean,
            noises_for(noise, clean, f"calibrate/{noise}", 0, speech),
            site,
            batch_size=batch_size,
            card={"noise": noise},
        )
        for site in dict.fromkeys(o.site for o in options)
        for noise in noises
    }
    found = choose(
        model, items, calibrations, noises, SNRS, options, batch_size=batch_size, speech=speech, progress=progress
    )
    return to_json(model, *found, len(items))


def main(arguments: list[str] | None = None) -> None:
    import argparse

    from rich.progress import Progress as Bar

    from seen_jax.models.model import load

    parser = argparse.ArgumentParser(prog="python -m seen_jax.evaluate.choose", description=str(__doc__).split("\n")[0])
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--model", default="seen-tiny")
    parser.add_argument("--noises", nargs="+", default=list(NOISES))
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args(arguments)
    with Bar() as bar:
        task = bar.add_task("answering the validation clips")
        tick = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        result = choose_on_clips(load(options.model), options.noises, options.batch_size, tick)
    Path(options.out).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8")
    for row in result["table"][:12]:
        print(f"r {row['mean_pearson']:+.3f}  clean GSR {row['clean_gsr']}  {row['site']} {row['selection']}")


if __name__ == "__main__":
    main()
