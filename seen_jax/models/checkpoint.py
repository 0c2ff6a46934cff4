"""Hugging Face model folders <-> parameters, without PyTorch. Nothing is unpickled and no remote code runs."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seen_jax.errors import CheckpointError
from seen_jax.models.config import LalmConfig
from seen_jax.models.families import family_of
from seen_jax.models.folders import part_folder
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.weights import Slot, canonical, flatten, slots, unflatten

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from `path`; CheckpointError naming the file and the reason otherwise."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{what}: {path} does not exist; is this a Hugging Face model folder?") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise CheckpointError(f"{what}: {path} cannot be read as JSON ({e}).") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{what}: {path} holds a JSON {type(value).__name__}, not an object.")
    return value


def read_config(folder: Path) -> tuple[LalmConfig, ModuleType]:
    """config.json (+ generation_config.json) -> (LalmConfig, family module)."""
    raw = read_json(folder / "config.json", "model configuration")
    family = family_of(raw.get("model_type"), folder / "config.json")
    for part in getattr(family, "PARTS", ()):
        if raw.get(part.attribute) and not raw.get(part.section):
            other = part_folder(folder, part, str(raw[part.attribute]))
            raw[part.section] = read_json(other / "config.json", f"configuration of {part.attribute}")
    from transformers import CONFIG_MAPPING

    try:
        if hasattr(family, "complete"):  # the folder's own class is remote code, which never runs
            full = family.complete(raw)
        else:
            full = CONFIG_MAPPING[raw["model_type"]].from_dict(raw).to_dict()
    except CheckpointError:
        raise
    except Exception as e:
        raise CheckpointError(
            f"{folder / 'config.json'} is not a valid {raw['model_type']} configuration: {e}"
        ) from None
    if hasattr(family, "TOKENS"):  # token ids that the configuration does not state
        full["tokens"] = {token: _token_id(folder, token) for token in family.TOKENS}
    eos, pad = _stop_tokens(folder, full)
    try:
        return family.config(full, eos, pad), family
    except KeyError as e:
        raise CheckpointError(f"{folder / 'config.json'} lacks the attribute {e}.") from None


def _stop_tokens(folder: Path, config: Mapping[str, Any]) -> tuple[tuple[int, ...], int | None]:
    sources = [config.get("thinker_config", config).get("text_config") or {}, config]
    if (folder / "generation_config.json").is_file():
        sources.insert(0, read_json(folder / "generation_config.json", "generation configuration"))
    first = lambda key: next((s[key] for s in sources if s.get(key) is not None), None)  # noqa: E731
    eos = first("eos_token_id")
    if eos is None:
        tokenizer = read_json(folder / "tokenizer_config.json", "tokenizer configuration")
        eos = _token_id(folder, tokenizer.get("eos_token"))
    if eos is None or eos == []:
        raise CheckpointError(
            f"{folder}: no end-of-text token in generation_config.json, config.json or tokenizer_config.json."
        )
    return tuple(eos) if isinstance(eos, (list, tuple)) else (eos,), first("pad_token_id")


def _token_id(folder: Path, token: Any) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    added = read_json(folder / "tokenizer.json", "tokenizer").get("added_tokens", [])
    return next((entry["id"] for entry in added if entry["content"] == text), None)


def parameter_shapes(config: LalmConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
    """{parameter path: shape} of the whole model, without allocating anything."""

    def init() -> Any:
        features = jnp.zeros((1, config.encoder.pad_frames, config.encoder.n_mels))
        one, row = jnp.ones(1, jnp.int32), jnp.zeros((1, 4), jnp.int32)
        return Lalm(config).init(jax.random.key(0), Batch(row, one, features, one, row))

    variables = jax.eval_shape(init)
    return {path: leaf.shape for path, leaf in flatten(variables["params"]).items()}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file that has not been read yet. key: its name there."""

    key: str
    file: Path
    dtype: str
    shape: tuple[int, ...]


def list_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor in the folder's safetensors files (sharded or not), by key."""
    tensors: dict[str, Tensor] = {}
    for file in _files(folder):
        with _open(file) as f:
            for key in f.keys():  # noqa: SIM118  (a safetensors handle is not a mapping)
                part = f.get_slice(key)
                tensors[key] = Tensor(key, file, part.get_dtype(), tuple(part.get_shape()))
    return tensors


def gather(folder: Path, config: LalmConfig, family: ModuleType) -> dict[str, Tensor]:
    """Every tensor of a model, by key: those of its folder, and those of the parts that it leaves to other folders."""
    tensors = list_tensors(folder)
    held = {canonical(key, family.RENAMES) for key in tensors}
    for part in getattr(family, "PARTS", ()):
        keys = (key for rule in family.rules(config) for key in rule.keys(getattr(config, rule.path[0]).layers))
        if held.issuperset(key for key in keys if key.startswith(part.prefix)):
            continue
        name = read_json(folder / "config.json", "model configuration").get(part.attribute)
        if name:
            others = list_tensors(part_folder(folder, part, str(name)))
            found = {part.prefix + key: tensor for key, tensor in others.items()}
            tensors |= {key: x for key, x in found.items() if canonical(key, family.RENAMES) not in held}
        elif not any(key.startswith(part.prefix) for key in held):
            raise CheckpointError(
                f"{folder} holds no weights {part.prefix}*, and its config.json names no {part.attribute} that does."
            )
    return tensors


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        if (folder / WEIGHTS).is_file():
            return [folder / WEIGHTS]
        pickled = [p.name for p in sorted(folder.glob("*")) if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        found = f" It holds pickled weights ({', '.join(pickled[:3])}), which are never loaded;" if pickled else ""
        raise CheckpointError(
            f"{folder}: neither {WEIGHTS} nor {INDEX} is there.{found} save the model as safetensors."
        )
    names = read_json(index, "weight index").get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index} has no 'weight_map'.")
    files = []
    for name in sorted(set(map(str, names.values()))):
        if Path(name).name != name:
            raise CheckpointError(f"{index} points outside its folder: '{name}'.")
        if not (folder / name).is_file():
            raise CheckpointError(f"{index} names the shard {name}, which is missing from {folder}.")
        files.append(folder / name)
    return files


def _open(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="flax")
    except (SafetensorError, OSError) as e:
        raise CheckpointError(
            f"{file} is damaged or not a safetensors file ({e}); download or copy it again."
        ) from None


def match(
    tensors: Mapping[str, Tensor], table: Mapping[str, Slot], family: ModuleType, folder: Path
) -> dict[str, Slot]:
    """{stored key: slot}. An unmapped, missing or misshapen key is an error that lists them all."""
    plan: dict[str, Slot] = {}
    stored: dict[str, str] = {}  # canonical name -> key
    problems: list[str] = []
    for key, tensor in tensors.items():
        name = canonical(key, family.RENAMES)
        if name in table:
            slot = table[name]
            if (twin := stored.setdefault(name, key)) != key:
                problems.append(f"twice: {key} is the same weight as {twin}")
            elif tensor.shape != slot.shape:
                problems.append(f"misshapen: {key} is {list(tensor.shape)}, expected {list(slot.shape)}")
            elif tensor.dtype not in FLOATS:
                problems.append(f"wrong dtype: {key} is {tensor.dtype}, expected one of {', '.join(FLOATS)}")
            plan[key] = slot
        elif not any(re.search(pattern, name) for pattern in family.UNUSED):
            problems.append(f"unexpected: {key}")
    problems += [f"missing: {key}" for key in table if key not in stored]
    if problems:
        shown = "\n  ".join(sorted(problems))
        raise CheckpointError(f"{folder}: {len(problems)} weights do not fit this configuration:\n  {shown}")
    return plan


def load_params(folder: Path, config: LalmConfig, family: ModuleType, dtype: Any = None) -> dict[str, Any]:
    """Parameters from a folder, tensor by tensor. dtype: of the parameters; None keeps the stored one."""
    shapes = parameter_shapes(config)
    tensors = gather(folder, config, family)
    plan = match(tensors, slots(family.rules(config), shapes), family, folder)
    flat: dict[tuple[str, ...], Any] = {}
    for file in dict.fromkeys(tensors[key].file for key in plan):
        with _open(file) as f:
            for key, slot in plan.items():
                if tensors[key].file != file:
                    continue
                value = np.asarray(slot.layout.load(f.get_tensor(tensors[key].key)))
                target = np.dtype(dtype) if dtype is not None else value.dtype
                if slot.layer is None:
                    flat[slot.path] = value.astype(target)
                    continue
                if slot.path not in flat:
                    flat[slot.path] = np.empty(shapes[slot.path], target)
                flat[slot.path][slot.layer] = value
    return unflatten({path: jnp.asarray(flat.pop(path)) for path in list(flat)})  # host and device never hold it twice


def stored_tensors(
    params: Mapping[str, Any], config: LalmConfig, family: ModuleType
) -> Iterator[tuple[str, np.ndarray]]:
    """Parameters -> (canonical checkpoint key, tensor in the stored layout)."""
    flat = flatten(params)
    for key, slot in slots(family.rules(config), {path: leaf.shape for path, leaf in flat.items()}).items():
        leaf = flat[slot.path] if slot.layer is None else flat[slot.path][slot.layer]
        yield key, np.ascontiguousarray(slot.layout.save(np.asarray(leaf)))


def save_params(
    folder: Path,
    params: Mapping[str, Any],
    config: LalmConfig,
    family: ModuleType,
    dtype: Any = None,
    extra: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write model.safetensors under the published key names. extra: further tensors that the original expects."""
    from safetensors.numpy import save_file

    tensors = dict(stored_tensors(params, config, family)) | dict(extra or {})
    tensors = {key: x.astype(dtype or x.dtype) for key, x in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (WEIGHTS + ".partial")
    try:
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.replace(folder / WEIGHTS)
    except OSError as e:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{folder / WEIGHTS} could not be written ({e}); is the disk full?") from None
