"""A calibration: selection from stored statistics, its folder, and every way to damage it."""

import json

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from safetensors.numpy import save_file
from subspace_arrays import calibration, forged, noise_directions, statistics

from seen_jax.errors import BasisError, ConfigError
from seen_jax.subspace import Calibration, NoiseBasis, Selection, Statistics, Streamed, store


def test_select_equals_the_pure_function_and_keeps_the_card():
    toy = calibration(noise="gauss", snr_db=-10.0)
    for selection in (Selection(layers="all"), Selection(method="complement", center=True, layers=(2, 0))):
        basis = toy.select(selection)
        q, ranks = noise_directions(toy.statistics.clean, toy.statistics.noise, selection)
        assert jnp.array_equal(basis.q, q) and basis.ranks == tuple(ranks.tolist())
        assert basis.card["selection"]["method"] == selection.method
        assert (basis.site, basis.card["fingerprint"], basis.card["noise"]) == (
            "encoder.mlp_act",
            "abc",
            "gauss",
        )
    assert toy.select(Selection(layers="all")).layers == (0, 1, 2) and basis.layers == (0, 2)
    with pytest.raises(ConfigError, match="do not exist"):
        toy.select(Selection(layers=(3,)))


def test_automatic_layers_start_at_the_localisation():
    stats = statistics()
    scaled = Statistics(*(m * np.array([1, 1, 5], np.float32)[:, None, None] for m in (stats.clean, stats.noise)))
    scaled.noise[:2] += scaled.clean[:2]  # layers 0 and 1 point the same way
    toy = Calibration("s", scaled)
    assert toy.localization() == (2, True)
    assert toy.select().layers == (2,) and toy.select().card["localization"] == {"first": 2, "found": True}


def test_difference_source():
    toy = calibration()
    selection = Selection(noise_source="difference", layers="all")
    stats = toy.statistics
    q, _ = noise_directions(stats.clean, stats.noisy - stats.clean, selection)
    assert jnp.array_equal(toy.select(selection).q, q)
    with pytest.raises(BasisError, match="calibrate with noisy clips"):
        calibration(noisy=False).select(selection)


def test_other_float_dtypes_are_taken():
    half = jnp.asarray(statistics().clean, jnp.bfloat16)
    assert Statistics(np.asarray(half), np.asarray(half)).clean.dtype == np.float32


@pytest.mark.parametrize("bad", ["clips", "empty", "nan"])
def test_statistics_that_do_not_fit_are_refused(bad, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in a user's process
    clean = np.ones((2, 3, 4), np.float32)
    noise = {"clips": clean[:, :2], "empty": clean[:, :0], "nan": np.full_like(clean, np.nan)}[bad]
    with pytest.raises(BasisError, match=r"noise activations"):
        Statistics(clean, noise)


@pytest.mark.parametrize("noisy", [True, False])
def test_round_trip_selects_the_same_basis(tmp_path, noisy):
    toy = calibration(noisy=noisy, data={"clean": ["a"], "noise": ["b"]})
    folder = toy.save(tmp_path / "calibration")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calibration"]  # nothing temporary left
    again = Calibration.load(folder)
    assert again.site == toy.site and again.card["data"] == toy.card["data"]
    assert (again.statistics.noisy is not None) == noisy
    assert np.array_equal(again.statistics.clean, toy.statistics.clean)
    assert jnp.array_equal(again.select().q, toy.select().q)
    card = json.loads((folder / "card.json").read_text())
    assert tuple(card["default_ranks"]) == toy.select().ranks and card["format_version"] == 2
    assert card["shapes"]["noise"] == [3, 12, 24] and card["versions"]["numpy"] == np.__version__
    np.testing.assert_allclose(card["curves"]["magnitude"], toy.curves().magnitude)
    assert {"date", "localization", "model", "fingerprint"} <= set(card)


def test_an_existing_folder_is_only_replaced_when_asked(tmp_path):
    folder = calibration(0).save(tmp_path / "c")
    with pytest.raises(BasisError, match="overwrite"):
        calibration(1).save(folder)
    assert np.array_equal(Calibration.load(folder).statistics.clean, statistics(0).clean)
    calibration(1).save(folder, overwrite=True)
    assert np.array_equal(Calibration.load(folder).statistics.clean, statistics(1).clean)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_calibration_is_a_pytree_of_its_arrays():
    """Its card, with lists and dictionaries, is static; what is derived is computed again."""
    c = calibration(0, data={"clean": ["a"], "noise": ["b"]})
    basis = c.select(Selection(layers="all"))
    assert len(jax.tree.leaves(c)) == 3 and hash(jax.tree.structure(c)) == hash(
        jax.tree.structure(calibration(1, data={}))
    )
    halved = jax.jit(lambda x: jax.tree.map(lambda a: a / 2, x))(c)
    assert halved.card == c.card and halved.site == c.site
    chex.assert_trees_all_equal(halved.source, jax.tree.map(lambda a: a / 2, c.source))
    chex.assert_trees_all_close(halved.select(Selection(layers="all")).q, basis.q, atol=1e-5)
    magnitude = jax.jit(jax.vmap(lambda x: x.curves().magnitude))(
        jax.tree.map(lambda a, b: np.stack([a, b]), c, halved)
    )
    np.testing.assert_allclose(magnitude, [c.curves().magnitude, c.curves().magnitude / 2], rtol=1e-5)
    slopes = jax.grad(lambda x: x.curves().magnitude.sum())(c)
    assert isinstance(slopes, Calibration) and float(jnp.abs(slopes.source.noise).max()) > 0
    streamed = Calibration(c.site, Streamed.of(c.statistics), c.card)
    chex.assert_trees_all_equal(jax.tree.map(lambda a: a, streamed), streamed)


def test_foreign_folders_are_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BasisError, match="not a calibration folder"):
        calibration().save(tmp_path, overwrite=True)
    with pytest.raises(BasisError, match="not a noise basis folder"):
        calibration().select(Selection(layers="all")).save(calibration().save(tmp_path / "c"), overwrite=True)
    assert (tmp_path / "thesis.tex").exists()
    (tmp_path / "empty").mkdir()
    Calibration.load(calibration().save(tmp_path / "empty", overwrite=True))


def test_a_failed_save_leaves_the_old_folder(tmp_path, monkeypatch):
    folder = calibration(0).save(tmp_path / "c")
    with pytest.raises(BasisError, match="JSON"):
        calibration(1, snr_db=np.float32(3)).save(folder, overwrite=True)

    rename = store.Path.rename

    def full_disk(self, target):
        if target == folder and not self.name.endswith(".old"):
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(store.Path, "rename", full_disk)
    with pytest.raises(BasisError, match="no space left"):
        calibration(1).save(folder, overwrite=True)
    assert np.array_equal(Calibration.load(folder).statistics.clean, statistics(0).clean)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def truncate(folder):
    path = folder / "statistics.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def edit_card(**change):
    def damage(folder):
        card = json.loads((folder / "card.json").read_text())
        card.update(change)
        (folder / "card.json").write_text(json.dumps({k: v for k, v in card.items() if v is not None}))
        forged(folder)

    return damage


def tensors(**change):
    def damage(folder):
        stats = statistics()
        arrays = {"clean": stats.clean, "noise": stats.noise, "noisy": stats.noisy, **change}
        save_file(arrays, folder / "statistics.safetensors")
        forged(folder)

    return damage


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: (f / "card.json").unlink(), "card.json is missing"),
        (lambda f: (f / "statistics.safetensors").unlink(), "statistics.safetensors is missing"),
        (truncate, "damaged or truncated"),
        (lambda f: (f / "statistics.safetensors").write_bytes(b""), "damaged or truncated"),
        (lambda f: (f / "card.json").write_text("{"), "not JSON"),
        (lambda f: (f / "card.json").write_bytes(b"\xff\xfe\xfa"), "not JSON"),
        (lambda f: (f / "card.json").write_text("[1]"), "not the card"),
        (edit_card(format_version=3), "format version 3"),
        (edit_card(site=None), "lacks site"),
        (edit_card(shapes=None), "lacks shapes"),
        (edit_card(shapes={"clean": [1, 2, 3]}), "holds shapes"),
        (tensors(clean=np.ones((3, 12, 25), np.float32)), "holds shapes"),
        (tensors(extra=np.ones((1,), np.float32)), "holds shapes"),
        (tensors(noise=np.full((3, 12, 24), np.nan, np.float32)), "NaN"),
        (tensors(noise=np.ones((3, 12, 24), np.float64)), "float64"),
    ],
)
def test_load_errors_name_the_file(tmp_path, damage, named):
    folder = calibration().save(tmp_path / "c")
    damage(folder)
    with pytest.raises(BasisError, match=named) as error:
        Calibration.load(folder)
    assert str(folder) in str(error.value)


def test_missing_and_foreign_folders(tmp_path):
    with pytest.raises(BasisError, match="not a folder"):
        Calibration.load(tmp_path / "nowhere")
    with pytest.raises(BasisError, match="missing"):
        NoiseBasis.load(calibration().save(tmp_path / "c"))


def test_consistent_but_foreign_tensors(tmp_path):
    folder = calibration().save(tmp_path / "c")
    save_file({"other": np.ones((1,), np.float32)}, folder / "statistics.safetensors")
    edit_card(shapes={"other": [1]})(folder)
    with pytest.raises(BasisError, match=r"\['other'\]"):
        Calibration.load(folder)
