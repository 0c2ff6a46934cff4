"""What the commands read: clips, noises, models, bases. Everything is checked before a model is loaded."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.audio import (
    AudioItem,
    NoiseSource,
    audio_seconds,
    find_audio,
    is_silent,
    mix_at_snr,
    noise_source,
    read_audio,
)
from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.cli._memory import check_memory
from seen_jax.cli._output import note
from seen_jax.cli._parser import HUB, RELEASED
from seen_jax.cli._report import warn_of
from seen_jax.errors import AudioError, BasisError, ConfigError
from seen_jax.hub import Hub, HubOptions
from seen_jax.models.checkpoint import ModelPart, read_config
from seen_jax.models.config import LalmConfig
from seen_jax.models.family import Family
from seen_jax.models.folders import find_folder
from seen_jax.models.load import load
from seen_jax.models.memory import ENCODER, WHOLE
from seen_jax.models.model import Model
from seen_jax.models.sharding import MeshConfig
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_SITES, PROJECTOR
from seen_jax.progress import Progress
from seen_jax.subspace import (
    Calibration,
    NoiseBasis,
    Selection,
    diagnose,
    fetch_released,
    load_released,
    read_vectors,
    store,
)
from seen_jax.subspace.identity import Identity
from seen_jax.subspace.sharing import fetch_folder

Numbered = tuple[int, AudioItem]  # its place among all clips that were named
BASES = ("calibration", "noise basis")  # kinds of folders that --basis takes
LIST = ".pt"  # suffix of a basis in the form that the paper's authors released


@dataclass(frozen=True)
class Inputs:
    """What `score` and `generate` work on."""

    model: Model
    items: list[AudioItem]
    clips: list[np.ndarray]  # 16 kHz mono float32
    left_out: list[dict[str, str]]  # of `ClipReader`
    basis: NoiseBasis | None
    folder: Path | None  # of the basis
    noise: NoiseSource | None
    seed: int

    def waves(self, snr_db: float | None) -> list[np.ndarray]:
        """Every clip with its own noise at one SNR, the same noise at every SNR; None: as it is."""
        if self.noise is None or snr_db is None:
            return self.clips
        noises = [self.noise.clip(i, len(clip), self.seed) for i, clip in enumerate(self.clips)]
        return [mix_at_snr(*pair, snr_db).audio for pair in zip(self.clips, noises, strict=True)]

    def facts(self) -> dict[str, Any]:
        """The names of all, as JSON values."""
        basis, noise = self.folder and str(self.folder), self.noise and self.noise.name
        return {"model": self.model.name, "basis": basis, "noise": noise, "left_out": self.left_out}


def read_inputs(
    args: Any, fields: Mapping[str, Any], snrs_db: Sequence[float], progress: Progress, answers: bool = True
) -> Inputs:
    """Read all that the options name, the model last. fields: of `Selection`. snrs_db: that clips are mixed at.
    answers: whether the model is to answer; else the encoder is enough where the basis is one of the encoder."""
    folder = find_artefact(args.basis) if args.basis else None
    config, family = model_config(args)
    basis, calibration = read_basis(folder, fields, config, args.of_model) if folder else (None, None)
    if basis is not None and calibration is not None:
        warn_of(str(folder), [asdict(finding) for finding in diagnose(calibration, basis)])
    if basis is not None:
        basis = basis.for_any_model() if args.any_model else basis
        check_basis(basis, folder, config, Identity(args.model, config.family, config.site_shape(PROJECTOR)[1]))
    noise = read_noise(args.noise) if args.noise else None
    check_snrs(snrs_db)
    every = list(enumerate(find_audio(args.audio)))
    reader = ClipReader(family, bool(snrs_db), args.strict or len(every) == 1)
    numbered, clips = reader.read_all(every, progress)
    site = None if answers or basis is None else basis.site
    check_memory(args, max(map(len, clips)) / SAMPLE_RATE, ENCODER if site in ENCODER_SITES else WHOLE)
    items, model = [item for _, item in numbered], load_model(args, progress, site)
    if basis is not None:
        check_basis(basis, folder, model.config, model.identity(basis.site))
    return Inputs(model, items, clips, reader.left_out, basis, folder, noise, args.seed)


def check_basis(basis: NoiseBasis, folder: Path | None, config: LalmConfig, model: Identity) -> None:
    """BasisError that names the folder of a basis that does not fit a model."""
    try:
        basis.check(basis.site, *config.site_shape(basis.site), model)
    except BasisError as e:
        raise BasisError(f"{folder}: {e}.") from None


def check_snrs(snrs_db: Sequence[float]) -> None:
    """ConfigError for an SNR out of range, before a clip is read."""
    for snr in snrs_db:
        mix_at_snr(np.ones(1, np.float32), np.ones(1, np.float32), snr)


@dataclass(frozen=True)
class ClipReader:
    """Reads clips for a model, and goes on without those that cannot be used."""

    family: Family  # of the model: it says how long a clip may be
    mix: bool  # with noise: silence has no SNR
    strict: bool  # whether the first clip that cannot be used is an error
    reasons: dict[str, str] = field(default_factory=dict)  # why clips are left out, by their paths

    @property
    def left_out(self) -> list[dict[str, str]]:
        """What --json says of the clips that are left out."""
        return [{"path": path, "reason": reason} for path, reason in self.reasons.items()]

    def read(self, item: AudioItem) -> np.ndarray | None:
        """A clip; None for one that is left out. AudioError for that with --strict."""
        try:
            return read_clip(item, self.mix, self.family)
        except AudioError as e:
            if self.strict:
                raise
            if str(item.path) not in self.reasons:
                note(f"warning: left out: {e}")
            self.reasons[str(item.path)] = str(e)
            return None

    def read_all(self, items: Sequence[Numbered], progress: Progress) -> tuple[list[Numbered], list[np.ndarray]]:
        """The clips that can be used, and what they are. AudioError if that is none."""
        kept, clips = [], []
        for done, numbered in enumerate(items, 1):
            if (clip := self.read(numbered[1])) is not None:
                kept.append(numbered)
                clips.append(clip)
            progress("reading audio", done, len(items))
        self.check(len(clips))
        return kept, clips

    def check(self, count: int) -> None:
        """AudioError if no clip can be used."""
        if not count:
            problem = f"none of the {len(self.reasons)} clips can be used"
            raise AudioError(f"{problem}; the first: {next(iter(self.reasons.values()))}")


def read_clip(item: AudioItem, mix: bool, family: Family) -> np.ndarray:
    """Read a clip. AudioError if it is damaged, or silent but to be mixed with noise, or longer than the family takes:
    by its header, before it is read."""
    try:
        family.framing.check_seconds(audio_seconds(item.path), family.name)
        clip = read_audio(item.path)
        if mix and is_silent(clip):
            raise AudioError("digital silence has no SNR; leave such clips out.")
        family.framing.check(clip, family.name)
    except AudioError as e:
        raise AudioError(str(e) if str(item.path) in str(e) else f"{item.path}: {e}") from None
    return clip


def read_noise(spec: str, part: str = "test") -> NoiseSource:
    """The noise that the command line names. 0.1 s of it are read, so that a broken one is refused at once."""
    noise = noise_source(spec)
    noise.clip(0, 1600, 0, part)
    return noise


def load_model(args: Any, progress: Progress, site: str | None = None) -> Model:
    """The model of --model, --dtype, --weights and --mesh, of which only a site is needed; None: all of it."""
    mesh = MeshConfig(args.mesh.data, args.mesh.tensor).mesh()
    part: ModelPart = "encoder" if site in ENCODER_SITES else None
    return load(args.model, args.dtype, mesh, progress, part, args.weights, **hub_options(args))


def hub_options(args: Any) -> HubOptions:
    """How --revision and --local-files-only ask the hub."""
    return {"revision": args.revision, "local_files_only": args.local_files_only}


def model_config(args: Any) -> tuple[LalmConfig, Family]:
    """The configuration of --model, as far as its encoder goes, and its family, without its weights."""
    hub = Hub(**hub_options(args))
    return read_config(find_folder(args.model, hub), "encoder", hub)


def find_artefact(name: str) -> Path:
    """A released `.pt` file, or the folder of a calibration or noise basis: this one, or the only one in it; or the
    local copy of one on the hub or of the paper's authors."""
    if name.startswith(HUB):
        repo, _, revision = name.removeprefix(HUB).partition("@")
        return fetch_folder(repo, revision=revision or None)
    if name.startswith(RELEASED):
        return fetch_released(name.removeprefix(RELEASED))
    path = Path(os.path.expanduser(name))
    if not path.exists():
        raise BasisError(f"there is no calibration or noise basis {path}.")
    if path.is_file() and path.suffix != LIST:
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
    kind = "noise basis" if path.is_file() else store.kind_of(path)
    if kind not in BASES:
        what = "missing or damaged" if kind is None else f"the card of a {kind!r}"
        raise BasisError(f"{path / store.CARD} is {what}: expected a calibration or a noise basis.")
    return kind


def read_basis(
    folder: Path, fields: Any, config: LalmConfig | None = None, of_model: str | None = None
) -> tuple[NoiseBasis, Calibration | None]:
    """A basis, saved or released; or selected from a calibration, which comes with it. fields: {name: value} of
    `Selection`. config: of the model whose stack a released list belongs to; without one it is a stack of its own
    length. of_model: the model that a released list is said to be of."""
    if kind_of(folder) == "calibration":
        calibration = Calibration.load(folder)
        return calibration.select(Selection(**fields)), calibration
    if extra := [f"--{name.replace('_', '-')}" for name in fields if name != "layers"]:
        raise ConfigError(f"{folder} is a saved noise basis: {', '.join(extra)} only apply to a calibration.")
    if folder.is_file():
        layers = config.site_shape(ENCODER_MLP_ACT)[0] if config else len(read_vectors(folder))
        basis = load_released(folder, layers, of_model=of_model)
    else:
        basis = NoiseBasis.load(folder)
    return basis.with_layers(fields["layers"]) if "layers" in fields else basis, None
