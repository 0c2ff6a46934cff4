"""The shipped weights in PyTorch `transformers` and here: logits, answers, every site, and SEEN, on 200 clips."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from tiny_omni import Row, prompt_ids  # noqa: E402
from torch_omni import Original  # noqa: E402

from seen_jax.api import generate  # noqa: E402
from seen_jax.audio import mix_at_snr, noise_for_clip  # noqa: E402
from seen_jax.data.items import load_clips  # noqa: E402
from seen_jax.edits import projection  # noqa: E402
from seen_jax.models.generate import Decoding  # noqa: E402
from seen_jax.models.load import load  # noqa: E402
from seen_jax.models.model import forward  # noqa: E402
from seen_jax.models.pooling import pool  # noqa: E402
from seen_jax.models.processor import Request  # noqa: E402
from seen_jax.models.sites import DECODER_RESID, ENCODER_MLP_ACT, SITES, Taps  # noqa: E402
from seen_jax.subspace import Calibration, Selection, Statistics  # noqa: E402

CLIPS = 200


@pytest.fixture(scope="module")
def model():
    return load("seen-tiny")


@pytest.fixture(scope="module")
def original(model):
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    loaded, info = Thinker.from_pretrained(model.folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), f"transformers does not load the folder cleanly: {info}"
    return Original(loaded.eval())


@pytest.fixture(scope="module")
def requests():
    """All shipped clips, and noisy versions of some of them."""
    items = [item for subset in ("calibration", "validation", "demo") for item in load_clips(subset)]
    clean = [Request([item.wave], item.prompt) for item in items]
    for i, item in enumerate(items):
        snr = (0.0, 5.0, 10.0, 20.0)[i % 4]
        noisy = mix_at_snr(item.wave, noise_for_clip("white", len(item.wave), i), snr).audio
        clean.append(Request([noisy], item.prompt))
    assert len(clean) >= CLIPS
    return clean[:CLIPS]


def row(model, request) -> Row:
    audio, _ = model.processor.audio(request.audio)
    features = np.asarray(audio.features[0, : audio.frames[0]])
    return Row(ids=prompt_ids(model, request), features=[features])


@pytest.fixture(scope="module")
def basis(model):
    waves = [item.wave for item in load_clips("calibration")[:12]]
    noise = [noise_for_clip("white", len(w), i) for i, w in enumerate(waves)]
    pooled = (pool(model, clips, [ENCODER_MLP_ACT])[ENCODER_MLP_ACT] for clips in (waves, noise))
    return Calibration(ENCODER_MLP_ACT, Statistics(*pooled)).select(Selection(method="complement", layers="all"))


def test_parity_of_greedy_answers_on_200_clips(model, original, requests):
    ours = generate(model, requests, decoding=Decoding(12), batch_size=25)
    theirs = [original.greedy(row(model, request), 12) for request in requests]
    assert [list(answer.tokens) for answer in ours] == theirs


def test_parity_of_logits_and_sites(model, original, requests):
    """Logits of all clips, sites of every eighth: `docs/seen_tiny.md` says how far they are apart on all of them.

    decoder.resid comes near 60, where PyTorch's own float32 is 0.9e-4 off its float64: past 1e-4 it is reported as an
    expected failure, past 5e-6 of its layer's largest activation it fails.
    """
    beyond = 0.0
    lalm = model.tapped(Taps(SITES, "full"))
    for i, request in enumerate(requests):
        one = row(model, request)
        out = forward(lalm, model.variables, model.processor.prepare([request]), {})
        logits, taps = original.forward(one)
        np.testing.assert_allclose(out.logits[0, : len(one.ids)], logits, atol=1e-4)
        for site in SITES if i % 8 == 0 else ():
            n = taps[site].shape[1]
            gap = np.abs(np.asarray(out.taps[site][:, 0, :n]) - taps[site])
            allowed = np.full((len(gap), 1, 1), 1e-4)
            if site == DECODER_RESID:
                beyond = max(beyond, float(gap.max()))
                allowed = np.maximum(allowed, 5e-6 * np.abs(taps[site]).max((1, 2), keepdims=True))
            assert (gap <= allowed).all(), f"{site} of clip {i}: {gap.max():g}"
    if beyond > 1e-4:
        pytest.xfail(f"{DECODER_RESID} is {beyond:.2g} off, past 1e-4")


def test_parity_of_seen_at_the_papers_site(model, original, requests, basis):
    """The same projection by a forward hook on `activation_fn`."""
    edits = projection(model, basis, 1.0)
    assert max(basis.ranks) > 0
    for request in requests[::16]:
        one = row(model, request)
        out = forward(model.lalm, model.variables, model.processor.prepare([request]), edits)
        logits, _ = original.forward(one, edits)
        plain, _ = original.forward(one)
        np.testing.assert_allclose(out.logits[0, : len(one.ids)], logits, atol=1e-4)
        assert np.abs(plain - logits).max() > 1e-2, "the edit must matter"
    assert bool(jnp.isfinite(out.see[ENCODER_MLP_ACT].after).all())
