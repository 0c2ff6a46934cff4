"""Ceilings: what clean activations put back into noisy runs gain, and where noise's change of the activations lies.

An edit of a place is not expected to gain more than the clean activations themselves, put back there. It needs few
items and, but for the rows of subspaces, no calibration. Axes: L layers, N encoder rows or prompts, D width, R rank."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float

from seen_jax.edits import share_of
from seen_jax.errors import ConfigError
from seen_jax.evaluate import metrics
from seen_jax.evaluate.tables import ALL, BENDS
from seen_jax.models.batching import Prepared
from seen_jax.models.pooling import per_request, real_positions
from seen_jax.models.sites import DECODER_SITES, SITES
from seen_jax.patching import make_patch, site_activations
from seen_jax.report.figures import line_sweep
from seen_jax.report.format import interval, plain, points, share
from seen_jax.studies.base import Case, Column, Figure, Lab, Measurements, Study
from seen_jax.studies.lab import Level
from seen_jax.studies.measure import generated, identity, idle, mitigate
from seen_jax.subspace import Finding, NoiseBasis, Selection, union
from seen_jax.subspace.basis import pad_rank
from seen_jax.subspace.diagnose import low_ceiling
from seen_jax.subspace.formulas import noise_energy
from seen_jax.subspace.selection import dominant_mask
from seen_jax.subspace.svd import directions_of_moments, right_singular

ENOUGH = 20  # items from which a ceiling is judged: of fewer, that none changed says little
LAYERS = 8  # single layers of a site: all of a shallow stack, else so many, evenly spaced
CLEAN_ENERGY = 0.95  # share of the clean energy that the clean dimensions hold
FRAMES = 2048  # clean positions, of all items together, that these are made of
BYTES = 2**31  # of the clean activations of a batch
WHOLE, EXPERIMENT, PAPER, OUTSIDE = "whole", "experiment", "paper", "outside "
EVERY, KEPT = "all", "kept"  # groups of layers: those of the site, and those that a basis keeps where it drops some
PLACE = ["site", "layer", "subspace"]
ENDS = ("", "_low", "_high")


class Place(NamedTuple):
    """Where activations are patched."""

    layer: int | str  # or a group of layers
    layers: tuple[int, ...]
    subspace: str
    basis: NoiseBasis | None = None  # None: the whole space
    outside: bool = False

    @property
    def name(self) -> str:
        return OUTSIDE * self.outside + self.subspace

    @property
    def key(self) -> tuple[Any, ...] | None:
        """The same for places that are patched alike; None where nothing is. Outside of nothing is everything."""
        empty = self.basis is not None and idle(self.basis, 1.0)
        if self.basis is None or (empty and self.outside):
            return WHOLE, self.layers
        return None if empty else (identity(self.basis), self.outside)


class Changes(NamedTuple):
    """Energies of noise's change of the activations [..., L], sums over positions."""

    total: Float[Any, "*n layers"]
    inside: Mapping[str, Float[Any, "*n layers"]]  # by subspace

    def shares(self, place: Place) -> dict[str, float]:
        """Shares of the energy at a place and in the clean dimensions, sums over items, then means over the layers."""
        layers, total = list(place.layers), self.total.sum(0)
        ratio = lambda x: float(np.mean(x.sum(0)[layers] / np.maximum(total[layers], np.finfo(np.float32).tiny)))
        part = 1.0 if place.basis is None else ratio(self.inside[place.subspace])
        return {"change": 1 - part if place.outside else part, "change_clean": ratio(self.inside[WHOLE])}


class Ceiling(Study):
    name = "ceiling"
    title = "Study: ceilings of edits"
    lead = (
        "GSR up to 10 dB when the activations of the clean clip are put back into the noisy run: everywhere at a site, "
        "inside the subspace of a basis (of the experiment's selection, and of the paper's) or outside of it. An edit "
        "there is not expected to gain more. Beside it, what SEEN gains, and the share of noise's change of the "
        "activations that lies there."
    )
    names, values = (*PLACE, "noise"), ("gsr", *(f"ceiling{end}" for end in ENDS), "gain", "change", "change_clean")
    columns: Mapping[str, Column] = {
        "ceiling": ("ceiling (points)", points),
        "ceiling_low": ("from", points),
        "ceiling_high": ("to", points),
        "gain": ("SEEN (points)", points),
        "change": ("change in it (%)", share),
        "change_clean": ("change in clean dimensions (%)", share),
        "layer": ("layer", plain),
    }
    sites = SITES

    def check(self, experiment: Any) -> None:
        if min(experiment.config.snrs) > BENDS:
            raise ConfigError(f"the study 'ceiling' needs an SNR up to {BENDS:g} dB: add one to `snrs`")

    def rows(self, lab: Lab, cases: Sequence[Case], measured: Measurements) -> pd.DataFrame:
        """One row per noise (and all together), site, layer and subspace. gsr: without an edit; ceiling: what patching
        adds, with its 95 % bootstrap interval over the items; gain: what SEEN adds in a group of layers; change: share
        of the energy of noise's change (noisy less clean) inside the subspace; change_clean: inside the dimensions that
        hold 95 % of clean energy. Where a basis has no direction, nothing is patched and nothing gained."""
        rows: list[dict[str, Any]] = []
        sites = lab.sites(SITES)
        for k, site in enumerate(sites):
            clean_q = functools.cache(partial(clean_dimensions, lab, site))
            for n, noise in enumerate(lab.noises):
                part = k * len(lab.noises) + n, len(sites) * len(lab.noises)
                make = partial(site_rows, lab, measured, site, noise, clean_q, part)
                rows += lab.once(f"{site} {noise}", make)
        table = pd.DataFrame(rows)
        groups = pd.concat([table, table.assign(noise=ALL)]).groupby(["noise", *PLACE], sort=False)
        fields = lambda key: dict(zip(["noise", *PLACE], key, strict=True))
        return pd.DataFrame([summary(fields(key), part, lab.config.seed) for key, part in groups])

    def shown(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Groups of layers, and sites of one layer, over all noises; single layers are in the figures."""
        single = rows.groupby("site")["layer"].transform("nunique") == 1
        return rows[(single | rows["layer"].isin([EVERY, KEPT])) & (rows["noise"] == ALL)]

    def headline(self, rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
        """What noise takes at the first site, and what of it lies inside the basis of the experiment."""
        first = rows[(rows["noise"] == ALL) & (rows["site"] == rows["site"].iloc[0])]
        for subspace, place in (
            (WHOLE, "at {}"),
            (EXPERIMENT, "inside the basis at {}: SEEN is not expected to give more"),
        ):
            groups = first[(first["subspace"] == subspace) & first["layer"].isin([EVERY, KEPT])]
            for row in groups.tail(1).to_dict("records"):
                value, low, high = (row[f"ceiling{end}"] for end in ENDS)
                what = f"points of GSR up to 10 dB if noise did nothing {place.format(row['site'])}"
                yield points(value), f"{what} ({interval(low, high, points)})"

    def figures(self, rows: pd.DataFrame) -> Iterator[Figure]:
        layers = rows[~rows["layer"].isin([EVERY, KEPT]) & (rows["noise"] == ALL)]
        for site, part in layers.groupby("site", sort=False):
            caption = f"{site}: GSR that clean activations gain in one layer."
            drawn = partial(line_sweep, part, "layer", "ceiling", "subspace", ("layer", "ceiling (points)", "subspace"))
            yield f"ceiling_{str(site).replace('.', '_')}", caption, drawn

    def findings(self, rows: pd.DataFrame) -> Iterator[tuple[str, str, Finding]]:
        """That projection cannot help, where the ceiling inside the experiment's basis is low and items are enough."""
        inside = rows[(rows["subspace"] == EXPERIMENT) & (rows["noise"] != ALL) & (rows["items"] >= ENOUGH)]
        for (noise, site), part in inside.groupby(["noise", "site"], sort=False):
            edited = part.set_index("layer").iloc[-1]  # the layers that the basis keeps are the last
            if finding := low_ceiling(*(float(edited[f"ceiling{end}"]) for end in ENDS)):
                yield str(noise), str(site), finding


def summary(fields: dict[str, Any], part: pd.DataFrame, seed: int) -> dict[str, Any]:
    """A row of the table, of one noise or of several: over all their SNRs and items."""
    before, after = (np.concatenate(part[name].tolist()).astype(float) for name in ("before", "after"))
    count = int(part["items"].iloc[0])
    ceiling = metrics.mean_interval(after - before, np.arange(len(before)) % count, seed)
    intervals = {f"ceiling{end}": value for end, value in zip(ENDS, ceiling, strict=True)}
    means = part[["gain", "change", "change_clean"]].astype(float).mean()
    return {**fields, "items": count, "gsr": float(before.mean()), **intervals, **means}


def bases_of(lab: Lab, site: str, noise: str) -> dict[str, NoiseBasis]:
    """The experiment's selection and the paper's, where the site has calibrations; for a noise that is not calibrated,
    the union of the others'."""
    known = [other for other in lab.noises if (other, site) in lab.calibrations]
    sources = [noise] if noise in known else known
    if not sources:
        return {}
    bases = {}
    chosen = selection_at(lab, site)
    for name, selection in {EXPERIMENT: chosen, PAPER: Selection()}.items():
        if name == EXPERIMENT or selection != chosen:
            selected = [lab.calibrations[source, site].select(selection) for source in sources]
            bases[name] = selected[0] if noise in known else union(selected)
    return bases


def selection_at(lab: Lab, site: str) -> Selection:
    """The experiment's selection, with all layers at a site for whose depth its layer indices were not meant."""
    selection, depth = lab.config.selection, lambda site: lab.model.config.site_shape(site)[0]
    meant = isinstance(selection.layers, str) or depth(site) == depth(lab.config.site)
    return selection if meant else dataclasses.replace(selection, layers="all")


def places_of(depth: int, bases: Mapping[str, NoiseBasis]) -> Iterator[Place]:
    """Every place of a site: single layers, then groups of them."""
    chosen = sorted({round(k) for k in np.linspace(0, depth - 1, min(depth, LAYERS))})
    groups: dict[int | str, tuple[int, ...]] = {layer: (layer,) for layer in chosen}
    if depth > 1:
        groups[EVERY] = tuple(range(depth))
    for layer, layers in groups.items():
        yield Place(layer, layers, WHOLE)
    for name, basis in bases.items():
        kept: dict[int | str, tuple[int, ...]] = {KEPT: basis.layers} if len(basis.layers) < depth else {}
        for layer, layers in (groups | kept).items():
            for outside in (False, True):
                yield Place(layer, layers, name, basis.with_layers(layers), outside)


def site_rows(
    lab: Lab, measured: Measurements, site: str, noise: str, clean_q: Callable[[], Array], part: tuple[int, int]
) -> list[dict[str, Any]]:
    """The rows of a site under a noise, of which `before` and `after` say for every SNR and item whether the clean
    answer is kept without and with the patch. part: of the study, one of how many."""
    bases = bases_of(lab, site, noise)
    subspaces: dict[str, Array] = {name: basis.padded_q for name, basis in bases.items()}
    subspaces[WHOLE] = clean_q()
    depth = lab.model.config.site_shape(site)[0]
    places = list(places_of(depth, bases))
    kept = lambda answers: [a == b for a, b in zip(measured.answers[noise, None], answers, strict=True)]
    before = [same for snr in lab.low for same in kept(measured.answers[noise, snr])]
    after: dict[tuple[Any, ...] | None, list[bool]] = {None: before}
    changes = []
    for step, snr in enumerate(lab.low):
        progress = part[0] * len(lab.low) + step, part[1] * len(lab.low)
        outputs, energies = patched_outputs(lab, site, (noise, snr), places, subspaces, progress)
        changes.append(energies)
        for key, texts in outputs.items():
            after.setdefault(key, []).extend(kept(lab.answers(texts)))
    total = Changes(*jax.tree.map(lambda *x: np.concatenate(x), *changes))
    groups = (EVERY, KEPT, 0) if depth == 1 else (EVERY, KEPT)
    projected = [None if place.outside or place.layer not in groups else place.basis for place in places]
    variants = [(basis, 1.0) for basis in projected if basis is not None]
    seen = mitigate(lab, measured, noise, variants, lab.low, f"SEEN at {site} for {noise}")
    rows = []
    for place, basis in zip(places, projected, strict=True):
        gain = None if basis is None else seen.gain(basis)
        fields = {"noise": noise, "site": site, "layer": place.layer, "subspace": place.name, "gain": gain}
        counted = {"before": before, "after": after[place.key], "items": len(lab.subjects)}
        rows.append({**fields, **counted, **total.shares(place)})
    return rows


def patched_outputs(
    lab: Lab,
    site: str,
    condition: tuple[str, Level],
    places: Sequence[Place],
    subspaces: Mapping[str, Array],
    part: tuple[int, int],
) -> tuple[dict[tuple[Any, ...], list[str]], Changes]:
    """(outputs of all subjects by `Place.key`, and the change of their activations [N, L]). condition: a noise and an
    SNR. subspaces: of the bases, and as the whole the clean dimensions."""
    model, rank = lab.model, max(q.shape[-1] for q in subspaces.values())  # one rank: one program
    shares = {}
    for place in places:
        if (key := place.key) is not None:
            basis = None if key[0] == WHOLE else place.basis
            of_place = share_of(model, site, place.layers, basis, place.outside and basis is not None)
            shares[key] = of_place._replace(q=pad_rank(of_place.q, rank))

    def run(prepared: Prepared) -> list[tuple[Any, Any]]:
        requests = [lab.subjects[k].request for k in prepared.rows]
        clean, noisy = (site_activations(model, site, prepared, side) for side in (requests, None))
        mask = real_positions(model, site, prepared, audio_only=False)
        energies = jax.device_get(change_energies(clean, noisy, mask, dict(subspaces)))
        owners = [[row for clip in request for row in clip] for request in prepared.owners]
        owners = [[row] for row in range(len(owners))] if site in DECODER_SITES else owners
        texts = {}
        for key, of_place in shares.items():
            texts[key], _ = generated(lab, model.lalm, prepared, {site: make_patch(clean, of_place)})
        of_row = lambda rows: jax.tree.map(lambda x: x[:, rows].sum(1), energies)
        return [({key: x[i] for key, x in texts.items()}, of_row(rows)) for i, rows in enumerate(owners)]

    noise, snr = condition
    hear = lambda k: lab.subjects[k].wave(noise, snr)
    results = lab.run(run, f"patching {site}", hear, part, batch_size(lab, site))
    outputs = {key: [texts[key] for texts, _ in results] for key in shares}
    return outputs, jax.tree.map(lambda *x: np.stack(x), *(change for _, change in results))


@jax.jit
def change_energies(
    clean: Float[Array, "layers n t d"],
    noisy: Float[Array, "layers n t d"],
    mask: Bool[Array, "n t"],
    subspaces: dict[str, Float[Array, "layers d _"]],
) -> Changes:
    """The energies [L, N] of the change of the activations, over real positions."""

    def of_layer(layer: tuple[Array, Array, dict[str, Array]]) -> Changes:
        change = jnp.where(mask[..., None], layer[1].astype(jnp.float32) - layer[0].astype(jnp.float32), 0)
        inside = {name: noise_energy(change, q)[0].sum(-1) for name, q in layer[2].items()}
        return Changes(jnp.square(change).sum((-1, -2)), inside)

    return jax.lax.map(of_layer, (clean, noisy, subspaces))


def batch_size(lab: Lab, site: str) -> int:
    """Subjects whose clean activations at all layers of a site fit into `BYTES`; at most the experiment's batch."""
    frames, tokens = lab.model.processor.bucket([subject.request for subject in lab.subjects])
    positions = tokens if site in DECODER_SITES else int(lab.model.config.encoder.position_count(frames))
    depth, width = lab.model.config.site_shape(site)
    item = depth * width * positions * np.dtype(np.float32).itemsize
    return max(1, min(lab.config.batch_size, BYTES // max(item, 1)))


def clean_dimensions(lab: Lab, site: str) -> Float[Array, "layers width rank"]:
    """The fewest directions that hold 95 % of the energy of clean activations at single positions, zero columns behind
    them."""
    model, each = lab.model, max(1, FRAMES // len(lab.subjects))

    def run(prepared: Prepared) -> list[np.ndarray]:
        clips = per_request(model, site, site_activations(model, site, prepared), prepared, audio_only=False)
        spread = lambda n: np.unique(np.linspace(0, n - 1, each).round().astype(int))
        return [a[:, spread(a.shape[1])].astype(np.float64) for a in clips]

    frames = np.concatenate(lab.run(run, f"clean activations of {site}", None, size=batch_size(lab, site)), axis=1)
    _, n, width = frames.shape
    moments = np.swapaxes(frames, 1, 2) @ frames if width <= n else None
    directions = right_singular(frames) if moments is None else directions_of_moments(moments, n)
    held = np.asarray(dominant_mask(directions.s, CLEAN_ENERGY, floor=directions.floor))
    q = np.swapaxes(np.asarray(directions.v) * held[..., None], 1, 2)[..., : held.sum(-1).max()]
    return jnp.asarray(pad_rank(q))


CEILING = Ceiling()
