"""A mesh of devices, and which axis of what is split over it: rules for parameters, inputs, activations and edits.

The compiler moves data between devices from where things live (GSPMD). Parameters are split as in Megatron-LM
(Shoeybi et al. 2019): the maps into heads and MLPs over their outputs, those back into the residual stream over their
inputs. Rows of a batch lie side by side on the other axis of the mesh.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from seen_jax.errors import ConfigError
from seen_jax.models.sites import DECODER_MLP_ACT, ENCODER_MLP_ACT

DATA, TENSOR = "data", "tensor"
RULES = {
    "batch": DATA,  # rows of a prompt, of the encoder and of the cache
    "heads": TENSOR,
    "kv_heads": TENSOR,
    "ffn": TENSOR,
    "vocab": TENSOR,
    "spare": TENSOR,  # of a weight that is split to save memory: where no other axis of it is split
    "experts": None,  # any token may choose any expert: each one is split, not their list
    "width": None,
}
_HEADS, _FFN = r"(q|k|v|kv|self_[qkv]|cross_[qkv])", r"(fc1|gate|up|ff\d_up|conv_up|proj1)"
PARAMETERS: tuple[tuple[str, tuple[str, ...]], ...] = (  # of the last axes; what is not named here is on every device
    (r"decoder/embed/embedding", ("vocab", "spare")),
    (r"decoder/lm_head/kernel", ("spare", "vocab")),
    (rf".*/{_HEADS}/kernel", ("width", "heads")),
    (rf".*/{_HEADS}/bias", ("heads",)),
    (r".*/(layers/o|layers/out|self_out|cross_out)/kernel", ("heads", "width")),
    (rf".*/{_FFN}/kernel", ("width", "ffn")),
    (rf".*/{_FFN}/bias", ("ffn",)),
    (r".*/(fc2|down|ff\d_down|conv_down|proj2)/kernel", ("ffn", "width")),
    (r".*/experts/(gate|up)", ("experts", "width", "ffn")),
    (r".*/experts/down", ("experts", "width", "spare")),
    (r"encoder/(conv_out|proj)/kernel", ("width", "spare")),
)
SITES = {ENCODER_MLP_ACT: "ffn", DECODER_MLP_ACT: "ffn"}  # the width of the others is not split

AnyMesh = Mesh | AbstractMesh  # an abstract one for the shapes of models that no device here holds
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices side by side for rows of a batch (data; -1: as many as there are) times for the model's widths (tensor).
    1 x 1 is one device without a mesh. Raises ConfigError for other numbers below 1."""

    data: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        if (self.data < 1 and self.data != -1) or self.tensor < 1:
            raise ConfigError(
                f"a mesh has 1 device or more on each axis (data: -1 for all), not {self.data} x {self.tensor}"
            )

    def mesh(self) -> Mesh | None:
        return None if (self.data, self.tensor) == (1, 1) else make_mesh(self.data, self.tensor)


def make_mesh(data: int = 1, tensor: int = 1) -> Mesh:
    """A mesh of data x tensor devices of this process, the first ones that there are; data -1: of all of them.

    Raises ConfigError where there are too few.
    """
    MeshConfig(data, tensor)
    devices = jax.local_devices()  # several hosts share items, not models
    data = max(1, len(devices) // tensor) if data == -1 else data
    if data * tensor > len(devices):
        there = f"there are {len(devices)}" if len(devices) > 1 else "there is 1"
        raise ConfigError(f"a mesh of data {data} x tensor {tensor} needs {data * tensor} devices; {there}.")
    return jax.make_mesh(
        (data, tensor), (DATA, TENSOR), axis_types=(AxisType.Auto,) * 2, devices=devices[: data * tensor]
    )


def rows_of(mesh: Mesh | None) -> int:
    """Of how many rows a batch is a multiple, so that every device has its share."""
    return 1 if mesh is None else mesh.shape[DATA]


def spec(mesh: AnyMesh, shape: Sequence[int], axes: Sequence[str | None]) -> PartitionSpec:
    """How an array with these logical axes is split: not where the devices do not divide a dimension."""
    names = [RULES[axis] if axis else None for axis in axes]
    split = [name if name and size % mesh.shape[name] == 0 else None for name, size in zip(names, shape, strict=False)]
    if "spare" in axes and split.count(RULES["spare"]) > 1:
        split[list(axes).index("spare")] = None
    return PartitionSpec(*split)


def parameter_sharding(mesh: AnyMesh, path: Sequence[str], shape: Sequence[int]) -> NamedSharding:
    """Where a parameter lives. The leading axis of layers that are scanned over is never split."""
    name = "/".join(path)
    axes = next((axes for pattern, axes in PARAMETERS if re.fullmatch(pattern, name)), ())
    return NamedSharding(mesh, spec(mesh, shape, (None,) * (len(shape) - len(axes)) + axes))


def place(tree: T, mesh: Mesh | None) -> T:
    """Arrays of a batch on the devices, by their leading axis."""
    if mesh is None:
        return jax.device_put(tree)
    return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, spec(mesh, x.shape, ("batch",)))), tree)


def fill(tree: T, mesh: Mesh | None) -> T:
    """The same arrays with rows of zeros behind them, as many as `rows_of` asks for."""
    wanted = lambda x: -len(x) % rows_of(mesh)  # noqa: E731
    pad = lambda x: np.pad(x, ((0, wanted(x)), *[(0, 0)] * (x.ndim - 1))) if wanted(x) else x  # noqa: E731
    return jax.tree.map(pad, tree)


def constrain(x: Array, mesh: Mesh | None, *axes: str | None) -> Array:
    """Split an activation inside a compiled function by its logical axes (None and what follows the last: whole)."""
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(mesh, x.shape, axes)))


def constrain_edit(edit: Any, site: str, mesh: Mesh | None) -> Any:
    """The same of an `Edit`: its directions and its bias are split along the width of their site."""
    if mesh is None:
        return edit
    own = lambda x: "batch" if x.ndim == 4 else None  # noqa: E731
    width = SITES.get(site)

    def directions(x: Any) -> Any:
        return None if x is None else constrain(x, mesh, *[None, own(x)][: x.ndim - 2], width)

    def bias(x: Any) -> Any:
        return None if x is None else constrain(x, mesh, *[None, own(x), None][: x.ndim - 1], width)

    return dataclasses.replace(edit, u=directions(edit.u), v=directions(edit.v), bias=bias(edit.bias))
