"""Small noise bases of four dimensions, written by hand."""

import jax.numpy as jnp
import numpy as np

from seen_jax.subspace import NoiseBasis

SITE = "encoder.mlp_act"
E1, E2, E3 = np.eye(4)[:3]


def basis_of(*layers, kept=None):
    """A basis from a list of columns per layer."""
    width, rank = 4, max(1, *(len(columns) for columns in layers))
    q = np.zeros((len(layers), width, rank), np.float32)
    for i, columns in enumerate(layers):
        for j, column in enumerate(columns):
            q[i, :, j] = column
    return NoiseBasis(SITE, jnp.asarray(q), tuple(map(len, layers)), kept or tuple(range(len(layers))))
