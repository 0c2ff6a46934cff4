"""Against figures that the PyTorch original left behind (make_golden.py): parity wherever PyTorch is not installed."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_omni import Row, pack

from seen_jax.models.checkpoint import load_params, read_config
from seen_jax.models.edits import Edit
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.lalm import Lalm
from seen_jax.models.model import forward
from seen_jax.models.sites import ENCODER_SITES, SITES, Taps

FOLDER = Path(__file__).parent / "golden"
STRENGTH = 0.8


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(FOLDER / "reference.npz"))


@pytest.fixture(scope="module")
def lalm():
    return Lalm(read_config(FOLDER)[0])


@pytest.fixture(scope="module")
def variables(lalm):
    return {"params": load_params(FOLDER, *read_config(FOLDER), jnp.float32)}


@pytest.fixture(scope="module")
def rows(golden):
    count = 1 + max(int(key.split("/")[0]) for key in golden if key[0].isdigit())
    clips = lambda i: sorted(key for key in golden if key.startswith(f"{i}/features/"))  # noqa: E731
    return [
        Row(golden[f"{i}/ids"].tolist(), [golden[key].astype(np.float32) for key in clips(i)]) for i in range(count)
    ]


@pytest.fixture(scope="module")
def run(lalm, variables, rows, golden):
    """A forward pass with SEEN at one site; all sites are in the program, so it compiles once."""
    tapped = lalm.clone(taps=Taps(SITES))

    def call(edited: str | None):
        edits = {
            site: Edit(u=jnp.asarray(q), scale=jnp.full(len(q), STRENGTH * (site == edited)))
            for site in SITES
            for q in [golden[f"q/{site}"]]
        }
        return forward(tapped, variables, pack(rows, lalm.config), edits)

    return call


def test_parity_of_logits_and_pooled_sites(run, rows, golden):
    out = run(None)
    audio = 0
    for i, row in enumerate(rows):
        np.testing.assert_allclose(out.logits[i, : len(row.ids)], golden[f"{i}/logits"], atol=1e-4, rtol=0)
        for site in SITES:
            items = slice(audio, audio + len(row.features)) if site in ENCODER_SITES else slice(i, i + 1)
            expected = golden[f"{i}/pooled/{site}"]
            np.testing.assert_allclose(out.taps[site][:, items], expected, atol=1e-5, rtol=0, err_msg=site)
        audio += len(row.features)
    assert np.abs(golden["1/logits"]).max() > 1 and out.taps[SITES[0]].shape[1] == audio


@pytest.mark.parametrize("site", SITES)
def test_parity_of_logits_under_seen(run, rows, golden, site):
    logits = run(site).logits
    for i, row in enumerate(rows):
        last = logits[i, len(row.ids) - 1]
        np.testing.assert_allclose(last, golden[f"{i}/seen/{site}"], atol=1e-4, rtol=0)
        assert np.abs(last - golden[f"{i}/logits"][-1]).max() > 1e-2  # the edit matters


def test_parity_of_greedy_tokens(lalm, variables, rows, golden):
    longest = max(len(golden[f"{i}/greedy"]) for i in range(len(rows)))
    out = generate(lalm, variables, pack(rows, lalm.config), decoding=Decoding(longest))
    for i in range(len(rows)):
        assert out.tokens[i, : int(out.lengths[i])].tolist() == golden[f"{i}/greedy"].tolist()
    assert longest > 10
