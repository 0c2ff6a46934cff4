"""Find where noise lives in a model: pool its activations over clean and noise clips, pair by pair.

One calibration folder per noise appears below --out. It holds the pooled activations, so every selection option of
`score`, `generate` and `inspect` can change later without running the model again. Calibrations that are already there
and were made from the same model, clips and settings are kept: an interrupted command can be repeated.

With --stream, clips are read as they are needed and second moments are kept in place of activations, for sets that do
not fit in memory. What is done is saved every minute or so, and the same command goes on from there. Several machines
take a --shard each, and `merge` joins their folders.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seen_jax.cli._output import Result, check_writable, note, progress, table
from seen_jax.cli._parser import AUDIO, SITE, SPEC, Parser, add_model, shard

EXAMPLES = """
seen-jax calibrate clips/ --noise white pink noise/crowd.wav --out calibrations
seen-jax calibrate clips/ --noise white --stream --shard 1/2 --out part1
seen-jax calibrate clips/ --noise white --stream --shard 2/2 --out part2
"""
CLIPS = 50


def options(parser: Parser) -> None:
    from jsonargparse.typing import NonNegativeInt, PositiveInt

    parser.add_argument("clean", nargs="+", metavar="CLEAN", help=f"clean clips: {AUDIO}")
    parser.add_argument("--noise", nargs="+", action="extend", required=True, metavar="SPEC", help=SPEC)
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="where the calibrations go, one folder per noise"
    )
    parser.add_argument(
        "--site", default=SITE, help=f"place in the layer stack (default {SITE}; see `seen-jax models`)"
    )
    parser.add_argument(
        "--snr", type=float, default=0.0, metavar="DB", help="of the noise against its clip (default 0)"
    )
    parser.add_argument("--clips", type=PositiveInt, help="use at most so many clips (default 50; all with --stream)")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="of the noises (default 0)")
    parser.add_argument("--prompt", help="asked about every clip; matters at decoder sites only")
    parser.add_argument("--overwrite", action="store_true", help="replace calibrations that are there")
    parser.add_argument("--stream", action="store_true", help="keep second moments only: for any number of clips")
    parser.add_argument("--shard", type=shard, metavar="K/N", help="with --stream: the K-th of N parts of the clips")
    add_model(parser)


def run(args: Any) -> Result:
    from seen_jax.api import DEFAULT_PROMPT
    from seen_jax.cli import _inputs as inputs
    from seen_jax.cli._report import warn_of
    from seen_jax.errors import ConfigError
    from seen_jax.models.sites import DECODER_SITES, check_site

    check_site(args.site)
    if args.shard and not args.stream:
        raise ConfigError("--shard needs --stream: its parts are joined by `seen-jax merge`.")
    noises = [inputs.read_noise(spec) for spec in args.noise]
    folders = _folders(Path(args.out).expanduser(), [noise.name for noise in noises], args.overwrite)
    if args.stream:
        inputs.check_mixable([], [args.snr])
        clips, items = [], inputs.shard_of(args.clean, args.clips, args.shard)
    else:
        limit = args.clips or CLIPS
        clips, items = inputs.read_clips(args.clean, limit), []
        inputs.check_mixable(clips, [args.snr])
        if len(clips) < limit:
            note(f"{len(clips)} clean clips found, of {limit} wanted: all are used.")
    model = inputs.load_model(args, clips)
    prompt = (args.prompt or DEFAULT_PROMPT) if args.site in DECODER_SITES else ""
    settings = {"site": args.site, "snr_db": args.snr, "prompt": prompt, "dtype": args.dtype}
    made = []
    for noise in noises:
        source = (
            _streamed(model, items, noise, folders[noise.name], settings, args)
            if args.stream
            else (_in_memory(model, clips, noise, settings, args))
        )
        made.append(_one(model, noise.name, source, folders[noise.name], settings, args))
    result = _result(model, made, settings)
    if args.json:  # people read the findings in the result
        for entry in result.data["calibrations"]:
            warn_of(entry["folder"], entry["findings"])
    return result


def _folders(out: Path, names: list[str], overwrite: bool) -> dict[str, Path]:
    """The folder of every noise, checked before any work."""
    from seen_jax.cli._inputs import kind_of
    from seen_jax.errors import BasisError, ConfigError
    from seen_jax.subspace import Calibration

    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two noises are called {', '.join(sorted(twice))}: give each its own name or folder.")
    check_writable(out)
    if (out / "card.json").exists():
        raise ConfigError(f"{out} is a calibration or basis itself; new ones go below --out: choose another folder.")
    folders = {name: out / name for name in names}
    for folder in folders.values():
        if not folder.is_dir():
            check_writable(folder)
            if folder.exists():
                raise ConfigError(f"{folder} is a file: choose another --out.")
        elif any(folder.iterdir()) and (kind := kind_of(folder)) != "calibration":
            raise ConfigError(f"{folder} exists and is a {kind}: choose another --out.")
        elif any(folder.iterdir()) and not overwrite:
            try:
                Calibration.load(folder)
            except BasisError as e:
                raise BasisError(f"{e}; --overwrite replaces it.") from None
    return folders


@dataclass(frozen=True)
class Source:
    """request: what identifies the clips and their noise. make: calibrates, given the card."""

    request: dict[str, Any]
    make: Callable[[dict[str, Any]], Any]


def _in_memory(model: Any, clips: Any, noise: Any, settings: dict[str, Any], args: Any) -> Source:
    from seen_jax.api import calibrate
    from seen_jax.cli._inputs import CALIBRATION

    clean = [clip.wave for clip in clips]
    waves = [noise.clip(CALIBRATION + i, len(wave), args.seed) for i, wave in enumerate(clean)]

    def make(card: dict[str, Any]) -> Any:
        with progress(f"calibrating {noise.name}") as tick:
            return calibrate(model, clean, waves, args.site, args.snr, settings["prompt"], args.batch_size, card, tick)

    return Source({"clean": _digest(clean), "noise": _digest(waves)}, make)


def _streamed(model: Any, items: Any, noise: Any, folder: Path, settings: dict[str, Any], args: Any) -> Source:
    """Files stand for their audio, so that it is read once. What is done so far is a calibration beside `folder`."""
    from seen_jax.api import calibrate_stream
    from seen_jax.cli import _inputs as inputs
    from seen_jax.errors import ConfigError
    from seen_jax.prefetch import ahead
    from seen_jax.subspace import Calibration

    partial = folder.with_name(f"{folder.name}.partial")

    def request(done: int) -> dict[str, Any]:
        files = [(i, str(item.path), item.path.stat().st_size) for i, item in items[:done]]
        digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
        return {"clean": digest, "noise": [*noise.sources, args.seed]}

    def make(card: dict[str, Any]) -> Any:
        own: dict[str, Any] = card["request"]

        def save(calibration: Any) -> None:
            card = {**calibration.card, "request": {**own, **request(calibration.source.shape[1])}}
            replace(calibration, card=card).save(partial, overwrite=True, ranks=False)

        start, done = None, 0
        if partial.is_dir() and not args.overwrite:
            start = Calibration.load(partial)
            done = start.source.shape[1]
            if start.card.get("request") != {**own, **request(done)}:
                raise ConfigError(
                    f"{partial} holds a part of another calibration: choose another --out, or replace it with "
                    "--overwrite."
                )
            note(f"{partial}: {done} of {len(items)} clips are done.")
        pairs = ahead(
            functools.partial(inputs.pair, model, noise, i, item, args.snr, args.seed) for i, item in items[done:]
        )
        with progress(f"calibrating {noise.name}") as tick:
            found = calibrate_stream(
                model, pairs, args.site, args.snr, settings["prompt"], args.batch_size, card,
                lambda count: tick(count, len(items)), start, save,
            )  # fmt: skip
        return found

    return Source(request(len(items)), make)


def _one(
    model: Any, noise: str, source: Source, folder: Path, settings: dict[str, Any], args: Any
) -> tuple[Any, Path, bool]:
    """(calibration, its folder, whether it was already there)."""
    from seen_jax.errors import ConfigError
    from seen_jax.subspace import Calibration

    request = {**settings, "fingerprint": model.fingerprint, **source.request}
    empty = args.overwrite or (folder.is_dir() and not any(folder.iterdir()))
    if folder.exists() and not empty:
        there = Calibration.load(folder)
        before = there.card.get("request") or {}
        if different := [key for key in request if before.get(key) != request[key]]:
            raise ConfigError(
                f"{folder} exists and was made with another {', '.join(different)}: "
                "choose another --out, or replace it with --overwrite."
            )
        note(f"{folder} is complete and was made from the same data: kept.")
        return there, folder, True
    card = {"noise": noise, "seed": args.seed, "prompt": settings["prompt"], "dtype": args.dtype}
    made = source.make({**card, "request": request})
    made.save(folder, overwrite=empty)
    shutil.rmtree(folder.with_name(f"{folder.name}.partial"), ignore_errors=True)
    return made, folder, False


def _digest(waves: Any) -> str:
    digest = hashlib.sha256()
    for wave in waves:
        digest.update(len(wave).to_bytes(8, "little") + wave.tobytes())
    return digest.hexdigest()[:16]


def _result(model: Any, made: list[tuple[Any, Path, bool]], settings: dict[str, Any]) -> Result:
    from seen_jax.cli._report import describe, findings_text, layer_text

    entries, rows, view = [], [], []
    for calibration, folder, kept in made:
        entry = {"folder": str(folder), "kept": kept, **describe(calibration, calibration.select())}
        entries.append(entry)
        rows.append(
            [
                entry["noise"],
                entry["clips"],
                f"{entry['first_layer']}" + ("" if entry["layer_found"] else " (fallback)"),
                layer_text(entry["layers"]),
                " ".join(str(entry["ranks"][layer]) for layer in entry["layers"]),
                f"{folder}" + (" (kept)" if kept else ""),
            ]
        )
        view += findings_text(entry["findings"], f"{entry['noise']}: ")
    title = f"{model.name}, {settings['site']}, {settings['snr_db']:g} dB, default selection"
    columns = ["noise", "#clips", "#l*", "kept layers", "ranks", "folder"]
    data = {"model": model.name, "fingerprint": model.fingerprint, "calibrations": entries}
    return Result(data, [title, table(columns, rows), *view])
