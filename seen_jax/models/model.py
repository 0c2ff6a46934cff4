"""A loaded model: parameters, compiled entry points, processor and identity."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from seen_jax.errors import CheckpointError, ConfigError
from seen_jax.models.buckets import Room, share_rooms
from seen_jax.models.checkpoint import LORA, LORA_CONFIG, Tensor, gather, load_params, read_config
from seen_jax.models.config import LalmConfig
from seen_jax.models.encoder import Audio, Encoded
from seen_jax.models.folders import cache_folder, find_folder
from seen_jax.models.lalm import Lalm, Output
from seen_jax.models.processor import Processor, Request
from seen_jax.models.sharding import parameter_sharding, rows_of
from seen_jax.models.sites import Taps

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")

FLIGHT = 16  # prompts whose activations stay in a CPU's caches

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Model:
    """What `load` returns. `lalm.apply(variables, batch, edits)` is the pure function below everything else."""

    name: str
    folder: Path
    lalm: Lalm
    variables: Any
    processor: Processor
    fingerprint: str

    @property
    def config(self) -> LalmConfig:
        return self.lalm.config

    @property
    def rows(self) -> int:
        """The number of rows of a batch is best a multiple of this: the devices on the mesh's data axis, or 1."""
        return rows_of(self.lalm.mesh)

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        return self.lalm.mesh

    @property
    def concurrent(self) -> bool:
        """Whether two batches are best run at a time: on one CPU. On accelerators the memory is better used for larger
        batches; the devices of a mesh must begin their programs in one order."""
        device = next(iter(jax.tree.leaves(self.variables)[0].devices()))
        return self.mesh is None and device.platform == "cpu"

    @property
    def flight(self) -> int | None:
        """Prompts that best pass through the model at once (`generate_each`); None: as many as a batch has."""
        return FLIGHT if self.concurrent else None

    def tapped(self, taps: Taps) -> Lalm:
        """The same model returning other sites."""
        return self.lalm.clone(taps=taps)


def load(
    name: str | Path = "seen-tiny",
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Load a model: "seen-tiny" (embedded), a Hugging Face folder, or a hub name.

    dtype: of parameters and activations ("float32", "bfloat16", "float16"). mesh: of `make_mesh`, over which parameters
    and all that is computed with them are split; None: all on the default device. progress: called with (bytes read,
    bytes in all). Raises CheckpointError for anything that is missing, damaged or unsupported; nothing is unpickled and
    no remote code runs.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype must be float32, bfloat16 or float16, not '{dtype}'.")
    use_compilation_cache()
    folder = find_folder(name)
    config, family = read_config(folder)
    sharding = None if mesh is None else functools.partial(parameter_sharding, mesh)
    params = load_params(folder, config, family, jnp.dtype(dtype), sharding, progress)
    processor = Processor(_tokenizer(folder, config), config, family, mesh)
    lalm = Lalm(config, dtype=jnp.dtype(dtype), mesh=mesh)
    extra = [folder / LORA, folder / LORA_CONFIG] if config.lora else []
    identity = fingerprint(gather(folder, config, family), extra)
    return Model(str(name), folder, lalm, {"params": params}, processor, identity)


def _tokenizer(folder: Path, config: LalmConfig) -> Any:
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise CheckpointError(f"{folder} holds no tokenizer: none of {', '.join(VOCABULARIES)} is there.")
    if not (folder / "tokenizer.json").is_file() and (folder / "tekken.json").is_file() and not _has_mistral_common():
        raise CheckpointError(f'{folder / "tekken.json"} needs mistral-common: pip install "seen-jax[voxtral]".')
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as e:
        reason = str(e).splitlines()[0]
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({reason}); is tokenizer.json there?") from None
    highest = max(*tokenizer.get_vocab().values(), config.audio_token, config.pad_token, *config.stop_tokens)
    if highest >= config.decoder.vocab:
        raise CheckpointError(
            f"{folder}: the tokenizer has token ids up to {highest}, the model knows {config.decoder.vocab}: "
            "tokenizer and config.json are of different models."
        )
    return tokenizer


def _has_mistral_common() -> bool:
    return importlib.util.find_spec("mistral_common") is not None


def fingerprint(tensors: Mapping[str, Tensor], extra: Sequence[Path] = ()) -> str:
    """Identity of the weights: a hash over names, dtypes and shapes of all tensors and 64 MB of every file, evenly
    spread; a smaller file counts whole. extra: further files that belong to them."""
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tensor.shape}\n".encode())
    for file in dict.fromkeys([*(tensor.file for tensor in tensors.values()), *extra]):
        size = file.stat().st_size
        with file.open("rb") as f:
            for offset in range(0, size, max(size // 64, 1 << 20)):
                f.seek(offset)
                digest.update(f.read(1 << 20))
    return digest.hexdigest()[:16]


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless JAX was told where to keep them.

    SEEN_JAX_CACHE names another folder; set it to an empty string to switch the cache off.
    """
    if jax.config.values.get("jax_compilation_cache_dir"):
        return
    if os.environ.get("SEEN_JAX_CACHE") != "":
        with contextlib.suppress(OSError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def batches(items: Sequence[T], size: int, multiple: int = 1) -> Iterator[tuple[list[int], list[T]]]:
    """(indices, items) in groups of exactly `size` where there are that many items, rounded up to a multiple: the last
    group is filled up with its own first item, so that every group has one compiled shape. Indices name the group's own
    items only."""
    if size < 1:
        raise ConfigError(f"the batch size must be at least 1, not {size}.")
    size = up_to_multiple(max(1, min(size, len(items))), multiple)
    for start in range(0, len(items), size):
        group = list(items[start : start + size])
        indices = list(range(start, start + len(group)))
        yield indices, group + [group[0]] * (size - len(group))


class Group(NamedTuple):
    """A batch of requests. indices: of its own ones, behind which others may fill it up; room: what it is padded to."""

    indices: list[int]
    requests: list[Request]
    room: Room

    @property
    def rows(self) -> list[int]:
        """The index of every request; where they fill the batch up, that of its first."""
        return self.indices + self.indices[:1] * (len(self.requests) - len(self.indices))


def roomy_batches(model: Model, requests: Sequence[Request], size: int, text: bool = True) -> list[Group]:
    """`batches`, each with the room that it shares with others, so that few shapes are compiled."""
    groups = list(batches(requests, size, model.rows))
    rooms = share_rooms([model.processor.room(group, text=text) for _, group in groups])
    return [Group(indices, group, room) for (indices, group), room in zip(groups, rooms, strict=True)]


def up_to_multiple(size: int, multiple: int) -> int:
    """The next multiple that is not below `size`."""
    return -(-size // multiple) * multiple


@functools.partial(jax.jit, static_argnums=0)
def encode(lalm: Lalm, variables: Any, audio: Audio, edits: Any) -> Encoded:
    """Compiled `Lalm.encode`."""
    return lalm.apply(variables, audio, edits, method="encode")


@functools.partial(jax.jit, static_argnums=0)
def forward(lalm: Lalm, variables: Any, batch: Any, edits: Any) -> Output:
    """Compiled `Lalm.__call__`."""
    return lalm.apply(variables, batch, edits)


def by_length(waves: Sequence[np.ndarray]) -> list[int]:
    """Indices from the shortest clip to the longest: batches of like lengths waste the least padding."""
    return sorted(range(len(waves)), key=lambda i: len(waves[i]))
