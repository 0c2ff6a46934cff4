"""Restoration: a map per layer, noise and SNR puts back what noise took from the encoder's residual stream."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seen_jax.audio.mix import MAX_SNR_DB, mix_at_snr
from seen_jax.audio.sources import NoiseSource
from seen_jax.data.datasets import DatasetConfig
from seen_jax.errors import ConfigError
from seen_jax.files import digest, write_file
from seen_jax.mitigations.base import Fitting, Mitigation, Wave
from seen_jax.mitigations.ridge import (
    FrameSums,
    Gate,
    Maps,
    describe,
    describe_windows,
    fit_gate,
    fit_maps,
    frame_sums,
    restoration_edit,
)
from seen_jax.models.batching import Prepared, group_requests, run_batches
from seen_jax.models.edits import Edits
from seen_jax.models.encoder import Audio, within
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.model import Model
from seen_jax.models.pooling import position_step
from seen_jax.models.processor import Bucket, Request
from seen_jax.models.sites import ENCODER_RESID, Taps

CLIPS = DatasetConfig("seen-tiny/calibration")


@dataclasses.dataclass(frozen=True)
class Restoration(Mitigation):
    """How it is fitted; all of it is closed form.

    dataset, clips, snrs: what it is fitted to, the tasks in turn, clean and with every noise at each SNR (dB), as
        earlier steps of the chain leave them.
    noises: which noises, by their names in the experiment or as specs of others; None: the calibrated ones. The part
        "calibration" of each is heard, which is never tested.
    layers, gate_layers: of the encoder's residual stream, those which are edited, and those from which the gate
        recognises the noise of a clip; negative ones count from the last. Maps are fitted layer after layer, each to
        activations that the earlier ones have restored already.
    strength, penalty: share of the change that is made; of the ridge.
    rank: of the maps, None for full; a batch holds layers x clips x width x rank numbers for it.
    temperature: above 1 for softer mixtures of maps.
    window: None for one mixture per clip; else every frame has its own, by what the gate sees in so many seconds around
        it, for noise that comes and goes."""

    name: ClassVar[str] = "restoration"
    dataset: DatasetConfig = CLIPS
    clips: int = 48
    snrs: tuple[float, ...] = (-10.0, -5.0, 0.0, 5.0, 10.0)
    layers: tuple[int, ...] = (0,)
    gate_layers: tuple[int, ...] = (0,)
    strength: float = 0.5
    penalty: float = 0.01
    rank: int | None = None
    temperature: float = 2.0
    noises: tuple[str, ...] | None = None
    window: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "snrs", tuple(float(snr) for snr in self.snrs))
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "gate_layers", tuple(self.gate_layers))
        if self.clips < 2:
            raise ConfigError(f"a restoration needs 2 clips or more, not {self.clips}")
        if not self.snrs or len(set(self.snrs)) < len(self.snrs) or not all(abs(s) <= MAX_SNR_DB for s in self.snrs):
            raise ConfigError(f"a restoration needs different SNRs of at most {MAX_SNR_DB:g} dB, not {list(self.snrs)}")
        if not (self.layers and self.gate_layers):
            raise ConfigError("a restoration needs a layer and a gate layer or more: [0] is a start")
        if self.noises is not None:
            object.__setattr__(self, "noises", tuple(self.noises))
            if not self.noises or len(set(self.noises)) < len(self.noises):
                raise ConfigError(f"a restoration needs a noise or more, each only once, not {list(self.noises)}")
        if not math.isfinite(self.strength):
            raise ConfigError(f"the strength of a restoration must be a finite number, not {self.strength}")
        if not 0 < self.penalty < math.inf:
            raise ConfigError(f"the ridge penalty must be positive, not {self.penalty}: 0.01 is a start")
        if not self.temperature > 0:
            raise ConfigError(f"the temperature of a restoration must be positive, not {self.temperature}")
        if self.window is not None and not 0 < self.window < math.inf:
            raise ConfigError(f"the window of a restoration must be positive seconds, not {self.window}")

    def data(self) -> Sequence[tuple[DatasetConfig, int]]:
        return [(self.dataset, self.clips)]

    def noise_specs(self) -> Sequence[str]:
        return self.noises or ()

    def fit(self, fitting: Fitting) -> Mitigation:
        """Fit the gate, and maps layer after layer; what each condition leaves of the clips is kept in files."""
        if fitting.site == ENCODER_RESID:
            raise ConfigError(f"a restoration edits {ENCODER_RESID}: SEE must be measured at another `site`")
        depth = fitting.model.config.site_shape(ENCODER_RESID)[0]
        places = (*self.layers, *self.gate_layers)
        if bad := [layer for layer in places if not -depth <= layer < depth]:
            raise ConfigError(f"a restoration names layers {bad}, which are not among the encoder's {depth}")
        layers, gate_layers = (tuple(place % depth for place in part) for part in (self.layers, self.gate_layers))
        waves = fitting.waves(self.dataset, self.clips)
        sources = fitting.sources(self.noises)
        levels = [Condition(name, source, snr) for name, source in sources.items() for snr in self.snrs]
        conditions: list[Condition | None] = [None, *levels]  # None: clean audio
        reach = None if self.window is None else round(self.window / position_step(fitting.model.config.encoder) / 2)
        fitted = FittedRestoration(fitting.model, {}, None, gate_layers, reach)
        for layer in sorted(set(layers)):
            folder = fitting.folder / self._key(fitting, gate_layers, layer, (*sources,), (*fitted.maps,))
            into = dataclasses.replace(fitting, folder=folder)
            targets: dict[tuple[int, ...], np.ndarray] = {}
            pairs = [pair_frames(into, waves, condition, layer, fitted, targets) for condition in conditions]
            gate = fitted.gate
            if gate is None:
                labels = np.repeat(np.arange(len(pairs)), [len(pair.descriptors) for pair in pairs])
                gate = fit_gate(np.concatenate([pair.descriptors for pair in pairs]), labels, self.temperature)
            maps = fit_maps([pair.sums for pair in pairs], self.penalty, self.strength, self.rank)
            fitted = dataclasses.replace(fitted, maps={**fitted.maps, layer: maps}, gate=gate)
        return fitted

    def _key(self, fitting: Fitting, gate: tuple[int, ...], layer: int, noises: tuple[str, ...], below: Any) -> str:
        """A name for all that the pairs of a condition depend on, beside the condition. In the first layer that is not
        what else the restoration is fitted to, so restorations that differ in that share files."""
        depends: list[Any] = [self.dataset, self.clips, gate, self.window, fitting.audio_key, layer]
        if below:
            depends += [noises, self.snrs, self.penalty, self.strength, self.rank, self.temperature, below]
        return f"restoration_{digest([repr(depends)])[:16]}"


@dataclasses.dataclass(frozen=True, eq=False)
class FittedRestoration(Mitigation):
    """Maps by layer of the encoder's residual stream, and the gate that mixes them for every clip, or for every frame
    by the frames up to `reach` away; no maps, and no gate yet, while the first ones are fitted."""

    model: Model
    maps: Mapping[int, Maps]
    gate: Gate | None
    gate_layers: tuple[int, ...]
    reach: int | None = None

    def edits(self, audio: Audio, noises: Sequence[str]) -> Mapping[str, Edits]:
        """The edit of the rows of `audio`. A first pass through the encoder shows the gate what they are."""
        return dict.fromkeys(noises, self.edit(self.encoded(audio, {})[1]))  # one object: the pass is shared

    def edit(self, descriptors: Array) -> Edits:
        """The edit of rows with these descriptors."""
        if self.gate is None:
            return {}
        depth = self.model.config.site_shape(ENCODER_RESID)[0]
        return {ENCODER_RESID: restoration_edit(self.maps, self.gate(np.asarray(descriptors)), depth)}

    def encoded(self, audio: Audio, edits: Edits, layer: int = 0) -> tuple[Array, Array, Array]:
        """(activations [A, T, D] of a layer, descriptors of the gate's layers, [A, P] or of windows [A, T, P], and real
        positions [A, T])."""
        gate = self.gate_layers, self.reach
        return _encoded(_tapped(self.model), self.model.variables, audio, edits, layer, gate)


class Condition(NamedTuple):
    """A noise, by name, at an SNR in dB."""

    noise: str
    source: NoiseSource
    snr: float


class Pairs(NamedTuple):
    """What one condition leaves of its clips: the sums over pairs of frames, None for clean audio, and the gate's
    descriptors of the encoder's rows."""

    sums: FrameSums | None
    descriptors: Float[np.ndarray, "rows descriptors"]


def save_pairs(pairs: Pairs, path: Path) -> None:
    """Write a file, all or nothing. Raises ConfigError where the disk refuses."""
    from safetensors.numpy import save

    sums = {} if pairs.sums is None else {"gram": pairs.sums.gram, "cross": pairs.sums.cross}
    arrays = {name: np.ascontiguousarray(x) for name, x in {"descriptors": pairs.descriptors, **sums}.items()}
    write_file(path, save(arrays, {"digest": _digest(arrays)}))


def load_pairs(path: Path) -> Pairs:
    """What `save_pairs` wrote. Raises ConfigError for a damaged file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
            intact = (file.metadata() or {}).get("digest") == _digest(arrays)
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): move it away to make it again") from None
    if not intact:
        raise ConfigError(f"{path} is damaged: move it away to make it again")
    return Pairs(FrameSums(arrays["gram"], arrays["cross"]) if "gram" in arrays else None, arrays["descriptors"])


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    parts = [(f"{name} {x.dtype} {x.shape}", x.tobytes()) for name, x in sorted(arrays.items())]
    return digest(itertools.chain(*parts))


def pair_frames(
    fitting: Fitting,
    waves: Sequence[Wave],
    condition: Condition | None,
    layer: int,
    restored: FittedRestoration,
    targets: dict[tuple[int, ...], np.ndarray],
) -> Pairs:
    """What a condition leaves of clips, from its file if it is there, else computed and kept. waves: 16 kHz, as they
    should be; the model hears them with the noise and SNR of the condition, as earlier steps of the chain leave them.
    Clean audio (None) needs no map. layer: whose activations. restored: the layers below it, as far as they are
    fitted. targets: by batch, the clean activations, which all conditions of a layer share; those missing are added."""
    model, requests = fitting.model, [Request([wave]) for wave in waves]
    stage = "fitting the restoration" + (f" to {condition.noise} at {condition.snr:g} dB" if condition else "")
    name = f"{condition.noise}_{condition.snr:g}" if condition else "clean"
    path = fitting.folder / f"layer{layer}" / f"{name}.safetensors"
    fitting.wait_for(path, stage)
    if path.exists():
        return load_pairs(path)

    def hear(index: int) -> Wave:
        wave = waves[index]
        if condition:
            drawn = condition.source.clip(index, len(wave), fitting.seed, "calibration")
            wave = mix_at_snr(wave, drawn, condition.snr).audio
        return fitting.hear(wave)

    def run(prepared: Prepared) -> list[Pairs | None]:
        """The pairs of the whole batch, in the place of its first clip."""
        audio = prepared.inputs
        assert not isinstance(audio, Batch)
        rows = [row for clip in prepared.clips[: len(set(prepared.rows))] for row in clip]
        activations, of_gate, real = restored.encoded(audio, {}, layer)
        if edits := restored.edit(of_gate):
            activations = restored.encoded(audio, edits, layer)[0]
        noisy, descriptors, mask = (np.asarray(x)[rows] for x in (activations, of_gate, real))
        sums = None
        if condition:
            batch = tuple(prepared.rows)
            if batch not in targets:
                clean, _ = model.processor.audio([waves[i] for i in batch], Bucket(audio.features.shape[1]))
                targets[batch] = np.asarray(restored.encoded(clean, {}, layer)[0])[rows]
            sums = frame_sums(noisy, targets[batch], mask)
        return [Pairs(sums, apart(descriptors, mask, restored.reach)), *[None] * (len(prepared.rows) - 1)]

    groups = group_requests(model, requests, fitting.batch_size, text=False)
    results = run_batches(model, requests, run, groups, hear, fitting.progress, stage)
    parts = [part for part in results if part is not None]
    sums = [part.sums for part in parts if part.sums is not None]
    total = functools.reduce(FrameSums.__add__, sums) if sums else None
    pairs = Pairs(total, np.concatenate([part.descriptors for part in parts]))
    save_pairs(pairs, path)
    return pairs


def _tapped(model: Model) -> Lalm:
    return model.tapped(Taps((ENCODER_RESID,), "full"))


@partial(jax.jit, static_argnames=("lalm", "layer", "gate"))
def _encoded(
    lalm: Lalm, variables: Any, audio: Audio, edits: Edits, layer: int, gate: tuple[tuple[int, ...], int | None]
) -> tuple[Array, Array, Array]:
    a = lalm.apply(variables, audio, edits, method="encode").records[ENCODER_RESID]["tap"].astype(jnp.float32)
    mask = within(lalm.config.encoder, audio.frames, audio.features.shape[1])
    of_gate, reach = a[jnp.asarray(gate[0])], gate[1]
    return a[layer], describe(of_gate, mask) if reach is None else describe_windows(of_gate, mask, reach), mask


def apart(descriptors: np.ndarray, mask: np.ndarray, reach: int | None) -> Float[np.ndarray, "windows descriptors"]:
    """The descriptors of clips, or of those windows of them that share no frame."""
    if reach is None:
        return descriptors
    counts = mask.sum(axis=1)
    return np.concatenate([x[min(reach, n // 2) : n : 2 * reach + 1] for x, n in zip(descriptors, counts, strict=True)])
