"""What the app computes, without anything of a browser. Strength, layers, directions and noise are data of compiled
programs: whatever a slider does, nothing is compiled again."""

import dataclasses
import difflib
import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from seen_jax import api
from seen_jax.audio import audio_seconds, decode_audio, denoiser, mix_at_snr, noise_source
from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.blind import BlindModel, blind_model, blind_score
from seen_jax.data.items import load_clips
from seen_jax.errors import AudioError, BasisError, ConfigError
from seen_jax.models.generate import Decoding
from seen_jax.models.model import Model
from seen_jax.models.processor import DEFAULT_PROMPT
from seen_jax.progress import Progress, shifted, silent
from seen_jax.registry import DENOISERS
from seen_jax.subspace import Calibration, NoiseBasis, Selection, union
from seen_jax.subspace.basis import pad_rank
from seen_jax.subspace.selection import Method

Wave = Float[np.ndarray, " _"]
NO_NOISE = "no noise"
ADDED = "the noise that is added"  # a source that depends on the noise
ALL = "all noises"  # the basis that the bases of all noises span together
NOISES = ("white", "babble", "engine", "rain")
METHODS: tuple[Method, ...] = ("complement", "threshold")
CALIBRATION_CLIPS = 24  # of those that ship, evenly spread over their tasks
ROWS = 4  # of every pass: clean, noisy, denoised, and one that gives the batch its length
LENGTHS = (2.0, 4.0, 8.0, 16.0)  # seconds that batches are padded to, or the longest clip: one program for each
MOST_RANK = 128  # that directions are padded to, where a calibration may give more
DECODING = Decoding(max_new_tokens=64)
LONGEST_PROMPT = 300  # characters


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which basis is measured along and removed. source: a name of `Session.sources`, or `ALL`. method,
    semantic_alpha, delta: of a `Selection`; they do not apply to a saved basis. layers: the kept ones; None: all, or
    those that a saved basis keeps."""

    source: str = ALL
    method: Method = "complement"
    semantic_alpha: float = 0.95
    delta: float = 0.1
    layers: tuple[int, ...] | None = None


class Answered(NamedTuple):
    """An answer as the app shows it. audio: its name. strength: of SEEN; None without. words: pieces of the
    text, each "same", "new" or "gone" against the first answer. see, see_after: before and after SEEN. risk: that noise
    changed it, by a blind model; None where there is none, and with SEEN."""

    audio: str
    strength: float | None
    text: str
    words: tuple[tuple[str, str], ...]
    see: float | None
    see_after: float | None
    risk: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """A model with what noise looks like inside it.

    sources: calibrations or saved bases by name, of one site. blind: its blind model, or None. seconds: of the longest
    clip. All methods are pure.
    """

    model: Model
    sources: Mapping[str, Calibration | NoiseBasis]
    blind: BlindModel | None = None
    seconds: float = 30.0

    @property
    def depth(self) -> int:
        """Layers of the site."""
        return self.model.config.site_shape(self.site)[0]

    @property
    def site(self) -> str:
        return next(iter(self.sources.values())).site

    @property
    def source_names(self) -> list[str]:
        """What a `Choice` may name."""
        return [*self.sources, *([ALL] if len(self.sources) > 1 else [])]

    def source_for(self, noise: str) -> str:
        """The source that knows a noise, or the last one, which is that of all."""
        return noise if noise in self.sources else self.source_names[-1]

    @property
    def selects(self) -> bool:
        """Whether a selection applies: not to a saved basis."""
        return all(isinstance(source, Calibration) for source in self.sources.values())

    @property
    def rank(self) -> int:
        """Columns that every basis is padded to, so that all share one program."""
        calibrations = [x.source.shape for x in self.sources.values() if isinstance(x, Calibration)]
        saved = [x.q.shape[2] for x in self.sources.values() if isinstance(x, NoiseBasis)]
        most = [min(clips, width) for _, clips, width in calibrations] + saved  # directions that each may give
        return min(sum(most), MOST_RANK)

    def basis(self, choice: Choice) -> NoiseBasis:
        """The basis of a choice. Raises ConfigError for a source, layers or a selection that are not there."""
        basis = self._directions(dataclasses.replace(choice, layers=None))
        if choice.layers is None:
            return basis
        if not choice.layers:
            raise ConfigError("no layer is kept: choose at least one.")
        return basis.with_layers(tuple(sorted(choice.layers)))

    @functools.cached_property
    def _directions(self) -> Callable[[Choice], NoiseBasis]:
        return functools.lru_cache(maxsize=32)(self._selected)

    def _selected(self, choice: Choice) -> NoiseBasis:
        if choice.source not in self.source_names:
            raise ConfigError(f"there is no basis {choice.source!r}. Known: {', '.join(self.source_names)}.")
        wanted = self.sources if choice.source == ALL else {choice.source: self.sources[choice.source]}
        selection = Selection(choice.semantic_alpha, 0.95, choice.delta, choice.method, layers="all")
        bases = [x.select(selection) if isinstance(x, Calibration) else x for x in wanted.values()]
        basis = bases[0]
        if len(bases) > 1:
            card = {**bases[0].card, "noise": ", ".join(wanted)}
            basis = dataclasses.replace(union(bases), card=card)
        return dataclasses.replace(basis, q=jnp.asarray(pad_rank(basis.q, self.rank)))

    def read(self, path: str | Path) -> Wave:
        """A clip, 16 kHz mono float32. Raises AudioError, by the file's name alone, for one that cannot be read, and
        by its header for one that is too long."""
        path = Path(path)
        try:
            seconds = audio_seconds(path)
            if seconds > self.seconds:
                raise AudioError(f"{path.name} lasts {seconds:.1f} s, and {self.seconds:g} s are taken: cut it.")
            return decode_audio(path, path.name)
        except AudioError as error:
            raise AudioError(str(error).replace(str(path), path.name)) from None

    def waves(self, wave: Wave, noise: str, snr_db: float, denoise: str) -> dict[str, Wave]:
        """The clip, with noise, and denoised, by name: two of them without noise.

        wave: 16 kHz mono. noise: what `noise_source` takes, or `NO_NOISE`. snr_db: of noise. denoise: a denoiser.
        Raises AudioError for silence, which has no SNR, and ConfigError for an unknown noise or denoiser.
        """
        waves = {"as it is": wave}
        if noise != NO_NOISE:
            mixed = mix_at_snr(wave, noise_source(noise).clip(0, len(wave), 0), snr_db)
            waves = {"clean": wave, "noisy": mixed.audio}
        return waves | {f"denoised ({denoise.replace('_', ' ')})": denoiser(denoise)([*waves.values()][-1])}

    def measure(self, waves: Mapping[str, Wave], basis: NoiseBasis) -> dict[str, api.Score]:
        """SEE of every wave, over time too."""
        scores = api.score(
            self.model, self._rows(waves), basis, DEFAULT_PROMPT, frames=True, batch_size=ROWS, progress=silent
        )
        return dict(zip(waves, scores, strict=False))

    def risks(self, waves: Mapping[str, Wave], prompt: str = DEFAULT_PROMPT) -> dict[str, float]:
        """The blind risk of every wave, of its answer or, with the encoder alone, as far as that shows it; {} for a
        model without a blind model."""
        if self.blind is None:
            return {}
        scores = blind_score(
            self.model, self._rows(waves), prompt, self.blind, DECODING, batch_size=ROWS, progress=silent
        )
        risks = (score.encoder_risk if score.risk is None else score.risk for score in scores)
        return dict(zip(waves, risks, strict=False))

    def answers(self, waves: Mapping[str, Wave], prompt: str, basis: NoiseBasis, strength: float) -> list[Answered]:
        """The answers about every wave, first without and then with SEEN; changed words are those that the first one
        does not have. strength: lambda. Raises ConfigError for a prompt that is too long."""
        if len(prompt) > LONGEST_PROMPT:
            raise ConfigError(f"the prompt has {len(prompt)} characters, and {LONGEST_PROMPT} are taken: shorten it.")
        risks, rows, first = self.risks(waves, prompt), list[Answered](), None
        for scale in (None, strength):
            options: Any = {"batch_size": ROWS, "progress": silent}
            texts = api.generate(self.model, self._rows(waves), prompt, basis, scale or 0.0, DECODING, **options)
            for name, answer in zip(waves, texts, strict=False):
                first = answer.text if first is None else first
                risk = risks.get(name) if scale is None else None
                words = compared(first, answer.text)
                rows.append(Answered(name, scale, answer.text, words, answer.see, answer.see_after, risk))
        return rows

    def _rows(self, waves: Mapping[str, Wave]) -> list[Wave]:
        """The waves, and as many more as make a batch, one of them as long as the batch is padded to."""
        rows = list(waves.values())
        seconds = len(rows[0]) / SAMPLE_RATE
        longest = next((length for length in LENGTHS if seconds <= length < self.seconds), max(self.seconds, seconds))
        filler = np.resize(rows[-1], round(longest * SAMPLE_RATE))
        return rows + [filler] * (ROWS - len(rows))


def open_session(
    model: Model,
    sources: Mapping[str, Calibration | NoiseBasis] | None = None,
    seconds: float = 30.0,
    batch_size: int = 8,
    progress: Progress = silent,
) -> Session:
    """A session of a model.

    sources: calibrations or saved bases of the model; None: it is calibrated on clips that ship with the package, once
    per noise of `NOISES`. seconds: longest clip, at most what the model's family takes. batch_size, progress: of that.
    """
    sources = dict(sources or {}) or calibrations(model, NOISES, batch_size, progress)
    longest = min(seconds, model.processor.family.framing.longest)
    try:
        blind = blind_model(model)
    except BasisError:  # it ships for seen-tiny alone
        blind = None
    session = Session(model, sources, blind, longest)
    for method in METHODS:  # what they need is compiled here, and not under a slider
        session.basis(Choice(session.source_names[-1], method))
    return session


def calibrations(
    model: Model, noises: Sequence[str], batch_size: int, progress: Progress
) -> dict[str, Calibration | NoiseBasis]:
    """A calibration of the model for every noise, on clips that ship with the package."""
    clips = [item.wave for item in load_clips("calibration")]
    clips = clips[:: max(1, len(clips) // CALIBRATION_CLIPS)]
    made: dict[str, Calibration | NoiseBasis] = {}
    passes = 3 * len(clips)
    for i, noise in enumerate(noises):
        source, tick = noise_source(noise), shifted(progress, i * passes, len(noises) * passes)
        pieces = [source.clip(k, len(wave), 0, "calibration") for k, wave in enumerate(clips)]
        made[noise] = api.calibrate(model, clips, pieces, card={"noise": noise}, batch_size=batch_size, progress=tick)
    return made


def denoisers() -> list[str]:
    """The denoisers whose packages are installed."""
    return [name for name, kind in DENOISERS.items() if kind.package is None or importlib.util.find_spec(kind.package)]


def compared(first: str, text: str) -> tuple[tuple[str, str], ...]:
    """Pieces of a text, and of what it lacks, against a first one: words that are the "same", "new" or "gone".

    >>> compared("the red bird", "the bird sings")
    (('the', 'same'), ('red', 'gone'), ('bird', 'same'), ('sings', 'new'))
    """
    before, after = first.split(), text.split()
    pieces = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        same = kind == "equal"
        pieces += [] if same else [(" ".join(before[a:b]), "gone")]
        pieces += [(" ".join(after[c:d]), "same" if same else "new")]
    return tuple(piece for piece in pieces if piece[0])
