"""Streamed calibration: the same bases as in memory, whatever the batches, parts and interruptions."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from tiny_omni import wave, write_checkpoint

import seen_jax
from seen_jax import Selection
from seen_jax.audio import noise_for_clip
from seen_jax.data.items import load_clips
from seen_jax.errors import AudioError, BasisError, ConfigError

LENGTHS = (5200, 3300, 6400, 4807, 4000, 5600, 3500)  # all pad to 40 mel frames


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return seen_jax.load(write_checkpoint(tmp_path_factory.mktemp("tiny") / "omni"))


@pytest.fixture(scope="module")
def pairs():
    clean = [wave(n, seed) for seed, n in enumerate(LENGTHS)]
    return [(c, noise_for_clip("pink", len(c), i)) for i, c in enumerate(clean)]


def same(calibration, expected, selection):
    a, b = calibration.select(selection), expected.select(selection)
    assert a.ranks == b.ranks and a.layers == b.layers and max(a.ranks) > 0
    np.testing.assert_allclose(*(np.einsum("ldr,ler->lde", basis.q, basis.q) for basis in (a, b)), atol=1e-4)


@pytest.mark.slow
def test_seen_tiny_streamed_and_merged_measures_what_it_does_in_memory():
    """More clips than there are channels: short cuts at the residual, which has 192."""
    model = seen_jax.load("seen-tiny")
    site, cut = "encoder.resid", 4_000
    items = [item.wave for item in load_clips("calibration")]
    cuts = [w[start : start + cut] for start in range(0, 48_000, cut) for w in items if len(w) >= start + cut]
    clean = [w for w in cuts if w.std() > 1e-3][:200]
    pairs = [(c, noise_for_clip("white", len(c), i)) for i, c in enumerate(clean)]
    whole = seen_jax.calibrate(model, *map(list, zip(*pairs, strict=True)), site, batch_size=20)
    parts = [seen_jax.calibrate_stream(model, iter(pairs[k::2]), site, batch_size=20) for k in range(2)]
    merged = parts[0].merge(parts[1])
    assert merged.source.shape == (4, 200, 192) and merged.source.clean.factor.shape == (4, 193, 193)
    assert sorted(merged.card["data"]["clean"]) == sorted(whole.card["data"]["clean"])
    assert merged.localization() == whole.localization()
    for selection in (Selection(method="complement", layers="all"), Selection(noise_source="difference", layers="all")):
        expected, basis = whole.select(selection), merged.select(selection)
        assert basis.ranks == expected.ranks and max(basis.ranks) > 0
        got, wanted = ([s.see for s in seen_jax.score(model, clean[:20], b, batch_size=20)] for b in (basis, expected))
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        assert max(wanted) > 0


def test_an_interrupted_stream_goes_on(model, pairs, tmp_path):
    whole = seen_jax.calibrate_stream(model, pairs, batch_size=2)
    kept, done = [], []
    broken = [*pairs[:5], (pairs[5][0], np.zeros(100, np.float32)), pairs[6]]
    with pytest.raises(AudioError, match="calibration pair 5"):
        seen_jax.calibrate_stream(model, broken, batch_size=2, keep=kept.append, seconds=0)
    assert [c.source.shape[1] for c in kept] == [2, 4]
    start = seen_jax.Calibration.load(kept[-1].save(tmp_path / "partial", ranks=False))
    progress = lambda *step: done.append(step)
    resumed = seen_jax.calibrate_stream(model, pairs[4:], batch_size=2, start=start, progress=progress)
    assert resumed.card["data"] == whole.card["data"]
    assert done == [("calibrating", 6, 0), ("calibrating", 7, 0)]
    same(resumed, whole, Selection(method="complement", layers="all"))
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
