"""Find where noise lives in a model: pool its activations over clean and noise clips, pair by pair.

One calibration folder per noise appears below --out. It holds the pooled activations, so you can change every selection
option of `score`, `generate` and `inspect` later without running the model again. Calibrations that are already there
are kept if they were made from the same model, clips and settings: repeat an interrupted command to complete it.

With --stream, clips are read as they are needed, and second moments are kept in place of activations: for sets that do
not fit in memory. The state is saved about once a minute; the same command resumes. Several machines take a --shard
each, and `merge` joins their folders."""

import functools
import os
import re
import shutil
from argparse import ArgumentTypeError
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seen_jax.cli._output import Result, check_writable, note, progress, table
from seen_jax.cli._parser import AUDIO, COUNT, NOISE, NUMBER, Parser, seed
from seen_jax.errors import BasisError, ConfigError
from seen_jax.files import check_name, digest, restore_folder
from seen_jax.models.sites import DECODER_SITES, ENCODER_MLP_ACT, check_site
from seen_jax.progress import Progress

EXAMPLES = """seen-jax calibrate clips/ --noise white pink noise/crowd.wav --out calibrations
seen-jax calibrate clips/ --noise white --stream --shard 1/2 --out part1
seen-jax calibrate clips/ --noise white --stream --shard 2/2 --out part2"""
CLIPS = 50
PART = "calibration"  # of a noise; `score` and `generate` use its other part


def shard(text: str | tuple[int, int]) -> tuple[int, int]:
    """The type of --shard: `2/4`, the second of four parts."""
    if isinstance(text, tuple):
        return text
    if not (match := re.fullmatch(r"(\d+)/(\d+)", text)) or not 1 <= int(match[1]) <= int(match[2]):
        raise ArgumentTypeError(f"expected a part of several such as 2/4, not '{text}'")
    return int(match[1]), int(match[2])


def options(parser: Parser) -> None:
    add = parser.add_argument
    add("clean", nargs="+", metavar="CLEAN", help=f"clean clips: {AUDIO}")
    add("--noise", nargs="+", action="extend", required=True, metavar="SPEC", help=NOISE)
    add("--out", required=True, metavar="FOLDER", help="where the calibrations go, one folder per noise")
    add("--site", default=ENCODER_MLP_ACT, help="place in the layers, see `seen-jax models` (default encoder.mlp_act)")
    add("--snr", type=NUMBER, default=0.0, metavar="DB", help="of the noise against its clip (default 0)")
    add("--clips", type=COUNT, help="use at most so many clips (default 50; all with --stream)")
    add("--seed", type=seed, default=0, help="of the noises (default 0)")
    add("--prompt", help="asked about every clip; matters at decoder sites only")
    add("--overwrite", action="store_true", help="replace calibrations that are there")
    parser.add_strict()
    add("--stream", action="store_true", help="keep second moments only: for any number of clips")
    add("--shard", type=shard, default=(1, 1), metavar="K/N", help="with --stream: the K-th of N parts of the clips")
    parser.add_model()


def run(args: Any) -> Result:
    from seen_jax.api import DEFAULT_PROMPT
    from seen_jax.audio import find_audio
    from seen_jax.audio.features import SAMPLE_RATE
    from seen_jax.cli import _inputs as inputs
    from seen_jax.cli._memory import check_memory
    from seen_jax.cli._report import describe, warn_of
    from seen_jax.models.memory import ENCODER, WHOLE

    check_site(args.site)
    part, parts = args.shard
    if parts > 1 and not args.stream:
        raise ConfigError("--shard needs --stream: its parts are joined by `seen-jax merge`.")
    noises = [inputs.read_noise(spec, PART) for spec in args.noise]
    out, names = Path(os.path.expanduser(args.out)), [check_name("noise", noise.name) for noise in noises]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two noises are called {', '.join(sorted(twice))}: give each its own name or folder.")
    if (out / "card.json").exists():
        raise ConfigError(f"{out} is a calibration or basis itself; new ones go below --out: choose another folder.")
    existing = [_existing(out / name, args.overwrite) for name in names]
    limit = args.clips or (None if args.stream else CLIPS)
    items = list(enumerate(find_audio(args.clean)[:limit]))[part - 1 :: parts]
    if not items:
        raise ConfigError(f"--shard {part}/{parts} holds none of the clips: use fewer parts.")
    if limit and len(items) < limit and parts == 1:
        note(f"{len(items)} clean clips found, of {limit} wanted: all are used.")
    with progress() as report:
        inputs.check_snrs([args.snr])
        family, waves = inputs.model_config(args)[1], list[Any]()
        reader = inputs.ClipReader(family, True, args.strict or len(items) == 1)
        if not args.stream:
            items, waves = reader.read_all(items, report)
        longest = max((len(wave) / SAMPLE_RATE for wave in waves), default=1.0)
        check_memory(args, longest, WHOLE if args.site in DECODER_SITES else ENCODER)
        model = inputs.load_model(args, report, args.site)
        prompt = (args.prompt or DEFAULT_PROMPT) if args.site in DECODER_SITES else ""
        task = Task(args, model, items, waves, reader, prompt, report)
        entries: list[dict[str, Any]] = []
        for noise, before in zip(noises, existing, strict=True):
            calibration = task.calibrate(noise, out / noise.name, before)
            entries.append({"folder": str(out / noise.name), "kept": before is not None})
            entries[-1] |= describe(calibration.select(), calibration)
    for entry in entries if args.json else ():  # people read the findings in the result
        warn_of(entry["folder"], entry["findings"])
    data = {"model": model.name, "fingerprint": model.identity(args.site).fingerprint, "calibrations": entries}
    data["left_out"] = reader.left_out
    return Result(data, _view(f"{model.name}, {args.site}, {args.snr:g} dB, default selection", entries))


def _existing(folder: Path, overwrite: bool) -> Any:
    """The calibration that is already in a folder, None where there is none or it is to be replaced."""
    from seen_jax.cli._inputs import kind_of
    from seen_jax.subspace import Calibration

    check_writable(folder)
    restore_folder(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if (kind := kind_of(folder)) != "calibration":
        raise ConfigError(f"{folder} exists and is a {kind}: choose another --out.")
    try:
        return None if overwrite else Calibration.load(folder)
    except BasisError as e:
        raise BasisError(f"{e}; --overwrite replaces it.") from None


def _check_same(folder: Path, calibration: Any, request: dict[str, Any]) -> None:
    """ConfigError if a calibration was made of other data or with other settings."""
    before = calibration.card.get("request") or {}
    if different := [key for key in request if before.get(key) != request[key]]:
        made = f"{folder} exists and was made with another {', '.join(different)}"
        raise ConfigError(f"{made}: choose another --out, or replace it with --overwrite.")


@dataclass(frozen=True)
class Task:
    args: Any
    model: Any
    items: list[tuple[int, Any]]  # (index, clip)
    waves: list[Any]  # their audio, without --stream
    reader: Any  # of clips, with --stream
    prompt: str
    report: Progress

    def calibrate(self, noise: Any, folder: Path, existing: Any) -> Any:
        """The calibration of one noise, which its folder holds afterwards; `existing` if that is the same."""
        from seen_jax import api

        args, numbered = self.args, zip(self.items, self.waves, strict=not self.args.stream)
        noises = [noise.clip(i, len(wave), args.seed, PART) for (i, _), wave in numbered]
        if args.stream:  # a file stands for its audio, so that it is read once
            clean = digest(f"{i} {item.path} {item.path.stat().st_size}" for i, item in self.items)
            identity = digest([noise.name, repr(noise.calibration), str(args.seed)])
        else:
            clean, identity = (digest(wave.tobytes() for wave in waves) for waves in (self.waves, noises))
        options = {"site": args.site, "snr_db": args.snr, "prompt": self.prompt}
        numbers = {"dtype": self.model.dtype, "weights": self.model.weights}
        fingerprint = self.model.identity(args.site).fingerprint
        request = options | numbers | {"fingerprint": fingerprint, "clean": clean, "noise": identity}
        if existing is not None:
            _check_same(folder, existing, request)
            note(f"{folder} is complete and was made from the same data: kept.")
            return existing
        card = {"noise": noise.name, "seed": args.seed, "prompt": self.prompt, **numbers, "request": request}
        tick = lambda _, done, total: self.report(f"calibrating {noise.name}", done, total or len(self.items))
        options |= {"batch_size": args.batch_size, "card": card, "progress": tick}
        partial = folder.with_name(f"{folder.name}.partial")
        whole = lambda: api.calibrate(self.model, self.waves, noises, **options)
        calibration = self.stream(noise, partial, options) if args.stream else whole()
        calibration.save(folder, overwrite=True)  # `_existing` saw that nothing else is there
        shutil.rmtree(partial, ignore_errors=True)
        return calibration

    def stream(self, noise: Any, partial: Path, options: dict[str, Any]) -> Any:
        """Calibrate on clips that are read as they are needed; `partial` holds the calibration of those so far."""
        from seen_jax import api
        from seen_jax.prefetch import prefetch
        from seen_jax.subspace import Calibration

        start, done, left_out = None, 0, list[int]()
        restore_folder(partial)
        if partial.is_dir() and not self.args.overwrite:
            start = Calibration.load(partial)
            _check_same(partial, start, options["card"]["request"])
            done, left_out = start.source.shape[1], list(start.card.get("left_out") or ())
            note(f"{partial}: {done} of {len(self.items)} clips are done.")

        def pair(index: int, item: Any) -> tuple[Any, Any] | None:
            wave = self.reader.read(item)
            if wave is None:
                left_out.append(index)
                return None
            return wave, noise.clip(index, len(wave), self.args.seed, PART)

        def pairs() -> Iterator[tuple[Any, Any]]:
            waiting = [(index, item) for index, item in self.items if index not in left_out][done:]
            count = done
            for one in prefetch(functools.partial(pair, *numbered) for numbered in waiting):
                if one is not None:
                    count += 1
                    yield one
            self.reader.check(count)

        of_some = lambda made: replace(made, card=made.card | ({"left_out": sorted(left_out)} if left_out else {}))
        keep = lambda calibration: of_some(calibration).save(partial, overwrite=True, ranks=False)
        return of_some(api.calibrate_stream(self.model, pairs(), start=start, keep=keep, **options))


def _view(title: str, entries: list[dict[str, Any]]) -> list[Any]:
    from seen_jax.cli._report import findings_text, layer_text

    rows, findings = [], []
    for entry in entries:
        star = f"{entry['first_layer']}" + ("" if entry["layer_found"] else " (fallback)")
        ranks = " ".join(str(entry["ranks"][layer]) for layer in entry["layers"])
        folder = entry["folder"] + (" (kept)" if entry["kept"] else "")
        rows.append([entry["noise"], entry["clips"], star, layer_text(entry["layers"]), ranks, folder])
        findings += findings_text(entry["findings"], f"{entry['noise']}: ")
    return [title, table(["noise", "#clips", "#l*", "kept layers", "ranks", "folder"], rows), *findings]
