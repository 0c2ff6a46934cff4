"""The steps from encoder states to audio tokens: each says how many tokens it leaves, and computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seen_jax.models import layers
from seen_jax.models.modules import LayerNorm, RMSNorm

GATED_EPS = 1e-6  # of Ultravox's projector; no configuration states it


class Step(NamedTuple):
    """One step. `c` is an `EncoderConfig`.

    length: (c, n) -> positions that n positions become.
    apply: (c, dtype, x [A, n, D], inside [A, n]) -> x. inside: the positions that the convolutions made, not padding.
    enters: the step leaves the encoder; its input is what `Encoded.states` holds.
    """

    length: Callable[[Any, Any], Any]
    apply: Callable[[Any, Any, Array, Array], Array]
    enters: bool = False


def project(
    c: Any, dtype: Any, x: Float[Array, "rows positions width"], real: Int[Array, " rows"]
) -> tuple[Array, Float[Array, "rows tokens output"]]:
    """(states, audio tokens), inside a compact method that gets the submodules.

    real: positions of each row that the convolutions made; what follows them is padding.
    """
    states = x
    for name in c.post:
        step = STEPS[name]
        states = x if step.enters else states
        x, real = step.apply(c, dtype, x, jnp.arange(x.shape[1]) < real[:, None]), step.length(c, real)
    return states, x


def _dense(c: Any, dtype: Any, name: str, width: int) -> nn.Dense:
    return nn.Dense(width, use_bias=c.post_bias, dtype=dtype, name=name)


def _groups(x: Array, size: int) -> Array:
    """[A, n, D] -> [A, n // size, size, D]."""
    count = x.shape[1] // size
    return x[:, : count * size].reshape(len(x), count, size, x.shape[-1])


def _fill(c: Any, dtype: Any, x: Array, inside: Bool[Array, "rows positions"]) -> Array:
    return jnp.pad(jnp.where(inside[..., None], x, 0), ((0, 0), (0, -x.shape[1] % c.stack), (0, 0)))


def _stack(c: Any, dtype: Any, x: Array, inside: Array) -> Array:
    groups = _groups(x, c.stack)
    return groups.reshape(*groups.shape[:2], c.stack * x.shape[-1])


def _conv(c: Any, dtype: Any, x: Array, inside: Bool[Array, "rows positions"]) -> Array:
    conv = nn.Conv(c.width, (3,), 2, padding=((1, 1),), dtype=dtype, name="proj_conv")
    return layers.gelu(conv(jnp.where(inside[..., None], x, 0)))


def _mlp(c: Any, dtype: Any, x: Array, inside: Array) -> Array:
    activation = {"gelu": layers.gelu, "relu": jax.nn.relu}[c.activation]
    return _dense(c, dtype, "proj2", c.output_width)(activation(_dense(c, dtype, "proj1", c.hidden)(x)))


def _gated(c: Any, dtype: Any, x: Array, inside: Array) -> Array:
    up = _dense(c, dtype, "proj1", c.hidden)(RMSNorm(GATED_EPS, name="norm_pre")(x))
    first, second = jnp.split(up, 2, axis=-1)
    norm, down = RMSNorm(GATED_EPS, name="norm_gated"), _dense(c, dtype, "proj2", c.output_width)
    x = jax.nn.silu(second) * first
    return down(norm(x)) if c.gated_norm == "mid" else norm(down(x))


_same = lambda c, n: n
STEPS = {
    "pool": Step(lambda c, n: n // 2, lambda c, dtype, x, inside: _groups(x, 2).mean(2)),
    "norm": Step(_same, lambda c, dtype, x, inside: LayerNorm(c.eps, name="norm_post")(x)),
    "fill": Step(lambda c, n: -(-n // c.stack) * c.stack, _fill),
    "stack": Step(lambda c, n: n // c.stack, _stack),
    "conv": Step(lambda c, n: (n + 1) // 2, _conv),
    "linear": Step(_same, lambda c, dtype, x, inside: _dense(c, dtype, "proj", c.output_width)(x), enters=True),
    "mlp": Step(_same, _mlp, enters=True),
    "gated": Step(_same, _gated, enters=True),
}
