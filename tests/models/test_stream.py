"""Streamed calibration: the same bases as in memory, whatever the batches, parts and interruptions."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from tiny_omni import wave

import seen_jax
from seen_jax import Selection
from seen_jax.audio import noise_for_clip
from seen_jax.errors import AudioError, BasisError, ConfigError
from seen_jax.evaluate.items import load_clips

LENGTHS = (5200, 3300, 6400, 4807, 4000, 5600, 3500)  # all pad to 40 mel frames


@pytest.fixture(scope="module")
def pairs():
    clean = [wave(n, seed) for seed, n in enumerate(LENGTHS)]
    return [(c, noise_for_clip("pink", len(c), i)) for i, c in enumerate(clean)]


def same(own, expected, selection):
    a, b = own.select(selection), expected.select(selection)
    assert a.ranks == b.ranks and a.layers == b.layers and max(a.ranks) > 0
    np.testing.assert_allclose(*(np.einsum("ldr,ler->lde", basis.q, basis.q) for basis in (a, b)), atol=1e-4)


def test_seen_tiny_streamed_and_merged_measures_what_it_does_in_memory():
    """More clips than the encoder's MLP is wide would take minutes: the narrower residual has 192 channels."""
    model = seen_jax.load("seen-tiny")
    site = "encoder.resid"
    width = model.config.site_shape(site)[1]
    items = [item.wave for name in ("calibration", "validation", "demo") for item in load_clips(name)]
    clean = [w[start : start + 16_000] for start in (0, 16_000) for w in items if len(w) >= start + 16_000]
    clean = [w for w in clean if np.abs(w).max() > 1e-3][: width + 40]
    assert len(clean) > width
    pairs = [(c, noise_for_clip("white", len(c), i)) for i, c in enumerate(clean)]
    whole = seen_jax.calibrate(model, *map(list, zip(*pairs, strict=True)), site, batch_size=16)
    one = seen_jax.calibrate_stream(model, iter(pairs), site, batch_size=16)
    parts = [seen_jax.calibrate_stream(model, pairs[k::2], site, batch_size=16) for k in range(2)]
    two = parts[0].merge(parts[1])
    assert one.card["data"] == whole.card["data"]
    for source in ("pure", "difference"):
        selection = Selection(method="complement", noise_source=source, layers="all")
        expected = whole.select(selection)
        see = [s.see for s in seen_jax.score(model, clean[:16], expected, batch_size=16)]
        assert min(see) > 0
        for own in (one, two):
            basis = own.select(selection)
            assert basis.ranks == expected.ranks
            got = [s.see for s in seen_jax.score(model, clean[:16], basis, batch_size=16)]
            np.testing.assert_allclose(got, see, atol=1e-5)
            assert own.localization() == whole.localization()


def test_an_interrupted_stream_goes_on(model, pairs, tmp_path):
    whole = seen_jax.calibrate_stream(model, pairs, batch_size=2)
    kept, done = [], []
    broken = [*pairs[:5], (pairs[5][0], np.zeros(100, np.float32)), pairs[6]]
    with pytest.raises(AudioError, match="calibration pair 5"):
        seen_jax.calibrate_stream(model, broken, batch_size=2, keep=kept.append, seconds=0)
    assert [c.source.shape[1] for c in kept] == [2, 4]
    start = seen_jax.Calibration.load(kept[-1].save(tmp_path / "partial", ranks=False))
    own = seen_jax.calibrate_stream(model, pairs[4:], batch_size=2, start=start, progress=done.append)
    assert own.card["data"] == whole.card["data"] and done == [6, 7]
    same(own, whole, Selection(method="complement", layers="all"))
    in_memory = seen_jax.calibrate(model, *map(list, zip(*pairs[:4], strict=True)), batch_size=2)
    same(seen_jax.calibrate_stream(model, pairs[4:], batch_size=2, start=in_memory), whole, Selection(layers="all"))


def test_one_batch_of_audio_is_held(model, pairs):
    alive, most = weakref.WeakSet(), []

    class Clip(np.ndarray):
        """Arrays proper cannot be counted by weak reference in a set: they do not hash."""

        __hash__ = object.__hash__

    def counted():
        for i in range(12):
            clip = pairs[i % len(pairs)][0].copy().view(Clip)
            alive.add(clip)
            most.append(len(alive))
            yield clip, pairs[i % len(pairs)][1]
            del clip
            gc.collect()

    seen_jax.calibrate_stream(model, counted(), batch_size=2)
    assert max(most) <= 3


def test_what_cannot_be_streamed(model, pairs):
    with pytest.raises(AudioError, match="at least one clean clip"):
        seen_jax.calibrate_stream(model, [])
    with pytest.raises(ConfigError, match="batch size"):
        seen_jax.calibrate_stream(model, pairs, batch_size=0)
    with pytest.raises(ConfigError, match="unknown site"):
        seen_jax.calibrate_stream(model, pairs, "encoder.mlp")
    start = seen_jax.calibrate_stream(model, pairs[:2], batch_size=2)
    other = replace(start, card={**start.card, "fingerprint": "other"})
    with pytest.raises(BasisError, match="fingerprint"):
        seen_jax.calibrate_stream(model, pairs[2:4], batch_size=2, start=other)
