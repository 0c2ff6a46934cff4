"""Linear maps and embeddings, whose matrices may be stored in few bits."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seen_jax.models.precision import product, stream_dtype
from seen_jax.models.quantized import Bits, dequantize, scale_path

kernel_init = nn.initializers.lecun_normal()


def matrix(module: nn.Module, name: str, shape: tuple[int, ...], bits: Bits | None, init: Any) -> tuple[Any, Any]:
    """(the parameter, its scales or None) of a matrix [..., inputs, out]; integers begin as zeros, as they are loaded
    and not trained."""
    if bits is None:
        return module.param(name, init, shape), None
    scales = (*shape[:-2], bits.groups(shape[-2]), shape[-1])
    integers = lambda key: jnp.zeros(shape, bits.dtype)
    return module.param(name, integers), module.param(scale_path((name,))[0], nn.initializers.ones, scales)


def full_kernel(module: nn.Module) -> Float[Array, "inputs out"]:
    """The matrix of a `Dense` that was called, as it multiplies."""
    params = module.variables["params"]
    return dequantize(params["kernel"], params.get("scale"), jnp.float32) if "scale" in params else params["kernel"]


class Dense(nn.Module):
    """x W + b as `flax.linen.Dense` computes it; bits: how W is stored. In float16 the result is float32."""

    width: int
    bias: bool = True
    dtype: Any = jnp.float32
    bits: Bits | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch out"]:
        kernel, scale = matrix(self, "kernel", (x.shape[-1], self.width), self.bits, kernel_init)
        y = product(x, kernel, scale, self.dtype)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.width,))
            y = y + bias.astype(y.dtype).reshape(*[1] * (y.ndim - 1), -1)
        return y.astype(stream_dtype(self.dtype))


class Embed(nn.Module):
    """A table of embeddings as in `flax.linen.Embed`; bits: how it is stored, with a scale for each row."""

    vocab: int
    width: int
    dtype: Any = jnp.float32
    bits: Bits | None = None

    def setup(self) -> None:
        shape, init, bits = (self.vocab, self.width), nn.initializers.normal(1.0), self.bits
        if bits is None:
            self.embedding, self.scale = self.param("embedding", init, shape), None
        else:
            self.embedding = self.param("embedding", lambda key: jnp.zeros(shape, bits.dtype))
            self.scale = self.param("scale", nn.initializers.ones, (self.vocab, 1))

    def __call__(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch width"]:
        """The rows of some tokens."""
        if self.scale is None:
            rows = jnp.take(self.embedding.astype(self.dtype), tokens, axis=0)
        else:
            rows = jnp.take(self.embedding, tokens, axis=0) * jnp.take(self.scale, tokens, axis=0)
        return rows.astype(stream_dtype(self.dtype))

    def attend(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch vocab"]:
        """Logits of an output map that is tied to the table."""
        scale = None if self.scale is None else self.scale.T
        return product(x, self.embedding.T, scale, self.dtype)
