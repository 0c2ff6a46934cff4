"""Selection of noise directions: a small example worked by hand, and what holds for any activations."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from subspace_arrays import calibration, noise_directions, statistics

from seen_jax.errors import ConfigError
from seen_jax.subspace import Selection, see, seen
from seen_jax.subspace.selection import complement, dominant_mask, threshold_mask
from seen_jax.subspace.svd import right_singular

# Worked example in R^4, rows = singular values times orthonormal directions.
# clean: 3 e0, 1 e1 (energies: sigma2 0.9 / 0.1, sigma 0.75 / 0.25)
# noise: 2 (0.6 e1 + 0.8 e2), 1 (0.8 e1 - 0.6 e2), 0.5 e3
CLEAN = np.array([[[3, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]], np.float32)
NOISE = np.array([[[0, 1.2, 1.6, 0], [0, 0.8, -0.6, 0], [0, 0, 0, 0.5]]], np.float32)


def projector(q):
    q = np.asarray(q, np.float64)
    return q @ q.swapaxes(-1, -2)


@pytest.mark.parametrize(
    ("options", "rank", "kept"),
    [
        # sigma2: e0 alone holds 0.9: e1 is not dominant, all three noise directions are free of e0
        ({"semantic_alpha": 0.9}, 3, np.diag([0, 1, 1, 1])),
        # 0.95 takes e1 in: |cos| 0.6, 0.8, 0 against it
        ({}, 1, np.diag([0, 0, 0, 1])),
        (
            {"delta": 0.7},
            2,
            np.diag([0, 0.36, 0.64, 1]) + 0.48 * (np.eye(4)[[0, 2, 1, 3]] - np.diag([1, 0, 0, 1])),
        ),
        # sigma: e0 holds 0.75 only
        ({"semantic_alpha": 0.75, "energy": "sigma"}, 3, np.diag([0, 1, 1, 1])),
        ({"semantic_alpha": 0.9, "energy": "sigma"}, 1, np.diag([0, 0, 0, 1])),
        # the noise side cut at 0.9 of 5.25 leaves the first two directions, both rejected
        ({"noise_alpha": 0.9}, 0, np.zeros((4, 4))),
        # complement, e1 dominant: 0.8 e2 remains of the first, of the second nothing beyond it, e3 remains
        ({"method": "complement"}, 2, np.diag([0, 0, 1, 1])),
        ({"method": "complement", "remainder": 0.9}, 1, np.diag([0, 0, 0, 1])),
        ({"method": "complement", "semantic_alpha": 0.9}, 3, np.diag([0, 1, 1, 1])),
        # noise cut at 0.9 by sigma2: the first two, which leave e2
        ({"method": "complement", "noise_alpha": 0.9}, 1, np.diag([0, 0, 1, 0])),
    ],
)
def test_worked_example(options, rank, kept):
    q, ranks = noise_directions(CLEAN, NOISE, Selection(**options))
    assert ranks.tolist() == [rank] and q.shape == (1, 4, max(1, rank))
    np.testing.assert_allclose(projector(q)[0], kept, atol=1e-6)


def test_without_absolute_value_a_negative_cosine_passes():
    noise = np.array([[[0, -0.8, 1.0, 0]]], np.float32)  # signs are fixed: the largest entry is positive
    assert noise_directions(CLEAN, noise, Selection())[1].tolist() == [0]
    assert noise_directions(CLEAN, noise, Selection(absolute=False))[1].tolist() == [1]


def test_centring_drops_the_mean_direction():
    noise = np.array([[[0, 0, 1, 5], [0, 0, -1, 5]]], np.float32)
    q, ranks = noise_directions(CLEAN[:, :2], noise, Selection(center=True))
    assert ranks.tolist() == [1]
    np.testing.assert_allclose(projector(q)[0], np.diag([0, 0, 1, 0]), atol=1e-6)
    assert noise_directions(CLEAN[:, :2], noise, Selection())[1].tolist() == [2]


def test_dominant_mask_takes_the_fewest():
    s = jnp.array([[3.0, 2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1e30, 1e30, 1e-30, 0.0]])
    expected = {
        0.5: [1, 0, 1],
        0.6: [1, 0, 2],
        0.7: [2, 0, 2],
        0.95: [3, 0, 2],
        1.0: [3, 0, 2],
    }  # sigma2: 9/14, 13/14, 1
    for alpha, counts in expected.items():
        assert dominant_mask(s, alpha).sum(-1).tolist() == counts, alpha
    reached = dominant_mask(jnp.array([3.0, 2.0, 2.0]), 9 / 17)  # in float32 a hair below
    assert reached.sum() == 1
    assert dominant_mask(s[:1], 1.0, floor=jnp.array([1.5])).sum() == 2
    assert dominant_mask(s, 0.5, "sigma").sum(-1).tolist() == [1, 0, 1]
    assert dominant_mask(s, 0.6, "sigma").sum(-1).tolist() == [2, 0, 2]
    assert dominant_mask(s, None).sum(-1).tolist() == [3, 0, 3]
    assert dominant_mask(s, None, floor=jnp.array([1.5, 0, 1e-20])).sum(-1).tolist() == [2, 0, 2]


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from(["threshold", "complement"]), st.sampled_from(["sigma2", "sigma"]))
def test_columns_are_orthonormal_padded_and_away_from_semantics(seed, method, energy):
    rng = np.random.default_rng(seed)
    clean, noise = rng.standard_normal((2, 3, 12, 24)).astype(np.float32)
    noise[1] = 0
    selection = Selection(method=method, energy=energy, delta=0.35, semantic_alpha=0.6)
    q, ranks = noise_directions(clean, noise, selection)
    assert ranks[1] == 0 and q.shape[-1] == max(1, ranks.max())
    expected = (np.arange(q.shape[-1]) < ranks[:, None])[..., None] * np.eye(q.shape[-1])
    np.testing.assert_allclose(q.swapaxes(1, 2) @ q, expected, atol=1e-5)
    semantic = right_singular(clean)
    dominant = semantic.v * dominant_mask(semantic.s, 0.6, energy)[..., None]
    bound = 0.35 if method == "threshold" else 1e-5
    assert float(jnp.abs(dominant @ q).max()) < bound


def test_directions_from_flipped_and_permuted_clips_give_the_same_see_and_seen():
    stats = statistics()
    rng = np.random.default_rng(0)
    order, signs = rng.permutation(12), rng.choice([-1, 1], (12, 1)).astype(np.float32)
    a = jnp.asarray(rng.standard_normal((2, 5, 24)), jnp.float32)
    mask = jnp.ones((2, 5), bool)
    measure, neutralize = jax.jit(see), jax.jit(seen)
    for selection in (Selection(), Selection(method="complement")):
        q, ranks = noise_directions(stats.clean, stats.noise, selection)
        other, others = noise_directions(stats.clean[:, order], (stats.noise * signs)[:, order], selection)
        assert ranks.tolist() == others.tolist() and ranks.min() > 0
        for layer in range(3):
            np.testing.assert_allclose(measure(a, q[layer], mask), measure(a, other[layer], mask), atol=1e-6)
            np.testing.assert_allclose(neutralize(a, q[layer]), neutralize(a, other[layer]), atol=5e-6)


def test_a_sweep_over_delta_and_alpha_is_one_vmap():
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, 3, 12, 24)).astype(np.float32)
    semantic, candidates = right_singular(clean), right_singular(noise)
    deltas, alphas = jnp.array([0.1, 0.25, 0.4, 1.0]), jnp.array([0.3, 0.6, 0.9, 0.95])

    def basis(alpha, delta):
        mask = threshold_mask(semantic, candidates, alpha, alpha, delta)
        return jnp.swapaxes(candidates.v * mask[..., None], -1, -2)

    swept = jax.jit(jax.vmap(basis))(alphas, deltas)
    counts = []
    for i, (alpha, delta) in enumerate(zip(alphas.tolist(), deltas.tolist(), strict=True)):
        selection = Selection(semantic_alpha=alpha, noise_alpha=alpha, delta=delta)
        q, ranks = noise_directions(clean, noise, selection)
        np.testing.assert_allclose(projector(swept[i]), projector(q), atol=1e-6)
        counts.append(int(ranks.sum()))
    assert len(set(counts)) > 2, counts

    masks = jax.vmap(lambda a: dominant_mask(semantic.s, a))(alphas)
    everything = jnp.ones((3, 12), bool)
    bases = jax.vmap(lambda m, r: complement(semantic, candidates, m, everything, r))(masks, jnp.full(4, 0.5))
    for i, alpha in enumerate(alphas.tolist()):
        q, _ = noise_directions(clean, noise, Selection(semantic_alpha=alpha, method="complement", remainder=0.5))
        np.testing.assert_allclose(projector(bases[i]), projector(q), atol=1e-5)


def test_a_sweep_over_a_calibration_uses_its_stored_directions():
    toy = calibration()
    semantic, noise = toy.directions()
    mask = threshold_mask(semantic, noise, 0.95, None, 0.1)
    assert tuple(mask.sum(-1).tolist()) == toy.select().ranks
    assert toy.directions()[0] is semantic


@pytest.mark.parametrize(
    "options",
    [
        {"semantic_alpha": 0.0},
        {"semantic_alpha": 1.1},
        {"noise_alpha": 0.0},
        {"delta": -0.1},
        {"delta": float("nan")},
        {"remainder": 0.0},
        {"remainder": 1.0},
        {"method": "other"},
        {"energy": "sigma3"},
        {"noise_source": "clean"},
        {"layers": "second_half"},
        {"layers": ()},
        {"layers": (-1,)},
        {"layers": (1, 1)},
    ],
)
def test_options_that_make_no_sense(options, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in a user's process
    with pytest.raises(ConfigError, match=next(iter(options))):
        Selection(**options)
