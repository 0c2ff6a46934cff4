"""Streamed moments: the directions, curves and bases of all rows at once, however they were cut and merged."""

import json
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from subspace_arrays import calibration, matrix, statistics

from seen_jax.errors import BasisError
from seen_jax.subspace import (
    Calibration,
    Moments,
    Selection,
    Statistics,
    Streamed,
    diagnose,
    see,
)
from seen_jax.subspace.svd import right_singular

seeds = st.integers(0, 2**16)
SHAPES = ((5, 12), (12, 12), (13, 12), (40, 12), (150, 12))
SPREAD = np.geomspace(1, 1e-6, 12)
DEFICIENT = np.array([4.0, 2.0, 1.0])


def cut(rng, m, parts):
    """[L, n, D] in batches of random sizes."""
    places = np.sort(rng.choice(np.arange(1, m.shape[1]), min(parts, m.shape[1]) - 1, replace=False))
    return np.split(m, places, axis=1)


def stream(batches):
    return reduce(Moments.merge, map(Moments.of, batches))


def projector(v):
    v = np.asarray(v, np.float64)
    return v.T @ v


def check(got, expected, cuts):
    """Singular values within 1e-5 of themselves, down to rounding in float64; the same projectors at every cut."""
    assert got.v.shape == expected.v.shape and got.v.dtype == got.s.dtype == jnp.float32
    for layer, s in enumerate(np.asarray(expected.s)):
        np.testing.assert_allclose(got.s[layer], s, rtol=1e-5, atol=1e-12 * s[0])
        for k in cuts:
            np.testing.assert_allclose(projector(got.v[layer, :k]), projector(expected.v[layer, :k]), atol=1e-5)
    np.testing.assert_allclose(got.floor, expected.floor, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from(SHAPES), st.integers(1, 9), st.sampled_from([1e-6, 1.0, 1e6]))
def test_widely_spread_spectra(seed, shape, parts, scale):
    rng = np.random.default_rng(seed)
    k = min(shape)
    m = np.stack([scale * matrix(rng, *shape, SPREAD[:k]), scale * matrix(rng, *shape, np.geomspace(1, 0.5, k))])
    check(stream(cut(rng, m, parts)).directions(), right_singular(m), range(1, k + 1))


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from(SHAPES), st.integers(1, 9))
def test_rank_deficient_and_duplicate_rows(seed, shape, parts):
    rng = np.random.default_rng(seed)
    rows = matrix(rng, 3, shape[1], DEFICIENT)
    m = np.stack([matrix(rng, *shape, DEFICIENT), np.resize(rows, shape)])
    got = stream(cut(rng, m, parts)).directions()
    check(got, right_singular(m), (1, 2, 3))
    assert (got.s > got.floor[:, None]).sum(axis=1).tolist() == [3, 3]


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from(SHAPES), st.integers(1, 9), st.sampled_from([0.0, 1.0, 1000.0]))
def test_centred(seed, shape, parts, mean):
    """A mean that is 1000 times the spread does not drown it."""
    rng = np.random.default_rng(seed)
    k = min(shape)
    m = (mean + np.stack([rng.standard_normal(shape), matrix(rng, *shape, np.geomspace(3, 1, k))])).astype(np.float32)
    cuts = (min(shape[0] - 1, shape[1]),)
    got, expected = stream(cut(rng, m, parts)).directions(center=True), right_singular(m, center=True)
    if shape[0] <= shape[1]:
        assert jnp.array_equal(got.v, expected.v)
    check(got._replace(s=got.s[:, : cuts[0]]), expected._replace(s=expected.s[:, : cuts[0]]), cuts)


@settings(max_examples=12, deadline=None)
@given(seeds, st.tuples(*[st.sampled_from(SHAPES)] * 3))
def test_merging_is_associative_and_commutative(seed, shapes):
    rng = np.random.default_rng(seed)
    a, b, c = (Moments.of(rng.standard_normal((2, *shape)).astype(np.float32)) for shape in shapes)
    whole = a.merge(b).merge(c)
    assert whole.shape == (2, sum(n for n, _ in shapes), 12)
    for other in (a.merge(b.merge(c)), c.merge(a).merge(b), b.merge(c.merge(a))):
        for center in (False, True):
            check(other.directions(center), whole.directions(center), (12,))


def test_a_set_of_up_to_the_width_is_its_rows_to_the_bit():
    rng = np.random.default_rng(0)
    m = rng.standard_normal((2, 12, 12)).astype(np.float32)
    got, expected = stream(cut(rng, m, 5)).directions(), right_singular(m)
    assert all(jnp.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_moments_are_a_pytree_and_are_not_changed():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2, 30, 12)).astype(np.float32)
    before = Moments.of(rows)
    copy = jax.tree.map(np.array, before)
    before.merge(before)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, copy))
    assert copy.shape == (2, 30, 12) and copy.directions().v.shape == (2, 12, 12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_has_no_moments_is_refused(bad):
    rows = np.ones((3, 2, 4), np.float32)
    with pytest.raises(BasisError, match="3 layers and width 4 cannot be merged with those of 3 layers and width 5"):
        Moments.of(rows).merge(Moments.of(np.ones((3, 2, 5), np.float32)))
    with pytest.raises(BasisError, match=r"layers, clips, width"):
        Moments.of(rows[:, :0])
    rows[1, 0, 0] = bad
    with pytest.raises(BasisError, match=r"layers \[1\]"):
        Moments.of(rows)


def test_memory_does_not_grow_with_the_rows():
    rng = np.random.default_rng(0)
    state, sizes = Moments.of(np.ones((2, 1, 32))), []
    for _ in range(60):
        state = state.merge(Moments.of(rng.standard_normal((2, 9, 32))))
        sizes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(state)[1:]))
    assert state.shape == (2, 541, 32)
    assert max(sizes) <= 2 * (8 * 33 * 33 + 4 * 32 * 32)
    assert max(sizes[:4]) <= 541 * 2 * 32 * 4, "rows are no larger than float32"


# --- statistics and calibrations ---

SELECTIONS = [
    Selection(method=method, center=center, noise_source=source, layers="all")
    for method in ("threshold", "complement")
    for center in (False, True)
    for source in ("pure", "difference")
]


def batches_of(whole, size):
    n = whole.shape[1]
    for start in range(0, n, size):
        yield Statistics(*(m[:, start : start + size] for m in (whole.clean, whole.noise, whole.noisy)))


def streamed(whole, size=7):
    return reduce(Streamed.merge, map(Streamed.of, batches_of(whole, size)))


@pytest.mark.parametrize("n", [12, 100])
def test_a_streamed_calibration_is_the_one_in_memory(n):
    whole = statistics(n=n)
    own, expected = (Calibration("s", source, {"noise": "x"}) for source in (streamed(whole), whole))
    np.testing.assert_allclose(own.curves().magnitude, expected.curves().magnitude, rtol=1e-5)
    np.testing.assert_allclose(own.curves().direction, expected.curves().direction, atol=1e-5)
    assert own.localization() == expected.localization() and own.source.shape == expected.source.shape
    assert own.source.distance() == pytest.approx(expected.source.distance(), rel=1e-5)
    frames = jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 24)), jnp.float32)
    measure = jax.jit(see)
    for selection in SELECTIONS:
        basis, other = own.select(selection), expected.select(selection)
        assert basis.ranks == other.ranks and basis.card == other.card
        for layer in range(3):
            got, wanted = (measure(frames, b.q[layer], jnp.ones((2, 5))) for b in (basis, other))
            np.testing.assert_allclose(got, wanted, atol=1e-5)
        share = own.source.pooled_see(basis.q)["clean"]
        energy = np.square(whole.clean, dtype=np.float64).sum((1, 2))
        inside = np.square(np.einsum("lnd,ldr->lnr", whole.clean.astype(np.float64), basis.q)).sum((1, 2))
        np.testing.assert_allclose(share, inside / energy, atol=1e-6)
        assert {f.code for f in diagnose(own, basis)} == {f.code for f in diagnose(expected, other)}
    with pytest.raises(BasisError, match="no activations of single clips"):
        own.statistics  # noqa: B018


def test_streams_without_noisy_clips_and_of_nothing():
    whole = statistics(noisy=False)
    own = Calibration("s", Streamed.of(whole))
    with pytest.raises(BasisError, match="calibrate with noisy clips"):
        own.directions(noise_source="difference")
    with pytest.raises(BasisError, match="only one of two"):
        own.source.merge(Streamed.of(statistics()))
    zeros = Statistics(np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 4), np.float32))
    nothing = Streamed.of(zeros)
    assert nothing.distance() == 0 and nothing.curves().direction.tolist() == [0, 0]
    assert nothing.pooled_see(jnp.ones((2, 4, 1)))["clean"].tolist() == [0, 0]


@pytest.mark.parametrize("n", [12, 60])
def test_round_trip(tmp_path, n):
    """What is read back goes on exactly where it was."""
    whole = statistics(n=n)
    toy = Calibration("s", streamed(whole), {"data": {"clean": ["a"], "noise": ["b"]}})
    folder = toy.save(tmp_path / "c", ranks=False)
    assert "default_ranks" not in json.loads((folder / "card.json").read_text())
    again = Calibration.load(toy.save(folder, overwrite=True))
    assert tuple(again.card["default_ranks"]) == toy.select().ranks and again.card["clips"] == n
    more = Streamed.of(statistics(1))
    for a, b in ((again.source, toy.source), (again.source.merge(more), toy.source.merge(more))):
        for side in ("clean", "pure", "difference"):
            assert all(map(jnp.array_equal, a.directions(side, True), b.directions(side, True)))
        assert np.array_equal(a.sums, b.sums)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"clean.factor": None}, "not those of a streamed"),
        ({"sums": np.full((4, 3), np.nan)}, "sums hold NaN"),
        ({"sums": np.ones((4, 2))}, "sums are"),
        ({"noise.pending": np.ones((3, 5, 24), np.float32)}, "do not fit"),
        ({"noise.factor": np.ones((3, 24, 25))}, "do not fit"),
    ],
)
def test_damaged_tensors(change, named):
    own = streamed(statistics())
    tensors = {name: tensor for name, tensor in {**own.tensors(), **change}.items() if tensor is not None}
    with pytest.raises(BasisError, match=named):
        Streamed.from_tensors(tensors, 12)


def part(seed, stream=True, **card):
    whole = statistics(seed)
    data = {"clean": [f"c{seed}.{i}" for i in range(12)], "noise": [f"n{seed}.{i}" for i in range(12)]}
    full = {"model": "toy", "fingerprint": "abc", "noise": "x", "snr_db": 0.0, "data": data, "seed": seed, **card}
    return Calibration("s", Streamed.of(whole) if stream else whole, full)


def test_merged_calibrations():
    a, b, c = (part(seed) for seed in range(3))
    merged, other = a.merge(b, c), c.merge(a).merge(b)
    assert merged.source.shape == (3, 36, 24) and len(merged.card["data"]["clean"]) == 36
    assert merged.card["noise"] == "x" and "seed" not in merged.card
    whole = reduce(Statistics.merge, (statistics(seed) for seed in range(3)))
    expected = Calibration("s", whole)
    mixed = a.merge(part(1, stream=False), c)
    for selection in SELECTIONS:
        wanted = expected.select(selection)
        for own in (merged, other, mixed):
            assert own.select(selection).ranks == wanted.ranks
            both = (own.select(selection).q, wanted.q)
            np.testing.assert_allclose(*(np.einsum("ldr,ler->lde", q, q) for q in both), atol=1e-5)
    kept = part(0, stream=False).merge(part(1, stream=False))
    assert np.array_equal(kept.statistics.noisy, whole.noisy[:, :24])
    assert isinstance(mixed.source, Streamed)


@pytest.mark.parametrize("stream", [True, False])
def test_parts_that_do_not_belong_together(stream):
    own = part(0, stream)
    with pytest.raises(BasisError, match=r"12 clean clips are in more than one .*c0\.0"):
        own.merge(part(1, stream), part(0, stream))
    with pytest.raises(BasisError, match=r"fingerprint \('abc' and 'def'\), snr_db \(0\.0 and 5\.0\)"):
        own.merge(part(1, stream, fingerprint="def", snr_db=5.0))
    with pytest.raises(BasisError, match=r"weights \(None and 'int8'\)"):
        part(0, stream, weights=None).merge(part(1, stream, weights="int8"))
    with pytest.raises(BasisError, match="site"):
        own.merge(calibration())
    wide = statistics(width=26)
    with pytest.raises(BasisError, match="width 24 cannot be merged with 3 of width 26"):
        own.merge(Calibration("s", Streamed.of(wide) if stream else wide))
