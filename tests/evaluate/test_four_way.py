"""The four answers about every item in one call are those of four calls."""

from __future__ import annotations

import numpy as np
import pytest

from seen_jax.api import calibrate, generate
from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.data.items import load_clips
from seen_jax.errors import ConfigError
from seen_jax.evaluate.four_way import four_way
from seen_jax.models.generate import Decoding
from seen_jax.models.model import Model, load
from seen_jax.models.processor import Request
from seen_jax.subspace import Selection


def test_four_answers_are_those_of_four_calls(monkeypatch):
    model, items = load("seen-tiny"), load_clips("demo")[:5]
    waves = [item.wave for item in items]
    noises = [noise_for_clip("white", len(wave), i) for i, wave in enumerate(waves)]
    noisy = [mix_at_snr(wave, noise, 0.0).audio for wave, noise in zip(waves, noises, strict=True)]
    basis = calibrate(model, waves, noises).select(Selection(method="complement", layers="last_third"))
    requests = [Request([item.wave], item.prompt) for item in items]
    found = four_way(model, requests, noisy, basis, 0.9, Decoding(6), batch_size=2)
    for name, heard, strength in (
        ("clean", waves, 0.0), ("clean_seen", waves, 0.9), ("noisy", noisy, 0.0), ("noisy_seen", noisy, 0.9),
    ):  # fmt: skip
        asked = [Request([wave], item.prompt) for wave, item in zip(heard, items, strict=True)]
        alone = generate(model, asked, basis=basis, strength=strength, decoding=Decoding(6))
        ours = [getattr(f, name) for f in found]
        assert [a.tokens for a in ours] == [a.tokens for a in alone]
        assert [a.text for a in ours] == [a.text for a in alone]
        np.testing.assert_allclose([a.see for a in ours], [a.see for a in alone], atol=1e-6)
        np.testing.assert_allclose([a.see_after for a in ours], [a.see_after for a in alone], atol=1e-5)
    monkeypatch.setattr(Model, "concurrent", False)  # as on a GPU: one batch at a time
    assert four_way(model, requests, noisy, basis, 0.9, Decoding(6), batch_size=2) == found
    with pytest.raises(ConfigError, match="of the same length"):
        four_way(model, requests, [wave[:-1] for wave in noisy], basis)
