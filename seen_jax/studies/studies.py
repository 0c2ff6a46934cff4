"""Studies of an experiment: calibrations, readings, layers, strengths and partial noise, all on the same few items.

A measuring pass answers every item once, clean and at each SNR of each noise. The SEE of all bases of all studies is
taken from it, so a basis costs no pass of its own; only GSR under SEEN does.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from seen_jax.errors import ConfigError
from seen_jax.evaluate import metrics
from seen_jax.evaluate.hosts import Report
from seen_jax.evaluate.runner import Experiment
from seen_jax.evaluate.tables import Table
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_RESID, SITES
from seen_jax.studies.lab import (
    Bench,
    Case,
    energy_share,
    frame_moments,
    identity,
    idle,
    mean_rank,
    overlap,
    pearson,
    removed,
)
from seen_jax.subspace import Calibration, NoiseBasis, Selection, Statistics, directions_of_moments
from seen_jax.subspace.localize import NamedLayers, resolve_layers
from seen_jax.subspace.selection import NoiseSource, select_columns

FOLDER = "studies"
READING_SITES = (ENCODER_MLP_ACT, ENCODER_RESID)
READING_LAYERS: tuple[NamedLayers, ...] = ("auto", "all", "last_third")
DELTAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
ALPHAS = (0.8, 0.9, 0.95, 0.99)
FRONT_STRENGTHS = (0.25, 0.5, 0.75, 1.0)
ANSWERED_STRENGTHS = (0.5, 1.0)  # of the front, those whose GSR is measured
ANSWERED_BASES = 4  # of the front, per noise
SIZES = (10, 20, 50, 100, 200)
CALIBRATION_SNRS = (-10.0, 0.0, 10.0, 20.0)
STRENGTHS = tuple(i / 10 for i in range(13))
PARTS = (0.25, 0.5, 0.75, 1.0)
PART_SNR = 0.0
WIDEST = 1024  # of a site whose second moments D x D are taken per layer
UNION = "union"


def run_studies(experiment: Experiment, report: Report) -> dict[str, Table]:
    """The studies that the experiment names, each from folder/studies/NAME.json if it is there.

    Shares are 0 to 1, SNRs in dB; None is what is not defined. A study is written when it is done, so that a killed run
    goes on with the next. Raises ConfigError for a site too wide for "pooling", damaged files and a full disk.
    """
    config, folder = experiment.config, experiment.config.folder() / FOLDER
    found = {name: _read(folder / f"{name}.json", config.study_items) for name in config.studies}
    pending = [name for name in config.studies if found[name] is None]
    width = experiment.model.config.site_shape(config.site)[1]
    if "pooling" in pending and width > WIDEST:
        raise ConfigError(
            f"the study 'pooling' needs second moments of {config.site}, {width} x {width} per layer, and takes widths "
            f"up to {WIDEST}: leave it out of `studies`, or choose another site"
        )
    if not pending:
        return {name: table for name, table in found.items() if table is not None}
    # All of them are planned, done or not: what is measured in one product must not depend on where a run was cut.
    studies = config.studies
    sites = [config.site, *(SITES if "localisation" in studies else READING_SITES if "readings" in studies else ())]
    bench = Bench(experiment, report, tuple(dict.fromkeys(sites)), max(SIZES) if "calibration_size" in studies else 0)
    cases = {name: list(CASES[name](bench)) for name in studies if name in CASES}
    bench.plan(case for own in cases.values() for case in own)
    for done, name in enumerate(pending):
        report("studies", done, len(pending))
        found[name] = ROWS[name](bench, cases.get(name, []))
        _write(folder / f"{name}.json", {"items": config.study_items, "rows": found[name]})
    report("studies", len(pending), len(pending))
    return {name: table for name, table in found.items() if table is not None}


def _read(path: Path, items: int) -> Table | None:
    """A study that is done, unless it was done with another number of items."""
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text("utf-8"))
        return values["rows"] if values["items"] == items else None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): move it away to make it again") from None


def _write(path: Path, values: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; what was done is kept") from None


# Bases whose SEE is measured


def reading_cases(bench: Bench) -> Iterator[Case]:
    ways: list[tuple[str, float | None]] = [("threshold", delta) for delta in (0.05, 0.1, 0.2)] + [("complement", None)]
    options = list(itertools.product(ways, ("sigma2", "sigma"), get_args(NoiseSource), (False, True), (None, 0.95)))
    for site, option, noise in itertools.product(READING_SITES, options, bench.noises):
        (method, delta), energy, source, center, noise_alpha = option
        selection = Selection(
            noise_alpha=noise_alpha,
            delta=delta or Selection.delta,
            method=method,
            energy=energy,
            center=center,
            noise_source=source,
            layers="all",
        )
        calibration = bench.calibration(noise, site)
        basis = calibration.select(selection)
        for layers in READING_LAYERS:
            fields = {
                "site": site,
                "method": method,
                "delta": delta,
                "energy": energy,
                "noise_source": source,
                "center": center,
                "noise_alpha": noise_alpha,
                "layers": layers,
                "noise": noise,
            }
            kept = resolve_layers(layers, len(basis.ranks), calibration.localization())
            yield Case(fields, noise, dataclasses.replace(basis, layers=kept))


def delta_cases(bench: Bench) -> Iterator[Case]:
    """delta is of the threshold alone; the complement (delta None) has alpha only. The rest as the experiment's."""
    ways = [("threshold", delta) for delta in DELTAS] + [("complement", None)]
    for noise, (method, delta), alpha in itertools.product(bench.noises, ways, ALPHAS):
        chosen = dataclasses.replace(
            bench.config.selection,
            method=method,  # type: ignore[arg-type]
            delta=delta or Selection.delta,
            semantic_alpha=alpha,
        )
        basis = bench.calibration(noise, bench.config.site).select(chosen)
        yield Case({"noise": noise, "method": method, "delta": delta, "semantic_alpha": alpha}, noise, basis)


def transfer_cases(bench: Bench) -> Iterator[Case]:
    bases = {noise: bench.own(noise) for noise in bench.noises}
    if len(bases) > 1:
        bases[UNION] = bench.together()
    for (calibrated, basis), noise in itertools.product(bases.items(), bench.experiment.noises):
        yield Case({"calibration": calibrated, "noise": noise}, noise, basis)


def size_cases(bench: Bench) -> Iterator[Case]:
    """Clips are drawn once in a random order, and a larger calibration holds the smaller ones; the last has all."""
    most = len(bench.clips(max(SIZES)))
    order = np.random.default_rng(bench.config.seed).permutation(most)
    for noise in bench.noises:
        whole = bench.calibration(noise, bench.config.site, clips=most)
        for size in [*(size for size in SIZES if size < most), most]:
            basis = subset(whole, order[:size]).select(bench.config.selection)
            yield Case({"noise": noise, "clips": size}, noise, basis)


def subset(calibration: Calibration, clips: Sequence[int] | np.ndarray) -> Calibration:
    """The calibration of some of its clips."""
    s = calibration.statistics
    noisy = None if s.noisy is None else s.noisy[:, clips]
    return Calibration(calibration.site, Statistics(s.clean[:, clips], s.noise[:, clips], noisy), calibration.card)


def snr_cases(bench: Bench) -> Iterator[Case]:
    for noise, source, snr in itertools.product(bench.noises, get_args(NoiseSource), CALIBRATION_SNRS):
        chosen = dataclasses.replace(bench.config.selection, noise_source=source)
        basis = bench.calibration(noise, bench.config.site, snr).select(chosen)
        yield Case({"noise": noise, "noise_source": source, "calibration_snr_db": snr}, noise, basis)


def pooling_cases(bench: Bench) -> Iterator[Case]:
    for noise in bench.noises:
        yield Case({"noise": noise, "pooled": True}, noise, bench.own(noise))
        yield Case({"noise": noise, "pooled": False}, noise, frame_basis(bench, noise))


def frame_basis(bench: Bench, noise: str) -> NoiseBasis:
    """The experiment's basis with directions of all frames in place of those of clip means."""
    config, selection = bench.config, bench.config.selection
    kinds = ("clean", "noise" if selection.noise_source == "pure" else "noisy")
    count, snr = config.calibration.clips, config.calibration.snr_db
    groups = {kind: bench.calibration_waves(kind, noise, snr, count) for kind in kinds}
    moments = frame_moments(bench.model, groups, config.site, config.batch_size)
    sides = []
    for name in ("clean", "noise" if selection.noise_source == "pure" else "difference"):
        n, total, second = moments[name]
        if selection.center:
            second = second - total[:, :, None] * total[:, None] / n
        sides.append(directions_of_moments(second, n))
    q, ranks = select_columns(sides[0], sides[1], selection)
    calibration = bench.calibration(noise, config.site)
    layers = resolve_layers(selection.layers, len(ranks), calibration.localization())
    return NoiseBasis(config.site, q, tuple(ranks.tolist()), layers, {"noise": noise})


def layer_cases(bench: Bench) -> Iterator[Case]:
    for noise in bench.experiment.noises:
        own = bench.own(noise)
        depth = len(own.ranks)
        sets: dict[int | str, tuple[int, ...]] = {layer: (layer,) for layer in range(depth)}
        thirds = [name for name in get_args(NamedLayers) if name.endswith("third")] if depth > 2 else []
        sets |= {name: resolve_layers(name, depth) for name in (*thirds, "all")}
        if noise in bench.noises:
            first = bench.calibration(noise, own.site).localization().first
            sets["auto"] = tuple(range(first, depth))
        for name, layers in sets.items():
            yield Case({"noise": noise, "layer": name}, noise, own.with_layers(layers))


CASES: dict[str, Callable[[Bench], Iterator[Case]]] = {
    "readings": reading_cases,
    "delta": delta_cases,
    "pareto": delta_cases,
    "transfer": transfer_cases,
    "calibration_size": size_cases,
    "calibration_snr": snr_cases,
    "pooling": pooling_cases,
    "layers": layer_cases,
}


# Tables


def localisation(bench: Bench, cases: Sequence[Case]) -> Table:
    """Both curves of every site and noise. l_star: None where no layer meets the rule; l_first: what is then kept."""
    found: Table = []
    for noise, site in itertools.product(bench.noises, SITES):
        calibration = bench.calibration(noise, site)
        curves, place = calibration.curves(), calibration.localization()
        found.append(
            {
                "noise": noise,
                "site": site,
                "magnitude": np.asarray(curves.magnitude).tolist(),
                "direction": np.asarray(curves.direction).tolist(),
                "l_star": place.first if place.found else None,
                "l_first": place.first,
            }
        )
    return found


def _correlated(bench: Bench, case: Case) -> float | None:
    """Pearson correlation of SEE and GSR over the SNRs."""
    see = bench.see(case).mean(1)[1:]
    return pearson(see.tolist(), [bench.gsr(case.noise, snr) for snr in bench.config.snrs])


def _see(bench: Bench, case: Case) -> dict[str, Any]:
    """SEE of clean audio, and its mean over the SNRs."""
    see = bench.see(case)
    return {"see_clean": float(see[0].mean()), "see_noisy": float(see[1:].mean())}


def readings(bench: Bench, cases: Sequence[Case]) -> Table:
    """All readings of the method. ranks: of all layers."""
    found: Table = []
    for case in cases:
        see = bench.see(case).mean(1)[1:].tolist()
        found.append(
            {
                **case.fields,
                "ranks": list(case.basis.ranks),
                "pearson": _correlated(bench, case),
                "spearman": pearson(see, list(bench.config.snrs), "spearman"),
                **_see(bench, case),
            }
        )
    return found


def ranked(bench: Bench, cases: Sequence[Case]) -> Table:
    """rank: mean over the kept layers."""
    return [
        {
            **case.fields,
            "rank": mean_rank(case.basis),
            "pearson": _correlated(bench, case),
            **_see(bench, case),
        }
        for case in cases
    ]


def against(wanted: Callable[[Case], bool]) -> Callable[[Bench, Sequence[Case]], Table]:
    """Rank and correlation of bases, and their overlap with the last one of their kind that is `wanted`."""
    own = ("noise", "noise_source")

    def rows(bench: Bench, cases: Sequence[Case]) -> Table:
        kind = lambda case: tuple(case.fields.get(key) for key in own)  # noqa: E731
        references = {kind(case): case.basis for case in cases if wanted(case)}
        return [
            {
                **case.fields,
                "rank": mean_rank(case.basis),
                "pearson": _correlated(bench, case),
                "overlap": overlap(case.basis, references[kind(case)]),
            }
            for case in cases
        ]

    return rows


def pareto(bench: Bench, cases: Sequence[Case]) -> Table:
    """Noise that SEEN takes away against the harm to clean audio.

    suppression: share of the energy of the calibration's noise activations; damage: of clean test audio; front: none
    has more suppression and no more damage, or the other way round. gain and clean_gsr: measured for a few bases,
    spread evenly over the suppression of all different ones, at strengths 0.5 and 1; None for the others.
    """
    found: Table = []
    for noise in bench.noises:
        statistics = bench.calibration(noise, bench.config.site).statistics
        energy = statistics.noise
        if bench.config.selection.noise_source == "difference" and statistics.noisy is not None:
            energy = statistics.noisy - statistics.clean
        own = [case for case in cases if case.noise == noise]
        share = {id(case): energy_share(energy, case.basis) for case in own}
        different = {identity(case.basis): case for case in own if not idle(case.basis, 1.0)}
        shares = np.array([share[id(case)] for case in different.values()])
        wanted: Any = np.linspace(shares.min(), shares.max(), ANSWERED_BASES) if different else []
        places = sorted({int(np.abs(shares - value).argmin()) for value in wanted})
        chosen = [list(different.values())[i].basis for i in places]
        answered = {identity(basis) for basis in chosen}
        settings = [(basis, strength) for basis in chosen for strength in ANSWERED_STRENGTHS]
        bench.answer(noise, settings, [None, *bench.low], f"pareto of {noise}")
        rows: Table = []
        for case, strength in itertools.product(own, FRONT_STRENGTHS):
            heard = strength in ANSWERED_STRENGTHS and identity(case.basis) in answered
            rows.append(
                {
                    **case.fields,
                    "strength": strength,
                    "suppression": removed(strength) * share[id(case)],
                    "damage": removed(strength) * float(bench.see(case)[0].mean()),
                    "gain": bench.gain(noise, case.basis, strength) if heard else None,
                    "clean_gsr": bench.gsr(noise, None, case.basis, strength) if heard else None,
                }
            )
        fronts = front([row["suppression"] for row in rows], [row["damage"] for row in rows])
        found += [row | {"front": on} for row, on in zip(rows, fronts, strict=True)]
    return found


def front(gain: Sequence[float], cost: Sequence[float]) -> list[bool]:
    """Whether no other point has at least as much gain and at most as much cost, and one of them strictly."""
    return [
        not any(g >= own and c <= price and (g, c) != (own, price) for g, c in zip(gain, cost, strict=True))
        for own, price in zip(gain, cost, strict=True)
    ]


def transfer(bench: Bench, cases: Sequence[Case]) -> Table:
    """Bases of one noise, and the union of all, under another. gain: of GSR by SEEN at strength 1 up to 10 dB."""
    for noise in bench.experiment.noises:
        settings = [(case.basis, 1.0) for case in cases if case.noise == noise]
        bench.answer(noise, settings, bench.low, f"transfer to {noise}")
    return [
        {**case.fields, "pearson": _correlated(bench, case), "gain": bench.gain(case.noise, case.basis)}
        for case in cases
    ]


def strength(bench: Bench, cases: Sequence[Case]) -> Table:
    """lambda from 0 to 1.2. gain: of GSR against none at the same SNR; snr_db None is clean audio."""
    found: Table = []
    for noise in bench.experiment.noises:
        basis = bench.own(noise)
        bench.answer(noise, [(basis, value) for value in STRENGTHS], bench.levels, f"strengths for {noise}")
        found += [
            {
                "noise": noise,
                "strength": value,
                "snr_db": snr,
                "gsr": bench.gsr(noise, snr, basis, value),
                "clean_gsr": bench.gsr(noise, None, basis, value),
                "gain": bench.gsr(noise, snr, basis, value) - bench.gsr(noise, snr),
            }
            for value, snr in itertools.product(STRENGTHS, bench.levels)
        ]
    return found


def layers(bench: Bench, cases: Sequence[Case]) -> Table:
    """The experiment's basis at one layer, a third, all, and from l* on ("auto"); SEEN at strength 1."""
    for noise in bench.experiment.noises:
        settings = [(case.basis, 1.0) for case in cases if case.noise == noise]
        bench.answer(noise, settings, [None, *bench.low], f"layers for {noise}")
    return [
        {
            **case.fields,
            "pearson": _correlated(bench, case),
            "gain": bench.gain(case.noise, case.basis),
            "clean_gsr": bench.gsr(case.noise, None, case.basis),
        }
        for case in cases
    ]


def partial(bench: Bench, cases: Sequence[Case]) -> Table:
    """Noise over part of the clip, at a random place: as loud there as at 0 dB over the whole clip.

    see: of the whole clip; see_inside, see_outside: of the frames with and without noise, None where there are none.
    """
    found: Table = []
    for noise, part in itertools.product(bench.experiment.noises, PARTS):
        basis = bench.own(noise)
        waves, spans = [], []
        for k, subject in enumerate(bench.subjects()):
            start, stop = span(len(subject.item.wave), part, [bench.config.seed, subject.index, round(100 * part)])
            wave = subject.item.wave.copy()
            wave[start:stop] = bench.noisy(noise, k, PART_SNR)[start:stop]
            waves.append(wave)
            spans.append((start / len(wave), stop / len(wave)))
        outputs, sees = [""] * len(waves), np.full((3, len(waves)), np.nan)
        tick = bench.tick(f"{noise} over {part:.0%} of the clip")
        for done, (k, text, per_layer) in enumerate(bench.heard_frames(noise, basis, waves), start=1):
            outputs[k] = text
            frames = np.asarray(basis.mean_see(per_layer))
            moment = (np.arange(len(frames)) + 0.5) / len(frames)
            inside = (moment >= spans[k][0]) & (moment < spans[k][1])
            for row, own in enumerate((frames, frames[inside], frames[~inside])):
                sees[row, k] = own.mean() if len(own) else np.nan
            tick(done, len(waves))
        whole, within, without = (
            None if np.isnan(row).all() else float(np.nanmean(row)) for row in sees.astype(np.float64)
        )
        gsr = metrics.gsr(bench.unaided(noise, None), bench.outcomes(outputs))
        found.append(
            {"noise": noise, "share": part, "see": whole, "see_inside": within, "see_outside": without, "gsr": gsr}
        )
    return found


def span(samples: int, part: float, seed: Sequence[int]) -> tuple[int, int]:
    """First and last sample (exclusive) of a part of a clip at a random place."""
    length = max(1, round(part * samples))
    start = int(np.random.default_rng(list(seed)).integers(samples - length + 1))
    return start, start + length


ROWS: dict[str, Callable[[Bench, Sequence[Case]], Table]] = {
    "localisation": localisation,
    "readings": readings,
    "delta": ranked,
    "pareto": pareto,
    "transfer": transfer,
    "calibration_size": against(lambda case: True),
    "calibration_snr": against(lambda case: case.fields["calibration_snr_db"] == 0.0),
    "pooling": ranked,
    "strength": strength,
    "layers": layers,
    "partial": partial,
}
