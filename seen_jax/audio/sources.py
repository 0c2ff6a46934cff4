"""Noise sources: recordings in the layouts in which they are published, files, or synthetic names."""

import csv
import hashlib
import itertools
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from seen_jax.audio.find import AUDIO_SUFFIXES
from seen_jax.audio.io import Wave, check_wave
from seen_jax.audio.noise import MATLAB, Segment, draw, is_synthetic, nearest_noise, noise_seconds, synthetic_noise
from seen_jax.errors import AudioError, ConfigError
from seen_jax.files import digest, file_mark

PARTS = ("calibration", "test")
MUSAN = ("noise", "music", "speech")
WHAM = (("tr", "cv"), ("tt",))  # for calibration and for tests: no place of recording is in two of them
SHORTEST = 0.1  # seconds of a part


@dataclass(frozen=True, eq=False)
class NoiseSource:
    """A noise that gives every clip its own piece. Its two parts share nothing: bases are calibrated on the part
    "calibration" and tested with "test".

    name: short, for tables.
    calibration, test, voices: the recordings of each part, both empty for a synthetic noise; for "babble", speech clips
        of which it is made, divided between the parts.
    >>> audio.NoiseSource("white").clip(0, 16000, seed=0, part="calibration").shape
    (16000,)
    """

    name: str
    calibration: tuple[Segment, ...] = ()
    test: tuple[Segment, ...] = ()
    voices: tuple[Float[np.ndarray, " _"], ...] = ()

    def clip(self, index: int, samples: int, seed: int, part: str = "test") -> Wave:
        """The noise under clip `index`, 16 kHz float32: the same arguments always give the same samples. Recordings
        take turns, in an order that the seed shuffles; each is read from a random moment on, and looped where it is
        shorter than the clip. Raises ConfigError: an unknown part, a negative index or seed, no samples. AudioError: a
        recording that cannot be read, or is digital silence wherever it was tried."""
        if part not in PARTS:
            raise ConfigError(f"a noise has the parts {' and '.join(PARTS)}, not {part!r}")
        if index < 0 or seed < 0 or samples < 1:
            raise ConfigError(f"clip {index} of {samples} samples with seed {seed}: there is no noise for such a clip")
        segments = self.calibration if part == "calibration" else self.test
        if not segments:
            voices = self.voices[PARTS.index(part) :: len(PARTS)]
            return synthetic_noise(self.name, samples, zlib.crc32(f"{part}/{seed}/{index}".encode()), voices or None)
        key = zlib.crc32(f"{self.name}/{part}".encode(errors="surrogateescape"))
        order = np.random.default_rng([key, seed]).permutation(len(segments))
        return draw(segments[order[index % len(segments)]], samples, np.random.default_rng([key, seed, index]))

    def reaches_test(self, other: "NoiseSource") -> list[Path]:
        """Recordings of which this noise's part "calibration" and another's part "test" hold the same moments."""
        tested: dict[Path, list[Segment]] = {}
        for segment in other.test:
            tested.setdefault(segment.path.resolve(), []).append(segment)
        meet = lambda a, b: a.start < b.end and b.start < a.end
        return [a.path for a in self.calibration if any(meet(a, b) for b in tested.get(a.path.resolve(), []))]

    def contents(self) -> str:
        """Identifies the recordings of both parts, or the voices, by what is in them."""
        marks = (f"{s} {file_mark(s.path)}" for s in (*self.calibration, *self.test))
        return digest(itertools.chain([self.name], marks, (voice.tobytes() for voice in self.voices)))


def noise_source(spec: str | Path, speech: Sequence[np.ndarray] = ()) -> NoiseSource:
    """The noise that a name or path means.

    spec: one of the following; `PATH#SUBSET` takes a part of a folder (several separated by commas).
    speech: 16 kHz clips of which "babble" is made, half for each part.
    - a synthetic name, such as "white";
    - an audio file, or a NOISEX-92 `.mat` (19.98 kHz): its first half for calibration, its second for tests;
    - MUSAN: subset "noise" (default), "music", "speech";
    - DEMAND: subset = scenes such as "TBUS"; only the first of the 16 channels;
    - ESC-50: subset = categories such as "rain"; clips cut from one recording stay together;
    - WHAM!: tr and cv for calibration and tt for tests; with a subset ("tt") its files are divided;
    - any other folder of recordings, also of `.mat` files; subset = names of files or folders.
    The files of a folder are divided by a hash of their names, about half and half; a single file is cut in two.
    Raises ConfigError: neither a name nor a path, an unknown subset, a single voice of speech. AudioError: no audio in
    the folder, a file that cannot be read or is too short for two parts.
    >>> audio.noise_source("rain").name
    'rain'
    """
    if is_synthetic(spec):
        voices = speech if spec == "babble" else ()
        if len(voices) == 1:
            raise ConfigError("babble needs two clips of speech or more: calibration and test share no voices")
        checked = tuple(check_wave(clip, name=f"speech clip {i}") for i, clip in enumerate(voices))
        return NoiseSource(str(spec), voices=checked)
    path, subset = _parse(spec)
    if path.is_file():
        return NoiseSource(path.stem, *_divide({path.name: [path]}))
    name = "-".join([path.resolve().name, *subset])
    if not subset and all((path / split).is_dir() for splits in WHAM for split in splits):
        calibration, test = ([file for split in splits for file in _recordings(path / split)] for splits in WHAM)
        return NoiseSource(name, tuple(map(Segment, calibration)), tuple(map(Segment, test)))
    groups = _musan(path, subset) or _demand(path, subset) or _esc50(path, subset) or _folder(path, subset)
    return NoiseSource(name, *_divide(groups))


def _parse(spec: str | Path) -> tuple[Path, list[str]]:
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


Groups = dict[str, list[Path]]  # recordings that must stay together, by the text that decides their part


def _musan(folder: Path, subset: Sequence[str]) -> Groups:
    if not all((folder / kind).is_dir() for kind in MUSAN):
        return {}
    kinds = _known(folder, subset or MUSAN[:1], MUSAN)
    return _one_by_one(path for kind in kinds for path in _recordings(folder / kind))


def _demand(folder: Path, subset: Sequence[str]) -> Groups:
    """The channels of a scene were recorded at the same time, so two parts can share only one of them."""
    scenes = {path.parent.resolve().name: path for path in sorted(folder.rglob("ch01.wav"))}
    return _one_by_one(scenes[name] for name in _known(folder, subset or list(scenes), list(scenes))) if scenes else {}


def _esc50(folder: Path, subset: Sequence[str]) -> Groups:
    table = folder / "meta" / "esc50.csv"
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"filename", "category", "src_file"} <= rows[0].keys():
        raise AudioError(f"{table} lacks the columns filename, category and src_file.")
    categories = sorted({row["category"] for row in rows})
    chosen = _known(folder, subset or categories, categories)
    groups: Groups = {}
    for row in rows:
        if row["category"] in chosen:
            groups.setdefault(row["src_file"], []).append(folder / "audio" / row["filename"])
    if missing := [path.name for group in groups.values() for path in group if not path.is_file()]:
        raise AudioError(f"{folder / 'audio'} lacks {len(missing)} files of {table.name}: {', '.join(missing[:5])}.")
    return groups


def _folder(folder: Path, subset: Sequence[str]) -> Groups:
    files = _recordings(folder)
    if not subset:
        return _one_by_one(files)
    names = {path: {path.stem, path.name, *path.relative_to(folder).parts} for path in files}
    chosen = _known(folder, subset, sorted(set().union(*names.values())))
    return _one_by_one(path for path in files if names[path] & set(chosen))


def _one_by_one(files: Iterable[Path]) -> Groups:
    groups: Groups = {}
    for path in files:
        groups.setdefault(f"{path.absolute().parent.name}/{path.name}", []).append(path)
    return groups


def _recordings(folder: Path) -> list[Path]:
    suffixes = (*AUDIO_SUFFIXES, MATLAB)
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith("."))
    if not files:
        raise AudioError(f"There is no audio file in the noise folder {folder}.")
    return files


def _known(folder: Path, wanted: Iterable[str], known: Sequence[str]) -> list[str]:
    chosen = list(dict.fromkeys(wanted))
    if unknown := [name for name in chosen if name not in known]:
        more = ", ..." if len(known) > 30 else ""
        raise ConfigError(f"{folder} has no {', '.join(unknown)}; it has {', '.join(known[:30])}{more}.")
    return chosen


def _divide(groups: Groups) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """The two parts. The name of a group alone decides, so that a recording has the same part in every subset; where
    that would leave a part empty, every second group goes to each. The files of a single group are cut in halves."""
    if len(groups) == 1:
        calibration, test = zip(*map(_halves, next(iter(groups.values()))), strict=True)
        return calibration, test
    number = lambda key: int(hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest(), 16)
    ordered = sorted(groups, key=number)
    parts = [[key for key in ordered if number(key) % 2 == odd] for odd in (0, 1)]
    if not all(parts):
        parts = [ordered[0::2], ordered[1::2]]
    calibration, test = (tuple(Segment(path) for key in part for path in groups[key]) for part in parts)
    return calibration, test


def _halves(path: Path) -> tuple[Segment, Segment]:
    seconds = noise_seconds(path)
    if seconds < 2 * SHORTEST:
        raise AudioError(f"The noise {path} lasts {seconds:.3f} s: too short for a calibration and a test part.")
    return Segment(path, 0.0, seconds / 2), Segment(path, seconds / 2)
