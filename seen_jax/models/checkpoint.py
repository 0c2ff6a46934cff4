"""Hugging Face model folders <-> parameters, without PyTorch. Nothing is unpickled and no remote code runs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
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

LowRank = tuple[np.ndarray, np.ndarray]
Sharding = Callable[[tuple[str, ...], tuple[int, ...]], jax.sharding.Sharding]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "F64": np.float64}
BLOCK, TILE = 4 << 20, 128  # bytes read at a time; columns transposed at a time, which the processor's cache holds
LORA, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"
LORA_KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])\.weight")
LORA_OPTIONS = (
    *("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save"),
    *("layer_replication", "alora_invocation_tokens"),
)


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


def published_config(family: ModuleType) -> LalmConfig:
    """The configuration of a family's published model."""
    from transformers import CONFIG_MAPPING

    if hasattr(family, "complete"):
        return family.config(family.complete(family.PUBLISHED), (0,), 0)
    return family.config(CONFIG_MAPPING[family.MODEL_TYPES[0]](**family.PUBLISHED).to_dict(), (0,), 0)


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
    offset: int

    @property
    def numpy_dtype(self) -> np.dtype:
        return np.dtype(FLOATS[self.dtype])

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.numpy_dtype.itemsize


def list_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor in the folder's safetensors files (sharded or not), by key."""
    tensors: dict[str, Tensor] = {}
    for file in _files(folder):
        _check(file)
        with file.open("rb") as f:
            (size,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(size))
        header.pop("__metadata__", None)
        for key, entry in header.items():
            first, _ = entry["data_offsets"]
            tensors[key] = Tensor(key, file, entry["dtype"], tuple(entry["shape"]), 8 + size + first)
    return tensors


def gather(folder: Path, config: LalmConfig, family: ModuleType) -> dict[str, Tensor]:
    """Every tensor of a model, by key: those of its folder, and those of the parts that it leaves to other folders."""
    tensors = list_tensors(folder)
    if not hasattr(family, "PARTS"):
        return tensors
    held = {canonical(key, family.RENAMES) for key in tensors}
    table = slots(family.rules(config), parameter_shapes(config))
    for part in family.PARTS:
        if held.issuperset(key for key in table if key.startswith(part.prefix)):
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


def _check(file: Path) -> None:
    """CheckpointError unless the file's header is valid and the file as long as it says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as e:
        raise CheckpointError(
            f"{file} is damaged or not a safetensors file ({e}); download or copy it again."
        ) from None


def match(
    tensors: Mapping[str, Tensor], table: Mapping[str, Slot], family: ModuleType, folder: Path
) -> dict[str, Slot]:
    """{stored key: slot}. An unmapped, missing or misshapen key is an error that lists them all.

    An output map is skipped where the table has none: it is tied to the embeddings.
    """
    unused = (*family.UNUSED, r"(^|\.)lm_head\.weight$")
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
        elif not any(re.search(pattern, name) for pattern in unused):
            problems.append(f"unexpected: {key}")
    problems += [f"missing: {key}" for key in table if key not in stored]
    if problems:
        shown = "\n  ".join(sorted(problems))
        raise CheckpointError(f"{folder}: {len(problems)} weights do not fit this configuration:\n  {shown}")
    return plan


def load_params(
    folder: Path,
    config: LalmConfig,
    family: ModuleType,
    dtype: Any = None,
    sharding: Sharding | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Parameters from a folder, one after the other: no more of it is on the host than the parameter being read.

    dtype: of the parameters; None keeps the stored one. sharding: (path, shape) of a parameter -> where it lives.
    progress: called with (bytes read, bytes in all).
    """
    shapes = parameter_shapes(config)
    tensors = gather(folder, config, family)
    table = slots(family.rules(config), shapes)
    plan = match(tensors, table, family, folder)
    lora = read_lora(folder, table, family) if config.lora else {}
    leaves: dict[tuple[str, ...], list[tuple[Tensor, Slot]]] = {}
    for key, slot in plan.items():
        leaves.setdefault(slot.path, []).append((tensors[key], slot))
    total, done = sum(tensors[key].nbytes for key in plan), 0
    flat: dict[tuple[str, ...], Any] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path, parts in leaves.items():
            target = np.dtype(dtype) if dtype is not None else np.result_type(*(t.numpy_dtype for t, _ in parts))
            leaf = _aligned(shapes[path], target)
            jobs = [
                job
                for tensor, slot in parts
                for job in _blocks(tensor, slot, leaf, lora.get(canonical(tensor.key, family.RENAMES)))
            ]
            for _ in pool.map(_read_block, *zip(*jobs, strict=True)):
                pass
            flat[path] = jax.device_put(leaf, sharding(path, shapes[path]) if sharding else None)
            done += sum(tensor.nbytes for tensor, _ in parts)
            if progress:
                progress(done, total)
    return unflatten(flat)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array at an address that JAX on CPU takes over instead of copying."""
    raw = np.empty(math.prod(shape) * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + len(raw) - 64].view(dtype).reshape(shape)


def _blocks(
    tensor: Tensor, slot: Slot, leaf: np.ndarray, lora: LowRank | None
) -> Iterator[tuple[Tensor, int, np.ndarray, LowRank | None]]:
    """A tensor in blocks of rows: (tensor, first row, where the block belongs: a view of `leaf` in stored layout, the
    factors of what is added to it)."""
    place = slot.layout.save(leaf[slot.index])
    if not place.size:
        return
    place = place[None] if not place.ndim else place
    rows = max(1, BLOCK * len(place) // tensor.nbytes)
    for start in range(0, len(place), rows):
        own = None if lora is None else (lora[0][start : start + rows], lora[1])
        yield tensor, start, place[start : start + rows], own


def _read_block(tensor: Tensor, start: int, place: np.ndarray, lora: LowRank | None) -> None:
    """Read the rows from `start` on into `place`, converted and, tile by tile, transposed."""
    row = place.size // len(place)
    whole = place.flags.c_contiguous
    straight = whole and place.dtype == tensor.numpy_dtype and lora is None
    raw = place.reshape(-1).view(np.uint8) if straight else _scratch(place.size * tensor.numpy_dtype.itemsize)
    try:
        with tensor.file.open("rb", buffering=0) as f:
            f.seek(tensor.offset + start * row * tensor.numpy_dtype.itemsize)
            read = f.readinto(raw.data)
    except OSError as e:
        raise CheckpointError(f"{tensor.file} cannot be read ({e}).") from None
    if read != len(raw):
        raise CheckpointError(f"{tensor.file} is damaged: it ends inside {tensor.key}; download or copy it again.")
    if straight:
        return
    block = raw.view(tensor.numpy_dtype).reshape(place.shape)
    if lora is not None:
        block = block.astype(np.float32) + lora[0] @ lora[1]
    if place.dtype == block.dtype and place.itemsize == 2:
        place, block = place.view(np.uint16), block.view(np.uint16)  # bfloat16 as NumPy's own kind: it copies faster
    if whole or place.ndim == 1:
        place[:] = block
        return
    for column in range(0, place.shape[1], TILE):
        place[:, column : column + TILE] = block[:, column : column + TILE]


def _scratch(size: int) -> np.ndarray:
    """So many bytes of this thread's own, which are used again: fresh memory costs more than reading does."""
    if len(getattr(_own, "buffer", ())) < size:
        _own.buffer = np.empty(size, np.uint8)
    return _own.buffer[:size]


_own = threading.local()


def read_lora(folder: Path, table: Mapping[str, Slot], family: ModuleType) -> dict[str, LowRank]:
    """{canonical key: (alpha / r * B, A), float32, whose product is added to the weight} of the LoRA that peft wrote.
    Other kinds and keys than those of plain linear maps are refused by name."""
    if not (folder / LORA).is_file():
        raise CheckpointError(f"{folder}: config.json says has_lora_adapter, but {LORA} is missing; audio needs it.")
    from safetensors.flax import load_file

    raw = read_json(folder / LORA_CONFIG, "LoRA configuration")
    refused = [f"{name} = {raw[name]!r}" for name in LORA_OPTIONS if raw.get(name)]
    refused += [f"{k} = {raw[k]!r}" for k, v in {"peft_type": "LORA", "bias": "none"}.items() if raw.get(k, v) != v]
    refused += [f"{name} = {raw.get(name)!r}" for name in ("r", "lora_alpha") if not raw.get(name)]
    if refused:
        raise CheckpointError(f"{folder / LORA_CONFIG}: {', '.join(refused)} is not supported.")
    parts: dict[str, dict[str, np.ndarray]] = {}
    problems = []
    _check(folder / LORA)
    for key, value in load_file(folder / LORA).items():
        if (found := LORA_KEY.fullmatch(key)) is None:
            problems.append(f"unexpected: {key}")
            continue
        name = canonical(f"{found['layer']}.weight", family.RENAMES)
        parts.setdefault(name, {})[found["part"]] = np.asarray(value, np.float32)
    scale = raw["lora_alpha"] / (raw["r"] ** 0.5 if raw.get("use_rslora") else raw["r"])
    lora = {}
    for name, pair in parts.items():
        if name not in table or len(pair) < 2:
            problems.append(f"unexpected: LoRA of {name}" if name not in table else f"incomplete: LoRA of {name}")
            continue
        b, a = lora[name] = scale * pair["B"], pair["A"]
        if (b.shape[:1] + a.shape[1:], b.shape[1:]) != (table[name].shape, a.shape[:1]):
            problems.append(f"misshapen: LoRA of {name}, for a weight of {list(table[name].shape)}")
    if problems:
        raise CheckpointError(f"{folder / LORA} does not fit this configuration:\n  " + "\n  ".join(sorted(problems)))
    return lora


def stored_tensors(
    params: Mapping[str, Any], config: LalmConfig, family: ModuleType
) -> Iterator[tuple[str, np.ndarray]]:
    """Parameters -> (canonical checkpoint key, tensor in the stored layout)."""
    flat = flatten(params)
    for key, slot in slots(family.rules(config), {path: leaf.shape for path, leaf in flat.items()}).items():
        yield key, np.ascontiguousarray(slot.layout.save(np.asarray(flat[slot.path][slot.index])))


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
