"""What Ultravox alone has, live against the composed original: clips under two hops, blocks over several chunks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from test_parity_families import Pair, assert_equal, hiss  # noqa: E402
from torch_families import Tiny  # noqa: E402
from torch_ultravox import build_ultravox  # noqa: E402

from seen_jax.models.config import RopeScaling  # noqa: E402
from seen_jax.models.layers import inverse_frequencies  # noqa: E402
from seen_jax.models.load import load  # noqa: E402
from seen_jax.models.processor import Request  # noqa: E402
from seen_jax.registry import FAMILIES  # noqa: E402

ultravox = FAMILIES["ultravox"]

SMALL = Tiny(n_mels=40, encoder_layers=1, encoder_width=16, encoder_heads=2, layers=1)


@pytest.mark.parametrize("tied", [False, True], ids=["all", "blocks"])
def test_parity_of_very_short_and_long_clips(tmp_path, tied):
    size = dataclasses.replace(SMALL, tied=tied)
    original = build_ultravox(ultravox, size, tmp_path, 0)
    waves = [hiss(s, i) for i, s in enumerate((0.001, 0.0199, 0.0201, 30.5, 60.09))]
    pair = Pair(original, load(tmp_path), [Request([x], "which ?") for x in waves])
    for ours, request in zip(pair.ours(pair.requests), pair.requests, strict=True):
        assert_equal(ours, original.forward(request))


def test_parity_of_clips_alone_and_together(tmp_path):
    """A clip's tokens do not depend on the other clips of its chat."""
    original = build_ultravox(ultravox, SMALL, tmp_path, 0)
    model = load(tmp_path)
    request = Request([hiss(0.5, 0), hiss(31.0, 1), hiss(2.0, 2)], "which ?")
    pair = Pair(original, model, [request])
    assert_equal(next(iter(pair.ours([request]))), original.forward(request))


@pytest.mark.parametrize("original", [1024, 8192])
def test_parity_of_rotary_frequencies(original):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(
        head_dim=64,
        max_position_embeddings=131072,
        rope_parameters=rope | {"rope_theta": 5e5, "original_max_position_embeddings": original},
    )
    theirs = ROPE_INIT_FUNCTIONS["llama3"](config)[0].numpy()
    ours = inverse_frequencies(64, 5e5, RopeScaling(32.0, 1.0, 4.0, original))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0)
