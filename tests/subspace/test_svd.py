"""Right singular directions: the subspaces of float64 NumPy, whatever the matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from subspace_arrays import matrix

from seen_jax.errors import BasisError, ConfigError
from seen_jax.subspace.svd import right_singular

shapes = st.tuples(st.integers(0, 2**16), st.sampled_from([(5, 12), (12, 5), (7, 7), (1, 4)]))


def check(m, cuts):
    """Projectors agree with float64 NumPy at every cut; orthonormal rows, descending values, no NaN."""
    got = right_singular(jnp.asarray(m))
    k = min(m.shape[1:])
    v, s = np.asarray(got.v), np.asarray(got.s)
    assert v.dtype == s.dtype == np.float32 and v.shape == (len(m), k, m.shape[2]) and s.shape == (len(m), k)
    assert np.isfinite(v).all() and np.isfinite(s).all() and (np.diff(s, axis=1) <= 0).all()
    np.testing.assert_allclose(v @ v.transpose(0, 2, 1), np.broadcast_to(np.eye(k), (len(m), k, k)), atol=1e-5)
    for layer, x in enumerate(m):
        _, expected_s, expected = np.linalg.svd(x.astype(np.float64), full_matrices=False)
        np.testing.assert_allclose(s[layer], expected_s, rtol=1e-6, atol=1e-7 * expected_s[0])
        for cut in cuts:
            p = v[layer, :cut].astype(np.float64)
            np.testing.assert_allclose(p.T @ p, expected[:cut].T @ expected[:cut], atol=1e-5)
    return got


@settings(max_examples=8, deadline=None)
@given(shapes)
def test_ill_conditioned_matrices(case):
    seed, (n, width) = case
    rng = np.random.default_rng(seed)
    k = min(n, width)
    s = np.geomspace(1, 1e-5, k) if k > 1 else np.ones(1)
    check(np.stack([scale * matrix(rng, n, width, s) for scale in (1e-6, 1.0, 1e6)]), range(1, k + 1))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**16), st.booleans())
def test_rank_deficient_duplicate_and_zero_rows(seed, tall):
    rng = np.random.default_rng(seed)
    n, width = (14, 9) if tall else (9, 14)
    deficient = matrix(rng, n, width, np.array([4.0, 2.0, 1.0]))
    duplicates = np.tile(matrix(rng, 3, width, np.array([4.0, 2.0, 1.0])), (5, 1))[:n]
    got = check(np.stack([deficient, duplicates]), (1, 2, 3))
    above = np.asarray(got.s > got.floor[:, None])
    assert above.sum(axis=1).tolist() == [3, 3]


def test_zero_matrix_has_no_direction_above_zero():
    got = check(np.zeros((2, 4, 6), np.float32), ())
    assert not (got.s > got.floor[:, None]).any()


def test_extreme_scales_do_not_overflow():
    huge = np.full((1, 3, 4), 3e38, np.float32)
    got = right_singular(jnp.asarray(huge))
    assert np.isfinite(got.s).all() and np.isfinite(got.v).all()
    np.testing.assert_allclose(np.abs(got.v[0, 0]), 0.5, atol=1e-6)


def test_centring_leaves_no_direction_behind():
    rng = np.random.default_rng(0)
    m = (1000 + rng.standard_normal((1, 5, 7))).astype(np.float32)
    got = right_singular(jnp.asarray(m), center=True)
    x = m[0].astype(np.float64)
    expected = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:4]
    p = np.asarray(got.v[0, :4], np.float64)
    np.testing.assert_allclose(p.T @ p, expected.T @ expected, atol=1e-5)
    assert int((got.s[0] > got.floor[0]).sum()) == 4


def test_result_is_on_the_default_device_and_the_context_does_not_leak():
    got = right_singular(np.ones((1, 2, 3), np.float64))
    assert jnp.asarray(1.0).dtype == jnp.float32
    assert got.v.devices() == jnp.zeros(1).devices() and not got.v.committed
    assert jax.jit(lambda d: d.v.sum() + d.s.sum())(got).shape == ()


def test_signs_are_fixed():
    m = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    v = np.asarray(right_singular(m).v)
    peaks = np.take_along_axis(v, np.abs(v).argmax(-1)[..., None], -1)
    assert (peaks > 0).all()
    np.testing.assert_allclose(right_singular(-m).v, v, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused_by_layer(bad):
    m = np.ones((3, 2, 2), np.float32)
    m[1, 0, 0] = bad
    with pytest.raises(BasisError, match=r"layers \[1\]"):
        right_singular(m)


def test_hidden_cpu_is_refused(monkeypatch):
    def no_backend(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", no_backend)
    with pytest.raises(ConfigError, match="JAX_PLATFORMS"):
        right_singular(np.ones((1, 2, 3), np.float32))
