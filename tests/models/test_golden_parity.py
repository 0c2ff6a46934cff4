"""Against figures that the PyTorch originals left behind (make_golden.py): parity wherever PyTorch is not installed."""

from __future__ import annotations

import dataclasses
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import BACKBONES, FOLDER, NEW, SECONDS, STRENGTH, golden_requests

from seen_jax.models.batching import Prepared
from seen_jax.models.edits import Edit
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.lalm import Batch
from seen_jax.models.load import load
from seen_jax.models.model import Model, forward
from seen_jax.models.pooling import of_clips
from seen_jax.models.sites import SITES, Taps
from seen_jax.registry import FAMILIES


@dataclasses.dataclass(frozen=True)
class Golden:
    """A tiny model, the original's figures, and our batch of all its questions."""

    model: Model
    figures: dict[str, np.ndarray]
    batch: Batch
    owners: list[list[list[int]]]

    def forward(self, edited: str | None):
        """A pass with SEEN at one site; all sites are in the program, so it compiles once."""
        edits = {}
        for site in SITES:
            q = self.figures[f"q/{site}"]
            edits[site] = Edit(u=jnp.asarray(q), scale=jnp.full(len(q), STRENGTH * (site == edited)))
        return forward(self.model.tapped(Taps(SITES)), self.model.variables, self.batch, edits)

    def logits(self, out, i: int) -> np.ndarray:
        return np.asarray(out.logits[i, : int(self.batch.lengths[i])])


@pytest.fixture(
    scope="module", params=[*(FOLDER / name for name in FAMILIES), *sorted(BACKBONES.iterdir())], ids=lambda p: p.name
)
def golden(request) -> Golden:
    folder = request.param
    if folder.name == "voxtral":
        pytest.importorskip("mistral_common", reason="Voxtral's tokenizer needs the `voxtral` extra")
    model = load(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the clip lasts|qwen3_asr reads a user's audio")
        batch, owners = model.processor.prepared(golden_requests(model.processor.family))
    return Golden(model, dict(np.load(folder / "reference.npz")), batch, owners)


def test_parity_of_prompts_and_frames(golden):
    for i in range(len(SECONDS)):
        ids = golden.batch.tokens[i, : int(golden.batch.lengths[i])]
        assert ids.tolist() == golden.figures[f"{i}/ids"].tolist()
        frames = [int(golden.batch.frames[r]) for clip in golden.owners[i] for r in clip]
        assert frames == golden.figures[f"{i}/frames"].tolist()


def test_parity_of_logits_and_pooled_sites(golden):
    out = golden.forward(None)
    prepared = Prepared(list(range(len(SECONDS))), golden.batch, golden.owners)
    for i in range(len(SECONDS)):
        np.testing.assert_allclose(golden.logits(out, i)[-4:], golden.figures[f"{i}/logits"], atol=1e-4, rtol=0)
    for site in SITES:
        pooled = of_clips(golden.model, site, np.asarray(out.taps[site]), prepared)
        expected = np.stack([golden.figures[f"{i}/pooled/{site}"] for i in range(len(SECONDS))], 1)
        np.testing.assert_allclose(pooled, expected, atol=1e-4, rtol=0, err_msg=site)
    assert np.abs(golden.figures["0/logits"]).max() > 1


def test_parity_of_logits_under_seen(golden):
    plain = golden.forward(None)
    for site in SITES:
        out = golden.forward(site)
        for i in range(len(SECONDS)):
            last = golden.logits(out, i)[-1]
            np.testing.assert_allclose(last, golden.figures[f"{i}/seen/{site}"], atol=1e-4, rtol=0, err_msg=site)
            assert np.abs(last - golden.logits(plain, i)[-1]).max() > 1e-2, "the edit does nothing"


def test_parity_of_greedy_tokens(golden):
    out = generate(golden.model.lalm, golden.model.variables, golden.batch, decoding=Decoding(NEW))
    for i in range(len(SECONDS)):
        expected = golden.figures[f"{i}/greedy"].tolist()
        assert out.tokens[i, : int(out.lengths[i])].tolist() == expected
    assert int(out.lengths.max()) > 10
