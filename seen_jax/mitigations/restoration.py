"""Restoration: a map per noise and SNR puts back what noise took from the encoder's residual stream."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seen_jax.audio.mix import MAX_SNR_DB, mix_at_snr
from seen_jax.data.datasets import DatasetConfig
from seen_jax.errors import ConfigError
from seen_jax.files import digest, write_file
from seen_jax.mitigations.base import Fitting, Mitigation, Wave
from seen_jax.mitigations.ridge import FrameSums, Gate, Maps, describe, fit_gate, fit_maps, frame_sums, restoration_edit
from seen_jax.models.batching import Prepared, group_requests, run_batches
from seen_jax.models.edits import Edits
from seen_jax.models.encoder import Audio, within
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.model import Model
from seen_jax.models.processor import Bucket, Request
from seen_jax.models.sites import ENCODER_RESID, Taps

CLIPS = DatasetConfig("seen-tiny/calibration")


@dataclasses.dataclass(frozen=True)
class Restoration(Mitigation):
    """How it is fitted; all of it is closed form.

    dataset, clips, snrs: what it is fitted to, the tasks in turn, clean and with every calibrated noise at each SNR
        (dB), as earlier steps of the chain leave them.
    layer, gate_layers: of the encoder's residual stream, that which is edited, and those from which the gate recognises
        the noise of a clip; negative ones count from the last.
    strength, penalty: share of the change that is made; of the ridge.
    rank: of the maps, None for full; a batch holds layers x clips x width x rank numbers for it.
    temperature: above 1 for softer mixtures of maps."""

    name: ClassVar[str] = "restoration"
    dataset: DatasetConfig = CLIPS
    clips: int = 48
    snrs: tuple[float, ...] = (-10.0, -5.0, 0.0, 5.0, 10.0)
    layer: int = 0
    gate_layers: tuple[int, ...] = (0,)
    strength: float = 0.5
    penalty: float = 0.01
    rank: int | None = None
    temperature: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "snrs", tuple(float(snr) for snr in self.snrs))
        object.__setattr__(self, "gate_layers", tuple(self.gate_layers))
        if self.clips < 2:
            raise ConfigError(f"a restoration needs 2 clips or more, not {self.clips}")
        if not self.snrs or len(set(self.snrs)) < len(self.snrs) or not all(abs(s) <= MAX_SNR_DB for s in self.snrs):
            raise ConfigError(f"a restoration needs different SNRs of at most {MAX_SNR_DB:g} dB, not {list(self.snrs)}")
        if not self.gate_layers:
            raise ConfigError("a restoration needs a gate layer or more: [0] is a start")
        if not math.isfinite(self.strength):
            raise ConfigError(f"the strength of a restoration must be a finite number, not {self.strength}")
        if not 0 < self.penalty < math.inf:
            raise ConfigError(f"the ridge penalty must be positive, not {self.penalty}: 0.01 is a start")
        if not self.temperature > 0:
            raise ConfigError(f"the temperature of a restoration must be positive, not {self.temperature}")

    def data(self) -> Sequence[tuple[DatasetConfig, int]]:
        return [(self.dataset, self.clips)]

    def fit(self, fitting: Fitting) -> Mitigation:
        """Fit maps and gate; what each condition leaves of the clips is kept in a file."""
        if fitting.site == ENCODER_RESID:
            raise ConfigError(f"a restoration edits {ENCODER_RESID}: SEE must be measured at another `site`")
        depth = fitting.model.config.site_shape(ENCODER_RESID)[0]
        places = (self.layer, *self.gate_layers)
        if bad := [layer for layer in places if not -depth <= layer < depth]:
            raise ConfigError(f"a restoration names layers {bad}, which are not among the encoder's {depth}")
        layer, *gate_layers = (place % depth for place in places)
        waves, model = fitting.waves(self.dataset, self.clips), fitting.model
        encode = partial(_encoded, _tapped(model), model.variables, layer=layer, gate_layers=tuple(gate_layers))
        conditions = [None, *itertools.product(fitting.calibrated, self.snrs)]  # None: clean audio
        pairs = [pair_frames(fitting, waves, condition, encode) for condition in conditions]
        maps = fit_maps([pair.sums for pair in pairs], self.penalty, self.strength, self.rank)
        labels = np.repeat(np.arange(len(pairs)), [len(pair.descriptors) for pair in pairs])
        gate = fit_gate(np.concatenate([pair.descriptors for pair in pairs]), labels, self.temperature)
        return FittedRestoration(model, maps, gate, layer, tuple(gate_layers))


@dataclasses.dataclass(frozen=True, eq=False)
class FittedRestoration(Mitigation):
    """Maps of one layer of the encoder's residual stream, and the gate that mixes them for every clip."""

    model: Model
    maps: Maps
    gate: Gate
    layer: int
    gate_layers: tuple[int, ...]

    def edits(self, audio: Audio, noises: Sequence[str]) -> Mapping[str, Edits]:
        """The edit of the rows of `audio`. A first pass through the encoder shows the gate what they are."""
        model = self.model
        _, descriptors, _ = _encoded(_tapped(model), model.variables, audio, self.layer, self.gate_layers)
        depth = model.config.site_shape(ENCODER_RESID)[0]
        edits = {ENCODER_RESID: restoration_edit(self.maps, self.gate(np.asarray(descriptors)), self.layer, depth)}
        return dict.fromkeys(noises, edits)  # one object: the pass is shared


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
    fitting: Fitting, waves: Sequence[Wave], condition: tuple[str, float] | None, encode: Callable[[Audio], Any]
) -> Pairs:
    """What a condition leaves of clips, from its file if it is there, else computed and kept. waves: 16 kHz, as they
    should be; the model hears them with the noise and SNR of the condition, as earlier steps of the chain leave them.
    Clean audio (None) needs no map. encode: `_encoded` of the model and layers."""
    model, requests = fitting.model, [Request([wave]) for wave in waves]
    stage = "fitting the restoration" + (" to {} at {:g} dB".format(*condition) if condition else "")
    path = fitting.folder / ("{}_{:g}.safetensors".format(*condition) if condition else "clean.safetensors")
    fitting.wait_for(path, stage)
    if path.exists():
        return load_pairs(path)

    def hear(index: int) -> Wave:
        wave = waves[index]
        if condition:
            drawn = fitting.noises[condition[0]].clip(index, len(wave), fitting.seed, "calibration")
            wave = mix_at_snr(wave, drawn, condition[1]).audio
        return fitting.hear(wave)

    def run(prepared: Prepared) -> list[Pairs | None]:
        """The pairs of the whole batch, in the place of its first clip."""
        audio = prepared.inputs
        assert not isinstance(audio, Batch)
        rows = [row for clip in prepared.clips[: len(set(prepared.rows))] for row in clip]
        noisy, descriptors, mask = (np.asarray(x)[rows] for x in encode(audio))
        sums = None
        if condition:
            target, _ = model.processor.audio([waves[i] for i in prepared.rows], Bucket(audio.features.shape[1]))
            sums = frame_sums(noisy, np.asarray(encode(target)[0])[rows], mask)
        return [Pairs(sums, descriptors), *[None] * (len(prepared.rows) - 1)]

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


@partial(jax.jit, static_argnames=("lalm", "layer", "gate_layers"))
def _encoded(
    lalm: Lalm, variables: Any, audio: Audio, layer: int, gate_layers: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """(activations [A, T, D] of a layer, descriptors [A, P] of the gate's layers, real positions [A, T])."""
    a = lalm.apply(variables, audio, {}, method="encode").records[ENCODER_RESID]["tap"].astype(jnp.float32)
    mask = within(lalm.config.encoder, audio.frames, audio.features.shape[1])
    return a[layer], describe(a[jnp.asarray(gate_layers)], mask), mask
