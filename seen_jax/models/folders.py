"""Where the files of a model lie, embedded, in a local folder or on the hub, and their JSON."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from seen_jax.errors import CheckpointError
from seen_jax.files import parse_json
from seen_jax.hub import HUB, SMALL, Hub

EMBEDDED = {"seen-tiny": Path(__file__).parent.parent / "assets" / "seen-tiny"}
LARGEST = 256 << 20  # bytes of a JSON file; the largest tokenizers have 35 MB
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")

Wanted = Callable[[str], bool]  # whether the weight with this key is to be read


class Part(NamedTuple):
    """A part of a model that may lie in a folder of its own."""

    attribute: str  # of config.json, which names that folder
    section: str  # of config.json, which configures the part
    prefix: str  # the beginning of its keys in the whole model


def is_hub_name(name: str | Path) -> bool:
    """Whether a name is neither embedded nor that of a local folder or file."""
    return str(name) not in EMBEDDED and not Path(os.path.expanduser(name)).exists()


def find_folder(name: str | Path, hub: Hub = HUB) -> Path:
    """The local folder of an embedded name, a folder, or a hub name; of that all but the weights is downloaded, once.
    CheckpointError for a name that is no model, by its list of files."""
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
    files = hub.files(str(name))
    if files is None:
        return hub.fetch(str(name), None)
    if not {WEIGHTS, INDEX} & set(files):
        raise no_weights(str(name), files)
    if "config.json" not in files:
        raise CheckpointError(f"{name} holds no config.json: it is no model in the form of transformers.")
    return hub.fetch(str(name), [file for file in files if file.endswith(SMALL) and "/" not in file])


def fetch_weights(name: str | Path, folder: Path, wanted: Wanted, hub: Hub = HUB, extra: Iterable[str] = ()) -> None:
    """Download the weight files of a hub name that hold a wanted weight, and `extra` ones. folder: of `find_folder`."""
    if is_hub_name(name):
        at_commit = dataclasses.replace(hub, revision=folder.name)  # of the index that was read
        at_commit.fetch(str(name), [*weight_names(folder, wanted), *extra])


def weight_names(folder: Path, wanted: Wanted | None = None) -> list[str]:
    """The names of the weight files that hold a wanted weight, by the index; None: of all. Without an index, the one
    file of all weights. CheckpointError for an index that is damaged or points outside its folder."""
    index = folder / INDEX
    if not index.is_file():
        return [WEIGHTS]
    names = read_json(index, "weight index").get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index} has no 'weight_map'.")
    for name in map(str, names.values()):
        if Path(name).name != name:
            raise CheckpointError(f"{index} points outside its folder: '{name}'.")
    return sorted({str(name) for key, name in names.items() if wanted is None or wanted(key)})


def no_weights(where: str, files: Iterable[str]) -> CheckpointError:
    """The error for a folder or repository with these files, none of which holds weights that can be read."""
    names = sorted(files)
    kinds = {"pickled weights": (PICKLED, "never loaded"), "GGUF weights": ((".gguf",), "not read")}
    hints = ""
    for kind, (suffixes, what) in kinds.items():
        if of_kind := [name for name in names if name.endswith(suffixes)]:
            hints += f" It holds {kind} ({', '.join(of_kind[:3])}), which are {what};"
    advice = "use a copy of the model that is saved as safetensors."
    return CheckpointError(f"{where}: neither {WEIGHTS} nor {INDEX} is there.{hints} {advice}")


def part_folder(folder: Path, part: Part, name: str, hub: Hub = HUB, wanted: Wanted | None = None) -> Path:
    """The folder of a part of the model in `folder`: relative to that, or anything that `find_folder` takes. wanted:
    weights of the part that are to be there too."""
    beside = folder / name
    if beside.is_dir():
        return beside
    try:
        of_part = dataclasses.replace(hub, revision=None)
        place = find_folder(name, of_part)
        if wanted is not None:
            fetch_weights(name, place, wanted, of_part)
    except CheckpointError as e:
        config = folder / "config.json"
        raise CheckpointError(f"{config} leaves a part of the model to {part.attribute} = '{name}': {e}") from None
    return place


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
