"""What SEEN takes out of activations, in numbers."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_bases import E1, E2, basis_of

from seen_jax.studies.measure import Case
from seen_jax.studies.pareto import energy_share, removed, spread_bases
from seen_jax.subspace import seen


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(-0.5, 2.5))
def test_seen_takes_away_the_suppressed_share(seed, strength):
    rng = np.random.default_rng(seed)
    basis = basis_of(list(np.linalg.qr(rng.normal(size=(4, 2)))[0].T))
    a = rng.normal(size=(1, 5, 4)).astype(np.float32)
    left = np.square(np.asarray(seen(jnp.asarray(a[0]), basis.q[0], strength), np.float64)).sum() / np.square(a).sum()
    assert 1 - left == pytest.approx(removed(strength) * energy_share(a, basis), abs=1e-4)


def test_energy_share_by_hand():
    a = np.zeros((2, 2, 4))
    a[0] = [[3, 4, 0, 0], [0, 0, 5, 0]]
    assert energy_share(a, basis_of([E1], [E1])) == pytest.approx(9 / 50 / 2)  # nothing in the second layer
    assert energy_share(a, basis_of([E1, E2], [E1], kept=(0,))) == pytest.approx(0.5)


def test_bases_to_answer_with_are_different_and_spread():
    turned = lambda k: basis_of([np.cos(k) * E1 + np.sin(k) * E2])
    shares = {Case({}, "white", turned(k / 10)): k / 10 for k in range(10)}
    shares |= {Case({}, "white", turned(0.9)): 0.9, Case({}, "white", basis_of([])): 0.0}
    chosen = [round(10 * np.arccos(float(basis.q[0, 0, 0]))) for basis in spread_bases(shares)]
    assert chosen == [0, 3, 6, 9]
    assert spread_bases({Case({}, "white", basis_of([])): 0.0}) == []
