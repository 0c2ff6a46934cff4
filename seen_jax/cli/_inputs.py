"""What the commands read: clips, noises, models, bases. Everything is checked before a model is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.audio import (
    AudioItem,
    find_audio,
    is_silent,
    load_noise,
    mix_at_snr,
    noise_for_clip,
    read_audio,
    synthetic_noise,
)
from seen_jax.cli._output import progress
from seen_jax.cli._report import warn_of
from seen_jax.errors import AudioError, BasisError, ConfigError
from seen_jax.models.checkpoint import read_config
from seen_jax.models.folders import find_folder
from seen_jax.models.model import Model, load
from seen_jax.models.sharding import MeshConfig
from seen_jax.models.sites import ENCODER_MLP_ACT
from seen_jax.subspace import Calibration, NoiseBasis, Selection, diagnose, load_released, read_vectors

SEED_STRIDE = 1_000_000  # the noise of clip i under seed s is drawn with s * SEED_STRIDE + i
RELEASED = ".pt"  # suffix of a basis in the form that the paper's authors released
CALIBRATION = 500_000  # clips of a calibration count from here: its noise is never that of a measurement


@dataclass(frozen=True)
class Clip:
    """One clip as read: wave is 16 kHz mono float32. prompt: a manifest's own, or None. choices: offered answers."""

    id: str
    path: Path
    wave: np.ndarray
    prompt: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Noise:
    """A noise of the command line: a synthetic name, or one or more files that the clips take in turn."""

    name: str
    sources: tuple[str, ...]

    def clip(self, index: int, samples: int, seed: int) -> np.ndarray:
        """The noise under clip `index`, always the same for the same seed."""
        return noise_for_clip(self.sources[index % len(self.sources)], samples, seed * SEED_STRIDE + index)


def read_clips(inputs: Sequence[str], limit: int | None = None) -> list[Clip]:
    """Read the audio that the inputs name, at most `limit` clips."""
    items = find_audio(list(inputs))[:limit]
    with progress("reading audio") as tick:
        clips = []
        for i, item in enumerate(items):
            clips.append(Clip(item.id, item.path, read_audio(item.path), item.prompt, item.choices))
            tick(i + 1, len(items))
    return clips


def shard_of(inputs: Sequence[str], limit: int | None, shard: tuple[int, int] | None) -> list[tuple[int, AudioItem]]:
    """(index among all, item) of the audio that the inputs name: every N-th of the first `limit`, from the K-th on."""
    own, of = shard or (1, 1)
    if not (items := list(enumerate(find_audio(list(inputs))[:limit]))[own - 1 :: of]):
        raise ConfigError(f"--shard {own}/{of} holds none of the clips: use fewer parts.")
    return items


def pair(
    model: Model, noise: Noise, index: int, item: AudioItem, snr_db: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A clip of a streamed calibration and its noise, read and checked."""
    wave = read_audio(item.path)
    check_mixable([Clip(item.id, item.path, wave)], [snr_db])
    _check_length(model, item.path, wave)
    return wave, noise.clip(CALIBRATION + index, len(wave), seed)


def read_noise(spec: str) -> Noise:
    """Check a noise of the command line: a synthetic name, an audio file, or a folder of audio files."""
    if os.path.isdir(os.path.expanduser(spec)) and not _is_synthetic(spec):
        files = tuple(str(item.path) for item in find_audio([spec]))
        noise = Noise(Path(spec).expanduser().resolve().name, files)
    else:
        noise = Noise(Path(spec).stem, (spec,))
    for source in noise.sources:
        load_noise(source, seconds=0.1)
    return noise


def _is_synthetic(spec: str) -> bool:
    try:
        synthetic_noise(spec, 1, 0)
    except ConfigError:
        return False
    return True


def check_mixable(clips: Sequence[Clip], snrs_db: Sequence[float]) -> None:
    """Raise for an SNR out of range and for clips of digital silence, which have no SNR."""
    for snr in snrs_db:
        mix_at_snr(np.ones(1, np.float32), np.ones(1, np.float32), snr)
    if silent := [str(clip.path) for clip in clips if is_silent(clip.wave)]:
        raise AudioError(f"{', '.join(silent[:5])}: digital silence has no SNR; leave such clips out.")


def mixed(clips: Sequence[Clip], noise: Noise | None, snr_db: float | None, seed: int) -> list[np.ndarray]:
    """Every clip with its own noise at one SNR, the same noise at every SNR; as given without noise or SNR."""
    if noise is None or snr_db is None:
        return [clip.wave for clip in clips]
    pairs = ((clip.wave, noise.clip(i, len(clip.wave), seed)) for i, clip in enumerate(clips))
    return [mix_at_snr(wave, own, snr_db).audio for wave, own in pairs]


def load_model(args: Any, clips: Sequence[Clip] = ()) -> Model:
    """The model of --model, --dtype and --mesh; raises for clips longer than it takes."""
    mesh = MeshConfig(args.mesh.data, args.mesh.tensor).mesh()
    with progress(f"loading {args.model}") as tick:
        model = load(args.model, args.dtype, mesh, tick)
    for clip in clips:
        _check_length(model, clip.path, clip.wave)
    return model


def _check_length(model: Model, path: Path, wave: np.ndarray) -> None:
    try:
        model.processor.checked(wave)
    except AudioError as e:
        raise AudioError(f"{path}: {e}") from None


def find_artefact(name: str) -> Path:
    """The calibration or noise basis that a folder is, or the only one that lies in it (as `calibrate` leaves it), or a
    released `.pt` file."""
    path = Path(name).expanduser()
    if not path.exists():
        raise BasisError(f"there is no calibration or noise basis {path}.")
    if path.suffix == RELEASED and path.is_file():
        return path
    if not path.is_dir():
        raise BasisError(f"{path} is a file: expected the folder of a calibration or noise basis, or a .pt list.")
    inside = sorted(p.parent for p in path.glob("*/card.json"))
    if (path / "card.json").is_file() or not inside:
        return path
    if len(inside) > 1:
        names = ", ".join(p.name for p in inside)
        raise BasisError(f"{path} holds several calibrations ({names}): name one, as in {inside[0]}.")
    return inside[0]


def kind_of(folder: Path) -> str:
    """The kind on the card of an artefact, "calibration" or "noise basis"; BasisError for anything else."""
    if folder.suffix == RELEASED and folder.is_file():
        return "noise basis"
    card = folder / "card.json"
    if not card.is_file():
        raise BasisError(f"{folder} holds no card.json, so it is no calibration or noise basis.")
    try:
        kind = json.loads(card.read_text("utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BasisError(f"{card} is damaged ({type(e).__name__}: {e}): calibrate again.") from None
    if kind not in ("calibration", "noise basis"):
        raise BasisError(f"{card} is the card of a {kind!r}: expected a calibration or a noise basis.")
    return kind


def read_basis(folder: Path, fields: Mapping[str, Any], model: str | None = None) -> NoiseBasis:
    """The basis of an artefact: selected from a calibration with the given fields of `Selection`, or a saved one.

    model: whose stack a released list belongs to; without one it is shown as a stack of its own length.
    """
    if kind_of(folder) == "calibration":
        calibration = Calibration.load(folder)
        basis = calibration.select(Selection(**fields))
        warn_of(str(folder), [asdict(finding) for finding in diagnose(calibration, basis)])
        return basis
    if extra := [f"--{name.replace('_', '-')}" for name in fields if name != "layers"]:
        raise ConfigError(f"{folder} is a saved noise basis: {', '.join(extra)} only apply to a calibration.")
    if folder.suffix == RELEASED and folder.is_file():
        depth = None if model is None else read_config(find_folder(model))[0].site_shape(ENCODER_MLP_ACT)[0]
        basis = load_released(folder, len(read_vectors(folder)) if depth is None else depth)
    else:
        basis = NoiseBasis.load(folder)
    return basis.with_layers(fields["layers"]) if "layers" in fields else basis


def check_basis(model: Model, basis: NoiseBasis, folder: Path) -> None:
    """BasisError naming the folder unless the basis was made for this model."""
    try:
        basis.check(basis.site, *model.config.site_shape(basis.site), model.fingerprint)
    except BasisError as e:
        raise BasisError(f"{folder}: {e}.") from None
