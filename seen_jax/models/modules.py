"""Linen modules that the encoders and the decoder share: norms, the base of layers and stacks, and layer scans."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from seen_jax.models import layers
from seen_jax.models.linear import Dense
from seen_jax.models.precision import stream_dtype
from seen_jax.models.quantized import Bits
from seen_jax.models.sharding import constrain
from seen_jax.models.sites import Taps


class LayerNorm(nn.Module):
    eps: float

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layers.layer_norm(x, scale, bias, self.eps)


class RMSNorm(nn.Module):
    eps: float
    plus_one: bool = False

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.zeros if self.plus_one else nn.initializers.ones
        return layers.rms_norm(x, self.param("scale", init, (x.shape[-1],)), self.eps, self.plus_one)


class Layer(nn.Module):
    """Base of the layers. dtype: of products. mesh: the devices that activations are split over, None for one. bits:
    how the matrices of linear maps are stored."""

    config: Any
    taps: Taps = Taps()
    dtype: Any = jnp.float32
    mesh: Any = None
    bits: Bits | None = None

    @property
    def options(self) -> tuple[Any, ...]:
        """The fields of a `Layer`."""
        return self.config, self.taps, self.dtype, self.mesh, self.bits

    @property
    def stream(self) -> Any:
        """The dtype of the residual stream, of norms and of activations."""
        return stream_dtype(self.dtype)

    def dense(self, name: str, width: int, bias: bool = True) -> Dense:
        return Dense(width, bias, self.dtype, self.bits, name=name)

    def split(self, x: Any, *axes: str | None) -> Any:
        """`constrain` to the mesh: rows over the data axis, and `axes` after them."""
        return constrain(x, self.mesh, "batch", *axes)


class Stack(Layer):
    """Base of the encoders and the decoder, whose layers run in one scan. unroll: layers per iteration."""

    unroll: int = 1


@functools.cache  # Flax changes base classes while it makes a class, which breaks traces in other threads
def scan(layer: Any, length: int, in_axes: Any, unroll: int = 1) -> Any:
    """A layer class applied `length` times to the carry; parameters and outputs are stacked on a leading axis. in_axes:
    of the further arguments, 0 (one slice per layer) or nn.broadcast."""
    return nn.scan(layer, {"params": 0}, split_rngs={"params": True}, in_axes=in_axes, length=length, unroll=unroll)


def run_layers(layer: nn.Module, params: Any, indices: range, unroll: int, x: Any, edits: Any, *args: Any) -> Any:
    """(x, outputs) of some layers of a stack, whose stacked params and edits are indexed inside the loop: no copies."""

    def step(x: Any, i: Any) -> Any:
        layer_params = jax.tree.map(lambda y: one_layer(y, i), params)
        layer_edits = jax.tree.map(lambda y: jax.lax.dynamic_index_in_dim(y, i, keepdims=False), edits)
        return layer.apply({"params": layer_params}, x, layer_edits, *args)

    if len(indices) == 1:
        x, outputs = step(x, indices.start)
        return x, jax.tree.map(lambda y: y[None], outputs)
    return jax.lax.scan(step, x, jnp.arange(indices.start, indices.stop), unroll=unroll)


@jax.custom_jvp
def one_layer(stacked: Any, i: Any) -> Any:
    """Layer i of a stacked parameter, inside a loop. On a CPU XLA slices bfloat16 in float32, and would keep a copy of
    all layers, twice as large as they are; integers it slices as they are."""
    plain = functools.partial(jax.lax.dynamic_index_in_dim, keepdims=False)
    if stacked.dtype != jnp.bfloat16:
        return plain(stacked, i)

    def as_integers(y: Any, i: Any) -> Any:
        y, _ = jax.lax.optimization_barrier((y, i))  # else the integers would be a copy outside the loop
        return jax.lax.bitcast_convert_type(plain(jax.lax.bitcast_convert_type(y, jnp.uint16), i), y.dtype)

    return jax.lax.platform_dependent(stacked, i, cpu=as_integers, default=plain)


@one_layer.defjvp
def _one_layer_jvp(primals: Any, tangents: Any) -> Any:
    return one_layer(*primals), jax.lax.dynamic_index_in_dim(tangents[0], primals[1], keepdims=False)
