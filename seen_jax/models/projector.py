"""The steps from encoder states to audio tokens: each says how many tokens it leaves, and computes them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seen_jax.models import layers
from seen_jax.models.modules import LayerNorm, RMSNorm

GATED_EPS = 1e-6  # of Ultravox's projector; no configuration states it


class Step(NamedTuple):
    """One step."""

    length: Callable[[Any, Any], Any]  # (config c, n) -> positions that n positions become
    apply: Callable[[Any, Array, Array], Array]  # (encoder e, x [A, n, D], inside [A, n, 1]: no padding) -> x
    leaves: bool = False  # its input is what `Encoded.states` holds


def project(
    encoder: Any, x: Float[Array, "rows positions width"], real: Int[Array, " rows"]
) -> tuple[Array, Float[Array, "rows tokens output"]]:
    """(states, audio tokens), inside the compact method of an `Encoder`. real: positions of each row before padding."""
    states = x
    for step in (STEPS[name] for name in encoder.config.post):
        states = x if step.leaves else states
        x = step.apply(encoder, x, (jnp.arange(x.shape[1]) < real[:, None])[..., None])
        real = step.length(encoder.config, real)
    return states, x


def _groups(x: Array, size: int) -> Array:
    """[A, n, D] -> [A, n // size, size, D]."""
    count = x.shape[1] // size
    return x[:, : count * size].reshape(len(x), count, size, x.shape[-1])


def _fill(e: Any, x: Array, inside: Array) -> Array:
    return jnp.pad(jnp.where(inside, x, 0), ((0, 0), (0, -x.shape[1] % e.config.stack), (0, 0)))


def _conv(e: Any, x: Array, inside: Array) -> Array:
    conv = nn.Conv(e.config.width, (3,), 2, padding=((1, 1),), dtype=e.stream, name="proj_conv")
    return layers.gelu(conv(jnp.where(inside, x, 0)))


def _mlp(e: Any, x: Array, inside: Array) -> Array:
    activation = {"gelu": layers.gelu, "relu": jax.nn.relu}[e.config.activation]
    return _dense(e, "proj2")(activation(_dense(e, "proj1", e.config.hidden)(x)))


def _gated(e: Any, x: Array, inside: Array) -> Array:
    first, second = jnp.split(_dense(e, "proj1", e.config.hidden)(RMSNorm(GATED_EPS, name="norm_pre")(x)), 2, axis=-1)
    x, norm, down = jax.nn.silu(second) * first, RMSNorm(GATED_EPS, name="norm_gated"), _dense(e, "proj2")
    return down(norm(x)) if e.config.gated_norm == "mid" else norm(down(x))


_dense = lambda e, name, width=0: e.dense(name, width or e.config.output_width, e.config.post_bias)
_same = lambda c, n: n
STEPS = {
    "pool": Step(lambda c, n: n // 2, lambda e, x, inside: _groups(x, 2).mean(2)),
    "norm": Step(_same, lambda e, x, inside: LayerNorm(e.config.eps, name="norm_post")(x)),
    "fill": Step(lambda c, n: -(-n // c.stack) * c.stack, _fill),
    "stack": Step(lambda c, n: n // c.stack, lambda e, x, inside: jax.lax.collapse(_groups(x, e.config.stack), 2)),
    "conv": Step(lambda c, n: (n + 1) // 2, _conv),
    "linear": Step(_same, lambda e, x, inside: _dense(e, "proj")(x), leaves=True),
    "mlp": Step(_same, _mlp, leaves=True),
    "gated": Step(_same, _gated, leaves=True),
}
