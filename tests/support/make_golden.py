"""Writes golden/FAMILY/: a tiny random model of each family and what its PyTorch original computes on it; and
golden_backbones/KIND/: the same for Ultravox on other language models.

    python tests/support/make_golden.py [FAMILY or KIND ...]     (needs PyTorch; the tests that read the files do not)

Weights lie on bfloat16's grid (see `randomise`), so the files hold exactly what the original computed with.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from golden_cases import BACKBONES, FOLDER, NEW, RANK, STRENGTH, golden_requests
from safetensors.torch import load_file, save_file
from test_parity_families import BUILDERS, NAMES
from tiny_omni import random_q
from torch_families import Original, Tiny, build
from torch_ultravox import LANGUAGE_MODELS, build_ultravox

from seen_jax.models.checkpoint import read_config
from seen_jax.models.edits import Edit
from seen_jax.models.family import Family
from seen_jax.models.safetensors_files import WEIGHTS
from seen_jax.models.sites import ENCODER_SITES, SITES
from seen_jax.registry import FAMILIES

SIZE = Tiny(n_mels=40, encoder_layers=2, encoder_width=16, encoder_heads=2, width=24, heads=2, kv_heads=1, ffn=32)
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tekken.json")


def reference(original: Original, folder: Path) -> dict[str, np.ndarray]:
    config, _ = read_config(folder)
    q = {site: random_q(*config.site_shape(site), RANK, seed=s) for s, site in enumerate(SITES)}
    data: dict[str, np.ndarray] = {f"q/{site}": x for site, x in q.items()}
    for i, request in enumerate(golden_requests(original.family)):
        inputs = original.inputs(request)
        places = original.audio_places(inputs).numpy()
        logits, taps = original.forward(request)
        data[f"{i}/ids"] = inputs["input_ids"][0].numpy().astype(np.int32)
        data[f"{i}/frames"] = np.asarray(original.frames(inputs), np.int32)
        data[f"{i}/logits"] = logits[-4:]
        data[f"{i}/greedy"] = np.asarray(original.greedy(request, NEW), np.int32)
        for site in SITES:
            counted = taps[site] if site in ENCODER_SITES else taps[site][:, places]
            data[f"{i}/pooled/{site}"] = counted.mean(1)
            edit = Edit(u=q[site], scale=np.full(len(q[site]), STRENGTH, np.float32))
            data[f"{i}/seen/{site}"] = original.forward(request, {site: edit})[0][-1]
    return data


def write(folder: Path, family: Family, builder: Callable[..., Original], seed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    original = builder(family, SIZE, folder, seed)
    tensors = {key: x.bfloat16() for key, x in load_file(folder / WEIGHTS).items() if "visual" not in key}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    for path in folder.iterdir():
        if path.name not in (WEIGHTS, "config.json", "generation_config.json", *TOKENIZERS):
            path.unlink()
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text())) + "\n")
    np.savez_compressed(folder / "reference.npz", **reference(original, folder))
    print(folder.name, {path.name: path.stat().st_size for path in sorted(folder.iterdir())})


def main() -> None:
    cases = [(FOLDER / name, FAMILIES[name], BUILDERS.get(name, build)) for name in NAMES]
    for kind in [kind for kind in LANGUAGE_MODELS if kind != "llama"]:
        cases.append((BACKBONES / kind, FAMILIES["ultravox"], functools.partial(build_ultravox, kind=kind)))
    for seed, (folder, family, builder) in enumerate(cases):
        if not sys.argv[1:] or folder.name in sys.argv[1:]:
            write(folder, family, builder, seed)


if __name__ == "__main__":
    main()
