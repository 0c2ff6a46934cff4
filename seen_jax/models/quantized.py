"""Weights in 8 or 4 bits: which matrices, how they are rounded, and back.

A matrix is stored as integers and one float32 scale for each output channel, or for each group of inputs of an output
channel. Activations stay floating-point, and so do biases, norms, convolutions and routers of experts."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seen_jax.errors import ConfigError


class Bits(NamedTuple):
    """How the weights of a matrix are stored."""

    dtype: str  # of the integers
    group: int = 0  # inputs that share a scale, or a divisor of it where they do not make whole groups; 0: all

    def groups(self, inputs: int) -> int:
        """The number of scales of an output channel."""
        return inputs // math.gcd(inputs, self.group) if self.group else 1


class Stored(NamedTuple):
    """How the parts of a model are stored; None: in the model's dtype."""

    encoder: Bits | None = None  # linear maps of its layers and of the projector
    layers: Bits | None = None  # linear maps of the decoder's layers
    vocabulary: Bits | None = None  # embeddings and output map


INT8, INT4 = Bits("int8"), Bits("int4", 64)
WEIGHTS = {
    None: Stored(),
    "int8": Stored(None, INT8, INT8),
    "int8-all": Stored(INT8, INT8, INT8),
    "int4": Stored(None, INT4, INT8),
}


def check_weights(weights: str | None) -> None:
    """ConfigError for a name that `WEIGHTS` lacks."""
    if weights not in WEIGHTS:
        raise ConfigError(f"weights must be {', '.join(filter(None, WEIGHTS))} or none, not '{weights}'.")


def scale_path(path: tuple[str, ...]) -> tuple[str, ...]:
    """Where the scales of the matrix at `path` lie."""
    *module, name = path
    return (*module, "scale" if name in ("kernel", "embedding") else f"{name}_scale")


def is_quantized(parameter: Any) -> bool:
    """Whether a parameter (or its shape and dtype) is the integers of a matrix."""
    return bool(jnp.issubdtype(parameter.dtype, jnp.integer))


def quantize(
    rows: Float[np.ndarray, "out inputs"], dtype: Any, groups: int
) -> tuple[np.ndarray, Float[np.ndarray, "out groups"]]:
    """(integers of `dtype` [out, inputs], scales): numbers become the nearest multiple of their group's scale, its
    largest stays exact. Positive and negative integers reach equally far; a group of zeros has the scale 1."""
    x = rows.astype(np.float32).reshape(len(rows), groups, -1)
    scale = np.abs(x).max(-1) / np.float32(jnp.iinfo(dtype).max)
    scale[scale == 0] = 1
    return np.rint(x / scale[..., None]).astype(np.int8).astype(dtype).reshape(rows.shape), scale


def dequantize(
    kernel: Any, scale: Float[Array, "*experts groups out"] | None, dtype: Any
) -> Float[Array, "*experts inputs out"]:
    """The numbers that integers and scales stand for; a matrix without scales as it is, in `dtype`."""
    if scale is None:
        return kernel.astype(dtype)
    *leading, inputs, out = kernel.shape
    groups = kernel.reshape(*leading, scale.shape[-2], -1, out).astype(jnp.float32)
    return (groups * scale[..., None, :]).reshape(*leading, inputs, out).astype(dtype)
