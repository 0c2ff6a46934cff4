"""What the studies share: items, calibrations, one measuring pass for the SEE of all bases, and answers under SEEN.

Axes: S levels (clean, then the SNRs), L layers, D width, C directions, N items.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from seen_jax.api import DEFAULT_PROMPT, Progress, per_clip, pool_sites, seen_edit
from seen_jax.audio.mix import mix_at_snr
from seen_jax.data.datasets import load_dataset
from seen_jax.data.items import Entry, Item
from seen_jax.data.leakage import SplitGuard
from seen_jax.data.letters import answer_letter
from seen_jax.data.permute import permuted_choices
from seen_jax.errors import AudioError, ConfigError
from seen_jax.evaluate import metrics
from seen_jax.evaluate.choose import counted
from seen_jax.evaluate.runner import (
    Experiment,
    Report,
    Setting,
    calibration_entries,
    request_of,
    stacked,
)
from seen_jax.evaluate.tables import BENDS, outcome
from seen_jax.models.edits import Edits
from seen_jax.models.encoder import first_edited
from seen_jax.models.generate import Decoding, generate, generate_each
from seen_jax.models.lalm import Batch
from seen_jax.models.model import Model, batches, forward
from seen_jax.models.processor import Request
from seen_jax.models.sites import ENCODER_SITES, Taps
from seen_jax.prefetch import overlapped
from seen_jax.subspace import Calibration, NoiseBasis, Statistics, union
from seen_jax.subspace.formulas import EPSILON

AT_ONCE = 13  # settings of one compiled call
IN_FLIGHT = 4  # batches of answers held at once: with more settings, a batch has fewer items
DIRECTIONS = 64  # of the measuring pass: their number is filled up to a multiple of this

Wave = Float[np.ndarray, " _"]
Level = float | None  # an SNR in dB, None: clean


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """An item of the studies. index: its place in its data set, which decides its noise."""

    index: int
    item: Item
    request: Request


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A basis whose SEE is wanted under a noise, and what its row begins with."""

    fields: dict[str, Any]
    noise: str
    basis: NoiseBasis


class Columns:
    """The different directions of many bases of one site, each once per layer."""

    def __init__(self) -> None:
        self._found: list[dict[bytes, int]] = []

    def add(self, basis: NoiseBasis) -> None:
        q = np.asarray(basis.q)
        self._found = self._found or [{} for _ in q]
        for layer, found in enumerate(self._found):
            for column in q[layer, :, : basis.ranks[layer]].T:
                found.setdefault(column.tobytes(), len(found))

    def places(self, basis: NoiseBasis) -> list[list[int]]:
        """Which directions each layer of a basis has."""
        q = np.asarray(basis.q)
        layers = zip(self._found, q, basis.ranks, strict=True)
        return [[found[column.tobytes()] for column in own[:, :rank].T] for found, own, rank in layers]

    def matrix(self) -> Float[np.ndarray, "layers width directions"]:
        """Zero columns fill every layer up to the same number."""
        most = max(1, *(len(found) for found in self._found))
        width = next((len(key) // 4 for found in self._found for key in found), 1)
        q = np.zeros((len(self._found), width, -(-most // DIRECTIONS) * DIRECTIONS), np.float32)
        for layer, found in enumerate(self._found):
            for i, key in enumerate(found):
                q[layer, :, i] = np.frombuffer(key, np.float32)
        return q

    @property
    def empty(self) -> bool:
        return not any(self._found)


@jax.jit
def see_of_directions(
    a: Float[Array, "rows positions width"],
    q: Float[Array, "width directions"],
    mask: Bool[Array, "rows positions"],
) -> Float[Array, "rows directions"]:
    """SEE along each direction alone, at one layer. Those of orthonormal directions add up to that of their basis."""
    a = jnp.where(mask[..., None], a.astype(jnp.float32), 0)
    total = jnp.square(a).sum(-1) + EPSILON
    energy = jnp.square(jnp.matmul(a, q, precision=jax.lax.Precision.HIGHEST))
    return (energy / total[..., None]).sum(1) / jnp.maximum(mask.sum(1, dtype=jnp.float32), 1)[:, None]


def overlap(a: NoiseBasis, b: NoiseBasis) -> float | None:
    """Mean cos^2 of the principal angles between two bases: over the angles of a layer, then over layers.

    Of layers that both keep and where both have directions; None without any.
    """
    found = []
    for layer in sorted({*a.layers} & {*b.layers}):
        few = min(a.ranks[layer], b.ranks[layer])
        if few:
            found.append(float(np.square(np.asarray(a.q[layer], np.float64).T @ b.q[layer]).sum()) / few)
    return float(np.mean(found)) if found else None


def removed(strength: float) -> float:
    """Share of the energy along a basis that SEEN takes away; negative beyond strength 2, where it adds some."""
    return 1.0 - (1.0 - strength) ** 2


def energy_share(matrix: Float[np.ndarray, "layers n width"], basis: NoiseBasis) -> float:
    """Share of the energy of activations along a basis, mean over its kept layers; 0 at layers without energy."""
    found = []
    for layer in basis.layers:
        total = float(np.square(matrix[layer], dtype=np.float64).sum())
        along = float(np.square(matrix[layer].astype(np.float64) @ np.asarray(basis.q[layer], np.float64)).sum())
        found.append(along / total if total else 0.0)
    return float(np.mean(found))


def mean_rank(basis: NoiseBasis) -> float:
    return float(np.mean([basis.ranks[layer] for layer in basis.layers]))


def pearson(x: Sequence[float], y: Sequence[float], kind: Any = "pearson") -> float | None:
    """None where it is not defined."""
    value = metrics.correlation(x, y, kind, resamples=0).value
    return None if math.isnan(value) else value


def spread(entries: Sequence[Entry], count: int) -> list[int]:
    """The first places of a data set, the tasks in turn."""
    tasks: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        tasks.setdefault(entry.task, []).append(i)
    turns = [own[i] for i in range(len(entries)) for own in tasks.values() if i < len(own)]
    return sorted(turns[:count])


class Bench:
    """One run of studies: keeps every activation statistic, SEE and answer that another study may ask for again."""

    def __init__(self, experiment: Experiment, report: Report, sites: Sequence[str] = (), clips: int = 0) -> None:
        """sites: at which calibrations will be asked for; clips: how many at most, the experiment's own or more."""
        self.experiment, self.config, self.model = experiment, experiment.config, experiment.model
        self.report = report
        self.noises = [name for name in experiment.noises if (name, self.config.site) in experiment.calibrations]
        self.levels: list[Level] = [None, *self.config.snrs]
        self.low: list[Level] = [snr for snr in self.config.snrs if snr <= BENDS]
        self.decoding = Decoding(self.config.max_new_tokens)
        self._drawn: dict[tuple[str, int], Wave] = {}
        self._pooled: dict[tuple[Any, ...], dict[str, np.ndarray]] = {}
        self._calibrations: dict[tuple[str, str, float, int], Calibration] = {}
        self._batches: dict[int, list[tuple[list[int], list[int], Batch, list[list[int]]]]] = {}
        self._answers: dict[tuple[str, float, tuple[str, float] | None], list[str]] = {}
        self._columns: dict[tuple[str, str], Columns] = {}
        self._shares: dict[tuple[str, str], np.ndarray] = {}
        self._see: dict[Case, np.ndarray] = {}
        self._unaided: dict[tuple[str, Level], list[str]] = {}
        self.sites, self._most_clips = sites, clips

    # Items and noisy audio

    def subjects(self) -> list[Subject]:
        """The items that can be read and mixed with every noise, from the shortest to the longest."""
        if not hasattr(self, "_subjects"):
            found = []
            for entries in self.experiment.entries.values():
                for i in spread(entries, self.config.study_items):
                    try:
                        item = entries[i].item()
                        if self.config.permute_choices and item.choices:
                            item, _ = permuted_choices(item, self.config.seed)
                        self.model.processor.checked(item.wave)
                        subject = Subject(i, item, request_of(self.experiment, entries[i], item))
                        for noise in self.experiment.noises:
                            mix_at_snr(item.wave, self._noise(noise, subject), 0.0)
                    except AudioError:
                        continue
                    found.append(subject)
            if not found:
                raise ConfigError("no item of the studies can be read and mixed with every noise")
            self._subjects = sorted(found, key=lambda subject: len(subject.item.wave))
        return self._subjects

    def _noise(self, noise: str, subject: Subject) -> Wave:
        samples = len(subject.item.wave)
        return self.experiment.sources[noise].clip(subject.index, samples, self.config.seed, "test")

    def noisy(self, noise: str | None, k: int, snr: Level) -> Wave:
        """The audio of subject k at a level of a noise."""
        subject = self.subjects()[k]
        if noise is None or snr is None:
            return subject.item.wave
        if (noise, k) not in self._drawn:
            self._drawn[noise, k] = self._noise(noise, subject)
        return mix_at_snr(subject.item.wave, self._drawn[noise, k], snr).audio

    def batches(self, size: int) -> list[tuple[list[int], list[int], Batch, list[list[int]]]]:
        """(own subjects, subjects of all rows, inputs, encoder rows of each) in equal batches of `size` at most."""
        subjects = self.subjects()
        even = math.ceil(len(subjects) / math.ceil(len(subjects) / size))
        if even not in self._batches:
            found = []
            for own, rows in batches(list(range(len(subjects))), even, self.model.rows):
                batch, owners = self.model.processor.prepared([subjects[k].request for k in rows])
                found.append((own, rows, batch, [clip for request in owners for clip in request]))
            self._batches[even] = found
        return self._batches[even]

    def with_waves(self, batch: Batch, waves: Sequence[Wave]) -> Batch:
        return dataclasses.replace(batch, features=self.model.processor.audio(waves)[0].features)

    def outcomes(self, outputs: Sequence[str]) -> list[str]:
        """What GSR compares."""
        pairs = zip(outputs, (subject.item for subject in self.subjects()), strict=True)
        letters = ((out, answer_letter(out, item.choices) if item.letter else None) for out, item in pairs)
        return [outcome({"output": out, "letter": letter}) for out, letter in letters]

    # Calibrations

    def clips(self, most: int) -> list[Wave]:
        """At most so many clips of calibration: the experiment's own, then others of its data set that can be read and
        are not tested."""
        if not hasattr(self, "_clips"):
            self._clips = [entry.wave() for entry in self._own_clips()]
            if self._most_clips > len(self._clips):
                self._clips += self._further(self._most_clips - len(self._clips))
        return self._clips[:most]

    def _own_clips(self) -> list[Entry]:
        return calibration_entries(self.config.calibration.dataset, self.config.calibration.clips)

    def _further(self, count: int) -> list[Wave]:
        own = {entry.id for entry in self._own_clips()}
        others = [entry for entry in load_dataset(self.config.calibration.dataset) if entry.id not in own]
        guard = SplitGuard()
        for entry in (entry for entries in self.experiment.entries.values() for entry in entries if others):
            with contextlib.suppress(AudioError):
                guard.add(entry.id, entry.wave())
        found: list[Wave] = []
        for entry in others:
            if len(found) < count:
                with contextlib.suppress(AudioError, ConfigError):  # broken, or tested
                    wave = entry.wave()
                    guard.check(entry.id, wave)
                    found.append(wave)
        return found

    def calibration(self, noise: str, site: str, snr: float | None = None, clips: int | None = None) -> Calibration:
        """The calibration of a noise at a site; each activation is pooled once.

        snr: of the noise, clips: how many; both the experiment's own by default.
        """
        level = self.config.calibration.snr_db if snr is None else snr
        count = self.config.calibration.clips if clips is None else clips
        own = (level, count) == (self.config.calibration.snr_db, self.config.calibration.clips)
        if own and (noise, site) in self.experiment.calibrations:
            return self.experiment.calibrations[noise, site]
        key = (noise, site, level, count)
        if key not in self._calibrations:
            together = [s for s in self.sites if own and (noise, s) not in self.experiment.calibrations]
            wanted = tuple(dict.fromkeys([site, *together]))
            parts = [self._pool(kind, noise, level, count, wanted)[site] for kind in ("clean", "noise", "noisy")]
            origin = {"model": self.model.name, "fingerprint": self.model.fingerprint, "noise": noise, "snr_db": level}
            self._calibrations[key] = Calibration(site, Statistics(*parts), origin)
        return self._calibrations[key]

    def calibration_waves(self, kind: str, noise: str, snr: float, count: int) -> list[Wave]:
        """Clips of calibration ("clean"), their noises ("noise") or both together ("noisy")."""
        found = []
        for i, wave in enumerate(self.clips(count)):
            if kind == "clean":
                found.append(wave)
                continue
            drawn = self.experiment.sources[noise].clip(i, len(wave), self.config.seed, "calibration")
            mixed = mix_at_snr(wave, drawn, snr).audio
            found.append(mixed if kind == "noisy" else (mixed - wave).astype(np.float32))
        return found

    def _pool(self, kind: str, noise: str, snr: float, count: int, sites: Sequence[str]) -> dict[str, np.ndarray]:
        key = (kind, count) if kind == "clean" else (kind, count, noise, snr)
        found = self._pooled.setdefault(key, {})
        if missing := [site for site in sites if site not in found]:
            waves = self.calibration_waves(kind, noise, snr, count)
            tick = self.tick(f"calibrating {noise}")
            found |= pool_sites(self.model, waves, missing, DEFAULT_PROMPT, self.config.batch_size, tick)
        return found

    def own(self, noise: str) -> NoiseBasis:
        """The experiment's basis for a noise; the union of all for one that is not calibrated."""
        if noise not in self.noises:
            return self.together()
        return self.calibration(noise, self.config.site).select(self.config.selection)

    def together(self) -> NoiseBasis:
        return union([self.own(noise) for noise in self.noises])

    # SEE

    def plan(self, cases: Iterable[Case]) -> None:
        """Tell what the measuring pass has to measure."""
        for case in cases:
            self._columns.setdefault((case.basis.site, case.noise), Columns()).add(case.basis)

    def see(self, case: Case) -> Float[np.ndarray, "levels items"]:
        """SEE of every subject, clean and at each SNR of the case's noise. The case must have been planned."""
        if case not in self._see:
            self._measure()
            key = case.basis.site, case.noise
            shares, places = self._shares[key], self._columns[key].places(case.basis)
            per_layer = [shares[:, layer, places[layer]].sum(1) for layer in case.basis.layers]
            self._see[case] = np.minimum(per_layer, 1).mean(0)
        return self._see[case]

    def unaided(self, noise: str, snr: Level) -> list[str]:
        """Outcomes of every subject without SEEN."""
        self._measure()
        return self._unaided[noise, snr]

    def _measure(self) -> None:
        """Answer every subject once per noise and level, and take the SEE of all planned directions meanwhile."""
        if self._unaided:
            return
        model, count = self.model, len(self.subjects())
        columns = {key: found.matrix() for key, found in self._columns.items() if not found.empty}
        sites = tuple(dict.fromkeys(site for site, _ in columns))
        for key in self._columns:
            depth, most = model.config.site_shape(key[0])[0], columns[key].shape[-1] if key in columns else 0
            self._shares[key] = np.zeros((len(self.levels), depth, most, count), np.float32)
        outputs: dict[tuple[str | None, Level], list[str]] = {}
        tapped = model.tapped(Taps(sites, "full"))
        work: list[tuple[str | None, Level]] = [(None, None)]
        work += itertools.product(self.experiment.noises, self.config.snrs)
        tick, done = self.tick("measuring for the studies"), 0
        for own, rows, batch, clips in self.batches(self.config.batch_size):
            masks = {site: counted(model, site, batch) for site in sites}
            for noise, snr in work:
                waves = [self.noisy(noise, k, snr) for k in rows]
                out = generate(tapped, model.variables, self.with_waves(batch, waves), {}, self.decoding)
                texts = model.processor.decode(np.asarray(out.tokens), np.asarray(out.lengths))
                heard = outputs.setdefault((noise, snr), [""] * count)
                for k, text in zip(own, texts, strict=False):
                    heard[k] = text
                for (site, tested), q in columns.items():
                    if noise in (None, tested):
                        layers = zip(out.taps[site], q, strict=True)
                        each = np.stack([np.asarray(see_of_directions(a, own_q, masks[site])) for a, own_q in layers])
                        if site in ENCODER_SITES:
                            each = per_clip(model, site, each, batch.frames, clips)
                        here = self._shares[site, tested][self.levels.index(snr)]
                        here[..., own] = np.swapaxes(each[:, : len(own)], 1, 2)
                done += len(own)
                tick(done, len(work) * count)
        for name, level in itertools.product(self.experiment.noises, self.levels):
            self._unaided[name, level] = self.outcomes(outputs[None if level is None else name, level])

    # GSR

    def gsr(self, noise: str, snr: Level, basis: NoiseBasis | None = None, strength: float = 1.0) -> float:
        """GSR at a level of a noise, without SEEN or with a basis that `answer` was given."""
        heard = self.unaided(noise, snr)
        if basis is not None and not idle(basis, strength):
            heard = self._answers[identity(basis), strength, _of(noise, snr)]
        return metrics.gsr(self.unaided(noise, None), heard)

    def gain(self, noise: str, basis: NoiseBasis, strength: float = 1.0) -> float | None:
        """Mean change of GSR by SEEN at SNRs up to 10 dB; None if there are none."""
        changes = [self.gsr(noise, snr, basis, strength) - self.gsr(noise, snr) for snr in self.low]
        return float(np.mean(changes)) if changes else None

    def answer(
        self, noise: str, settings: Sequence[tuple[NoiseBasis, float]], levels: Sequence[Level], stage: str
    ) -> None:
        """Answer all subjects under SEEN with each (basis, strength), several in one compiled call.

        Edits that change nothing are not run. What another study answered is: which settings share a call must not
        depend on what was done before a run was cut.
        """
        wanted = {(identity(basis), strength): basis for basis, strength in settings if not idle(basis, strength)}
        tick, count = self.tick(stage), len(self.subjects())
        done, total = 0, len(wanted) * len(levels) * count
        for start in range(0, len(wanted), AT_ONCE):
            part = list(wanted.items())[start : start + AT_ONCE]
            edits = jax.tree.map(
                jnp.asarray, stacked([Setting(str(i), b, strength) for i, ((_, strength), b) in enumerate(part)])
            )
            size = max(1, IN_FLIGHT * self.config.batch_size // len(part))
            first = first_edited(self.model.config.encoder, edits)
            batches = self.batches(min(size, self.config.batch_size))
            for level in levels:

                def heard(job: tuple[list[int], list[int], Batch, Any], level: Level = level) -> Batch:
                    return self.with_waves(job[2], [self.noisy(noise, k, level) for k in job[1]])

                def told(batch: Batch, edits: Edits = edits, first: int = first) -> list[list[str]]:
                    model = self.model
                    out = generate_each(
                        model.lalm, model.variables, batch, edits, self.decoding, None, first, model.flight
                    )
                    pairs = zip(*jax.device_get((out.tokens, out.lengths)), strict=True)
                    return [self.model.processor.decode(tokens, lengths) for tokens, lengths in pairs]

                texts = [[""] * count for _ in part]
                each = overlapped(batches, heard, told, self.model.concurrent)
                for (own, *_), said in zip(batches, each, strict=True):
                    for setting, decoded in zip(texts, said, strict=True):
                        for k, text in zip(own, decoded, strict=False):
                            setting[k] = text
                    done += len(own) * len(part)
                    tick(done, total)
                for (key, _), own_texts in zip(part, texts, strict=True):
                    self._answers[*key, _of(noise, level)] = self.outcomes(own_texts)

    def heard_frames(
        self, noise: str, basis: NoiseBasis, waves: Sequence[Wave]
    ) -> Iterator[tuple[int, str, Float[np.ndarray, "layers positions"]]]:
        """(subject, output, SEE per layer and position) of other audio of the subjects; SEEN is off."""
        model, site = self.model, basis.site
        lalm, edits = model.tapped(Taps(see_frames=True)), seen_edit(model, basis, 0.0)
        for own, rows, batch, clips in self.batches(self.config.batch_size):
            out = generate(
                lalm, model.variables, self.with_waves(batch, [waves[k] for k in rows]), edits, self.decoding
            )
            texts = model.processor.decode(np.asarray(out.tokens), np.asarray(out.lengths))
            frames, mask = np.asarray(out.see[site].frames), counted(model, site, batch)
            for row, k in enumerate(own):
                parts = clips[row] if site in ENCODER_SITES else [row]
                yield k, texts[row], np.concatenate([frames[:, p, mask[p]] for p in parts], axis=1)

    def tick(self, stage: str) -> Progress:
        return lambda done, total: self.report(stage, done, total)


def _of(noise: str, snr: Level) -> tuple[str, float] | None:
    """Clean audio is the same for every noise."""
    return None if snr is None else (noise, snr)


def identity(basis: NoiseBasis) -> str:
    """The same for bases that edit alike: kept layers and their directions."""
    digest = hashlib.sha256(f"{basis.site} {basis.layers}".encode())
    for layer in basis.layers:
        digest.update(np.ascontiguousarray(np.asarray(basis.q[layer])[:, : basis.ranks[layer]]).tobytes())
    return digest.hexdigest()


def idle(basis: NoiseBasis, strength: float) -> bool:
    """Whether SEEN changes nothing, bit for bit."""
    return strength == 0 or not any(basis.ranks[layer] for layer in basis.layers)


def frame_moments(
    model: Model, groups: dict[str, list[Wave]], site: str, batch_size: int
) -> dict[str, tuple[int, Float[np.ndarray, "layers width"], Float[np.ndarray, "layers width width"]]]:
    """(positions, their sum, their second moments) over all positions of all clips; float64.

    groups: "clean" and "noise" clips, and "noisy" ones of the same lengths as the clean ones, of which "difference"
    from the clean activations is taken.
    """
    lalm = model.tapped(Taps((site,), "full"))
    depth, width = model.config.site_shape(site)
    found: dict[str, tuple[int, Any, Any]] = {}
    for own, rows in batches(list(range(len(groups["clean"]))), batch_size, model.rows):
        taken: dict[str, np.ndarray] = {}
        for name, waves in groups.items():
            batch, owners = model.processor.prepared([Request([waves[i]], DEFAULT_PROMPT) for i in rows])
            mask = counted(model, site, batch)
            clips = [clip for request in owners for clip in request]
            kept = [r for i in range(len(own)) for r in clips[i]] if site in ENCODER_SITES else range(len(own))
            a = np.asarray(forward(lalm, model.variables, batch, {}).taps[site], np.float64)
            taken[name] = np.concatenate([a[:, r, mask[r]] for r in kept], axis=1)
        if "noisy" in taken:
            taken["difference"] = taken.pop("noisy") - taken["clean"]
        for name, frames in taken.items():
            n, total, moments = found.get(name, (0, np.zeros((depth, width)), np.zeros((depth, width, width))))
            second = moments + np.swapaxes(frames, 1, 2) @ frames
            found[name] = (n + frames.shape[1], total + frames.sum(1), second)
    return found
