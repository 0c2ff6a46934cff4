"""Accelerators by name: how much memory they have, and how fast they are, by the data sheets of their makers."""

import dataclasses
import os

from seen_jax.errors import ConfigError

GIB = 1 << 30
GPU_SHARE = 0.75  # of a GPU's memory that JAX takes, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise


@dataclasses.dataclass(frozen=True)
class Device:
    """One or more equal chips.

    memory: bytes per chip that programs may use. chips: how many there are.
    half: the 16-bit number type of the chip's matrix units.
    operations, bandwidth: per chip and second, in that type; bytes of memory read or written. 0 where not needed.
    clock: of a TPU's core, in Hz. link: bytes per second that a chip sends to one neighbour.
    topology, cores: what XLA's TPU compiler calls the smallest machine that holds these chips, and the way in which the
    cores of a chip work together, "" where there is one."""

    memory: float
    chips: int = 1
    half: str = "bfloat16"
    operations: float = 0.0
    bandwidth: float = 0.0
    clock: float = 0.0
    link: float = 0.0
    topology: str = ""
    cores: str = ""


# TPU: cloud.google.com/tpu/docs/v4, v5e and v6e. Memory: what XLA's compiler states when a program does not fit. The
# clock follows from the peak: a v5e core has 4 units of 128 x 128 multipliers, v6e's 2 units of 256 x 256 at twice the
# rate of its clock, v4's two cores 4 units of 128 x 128 each. Chips of v5e and v6e have 4 neighbours, those of v4 6.
_V5E = Device(15.75 * GIB, 1, "bfloat16", 197e12, 819e9, 1.5e9, 50e9, "v5e:2x2")
_V6E = Device(31.25 * GIB, 1, "bfloat16", 918e12, 1638e9, 1.75e9, 100e9, "v6e:2x2")
_V4 = Device(30.75 * GIB, 1, "bfloat16", 275e12, 1228e9, 1.05e9, 50e9, "v4:2x2x1", "megacore")
_gpu = lambda gib, half="bfloat16": Device(gib * GIB * GPU_SHARE, half=half)  # memory as `nvidia-smi` states it
DEVICES: dict[str, Device] = {
    "v5e-1": _V5E,
    "v5e-4": dataclasses.replace(_V5E, chips=4),
    "v6e-1": _V6E,
    "v4-8": dataclasses.replace(_V4, chips=4),  # 8 cores, two to a chip
    "t4": _gpu(15.0, "float16"),
    "l4": _gpu(22.5),
    "a100": _gpu(80.0),
    "h100": _gpu(79.6),
}
CPU = "cpu"  # this machine
NAMES = (*DEVICES, CPU)


def device(name: str) -> Device:
    """The device of this name; "cpu" is this machine with all its memory. ConfigError for any other name.

    >>> device("v5e-4").chips
    4
    """
    if name == CPU:
        return Device(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), half="float32")
    if name not in DEVICES:
        raise ConfigError(f"unknown device '{name}'. Known: {', '.join(NAMES)}.")
    return DEVICES[name]
