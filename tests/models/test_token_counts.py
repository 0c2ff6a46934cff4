"""Audio tokens of clips at the published sizes, against a table that was computed from the originals' formulas."""

from __future__ import annotations

import pytest

from seen_jax.models.family import published_config
from seen_jax.registry import FAMILIES

SAMPLES = (3200, 16000, 16077, 40000, 48077, 160000, 320000, 480000)
PAIRS = (5, 25, 25, 62, 75, 250, 500, 750)
COUNTS = {
    "qwen2_5_omni": PAIRS,
    "qwen3_omni": (3, 13, 13, 33, 39, 130, 260, 390),
    "qwen2_audio": PAIRS,
    "audio_flamingo_3": PAIRS,
    "minicpm_o": PAIRS,
    "step_audio_2": (3, 13, 13, 31, 38, 125, 250, 313 + 63),
    "voxtral": (375,) * 8,
    "glm_asr": (2, 12, 12, 31, 37, 125, 250, 375),
    "ultravox": (2, 7, 7, 16, 19, 63, 125, 188),
    "granite_speech": (3, 12, 12, 27, 30, 102, 201, 300),
    "qwen3_asr": (7, 13, 13, 33, 39, 130, 260, 390),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parity_of_token_counts(name):
    family = FAMILIES[name]
    encoder, framing = published_config(family).encoder, family.framing
    rows = [framing.rows(framing.used_samples(n)) for n in SAMPLES]
    counts = tuple(sum(int(encoder.token_count(row.frames)) for row in clip) for clip in rows)
    assert counts == COUNTS[name]
