"""Overlap of bases, by hand and as a property of subspaces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_bases import E1, E2, E3, basis_of

from seen_jax.studies.calibration import overlap

SLANT = 0.6 * E1 + 0.8 * E3


def test_overlap_by_hand():
    a, b = basis_of([E1, E2], [E1], []), basis_of([SLANT], [E2], [E1])
    assert overlap(a, b) == pytest.approx((0.36 + 0) / 2)  # the third layer has no directions in one of them
    assert overlap(b, a) == pytest.approx(overlap(a, b))
    assert overlap(basis_of([E1, E2]), basis_of([E2, SLANT])) == pytest.approx((1 + 0.36) / 2)
    assert overlap(a, a) == pytest.approx(1)
    assert overlap(basis_of([]), basis_of([E1])) is None
    assert overlap(basis_of([E1], [E1], kept=(0,)), basis_of([E1], [E2])) == pytest.approx(1)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
def test_overlap_is_of_subspaces(seed, r, s):
    rng = np.random.default_rng(seed)
    columns = lambda m: np.linalg.qr(rng.normal(size=(4, m)))[0]
    a, b = columns(r), columns(s)
    value = overlap(basis_of(list(a.T)), basis_of(list(b.T)))
    cosines = np.linalg.svd(a.T @ b, compute_uv=False)
    assert value == pytest.approx(np.mean(cosines**2), abs=1e-5)
    turned = a @ np.linalg.qr(rng.normal(size=(r, r)))[0]
    assert overlap(basis_of(list(turned.T)), basis_of(list(b.T))) == pytest.approx(value, abs=1e-5)
