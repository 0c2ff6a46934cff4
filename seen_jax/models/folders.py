"""Where the files of a model lie, embedded, in a local folder or on the hub, and their JSON."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from seen_jax.errors import CheckpointError
from seen_jax.files import parse_json

EMBEDDED = {"seen-tiny": Path(__file__).parent.parent / "assets" / "seen-tiny"}
LARGEST = 256 << 20  # bytes of a JSON file; the largest tokenizers have 35 MB
WEIGHT_FILES = "*.safetensors"
FILES = ("*.json", WEIGHT_FILES, "*.jinja", "*.txt", "*.model")


def cache_folder() -> Path:
    """Where compiled programs and synthesised clips are kept: SEEN_JAX_CACHE, or a folder in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "seen_jax"
    return Path(os.path.expanduser(os.environ.get("SEEN_JAX_CACHE") or default))


class Part(NamedTuple):
    """A part of a model that may lie in a folder of its own."""

    attribute: str  # of config.json, which names that folder
    section: str  # of config.json, which configures the part
    prefix: str  # the beginning of its keys in the whole model


def find_folder(name: str | Path, weights: bool = True) -> Path:
    """The local folder of an embedded name, a folder, or a hub name (downloaded once, without pickled files; with
    weights=False without weights)."""
    if str(name) in EMBEDDED:
        return EMBEDDED[str(name)]
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{folder} is a file; --model takes the folder that holds config.json.")
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        takes = f"a folder, a hub name like org/model, or: {', '.join(EMBEDDED)}"
        raise CheckpointError(f"there is no model folder '{name}'. Give {takes}.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(str(name), allow_patterns=[f for f in FILES if weights or f != WEIGHT_FILES]))
    except GatedRepoError:
        problem = "is gated: accept its licence on the hub, then log in with `hf auth login`."
    except RepositoryNotFoundError:
        problem = "was not found on the hub, and is no local folder; a private model needs `hf auth login`."
    except OSError as e:  # all other errors of the hub too
        problem = f"is not in the local hub cache and the hub cannot be reached ({e})."
    raise CheckpointError(f"{name} {problem}")


def part_folder(folder: Path, part: Part, name: str, weights: bool = True) -> Path:
    """The folder of a part of the model in `folder`: relative to that, or anything that `find_folder` takes."""
    beside = folder / name
    if beside.is_dir():
        return beside
    try:
        return find_folder(name, weights)
    except CheckpointError as e:
        config = folder / "config.json"
        raise CheckpointError(f"{config} leaves a part of the model to {part.attribute} = '{name}': {e}") from None


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from `path`; CheckpointError naming the file and the reason otherwise."""
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"{what}: {path} has more than {LARGEST >> 20} MiB; no model needs that.")
        value = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{what}: {path} does not exist; is this a Hugging Face model folder?") from None
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{what}: {path} cannot be read as JSON ({e}).") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{what}: {path} holds a JSON {type(value).__name__}, not an object.")
    return value
