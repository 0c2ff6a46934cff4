"""What this process runs on, and how a large model fits there."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from seen_jax.models import memory
from seen_jax.models.checkpoint import read_config
from seen_jax.models.config import LalmConfig
from seen_jax.models.devices import CPU, GIB, Device, device
from seen_jax.models.family import Family, published_config
from seen_jax.models.folders import find_folder
from seen_jax.models.precision import dtype_for
from seen_jax.registry import FAMILIES

SEVEN_B = "qwen2_5_omni"  # the family whose published model stands for those of 7B
SECONDS = 10.0  # of the one clip that a model must have memory for
# Arguments of `load`: for the whole model, the first that fit are best.
WHOLE: tuple[dict[str, Any], ...] = ({}, {"weights": "int8"}, {"weights": "int4"})
ENCODER: dict[str, Any] = {"part": memory.ENCODER}


@dataclasses.dataclass(frozen=True)
class LocalDevice:
    """A device of this process. memory: bytes that programs may use; None where JAX does not know."""

    kind: str
    platform: str
    memory: float | None

    def __str__(self) -> str:
        size = "memory unknown" if self.memory is None else f"{self.memory / GIB:.1f} GiB"
        return f"{self.kind} ({self.platform}), {size}" if self.kind != self.platform else f"{self.kind}, {size}"


@dataclasses.dataclass(frozen=True, repr=False)
class Runtime:
    """What `runtime` returns.

    devices: those of this process. dtype: what `load(dtype="auto")` takes there.
    advice: how to load the model that `runtime` was asked about, in one line.

    >>> seen_jax.runtime().dtype
    'float32'
    """

    devices: tuple[LocalDevice, ...]
    dtype: str
    advice: str

    def __repr__(self) -> str:
        kinds = list(dict.fromkeys(map(str, self.devices)))
        lines = [f"{[*map(str, self.devices)].count(kind)} x {kind}" for kind in kinds]
        return "\n".join([*lines, f'dtype="auto" is {self.dtype}', self.advice])


def local_devices() -> tuple[LocalDevice, ...]:
    """The devices of this process. A CPU's devices share the memory of the machine equally. RuntimeError of JAX where
    it finds none."""
    local = jax.local_devices()

    def size(one: jax.Device) -> float | None:
        limit = (one.memory_stats() or {}).get("bytes_limit")
        return device(CPU).memory / len(local) if limit is None and one.platform == "cpu" else limit

    return tuple(LocalDevice(one.device_kind, one.platform, size(one)) for one in local)


def named_config(name: str | Path) -> tuple[LalmConfig, Family]:
    """The configuration of a family's published model, or of a folder or hub name, of which no weights are fetched."""
    if name in FAMILIES:
        return published_config(FAMILIES[str(name)]), FAMILIES[str(name)]
    return read_config(find_folder(name))


def runtime(model: str | Path = SEVEN_B) -> Runtime:
    """What this process runs on, and how a model fits there: its devices, their memory, the number type that
    dtype="auto" is, and what to tell `load`. Nothing is loaded, and no other process is started, since two cannot share
    a TPU.

    model: a family, which stands for its published model; a model folder; or a hub name, whose config.json is fetched.
    The memory is that of `seen-jax models`, an estimate, for one clip of 10 s and an answer of at most 256 tokens.
    Raises CheckpointError for a folder or hub name that cannot be read.

    >>> seen_jax.runtime("seen-tiny")
    1 x cpu, ... GiB
    dtype="auto" is float32
    seen-tiny: load(NAME) takes 0.02 GiB; load(NAME, part="encoder") takes 0.01 GiB
    """
    devices, dtype = local_devices(), dtype_for("auto")
    config, family = named_config(model)
    name = family.hub[0] if model in FAMILIES and family.hub else model
    return Runtime(devices, dtype, f"{name}: {_advice(config, devices, dtype)}")


def _advice(config: LalmConfig, devices: tuple[LocalDevice, ...], dtype: str) -> str:
    sizes = [one.memory for one in devices if one.memory is not None]
    if len(sizes) < len(devices):
        return "the memory of the devices is unknown; `seen-jax models` says what a model takes"
    machine = Device(min(sizes), len(devices), dtype)
    whole = next(filter(None, (_call(config, machine, choice) for choice in WHOLE)), "no whole model fits")
    return f"{whole}; {_call(config, machine, ENCODER) or 'nor does its encoder alone'}"


def _call(config: LalmConfig, machine: Device, choice: dict[str, Any]) -> str | None:
    """How to load a model, and the memory that it takes; None unless it surely fits."""
    work = memory.spread(config, memory.Work(seconds=SECONDS, dtype=machine.half, **choice), machine)
    if not memory.fits(config, work, machine.memory, surely=True):
        return None
    arguments = ["NAME", *(f'{key}="{value}"' for key, value in choice.items())]
    arguments += [f"mesh=make_mesh({work.data}, {work.tensor})"] if work.tensor > 1 else []
    each = " of each device" if work.tensor > 1 else ""
    return f"load({', '.join(arguments)}) takes {memory.need(config, work).total / GIB:.2f} GiB{each}"
