"""Starting values that let a small decoder learn to copy: heads that match contents and heads that look back by one.

Answers have the form "word letter" after options "red A green B ...": find the word, then copy what follows it. From
a plain start small decoders stay at chance on the letter for thousands of steps.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seen_jax.models.config import DecoderConfig

AMPLITUDE = 60.0**0.5
PAIRS = 3
DAMPING = 0.05


def previous_token_bias(head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Query and key biases [head_dim] whose rotary score peaks at a distance of one position.

    Uses the fastest `PAIRS` rotary pairs: pair p adds AMPLITUDE^2 cos((i - j - 1) w_p).
    """
    q, k = np.zeros(head_dim, np.float32), np.zeros(head_dim, np.float32)
    half = head_dim // 2
    for p in range(PAIRS):
        w = theta ** (-2 * p / head_dim)
        q[p], q[p + half] = AMPLITUDE * np.cos(w), -AMPLITUDE * np.sin(w)
        k[p] = AMPLITUDE
    return q, k


def start_copying(params: dict[str, Any], config: DecoderConfig, key: Array, heads: int = 2) -> dict[str, Any]:
    """Decoder parameters with content matching in every layer (key = query projections) and `heads` previous-token
    heads in the first one, whose value and output maps are an orthonormal projection and its transpose."""
    layers = jax.tree.map(jnp.array, params["layers"])
    layers["k"]["kernel"] = layers["q"]["kernel"]
    q_bias, k_bias = previous_token_bias(config.head_dim, config.rope_theta)
    for head, head_key in enumerate(jax.random.split(key, heads)):
        columns = slice(head * config.head_dim, (head + 1) * config.head_dim)
        for name, bias in (("q", q_bias), ("k", k_bias)):
            layers[name]["kernel"] = layers[name]["kernel"].at[0, :, columns].multiply(DAMPING)
            layers[name]["bias"] = layers[name]["bias"].at[0, columns].set(bias)
        projection = jnp.linalg.qr(jax.random.normal(head_key, (config.width, config.head_dim)))[0]
        layers["v"]["kernel"] = layers["v"]["kernel"].at[0, :, columns].set(projection)
        layers["o"]["kernel"] = layers["o"]["kernel"].at[0, columns, :].set(projection.T)
    return {**params, "layers": layers}


def fit_projector(
    states: Float[Array, "positions width"], targets: Float[Array, "positions output"], ridge: float = 1e-3
) -> dict[str, Array]:
    """Ridge regression of target embeddings on encoder states: kernel [width, output] and bias [output]."""
    mean_x, mean_y = states.mean(0), targets.mean(0)
    x, y = states - mean_x, targets - mean_y
    gram = x.T @ x / len(x)
    gram = gram + ridge * jnp.trace(gram) / len(gram) * jnp.eye(len(gram))
    kernel = jnp.linalg.solve(gram, x.T @ y / len(x))
    return {"kernel": kernel, "bias": mean_y - mean_x @ kernel}
