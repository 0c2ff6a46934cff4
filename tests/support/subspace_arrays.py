"""Seeded arrays that the tests of the subspace package share."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from seen_jax.subspace import Calibration, NoiseBasis, Selection, Statistics, store
from seen_jax.subspace.selection import select_columns
from seen_jax.subspace.svd import right_singular


def noise_directions(clean, noise, selection: Selection):
    """Q [L, D, R] and the ranks [L] from pooled activations."""
    return select_columns(*(right_singular(m, selection.center) for m in (clean, noise)), selection)


def orthonormal(rng: np.random.Generator, width: int, rank: int) -> np.ndarray:
    """[D, R] float32 with orthonormal columns."""
    return np.linalg.qr(rng.standard_normal((width, rank)))[0].astype(np.float32)


def matrix(rng: np.random.Generator, n: int, width: int, s: np.ndarray) -> np.ndarray:
    """[n, D] float32 with the singular values s."""
    k = len(s)
    u, v = (np.linalg.qr(rng.standard_normal((size, k)))[0] for size in (n, width))
    return ((u * s) @ v.T).astype(np.float32)


def statistics(seed: int = 0, depth: int = 3, n: int = 12, width: int = 24, noisy: bool = True) -> Statistics:
    """Clean activations in the first half of the axes, noise in the second, a little of both everywhere."""
    rng = np.random.default_rng(seed)
    half = width // 2
    clean = 0.01 * rng.standard_normal((depth, n, width))
    noise = 0.01 * rng.standard_normal((depth, n, width))
    clean[..., :half] += rng.standard_normal((depth, n, half))
    noise[..., half:] += rng.standard_normal((depth, n, width - half))
    return Statistics(
        clean.astype(np.float32),
        noise.astype(np.float32),
        (clean + noise).astype(np.float32) if noisy else None,
    )


def calibration(seed: int = 0, noisy: bool = True, **card: object) -> Calibration:
    return Calibration("encoder.mlp_act", statistics(seed, noisy=noisy), {"model": "toy", "fingerprint": "abc", **card})


def basis(
    seed: int, ranks: tuple[int, ...], width: int = 8, layers: tuple[int, ...] | None = None, **card: object
) -> NoiseBasis:
    """A random basis with the given ranks at site "s"."""
    rng = np.random.default_rng(seed)
    q = np.zeros((len(ranks), width, max(1, *ranks)), np.float32)
    for layer, rank in enumerate(ranks):
        q[layer, :, :rank] = orthonormal(rng, width, rank)
    return NoiseBasis("s", jnp.asarray(q), ranks, layers or tuple(range(len(ranks))), dict(card))


def forged(folder: Path) -> None:
    """Give a changed calibration or basis the digest of what it holds now: what is behind that check speaks."""
    card = json.loads((folder / "card.json").read_text())
    [weights] = folder.glob("*.safetensors")
    (folder / "card.json").write_text(json.dumps({**card, "digest": store._digest(card, weights)}))
