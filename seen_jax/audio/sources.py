"""Noise of an evaluation: recordings in published layouts, files or synthetic names, in two parts that share nothing.

Bases are calibrated on the part "calibration" and tested with the part "test".
"""

from __future__ import annotations

import csv
import functools
import hashlib
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from seen_jax.audio._find import AUDIO_SUFFIXES
from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.audio.io import audio_seconds, check_wave, is_silent, read_audio
from seen_jax.audio.mix import fit_noise
from seen_jax.audio.noise import is_synthetic, nearest_noise, synthetic_noise
from seen_jax.errors import AudioError, ConfigError

PARTS = ("calibration", "test")
MUSAN = ("noise", "music", "speech")
WHAM = ("tr", "cv", "tt")
NOISEX_RATE = 19_980  # the .mat files do not say it
SHORTEST = 0.1  # seconds of a part
KEPT = 30.0  # seconds: segments up to here are kept in memory, of longer ones only the piece is read
DRAWS = 16  # moments to try where a recording has digital silence


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording; seconds None: to its end."""

    path: Path
    start: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class NoiseSource:
    """A noise that gives every clip its own piece.

    name: short, for tables. calibration, test: the recordings of each part; both empty for a synthetic noise, whose
    voices ("babble" of given speech) are split instead.
    """

    name: str
    calibration: tuple[Segment, ...] = ()
    test: tuple[Segment, ...] = ()
    voices: tuple[Float[np.ndarray, " _"], ...] = ()

    def clip(self, index: int, samples: int, seed: int, part: str = "test") -> Float[np.ndarray, " samples"]:
        """The noise under clip `index`, 16 kHz float32: the same arguments always give the same samples.

        Recordings take turns, in an order that the seed shuffles; each is read from a random moment on, and looped
        where it is shorter than the clip.

        Raises:
            ConfigError: an unknown part, a negative index or seed, no samples.
            AudioError: a recording that cannot be read, or is digital silence wherever it was tried.
        """
        if part not in PARTS:
            raise ConfigError(f"a noise has the parts {' and '.join(PARTS)}, not {part!r}")
        if index < 0 or seed < 0 or samples < 1:
            raise ConfigError(f"clip {index} of {samples} samples with seed {seed}: there is no noise for such a clip")
        segments = self.calibration if part == "calibration" else self.test
        if not segments:
            own = self.voices[PARTS.index(part) :: len(PARTS)]
            return synthetic_noise(self.name, samples, zlib.crc32(f"{part}/{seed}/{index}".encode()), own or None)
        key = zlib.crc32(f"{self.name}/{part}".encode())
        order = np.random.default_rng([key, seed]).permutation(len(segments))
        segment = segments[order[index % len(segments)]]
        rng = np.random.default_rng([key, seed, index])
        for _ in range(DRAWS):
            wave = _draw(segment, samples, rng)
            if not is_silent(wave):
                return wave
        raise AudioError(f"The noise {segment.path} is digital silence at {DRAWS} random moments: leave it out.")


def noise_source(spec: str | Path, speech: Sequence[np.ndarray] = ()) -> NoiseSource:
    """The noise that a name or path means, optionally `PATH#SUBSET` (several separated by commas).

    - a synthetic name, such as "white"; `speech`: 16 kHz clips whose voices "babble" is made of, half for each part;
    - an audio file, or a NOISEX-92 `.mat` (19.98 kHz): its first half for calibration, its second for tests;
    - MUSAN: subset "noise" (default), "music", "speech";
    - DEMAND: subset = scenes such as "TBUS"; only the first of the 16 channels;
    - ESC-50: subset = categories such as "rain"; clips cut from one recording stay together;
    - WHAM!: tr and cv for calibration and tt for tests; with a subset ("tt") its files are split;
    - any other folder of recordings, also of `.mat` files; subset = names of files or folders.

    The files of a folder are divided by a hash of their names, about half and half; a single file is cut in two.

    Raises:
        ConfigError: neither a name nor a path, an unknown subset, a single voice of speech.
        AudioError: no audio in the folder, a file that cannot be read or is too short for two parts.
    """
    if is_synthetic(spec):
        return _synthetic(str(spec), speech)
    path, subset = _parsed(spec)
    if path.is_file():
        return NoiseSource(path.stem, *_parts(_alone([path])))
    name = "-".join([path.resolve().name, *subset])
    if not subset and (halves := _wham(path)):
        return NoiseSource(name, *halves)
    groups = _musan(path, subset) or _demand(path, subset) or _esc50(path, subset) or _folder(path, subset)
    return NoiseSource(name, *_parts(groups))


def _synthetic(name: str, speech: Sequence[np.ndarray]) -> NoiseSource:
    if name != "babble" or not len(speech):
        return NoiseSource(name)
    if len(speech) < len(PARTS):
        raise ConfigError("babble needs two clips of speech or more: calibration and test share no voices")
    return NoiseSource(name, voices=tuple(check_wave(clip, name=f"speech clip {i}") for i, clip in enumerate(speech)))


def _parsed(spec: str | Path) -> tuple[Path, list[str]]:
    """The path, which must exist, and the names after `#`."""
    whole = Path(os.path.expanduser(spec))
    if whole.exists():
        return whole, []
    text, _, names = str(spec).rpartition("#")
    path = Path(os.path.expanduser(text or spec))
    if not path.exists():
        raise ConfigError(f"There is no noise, file or folder {str(path)!r}{nearest_noise(str(spec))}")
    subset = [name.strip() for name in names.split(",") if name.strip()]
    if path.is_file() or not subset:
        raise ConfigError(f"{spec}: a subset names parts of a folder of recordings.")
    return path, subset


Groups = dict[str, list[Path]]  # recordings that must stay together, by what decides their part


def _musan(folder: Path, subset: Sequence[str]) -> Groups:
    if not all((folder / kind).is_dir() for kind in MUSAN):
        return {}
    kinds = _known(folder, subset or MUSAN[:1], MUSAN)
    return _alone(path for kind in kinds for path in _recordings(folder / kind))


def _demand(folder: Path, subset: Sequence[str]) -> Groups:
    """Channels of a scene were recorded at the same time, so one of them is all that two parts can have."""
    scenes = {path.parent.resolve().name: path for path in sorted(folder.rglob("ch01.wav"))}
    return _alone(scenes[name] for name in _known(folder, subset or list(scenes), list(scenes))) if scenes else {}


def _esc50(folder: Path, subset: Sequence[str]) -> Groups:
    table = folder / "meta" / "esc50.csv"
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"filename", "category", "src_file"} <= rows[0].keys():
        raise AudioError(f"{table} lacks the columns filename, category and src_file.")
    chosen = _known(folder, subset or [row["category"] for row in rows], sorted({row["category"] for row in rows}))
    groups: Groups = {}
    for row in rows:
        if row["category"] in chosen:
            groups.setdefault(row["src_file"], []).append(folder / "audio" / row["filename"])
    if missing := [path.name for group in groups.values() for path in group if not path.is_file()]:
        raise AudioError(f"{folder / 'audio'} lacks {len(missing)} files of {table.name}: {', '.join(missing[:5])}.")
    return groups


def _wham(folder: Path) -> tuple[tuple[Segment, ...], tuple[Segment, ...]] | None:
    """The published split: no place of recording is in two of its parts."""
    if not all((folder / split).is_dir() for split in WHAM):
        return None
    known, held_out = (
        [Segment(path) for split in part for path in _recordings(folder / split)] for part in (WHAM[:2], WHAM[2:])
    )
    return tuple(known), tuple(held_out)


def _folder(folder: Path, subset: Sequence[str]) -> Groups:
    files = _recordings(folder)
    if not subset:
        return _alone(files)
    names = {path: {path.stem, path.name, *path.relative_to(folder).parts} for path in files}
    chosen = _known(folder, subset, sorted(set().union(*names.values())))
    return _alone(path for path in files if names[path] & set(chosen))


def _alone(files: Iterable[Path]) -> Groups:
    groups: Groups = {}
    for path in files:
        groups.setdefault(f"{path.absolute().parent.name}/{path.name}", []).append(path)
    return groups


def _recordings(folder: Path) -> list[Path]:
    kinds = (*AUDIO_SUFFIXES, ".mat")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in kinds and not p.name.startswith("."))
    if not found:
        raise AudioError(f"There is no audio file in the noise folder {folder}.")
    return found


def _known(folder: Path, wanted: Iterable[str], known: Sequence[str]) -> list[str]:
    chosen = list(dict.fromkeys(wanted))
    if unknown := [name for name in chosen if name not in known]:
        more = ", ..." if len(known) > 30 else ""
        raise ConfigError(f"{folder} has no {', '.join(unknown)}; it has {', '.join(known[:30])}{more}.")
    return chosen


def _parts(groups: Groups) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """By a hash of each group's name alone, so that a recording has the same part in every subset; every second one
    where that leaves a part empty; of a single group the halves of its files."""
    if len(groups) == 1:
        halves = [_halves(path) for path in next(iter(groups.values()))]
        return tuple(first for first, _ in halves), tuple(second for _, second in halves)
    hashes = {key: hashlib.sha256(key.encode()).hexdigest() for key in groups}
    ordered = sorted(groups, key=hashes.__getitem__)
    parts = [[key for key in ordered if int(hashes[key], 16) % 2 == odd] for odd in (0, 1)]
    if not all(parts):
        parts = [ordered[0::2], ordered[1::2]]
    calibration, test = ([Segment(path) for key in part for path in groups[key]] for part in parts)
    return tuple(calibration), tuple(test)


def _halves(path: Path) -> tuple[Segment, Segment]:
    mat = path.suffix.lower() == ".mat"
    seconds = len(_noisex(path, _modified(path))) / SAMPLE_RATE if mat else audio_seconds(path)
    if seconds < 2 * SHORTEST:
        raise AudioError(f"The noise {path} lasts {seconds:.3f} s: too short for a calibration and a test part.")
    return Segment(path, 0.0, seconds / 2), Segment(path, seconds / 2)


def _draw(segment: Segment, samples: int, rng: np.random.Generator) -> Float[np.ndarray, " samples"]:
    """A piece of a segment from a random moment on, looped where the segment is shorter."""
    path, modified = segment.path, _modified(segment.path)
    mat = path.suffix.lower() == ".mat"
    length = segment.seconds
    if length is None:
        length = (len(_noisex(path, modified)) / SAMPLE_RATE if mat else audio_seconds(path)) - segment.start
    if mat:
        first = round(segment.start * SAMPLE_RATE)
        wave = _noisex(path, modified)[first : first + max(1, round(length * SAMPLE_RATE))]
    elif length <= KEPT or round(length * SAMPLE_RATE) <= samples:
        wave = _kept(segment, modified)
    else:
        start = segment.start + rng.integers(round(length * SAMPLE_RATE) - samples + 1) / SAMPLE_RATE
        return read_audio(path, start=float(start), seconds=samples / SAMPLE_RATE)
    room = len(wave) - samples
    return fit_noise(wave, samples, int(rng.integers(room + 1 if room >= 0 else len(wave))))


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise AudioError(f"Cannot read the noise {path}: {error.strerror or error}.") from error


@functools.lru_cache(maxsize=32)
def _kept(segment: Segment, _time: int) -> Float[np.ndarray, " _"]:
    wave = read_audio(segment.path, start=segment.start, seconds=segment.seconds)
    wave.setflags(write=False)
    return wave


@functools.lru_cache(maxsize=4)
def _noisex(path: Path, _time: int) -> Float[np.ndarray, " _"]:
    """The longest array of numbers in a MATLAB file, at 16 kHz; 16-bit values are brought to [-1, 1]."""
    import scipy.io

    try:
        values = scipy.io.loadmat(path).values()
    except Exception as error:  # a damaged file makes scipy raise errors of many kinds
        raise AudioError(f"Cannot read {path} as a MATLAB file (up to version 7): {error}.") from error
    arrays = [v.ravel() for v in values if isinstance(v, np.ndarray) and v.dtype.kind in "iuf" and v.size]
    if not arrays:
        raise AudioError(f"{path} holds no array of samples.")
    longest = max(arrays, key=len).astype(np.float32)
    scale = 32768.0 if np.abs(longest).max() > 1 else 1.0
    wave = check_wave(longest / np.float32(scale), NOISEX_RATE, name=str(path))
    wave.setflags(write=False)
    return wave
