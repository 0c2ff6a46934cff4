"""Writes golden/: a tiny random Qwen2.5-Omni thinker and what the PyTorch original computes on it.

    python tests/models/make_golden.py        (needs PyTorch; the tests that read the files do not)

The weights are rounded to bfloat16 and the features to float16 before anything is computed, so the files hold exactly
what the original saw.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_omni import AUDIO, Row, Size, random_q, random_row
from torch_omni import Original, build, save

from seen_jax.models.checkpoint import read_config
from seen_jax.models.config import conv_length, token_count
from seen_jax.models.edits import Edit
from seen_jax.models.sites import ENCODER_SITES, PROJECTOR, SITES

FOLDER = Path(__file__).parent / "golden"
SIZE = Size(
    n_mels=16, n_window=50, encoder_layers=2, encoder_width=24, encoder_heads=3, encoder_ffn=40, layers=2, width=32,
    heads=4, kv_heads=2, ffn=48, vocab=80,
)  # fmt: skip
CLIPS = ((57,), (430,), (201, 3))
RANK, STRENGTH, NEW = 3, 0.8, 24


def pooled(taps: dict[str, np.ndarray], row: Row, site: str) -> np.ndarray:
    """[L, clips, D] at encoder sites, [L, 1, D] over the audio tokens at decoder sites."""
    if site in ENCODER_SITES:
        count = token_count if site == PROJECTOR else conv_length
        ends = np.cumsum([int(count(f)) for f in row.frames])
        return np.stack([x.mean(1) for x in np.split(taps[site], ends[:-1], axis=1)], axis=1)
    return taps[site][:, np.asarray(row.ids) == AUDIO].mean(1, keepdims=True)


def main() -> None:
    model = build(SIZE, seed=11)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16().float())
    with tempfile.TemporaryDirectory() as name:
        saved = save(model, Path(name))
        tensors = {key: x.bfloat16() for key, x in load_file(saved / "model.safetensors").items()}
        FOLDER.mkdir(exist_ok=True)
        for file in ("config.json", "generation_config.json"):
            content = json.loads((saved / file).read_text())
            (FOLDER / file).write_text(json.dumps(content, indent=1) + "\n")
    audio_and_text = {key: x for key, x in tensors.items() if "visual" not in key}
    save_file(audio_and_text, FOLDER / "model.safetensors", {"format": "pt"})

    config, _ = read_config(FOLDER)
    original = Original(model)
    rows = [random_row(frames, SIZE.n_mels, SIZE.vocab, 40 + i) for i, frames in enumerate(CLIPS)]
    rows = [Row(row.ids, [x.astype(np.float16).astype(np.float32) for x in row.features]) for row in rows]
    data: dict[str, np.ndarray] = {}
    for s, site in enumerate(SITES):
        data[f"q/{site}"] = random_q(*config.site_shape(site), RANK, seed=s)
    for i, row in enumerate(rows):
        logits, taps = original.forward(row)
        data[f"{i}/ids"], data[f"{i}/logits"] = np.asarray(row.ids, np.int32), logits
        data[f"{i}/greedy"] = np.asarray(original.greedy(row, NEW), np.int32)
        for a, x in enumerate(row.features):
            data[f"{i}/features/{a}"] = x.astype(np.float16)
        for site in SITES:
            data[f"{i}/pooled/{site}"] = pooled(taps, row, site)
            q = data[f"q/{site}"]
            edit = Edit(u=q, scale=np.full(len(q), STRENGTH, np.float32))
            data[f"{i}/seen/{site}"] = original.forward(row, {site: edit})[0][-1]
    np.savez_compressed(FOLDER / "reference.npz", **data)
    print({path.name: path.stat().st_size for path in FOLDER.iterdir()})


if __name__ == "__main__":
    main()
