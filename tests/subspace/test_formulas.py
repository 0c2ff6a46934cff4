"""SEE and SEEN on arrays: against float64 NumPy, and the properties that must hold for any activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from subspace_arrays import orthonormal

from seen_jax.subspace import formulas

(
    low_rank_edit,
    masked_mean,
    noise_energy,
    see,
    see_frames,
    seen,
) = (  # jitted: eager tests would take 3 times as long
    jax.jit(getattr(formulas, name))
    for name in ("low_rank_edit", "masked_mean", "noise_energy", "see", "see_frames", "seen")
)

quick = settings(max_examples=10, deadline=None)
cases = st.tuples(st.integers(0, 2**16), st.integers(0, 4), st.sampled_from([1e-3, 1.0, 1e4]))
BATCH, FRAMES, WIDTH, RANK = (
    2,
    4,
    6,
    5,
)  # fixed, so that nothing compiles twice; the rank varies by zero columns


def draw(case):
    """a [B, T, D], q [D, R] with at least one zero column, and a mask with a valid frame in every clip."""
    seed, rank, scale = case
    rng = np.random.default_rng(seed)
    a = jnp.asarray(scale * rng.standard_normal((BATCH, FRAMES, WIDTH)), jnp.float32)
    q = np.zeros((WIDTH, RANK), np.float32)
    q[:, :rank] = orthonormal(rng, WIDTH, rank)
    mask = rng.random((BATCH, FRAMES)) < 0.6
    mask[:, 0] = True
    return a, jnp.asarray(q), jnp.asarray(mask)


@quick
@given(cases)
def test_formulas_equal_plain_numpy_float64(case):
    a, q, mask = draw(case)
    x, p, m = (np.asarray(v, np.float64) for v in (a, q, mask))
    scale = np.abs(x).max()
    projected, total = np.square(x @ p).sum(-1), np.square(x).sum(-1)
    for got, expected in zip(noise_energy(a, q), (projected, total), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * scale**2)
    frames = projected / (total + 1e-12)
    np.testing.assert_allclose(see_frames(a, q), frames, atol=1e-6)
    np.testing.assert_allclose(see(a, q, mask), (frames * m).sum(-1) / m.sum(-1), atol=1e-6)
    np.testing.assert_allclose(
        masked_mean(a, mask), (x * m[..., None]).sum(1) / m.sum(-1)[:, None], rtol=1e-5, atol=1e-6 * scale
    )
    np.testing.assert_allclose(seen(a, q, 0.7), x - 0.7 * (x @ p) @ p.T, rtol=1e-5, atol=1e-6 * scale)


def test_low_rank_edit_equals_numpy_and_seen_is_its_special_case():
    rng = np.random.default_rng(0)
    a, u, v, bias = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((2, 5, 6), (6, 3), (6, 3), (6,)))
    got = low_rank_edit(a, u, v, 0.3, bias)
    x, uu, vv, b = (np.asarray(z, np.float64) for z in (a, u, v, bias))
    np.testing.assert_allclose(got, x - 0.3 * (x @ uu) @ vv.T + b, atol=1e-5)
    assert jnp.array_equal(seen(a, u, 0.3), low_rank_edit(a, u, u, 0.3, jnp.zeros(6)))


@quick
@given(cases)
def test_see_is_a_share(case):
    a, q, mask = draw(case)
    inside = a @ q @ q.T  # nothing but noise: rounding must not push the share above 1
    for x in (a, inside, jnp.zeros_like(a)):
        for value in (see_frames(x, q), see(x, q, mask)):
            assert bool((value >= 0).all()) and bool((value <= 1).all())


def test_see_of_pure_noise_is_one_and_of_silence_zero():
    q = jnp.eye(4)[:, :2]
    mask = jnp.ones((1, 3), bool)
    assert float(see(jnp.ones((1, 3, 4)) * jnp.array([1.0, 2, 0, 0]), q, mask)[0]) == pytest.approx(1)
    assert float(see(jnp.zeros((1, 3, 4)), q, mask)[0]) == 0


@quick
@given(cases)
def test_full_strength_leaves_no_noise_energy_and_is_idempotent(case):
    a, q, mask = draw(case)
    once = seen(a, q)
    assert float(see(once, q, mask).max()) < 1e-6
    np.testing.assert_allclose(seen(once, q), once, atol=1e-5 * float(jnp.abs(a).max()))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("jitted", [False, True])
def test_strength_zero_and_empty_basis_are_the_identity_bit_for_bit(dtype, jitted):
    rng = np.random.default_rng(1)
    special = [0.0, -0.0, 1e-41, -1e-41, 6e-8, -6e-8, 1e4, -1e4]  # subnormal in float32, float16 and bfloat16
    a = jnp.asarray(np.concatenate([rng.standard_normal((6, 8)), [special], [special[::-1]]]), np.float32).astype(dtype)
    q = jnp.asarray(orthonormal(rng, 8, 3))
    edit = seen if jitted else formulas.seen
    bits = np.asarray(a).view(np.uint32 if dtype == jnp.float32 else np.uint16)
    assert np.signbit(np.asarray(a, np.float32)[6, 1]) and bits[6, 1] != 0
    for basis, strength in ((q, 0.0), (-q, 0.0), (jnp.zeros((8, 3)), 1.0), (jnp.zeros((8, 0)), 1.0)):
        out = edit(a, basis, strength)
        assert out.dtype == dtype
        np.testing.assert_array_equal(np.asarray(out).view(bits.dtype), bits)


def test_edit_of_bfloat16_is_computed_in_float32_and_rounded_once():
    rng = np.random.default_rng(2)
    a = jnp.asarray(rng.standard_normal((50, 32)), jnp.bfloat16)
    q = jnp.asarray(orthonormal(rng, 32, 5))
    expected = seen(a.astype(jnp.float32), q, 0.8).astype(jnp.bfloat16)
    assert jnp.array_equal(seen(a, q, 0.8), expected)
    assert see_frames(a, q).dtype == masked_mean(a, jnp.ones(50)).dtype == jnp.float32
    np.testing.assert_allclose(see_frames(a, q), see_frames(a.astype(jnp.float32), q), atol=1e-7)


@quick
@given(cases)
def test_sign_and_order_of_directions_do_not_matter(case):
    a, q, mask = draw(case)
    rng = np.random.default_rng(case[0])
    other = q[:, rng.permutation(q.shape[1])] * rng.choice([-1.0, 1.0], q.shape[1]).astype(np.float32)
    scale = float(jnp.abs(a).max())
    np.testing.assert_allclose(see(a, q, mask), see(a, other, mask), atol=1e-6)
    np.testing.assert_allclose(seen(a, q) / scale, seen(a, other) / scale, atol=1e-6)


@quick
@given(cases)
def test_batch_size_and_padding_frames_do_not_matter(case):
    a, q, mask = draw(case)
    padding = jnp.full((len(a), 3, WIDTH), jnp.nan)
    padded, longer = jnp.concatenate([a, padding], 1), jnp.pad(mask, ((0, 0), (0, 3)))
    scale = float(jnp.abs(a).max())
    for f in (lambda x, m: see(x, q, m), lambda x, m: masked_mean(x, m) / scale):
        alone = jnp.concatenate([f(a[i : i + 1], mask[i : i + 1]) for i in range(len(a))])
        np.testing.assert_allclose(f(a, mask), alone, atol=1e-6)
        np.testing.assert_allclose(f(padded, longer), alone, atol=1e-6)
    np.testing.assert_allclose(seen(padded, q)[:, : a.shape[1]] / scale, seen(a, q) / scale, atol=1e-6)


def test_masks_of_any_dtype_broadcast_and_a_clip_without_frames_is_zero():
    a = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4, WIDTH)), jnp.float32)
    q, mask = jnp.eye(WIDTH)[:, :2], jnp.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    for f in (masked_mean, lambda x, m: see(x, q, m)):
        full = f(a, jnp.broadcast_to(mask.astype(bool), a.shape[:-1]))
        for m in (mask, mask.astype(jnp.float32)):
            assert jnp.array_equal(f(a, m), full)
        assert not full[:, 2].any() and full[:, :2].any()


def test_gradient_of_see_is_finite_and_equals_finite_differences():
    rng = np.random.default_rng(3)
    a, q = rng.standard_normal((1, 4, 5)).astype(np.float32), orthonormal(rng, 5, 2)
    a[0, 1] = 0  # a silent frame
    mask = jnp.array([[True, True, True, False]])
    poisoned = jnp.asarray(a).at[0, 3].set(jnp.nan)
    gradient = jax.grad(lambda x: see(x, jnp.asarray(q), mask)[0])(poisoned)

    def loss(x):
        frames = np.square(x @ q.astype(np.float64)).sum(-1) / (np.square(x).sum(-1) + 1e-12)
        return frames[0, :3].mean()

    expected = np.zeros(a.shape)
    for index in np.ndindex(*a.shape):
        if index[1] in (0, 2):
            step = np.zeros(a.shape)
            step[index] = 1e-5
            expected[index] = (loss(a + step) - loss(a - step)) / 2e-5
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
    assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_edit_has_its_derivatives_even_where_it_changes_nothing(strength):
    rng = np.random.default_rng(4)
    a, q = jnp.asarray(rng.standard_normal((3, 5)), jnp.float32), jnp.asarray(orthonormal(rng, 5, 2))
    _, by_strength = jax.jvp(lambda s: seen(a, q, s), (jnp.float32(strength),), (jnp.float32(1),))
    np.testing.assert_allclose(by_strength, -(a @ q) @ q.T, atol=1e-6)
    zero = jnp.zeros(5)
    by_bias = jax.grad(lambda b: low_rank_edit(a, q, q, strength, b).sum())(zero)
    np.testing.assert_allclose(by_bias, np.full(5, 3.0), atol=1e-6)
    by_a = jax.grad(lambda x: seen(x, q, strength)[0, 1])(a)
    np.testing.assert_allclose(by_a[0], (jnp.eye(5) - strength * q @ q.T)[1], atol=1e-6)


def test_a_strength_sweep_is_a_vmap():
    rng = np.random.default_rng(5)
    a, q = jnp.asarray(rng.standard_normal((3, 5)), jnp.float32), jnp.asarray(orthonormal(rng, 5, 2))
    strengths = jnp.array([0.0, 0.5, 1.0, 1.2])
    swept = jax.jit(jax.vmap(lambda s: seen(a, q, s)))(strengths)
    np.testing.assert_allclose(swept, jnp.stack([seen(a, q, s) for s in strengths]), atol=1e-6)
