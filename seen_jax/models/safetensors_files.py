"""Tensors in safetensors files: which there are, and reading them in blocks into arrays of another layout and dtype."""

import dataclasses
import json
import math
import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from seen_jax.errors import CheckpointError
from seen_jax.models.folders import INDEX, WEIGHTS, Wanted, no_weights, weight_names
from seen_jax.models.quantized import is_quantized, quantize, scale_path
from seen_jax.models.weights import Slot

LowRank = tuple[np.ndarray, np.ndarray]
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "F64": np.float64}
BLOCK, TILE = 4 << 20, 128  # bytes read at a time; columns transposed at a time, which the processor's cache holds
CHECKED = 1 << 16  # numbers checked at a time


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file that has not been read yet."""

    key: str  # its name there
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


Source = tuple[Tensor, Slot, LowRank | None]  # a tensor, its place in a parameter, the factors of what is added to it


class Key(NamedTuple):
    """What is read at a time: a parameter, or one layer of it."""

    path: tuple[str, ...]
    layer: int | None = None


class Block(NamedTuple):
    """Consecutive rows of a tensor."""

    tensor: Tensor
    start: int  # the first row
    place: np.ndarray  # where they belong: a view of the parameter in stored layout
    lora: LowRank | None  # factors of what is added to them
    scales: np.ndarray | None  # [rows, groups] where the scales of a quantised parameter belong


def list_tensors(folder: Path, wanted: Wanted | None = None) -> dict[str, Tensor]:
    """The tensors in the folder's safetensors files (sharded or not), by key. wanted: which of them; shards that hold
    none of those by the index are not opened, and need not be there."""
    tensors: dict[str, Tensor] = {}
    for file in _files(folder, wanted):
        check_file(file)
        with file.open("rb") as f:
            (size,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(size))
        header.pop("__metadata__", None)
        for key, entry in header.items():
            first, _ = entry["data_offsets"]
            if wanted is None or wanted(key):
                tensors[key] = Tensor(key, file, entry["dtype"], tuple(entry["shape"]), 8 + size + first)
    return tensors


def equal_tensors(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, read block by block up to the first difference."""
    if one.shape != other.shape:
        return False
    read = lambda x: np.memmap(x.file, np.uint8, "r", x.offset, (x.nbytes,)).view(x.numpy_dtype)
    a, b = read(one), read(other)
    step = BLOCK // one.numpy_dtype.itemsize
    return all(np.array_equal(a[i : i + step], b[i : i + step]) for i in range(0, len(a), step))


def _files(folder: Path, wanted: Wanted | None) -> list[Path]:
    names, index = weight_names(folder, wanted), folder / INDEX
    if names == [WEIGHTS] and not index.is_file() and not (folder / WEIGHTS).is_file():
        raise no_weights(str(folder), (path.name for path in folder.glob("*")))
    for name in names:
        if len(name.encode(errors="replace")) > 255 or not (folder / name).is_file():
            raise CheckpointError(f"{index} names the shard {name}, which is missing from {folder}.")
    return [folder / name for name in names]


def check_file(file: Path) -> None:
    """CheckpointError unless the file's header is valid and the file as long as it says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as e:
        raise CheckpointError(
            f"{file} is damaged or not a safetensors file ({e}); download or copy it again."
        ) from None


def read_arrays(sources: Mapping[Key, Sequence[Source]], kept: Mapping[Key, Any]) -> Iterator[tuple[Key, np.ndarray]]:
    """(key, array) of every parameter, or of every layer of it, one after the other, each read by several threads; a
    quantised one is followed by its scales. kept: {key: its shape and dtype}."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for key, parts in sources.items():
            keys = (key, Key(scale_path(key.path), key.layer)) if is_quantized(kept[key]) else (key,)
            arrays = {name: _aligned(kept[name].shape, np.dtype(kept[name].dtype)) for name in keys}
            list(pool.map(_read_block, [block for part in parts for block in _blocks(part, *arrays.values())]))
            yield from arrays.items()


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array at an address that JAX on CPU takes over instead of copying."""
    raw = np.empty(math.prod(shape) * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + len(raw) - 64].view(dtype).reshape(shape)


def _blocks(source: Source, array: np.ndarray, scales: np.ndarray | None = None) -> Iterator[Block]:
    """Blocks of rows of a tensor. scales: where those of a quantised array belong."""
    tensor, slot, lora = source
    place = slot.layout(array[slot.index])
    if not place.size:
        return
    place = np.atleast_1d(place)
    scales = None if scales is None else slot.layout(scales[slot.index])
    rows = max(1, BLOCK * len(place) // tensor.nbytes)
    for start in range(0, len(place), rows):
        block = slice(start, start + rows)
        added = None if lora is None else (lora[0][block], lora[1])
        yield Block(tensor, start, place[block], added, None if scales is None else scales[block])


def _read_block(block: Block) -> None:
    """Read a block of rows into its place, checked, converted or quantised and, tile by tile, transposed."""
    tensor, start, place, lora, scales = block
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
    numbers = raw.view(tensor.numpy_dtype).reshape(place.shape)
    if lora is not None:
        numbers = numbers.astype(np.float32) + lora[0] @ lora[1]
    _check_finite(tensor, numbers, np.dtype(np.float32) if scales is not None else place.dtype)
    if straight:
        return
    if scales is not None:
        integers, of_groups = quantize(numbers.reshape(len(place), -1), place.dtype, scales.shape[1])
        numbers, scales[:] = integers.reshape(place.shape), of_groups.reshape(scales.shape)
    elif place.dtype == numbers.dtype and place.itemsize == 2:
        # bfloat16 as NumPy's own kind: it copies faster
        place, numbers = place.view(np.uint16), numbers.view(np.uint16)
    if whole or place.ndim == 1:
        place[:] = numbers
        return
    for column in range(0, place.shape[1], TILE):
        place[:, column : column + TILE] = numbers[:, column : column + TILE]


def _check_finite(tensor: Tensor, block: np.ndarray, dtype: np.dtype) -> None:
    """CheckpointError unless every number of a contiguous block is finite, and stays so as `dtype`."""
    bits = block.reshape(-1).view(f"u{block.itemsize}")
    # Without the sign, the bits of floats are ordered as their magnitudes, infinity and then NaN last.
    parts = (np.left_shift(bits[i : i + CHECKED], 1).max() for i in range(0, len(bits), CHECKED))
    largest = (np.asarray(max(parts), bits.dtype) >> 1).view(block.dtype)
    with np.errstate(over="ignore"):
        if np.isfinite(largest.astype(dtype)):
            return
    where = f"{tensor.file}: the weight {tensor.key}"
    if np.isfinite(largest):
        problem = f"holds {float(largest):.4g}, more than {dtype.name} can"
        raise CheckpointError(f"{where} {problem}; load the model with dtype bfloat16 or float32.")
    number = "NaN" if np.isnan(largest) else "infinite"
    raise CheckpointError(f"{where} holds {number} numbers; its file is damaged, or training went wrong.")


def _scratch(size: int) -> np.ndarray:
    """Some bytes of this thread's buffer, which is used again: fresh memory costs more than reading does."""
    if len(getattr(_thread, "buffer", ())) < size:
        _thread.buffer = np.empty(size, np.uint8)
    return _thread.buffer[:size]


_thread = threading.local()
