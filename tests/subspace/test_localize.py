"""Layer localisation on hand-made curves."""

import jax.numpy as jnp
import numpy as np
import pytest

from seen_jax.errors import BasisError, ConfigError
from seen_jax.subspace.localize import Curves, Localization, layer_curves, localize, resolve_layers


def curves(magnitude, direction):
    return Curves(jnp.asarray(magnitude, jnp.float32), jnp.asarray(direction, jnp.float32))


def test_curves_equal_their_definition():
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    noise[2] = 0
    got = layer_curves(clean, noise)
    for layer in range(3):
        s, n = clean[layer].astype(np.float64).ravel(), noise[layer].astype(np.float64).ravel()
        assert float(got.magnitude[layer]) == pytest.approx(np.linalg.norm(s - n), rel=1e-5)
        cosine = s @ n / (np.linalg.norm(s) * np.linalg.norm(n)) if n.any() else 0.0
        assert float(got.direction[layer]) == pytest.approx(cosine, abs=1e-6)


def test_first_layer_that_meets_both_conditions():
    # magnitude mean 3: layers 1, 3, 4 above; direction mean 0.5: layers 2, 3, 4 below
    assert localize(curves([1, 4, 2, 4, 4], [0.9, 0.8, 0.3, 0.3, 0.2])) == Localization(3, True)
    assert localize(curves([1, 1, 1, 9], [0.1, 0.9, 0.9, 0.2])) == Localization(3, True)


@pytest.mark.parametrize(
    ("magnitude", "direction", "first"),
    [
        ([4, 3, 2, 1, 1, 1], [0.9, 0.8, 0.3, 0.2, 0.2, 0.2], 4),  # the peaks are apart
        ([0.15] * 7, [0.2] * 7, 4),  # constant: in float32, 0.15 is above and 0.2 below the computed mean
        ([5.0], [0.1], 0),
    ],
)
def test_fallback_is_the_last_third(magnitude, direction, first):
    assert localize(curves(magnitude, direction)) == Localization(first, False)


def test_nan_curves_are_refused():
    with pytest.raises(BasisError, match="NaN"):
        localize(curves([1, np.nan], [0.1, 0.2]))


def test_named_layers():
    where = Localization(5, True)
    assert resolve_layers("auto", 8, where) == (5, 6, 7)
    assert resolve_layers("all", 3) == (0, 1, 2)
    thirds = [resolve_layers(name, 8) for name in ("first_third", "middle_third", "last_third")]
    assert thirds == [(0, 1), (2, 3, 4), (5, 6, 7)]
    assert resolve_layers((4, 1), 8, where) == (1, 4)


@pytest.mark.parametrize("layers", ["auto", "first_third", (2,), (-1,), ()])
def test_layers_that_make_no_sense(layers):
    with pytest.raises(ConfigError):
        resolve_layers(layers, 2)
