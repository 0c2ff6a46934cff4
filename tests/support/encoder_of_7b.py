"""Loads the encoder of a random checkpoint of Qwen2.5-Omni-7B's shapes and scores with it: memory, and bytes read.

    python tests/support/encoder_of_7b.py        (1.3 GB in the folder for temporary files)

Four shards in bfloat16; the decoder's weights are holes in sparse files, which take no room on the disk. Prints JSON:
the sizes of the files and of the encoder, the bytes that were read of weight files, and the peak of host memory above
that of the process before loading, in GB, after loading and after scoring a clip of 10 s.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from large_checkpoint import FULL, peak
from tiny_omni import OPENERS, WORDS, config_json, hiss, random_basis

import seen_jax
from seen_jax.models.checkpoint import read_config, weight_table
from seen_jax.models.folders import INDEX
from seen_jax.models.sites import ENCODER_MLP_ACT
from seen_jax.train.export import write_tokenizer

SHARDS, SECONDS, ITEM = 4, 10.0, 2
SIZE = dataclasses.replace(FULL, layers=28)


def write(folder: Path) -> dict[str, float]:
    """Write the folder; returns GB."""
    write_tokenizer(folder, WORDS, OPENERS)
    (folder / "config.json").write_text(json.dumps(config_json(SIZE)))
    table = weight_table(*read_config(folder))
    encoder = [key for key, slot in table.items() if slot.path[0] == "encoder"]
    keys = [*encoder, *(key for key in table if key not in set(encoder))]  # as published: the audio tower comes first
    size = {key: math.prod(table[key].shape) * ITEM for key in keys}
    total, done = sum(size.values()), 0
    shards: list[list[str]] = [[] for _ in range(SHARDS)]
    for key in keys:
        shards[min(SHARDS * done // total, SHARDS - 1)].append(key)
        done += size[key]
    block = (0.02 * np.random.default_rng(0).standard_normal(1 << 22)).astype(jnp.bfloat16)
    weight_map = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors"
        write_shard(folder / name, {key: table[key].shape for key in shard}, set(encoder), block)
        weight_map |= dict.fromkeys(shard, name)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return {"files": total / 1e9, "encoder": sum(size[key] for key in encoder) / 1e9}


def write_shard(path: Path, shapes: dict[str, tuple[int, ...]], filled: set[str], block: np.ndarray) -> None:
    """A safetensors file in bfloat16, with numbers for the tensors that are `filled` and a hole for every other."""
    header: dict[str, Any] = {}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + math.prod(shape) * ITEM
        header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + end)
        for key in filled & shapes.keys():
            f.seek(8 + len(text) + header[key]["data_offsets"][0])
            f.write(np.resize(block, shapes[key]).tobytes())


def bytes_read() -> int:
    """What this process has read through files so far, from the disk or its cache."""
    line = next(x for x in Path("/proc/self/io").read_text().splitlines() if x.startswith("rchar"))
    return int(line.split()[1])


def measure(folder: Path) -> dict[str, float]:
    """Load the encoder and score a clip with it, in this process."""
    jnp.zeros(1).block_until_ready()
    weight_table(*read_config(folder, "encoder"))  # what is imported and traced on the way does not grow with weights
    idle, read, start = peak(), bytes_read(), time.perf_counter()
    model = seen_jax.load(folder, "bfloat16", part="encoder")
    jax.block_until_ready(model.variables)
    loaded, read, seconds = peak() - idle, bytes_read() - read, time.perf_counter() - start
    basis = random_basis(model.config, ENCODER_MLP_ACT, [4] * SIZE.encoder_layers)
    see = seen_jax.score(model, hiss(SECONDS, 0), basis).see
    return {"read": read / 1e9, "seconds": seconds, "loaded": loaded, "scored": peak() - idle, "see": see}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="measure this one, in this process")
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(measure(args.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        sizes = write(Path(name))
        command = [sys.executable, __file__, "--folder", name]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(json.dumps({**sizes, **measured}))


if __name__ == "__main__":
    main()
