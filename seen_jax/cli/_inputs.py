"""What the commands read: clips, noises, models, bases. Everything is checked before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.audio import AudioItem, NoiseSource, find_audio, is_silent, mix_at_snr, noise_source, read_audio
from seen_jax.cli._report import warn_of
from seen_jax.errors import AudioError, BasisError, ConfigError
from seen_jax.models.checkpoint import read_config
from seen_jax.models.folders import find_folder
from seen_jax.models.load import load
from seen_jax.models.model import Model
from seen_jax.models.sharding import MeshConfig
from seen_jax.models.sites import ENCODER_MLP_ACT
from seen_jax.progress import Progress
from seen_jax.subspace import Calibration, NoiseBasis, Selection, diagnose, load_released, read_vectors

RELEASED = ".pt"  # suffix of a basis in the form that the paper's authors released
PIECE = 1600  # samples of a noise that are read to see that it can be


@dataclass(frozen=True)
class Clip:
    """An audio file and its samples, 16 kHz mono float32."""

    item: AudioItem
    wave: np.ndarray


@dataclass(frozen=True)
class Inputs:
    """What `score` and `generate` work on: a model, clips, and perhaps a basis (read from `folder`) and a noise."""

    model: Model
    clips: list[Clip]
    basis: NoiseBasis | None
    folder: Path | None
    noise: NoiseSource | None
    seed: int

    def waves(self, snr_db: float | None) -> list[np.ndarray]:
        """Every clip with its own noise at one SNR, the same noise at every SNR; None: as it is."""
        if self.noise is None or snr_db is None:
            return [clip.wave for clip in self.clips]
        noises = (self.noise.clip(i, len(clip.wave), self.seed) for i, clip in enumerate(self.clips))
        return [mix_at_snr(clip.wave, noise, snr_db).audio for clip, noise in zip(self.clips, noises, strict=True)]


def read_inputs(args: Any, fields: Mapping[str, Any], snrs_db: Sequence[float], progress: Progress) -> Inputs:
    """Read all that the options name, the model last. fields: of `Selection`. snrs_db: that clips are mixed at."""
    folder = find_artefact(args.basis) if args.basis else None
    basis = read_basis(folder, fields, args.model) if folder else None
    noise = read_noise(args.noise) if args.noise else None
    clips = read_clips(find_audio(args.audio), snrs_db, progress)
    model = load_model(args, clips, progress)
    try:
        if basis is not None:
            basis.check(basis.site, *model.config.site_shape(basis.site), model.fingerprint)
    except BasisError as e:
        raise BasisError(f"{folder}: {e}.") from None
    return Inputs(model, clips, basis, folder, noise, args.seed)


def read_clips(items: Sequence[AudioItem], snrs_db: Sequence[float], progress: Progress) -> list[Clip]:
    """Read the clips. ConfigError for an SNR out of range, before any is read; AudioError as `read_clip`."""
    check_snrs(snrs_db)
    clips = []
    for item in items:
        clips.append(read_clip(item, bool(snrs_db)))
        progress("reading audio", len(clips), len(items))
    return clips


def read_clip(item: AudioItem, mix: bool, model: Model | None = None) -> Clip:
    """Read a clip. AudioError if it is to be mixed with noise but silent, or longer than the model takes."""
    clip = Clip(item, read_audio(item.path))
    if mix and is_silent(clip.wave):
        raise AudioError(f"{item.path}: digital silence has no SNR; leave such clips out.")
    if model is not None:
        _check_length(model, clip)
    return clip


def check_snrs(snrs_db: Sequence[float]) -> None:
    """ConfigError for an SNR out of range."""
    for snr in snrs_db:
        mix_at_snr(np.ones(1, np.float32), np.ones(1, np.float32), snr)


def read_noise(spec: str, part: str = "test") -> NoiseSource:
    """The noise that the command line names. A piece of it is read, so that a broken one is refused at once."""
    noise = noise_source(spec)
    noise.clip(0, PIECE, 0, part)
    return noise


def load_model(args: Any, clips: Sequence[Clip], progress: Progress) -> Model:
    """The model of --model, --dtype and --mesh. AudioError for clips longer than it takes."""
    model = load(args.model, args.dtype, MeshConfig(args.mesh.data, args.mesh.tensor).mesh(), progress)
    for clip in clips:
        _check_length(model, clip)
    return model


def _check_length(model: Model, clip: Clip) -> None:
    try:
        model.processor.checked(clip.wave)
    except AudioError as e:
        raise AudioError(f"{clip.item.path}: {e}") from None


def find_artefact(name: str) -> Path:
    """A released `.pt` file, or the folder of a calibration or noise basis: this one, or the only one in it."""
    path = Path(name).expanduser()
    if not path.exists():
        raise BasisError(f"there is no calibration or noise basis {path}.")
    if path.is_file() and path.suffix != RELEASED:
        raise BasisError(f"{path} is a file: expected the folder of a calibration or noise basis, or a .pt list.")
    inside = sorted(card.parent for card in path.glob("*/card.json"))
    if (path / "card.json").is_file() or not inside:
        return path
    if len(inside) > 1:
        names = ", ".join(folder.name for folder in inside)
        raise BasisError(f"{path} holds several calibrations ({names}): name one, as in {inside[0]}.")
    return inside[0]


def kind_of(path: Path) -> str:
    """What `find_artefact` returned: "calibration" or "noise basis". BasisError for anything else."""
    if path.is_file():
        return "noise basis"
    card = path / "card.json"
    try:
        kind = json.loads(card.read_text("utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BasisError(f"{card} is missing or damaged ({type(e).__name__}): {path} is no calibration.") from None
    if kind not in ("calibration", "noise basis"):
        raise BasisError(f"{card} is the card of a {kind!r}: expected a calibration or a noise basis.")
    return kind


def read_basis(folder: Path, fields: Mapping[str, Any], model: str | None = None) -> NoiseBasis:
    """A basis: selected from a calibration with the given fields of `Selection`, saved, or released.

    model: whose stack a released list belongs to; without one it is shown as a stack of its own length.
    """
    if kind_of(folder) == "calibration":
        calibration = Calibration.load(folder)
        basis = calibration.select(Selection(**fields))
        warn_of(str(folder), [asdict(finding) for finding in diagnose(calibration, basis)])
        return basis
    if extra := [f"--{name.replace('_', '-')}" for name in fields if name != "layers"]:
        raise ConfigError(f"{folder} is a saved noise basis: {', '.join(extra)} only apply to a calibration.")
    if folder.is_file():
        shape = read_config(find_folder(model))[0].site_shape(ENCODER_MLP_ACT) if model else None
        basis = load_released(folder, shape[0] if shape else len(read_vectors(folder)))
    else:
        basis = NoiseBasis.load(folder)
    return basis.with_layers(fields["layers"]) if "layers" in fields else basis
