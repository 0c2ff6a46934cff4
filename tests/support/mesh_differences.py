"""Prints, as JSON, how far models on meshes of 8 devices are from one device: {model: {mesh: {figure: difference}}}.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu python tests/support/mesh_differences.py FOLDER

FOLDER gets a miniature checkpoint whose heads and vocabulary 8 devices can share.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from golden_cases import FOLDER
from tiny_omni import Size, random_basis, random_edit, random_q, wave, write_checkpoint

import seen_jax
from seen_jax.models import attention
from seen_jax.models.edits import Edit
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.generate_edits import generate_edits
from seen_jax.models.load import load
from seen_jax.models.model import Model
from seen_jax.models.processor import Request
from seen_jax.models.sharding import make_mesh
from seen_jax.models.sites import DECODER_MLP_ACT, DECODER_RESID, ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR, Taps

MESHES = {"8x1": (8, 1), "1x8": (1, 8), "2x4": (2, 4)}
MIXED = ("2x4",)
LENGTHS = (4800, 8080, 7000, 6200, 6400)
SHARED = Size(encoder_width=32, encoder_heads=8, heads=8, kv_heads=8, width=64, ffn=64)
SITES = (ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR, DECODER_MLP_ACT, DECODER_RESID)


def sounds() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Clips, and a noise for each."""
    rng = np.random.default_rng(0)
    noises = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in LENGTHS]
    return [wave(n, seed) for seed, n in enumerate(LENGTHS)], noises


def through_the_api(model: Model) -> dict[str, Any]:
    """Calibration and answers with SEEN, in uneven batches."""
    clips, noises = sounds()
    calibration = seen_jax.calibrate(model, clips, noises, batch_size=3)
    answers = seen_jax.generate(model, clips, basis=calibration.select(), decoding=Decoding(8), batch_size=3)
    statistics = calibration.statistics
    return {
        "answers": [a.text for a in answers],
        "see": np.array([(a.see, a.see_after) for a in answers]),
        "pooled": np.stack([statistics.clean, statistics.noise, statistics.noisy]),
    }


def several_edits_and_scores(model: Model) -> dict[str, Any]:
    """Answers to noisy clips under several edits in one call and with clean activations at every site, and scores."""
    clips, noises = sounds()
    basis = random_basis(model.config, DECODER_RESID, [2] * model.config.site_shape(DECODER_RESID)[0])
    basis = dataclasses.replace(basis, card={"fingerprint": model.fingerprint})
    noisy = [Request([x + y], "which color ?") for x, y in zip(clips, noises, strict=True)]
    variants = [{basis.site: Edit(u=jnp.asarray(basis.q), scale=basis.strengths(s))} for s in (0.0, 0.5, 1.0)]
    clean = [Request([x], "which color ?") for x in clips]
    patched = [seen_jax.patch(model, clean, noisy, site, decoding=Decoding(2)) for site in SITES]
    outs = generate_edits(model.lalm, model.variables, model.processor.prepare(noisy), variants, Decoding(8))
    return {
        "answers": [out.tokens[: len(noisy)].tolist() for out in outs],
        "see": np.stack(
            [x[:, : len(noisy)] for out in outs for x in (out.see[basis.site].before, out.see[basis.site].after)]
        ),
        "patched": np.stack([p.logits for of_site in patched for p in of_site]),
        "scores": np.array([s.per_layer for s in seen_jax.score(model, clips, basis)]),
    }


def mixtures_of_maps(model: Model) -> dict[str, Any]:
    """Answers, and the encoder's last states, where every frame has a mixture of its own of three maps."""
    clips, _ = sounds()
    batch = model.processor.prepare([Request([clip], "which color ?") for clip in clips])
    depth, width = model.config.site_shape(ENCODER_RESID)
    lalm = model.tapped(Taps((ENCODER_RESID,), reduce="full"))
    answer = lambda edits: jax.device_get(generate(lalm, model.variables, batch, edits, Decoding(8)))
    rng = np.random.default_rng(1)
    u, v = (
        jnp.asarray(random_q(depth * 3, width, 2, 0)).reshape(depth, 3, width, 2),
        jnp.asarray(random_q(depth, width, 2, 1)),
    )
    bias = jnp.asarray(0.1 * rng.standard_normal((depth, 3, width)), jnp.float32)
    rows, frames = answer({}).taps[ENCODER_RESID].shape[1:3]
    weights = np.zeros((depth, rows, frames, 3), np.float32)
    weights[:, : len(clips)] = rng.dirichlet(np.ones(3), (depth, len(clips), frames))
    out = answer({ENCODER_RESID: Edit(u, jnp.full(depth, 0.5), v, bias, weights=jnp.asarray(weights))})
    states = out.taps[ENCODER_RESID][-1, : len(clips)]
    return {"answers": out.tokens[: len(clips)].tolist(), "logits": out.logits[: len(clips)], "states": states}


def in_one_call(model: Model) -> dict[str, Any]:
    """Greedy answers under edits at all sites, their SEE and pooled activations: 7 clips in 4 rows."""
    clips = [[0], [1, 2], [3], [4, 0, 1]]
    requests = [Request([wave(LENGTHS[i], i) for i in indices], "which color ?") for indices in clips]
    batch, owners = model.processor.prepared(requests)
    edits = {site: random_edit(model.config, site, strength=0.8) for site in SITES}
    lalm = model.tapped(Taps(SITES))
    out = jax.device_get(generate(lalm, model.variables, batch, edits, Decoding(8)))
    rows = [row for request in owners for clip in request for row in clip]
    real = lambda site, x: x[:, rows if site in SITES[:3] else slice(len(clips))].ravel()
    see = [real(site, x) for site, see in out.see.items() for x in (see.before, see.after)]
    return {
        "answers": out.tokens.tolist(),
        "see": np.concatenate(see),
        "pooled": np.concatenate([real(site, x) for site, x in out.taps.items()]),
        "logits": out.logits,
    }


def in_blocks(model: Model) -> dict[str, Any]:
    """`in_one_call` with attention in blocks of 8 positions."""
    kept = attention.LONG, attention.BLOCK
    attention.LONG, attention.BLOCK = 4, 8
    jax.clear_caches()
    try:
        return in_one_call(model)
    finally:
        attention.LONG, attention.BLOCK = kept
        jax.clear_caches()


def share_on_one(model: Model) -> float:
    """Share of the parameters' bytes that lies on one device."""
    leaves = flatten_dict(model.variables["params"]).values()
    return sum(x.addressable_shards[0].data.nbytes for x in leaves) / sum(x.nbytes for x in leaves)


def main() -> None:
    shared = write_checkpoint(Path(sys.argv[1]), SHARED)
    differences: dict[str, dict[str, Any]] = {}
    cases = [
        ("seen-tiny", "seen-tiny", through_the_api, MESHES),
        ("shared_heads", shared, in_one_call, MESHES),
        ("in_blocks", shared, in_blocks, MIXED),
        *((family, FOLDER / family, in_one_call, MIXED) for family in ("qwen3_omni", "granite_speech")),
        ("qwen2_5_omni", FOLDER / "qwen2_5_omni", several_edits_and_scores, MIXED),
        ("maps_per_frame", FOLDER / "qwen2_5_omni", mixtures_of_maps, MIXED),
    ]
    for case, name, figures, meshes in cases:
        alone = figures(load(name))
        by_mesh = differences.setdefault(case, {})
        for mesh in meshes:
            model = load(name, mesh=make_mesh(*MESHES[mesh]))
            sharded = figures(model)
            by_mesh[mesh] = {
                "same": sharded.pop("answers") == alone["answers"],
                **{key: float(np.abs(x - alone[key]).max()) for key, x in sharded.items()},
                "on_one_device": share_on_one(model),
            }
    print(json.dumps(differences))


if __name__ == "__main__":
    main()
