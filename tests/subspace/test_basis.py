"""The noise basis: what it refuses, how it combines, and its folder."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from subspace_arrays import basis, forged

from seen_jax.errors import BasisError, ConfigError
from seen_jax.subspace import NoiseBasis, see, union
from seen_jax.subspace.identity import Identity


def projectors(b: NoiseBasis) -> np.ndarray:
    return np.asarray(b.q @ b.q.swapaxes(1, 2))


def test_mean_see_over_kept_layers_counts_empty_ones_as_zero():
    b = basis(0, (2, 0, 1, 3), layers=(1, 2, 3))
    per_layer = jnp.array([[9.0, 9.0], [0.6, 0.6], [0.3, 0.0], [0.6, 0.9]])
    np.testing.assert_allclose(jax.jit(b.mean_see)(per_layer), [0.3, 0.3], atol=1e-7)


def test_strengths_are_data():
    b = basis(0, (2, 0, 1, 3), layers=(1, 3))
    assert b.strengths(0.5).tolist() == [0, 0.5, 0, 0.5]
    swept = jax.vmap(b.strengths)(jnp.array([0.0, 1.0]))
    assert swept.tolist() == [[0, 0, 0, 0], [0, 1, 0, 1]]


def test_with_layers():
    b = basis(0, (2, 0, 1, 3), layers=(3,))
    assert b.with_layers("all").layers == (0, 1, 2, 3) and b.with_layers((2, 0)).layers == (0, 2)
    assert b.layers == (3,)
    with pytest.raises(ConfigError):
        b.with_layers((4,))


def test_a_basis_is_a_pytree():
    """q is the leaf; the rest, the card with its lists too, is static: jit, vmap and grad go through."""
    b, other = basis(0, (2, 3), noise="white", data={"clean": ["a"]}), basis(0, (2, 3), noise="pink")
    leaves, tree = jax.tree.flatten(b)
    chex.assert_trees_all_equal(jax.tree.unflatten(tree, leaves), b)
    assert len(leaves) == 1 and hash(tree) == hash(jax.tree.structure(b))
    assert tree == jax.tree.structure(basis(1, (2, 3), noise="white", data={"clean": ["a"]}))
    assert tree != jax.tree.structure(other)
    twice = jax.jit(lambda x: jax.tree.map(lambda q: 2 * q, x))(b)
    assert twice.card == b.card and twice.layers == b.layers and jnp.array_equal(twice.q, 2 * b.q)

    a = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 8)), jnp.float32)
    mean = lambda x: x.mean_see(jax.vmap(see)(a, x.q, jnp.ones((2, 5))))
    gradient = jax.jit(jax.grad(mean))(b)
    assert gradient.ranks == b.ranks and float(jnp.abs(gradient.q).max()) > 0
    stacked = jax.tree.map(lambda *q: jnp.stack(q), b, jax.tree.map(jnp.zeros_like, b))
    np.testing.assert_allclose(jax.vmap(mean)(stacked), [mean(b), 0], atol=1e-6)


def test_union_spans_both_once_and_only_where_they_are_kept():
    a, b = basis(0, (2, 1, 0), layers=(0, 1)), basis(1, (1, 2, 3), layers=(1, 2))
    both = union([a, b, a])
    assert both.layers == (0, 1, 2) and both.ranks == (2, 3, 3)
    np.testing.assert_allclose(projectors(both)[[0, 2]], [projectors(a)[0], projectors(b)[2]], atol=1e-6)
    for part in (a, b):  # both subspaces of layer 1 lie inside
        np.testing.assert_allclose(projectors(both)[1] @ part.q[1], part.q[1], atol=1e-6)
    np.testing.assert_allclose(projectors(union([a]).with_layers("all"))[:2], projectors(a)[:2], atol=1e-6)


def test_union_of_bases_that_do_not_belong_together():
    with pytest.raises(BasisError, match="at least one"):
        union([])
    with pytest.raises(BasisError, match="width 9"):
        union([basis(0, (1,)), basis(0, (1,), width=9)])
    with pytest.raises(BasisError, match="fingerprint"):
        union([basis(0, (1,), fingerprint="x"), basis(0, (1,), fingerprint="y")])


def test_check_names_what_does_not_fit():
    b = basis(0, (1, 1), fingerprint="abc", model="toy-model")
    b.check("s", 2, 8, Identity("toy", fingerprint="abc"))
    b.check("s", 2, 8)
    basis(0, (1, 1)).check("s", 2, 8, Identity(fingerprint="abc"))
    for args, named in (
        (("t", 2, 8), "site s"),
        (("s", 3, 8), "layers 2"),
        (("s", 2, 9), "width 8"),
        (("s", 2, 8, Identity(fingerprint="abd")), "model fingerprint abc"),
    ):
        with pytest.raises(BasisError, match=named) as error:
            b.check(*args)
        assert "toy-model" in str(error.value)


GOOD = np.eye(4, dtype=np.float32)[None, :, :2]


@pytest.mark.parametrize(
    ("q", "ranks", "layers", "named"),
    [
        (2 * GOOD, (2,), (0,), "orthonormal"),
        (GOOD, (1,), (0,), "orthonormal"),  # a column beyond the rank
        (np.full_like(GOOD, np.nan), (2,), (0,), "NaN"),
        (GOOD, (2, 2), (0,), "ranks"),
        (GOOD, (3,), (0,), "ranks"),
        (GOOD, (2,), (), "layers"),
        (GOOD, (2,), (1,), "layers"),
    ],
)
def test_inconsistent_parts_are_refused(q, ranks, layers, named):
    with pytest.raises(BasisError, match=named):
        NoiseBasis("s", jnp.asarray(q), ranks, layers)


def test_round_trip(tmp_path):
    b = basis(0, (2, 0, 3), layers=(1, 2), fingerprint="abc", noise="gauss")
    folder = b.save(tmp_path / "deep" / "basis")
    assert sorted(p.name for p in folder.iterdir()) == ["basis.safetensors", "card.json"]
    again = NoiseBasis.load(folder)
    assert (again.site, again.ranks, again.layers) == (b.site, b.ranks, b.layers)
    assert jnp.array_equal(again.q, b.q) and again.card["noise"] == "gauss" and again.card["versions"]["jax"]
    again.with_layers("all").save(folder, overwrite=True)
    assert NoiseBasis.load(folder).layers == (0, 1, 2)
    assert NoiseBasis.load(folder).card["date"] == again.card["date"]


def test_nan_in_the_file_is_refused(tmp_path):
    folder = basis(0, (2,)).save(tmp_path / "basis")
    save_file({"q": np.full((1, 8, 2), np.nan, np.float32)}, folder / "basis.safetensors")
    forged(folder)
    with pytest.raises(BasisError, match="NaN") as error:
        NoiseBasis.load(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "calibration"}, "not the card of a noise basis"),
        ({"ranks": [1, 1, 1]}, "orthonormal"),
        ({"ranks": "many"}, "damaged"),
        ({"ranks": None}, "damaged"),
        ({"layers": [7]}, "kept layers"),
        ({"shapes": {"q": [3, 8, 4]}}, "shapes"),
    ],
)
def test_damaged_cards_are_refused_with_their_path(tmp_path, change, named):
    folder = basis(0, (2, 0, 3)).save(tmp_path / "basis")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, **change}))
    forged(folder)
    with pytest.raises(BasisError, match=named) as error:
        NoiseBasis.load(folder)
    assert str(folder) in str(error.value)
