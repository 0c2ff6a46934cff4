"""A mesh of devices, and which axes are split over it: rules for parameters, inputs, activations and edits.

From these rules the compiler derives how data moves between devices (GSPMD). Parameters are split as in Megatron-LM
(Shoeybi et al. 2019): maps into heads and MLPs over their outputs, maps back into the residual stream over their
inputs. The rows of a batch are split over the other axis of the mesh."""

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
    # "spare": split only to save memory, if no other axis of the weight can be
    **dict.fromkeys(("heads", "kv_heads", "ffn", "vocab", "spare"), TENSOR),
    # any token may choose any expert: the experts' widths are split, not their list
    **dict.fromkeys(("experts", "width")),
}
_HEADS, _FFN = r"(q|k|v|kv|self_[qkv]|cross_[qkv])", r"(fc1|gate|up|ff\d_up|conv_up|proj1)"
_MATRIX = "(kernel|scale)"
# The last axes; parameters not named here are on every device. Scales of quantised matrices are split as those are.
PARAMETERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"decoder/embed/(embedding|scale)", ("vocab", "spare")),
    (rf"decoder/lm_head/{_MATRIX}", ("spare", "vocab")),
    (rf".*/{_HEADS}/{_MATRIX}", ("width", "heads")),
    (rf".*/{_HEADS}/bias", ("heads",)),
    (rf".*/(layers/o|layers/out|self_out|cross_out)/{_MATRIX}", ("heads", "width")),
    (rf".*/{_FFN}/{_MATRIX}", ("width", "ffn")),
    (rf".*/{_FFN}/bias", ("ffn",)),
    (rf".*/(fc2|down|ff\d_down|conv_down|proj2)/{_MATRIX}", ("ffn", "width")),
    (r".*/experts/(gate|up)(_scale)?", ("experts", "width", "ffn")),
    (r".*/experts/down(_scale)?", ("experts", "width", "spare")),
    (rf"encoder/(conv_out|proj)/{_MATRIX}", ("width", "spare")),
)
SITES = {ENCODER_MLP_ACT: "ffn", DECODER_MLP_ACT: "ffn"}  # the widths of other sites are not split

AnyMesh = Mesh | AbstractMesh  # abstract: for shapes alone, without devices
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices share the rows of a batch (data; -1: all there are) and how many the model's widths (tensor).
    1 x 1 is one device without a mesh. Raises ConfigError for other numbers below 1."""

    data: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        if (self.data < 1 and self.data != -1) or self.tensor < 1:
            raise ConfigError(f"a mesh axis has 1 device or more (data: -1 for all), not {self.data} x {self.tensor}")

    @property
    def devices(self) -> tuple[int, int]:
        """(data, tensor), with the devices of this process counted where all are wanted."""
        data = max(1, jax.local_device_count() // self.tensor) if self.data == -1 else self.data
        return data, self.tensor

    def mesh(self) -> Mesh | None:
        return None if (self.data, self.tensor) == (1, 1) else make_mesh(self.data, self.tensor)


def make_mesh(data: int = 1, tensor: int = 1) -> Mesh:
    """A mesh of the first data x tensor devices of this process; data -1: of all. ConfigError if there are too few."""
    devices = jax.local_devices()  # several hosts share items, not models
    data, tensor = MeshConfig(data, tensor).devices
    size = data * tensor
    if size > len(devices):
        available = f"there are {len(devices)}" if len(devices) > 1 else "there is 1"
        raise ConfigError(f"a mesh of data {data} x tensor {tensor} needs {size} devices; {available}.")
    return jax.make_mesh((data, tensor), (DATA, TENSOR), axis_types=(AxisType.Auto,) * 2, devices=devices[:size])


def rows_of(mesh: Mesh | None) -> int:
    """The number of rows of a batch must be a multiple of this, so that every device gets its share."""
    return 1 if mesh is None else mesh.shape[DATA]


def spec(mesh: AnyMesh, shape: Sequence[int], axes: Sequence[str | None]) -> PartitionSpec:
    """How an array with these logical axes is split; a dimension that the devices do not divide stays whole."""
    names = [RULES[axis] if axis else None for axis in axes]
    split = [name if name and size % mesh.shape[name] == 0 else None for name, size in zip(names, shape, strict=False)]
    if "spare" in axes and split.count(RULES["spare"]) > 1:
        split[list(axes).index("spare")] = None
    return PartitionSpec(*split)


def parameter_sharding(mesh: AnyMesh, path: Sequence[str], shape: Sequence[int]) -> NamedSharding:
    """Where a parameter lives. The leading axis of scanned layers is never split."""
    name = "/".join(path)
    axes = next((axes for pattern, axes in PARAMETERS if re.fullmatch(pattern, name)), ())
    return NamedSharding(mesh, spec(mesh, shape, (None,) * (len(shape) - len(axes)) + axes))


def place(tree: T, mesh: Mesh | None) -> T:
    """The arrays of a batch on the devices, split along their leading axis."""
    if mesh is None:
        return jax.device_put(tree)
    return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, spec(mesh, x.shape, ("batch",)))), tree)


def fill(tree: T, mesh: Mesh | None) -> T:
    """The arrays with rows of zeros at the end, up to a multiple of `rows_of`."""
    missing = lambda x: -len(x) % rows_of(mesh)
    pad = lambda x: np.pad(x, ((0, missing(x)), *[(0, 0)] * (x.ndim - 1))) if missing(x) else x
    return jax.tree.map(pad, tree)


def constrain(x: Array, mesh: Mesh | None, *axes: str | None) -> Array:
    """Split an activation inside a compiled function by its logical axes; None and missing ones stay whole."""
    return x if mesh is None else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(mesh, x.shape, axes)))


def constrain_edit(edit: Any, site: str, mesh: Mesh | None) -> Any:
    """`constrain` for an `Edit`: its directions and its bias are split along the width of their site."""
    if mesh is None:
        return edit

    def split(x: Any, trailing: int) -> Any:  # trailing: how many axes follow the width
        if x is None:
            return None
        of_items = x.ndim == 4 and edit.weights is None
        axes = [None, "batch" if of_items else None, None][: x.ndim - trailing - 1]
        return constrain(x, mesh, *axes, SITES.get(site))

    weights = None if edit.weights is None else constrain(edit.weights, mesh, None, "batch")
    return dataclasses.replace(edit, u=split(edit.u, 1), v=split(edit.v, 1), bias=split(edit.bias, 0), weights=weights)


def constrain_patch(patch: Any, site: str, mesh: Mesh | None) -> Any:
    """`constrain` for a `Patch`: its activations are split as those of the site."""
    if mesh is None:
        return patch
    width = SITES.get(site)
    target, q = constrain(patch.target, mesh, None, "batch", None, width), constrain(patch.q, mesh, None, width)
    return dataclasses.replace(patch, target=target, where=constrain(patch.where, mesh, None, "batch"), q=q)
