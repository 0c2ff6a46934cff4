"""Loads a random bfloat16 checkpoint with Qwen2.5-Omni's shapes, and measures time and memory beside a plain read.

    python tests/support/large_checkpoint.py        (4.4 GB, in the folder for temporary files)

Depth is cut; the encoder, the embedding and the output map have their published sizes. Prints JSON: size and peaks in
GB (of resident memory above that of the idle process), seconds per alternation, and the two ratios.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tiny_omni import OPENERS, WORDS, Size, config_json

from seen_jax.models.checkpoint import load_params, parameter_shapes, read_config
from seen_jax.models.safetensors_files import INDEX
from seen_jax.models.weights import slots
from seen_jax.train.export import write_tokenizer

FULL = Size(
    n_mels=128, n_window=100, encoder_layers=32, encoder_width=1280, encoder_heads=20, encoder_ffn=5120, layers=2,
    width=3584, heads=28, kv_heads=4, ffn=18944, vocab=152064,
)  # fmt: skip
SMALL = Size(
    n_mels=128, n_window=100, encoder_layers=8, encoder_width=1280, encoder_heads=20, encoder_ffn=5120, layers=1,
    width=1024, heads=8, kv_heads=2, ffn=4096, vocab=32000,
)  # fmt: skip
SHARD = 1_500_000_000  # bytes


def write(folder: Path, size: Size) -> float:
    """Write the folder; returns the GB of its weights."""
    from safetensors.numpy import save_file

    write_tokenizer(folder, WORDS, OPENERS)
    (folder / "config.json").write_text(json.dumps(config_json(size)))
    config, family = read_config(folder)
    numbers = np.random.default_rng(0).standard_normal(1 << 22).astype(np.float32) * 0.02
    block = numbers.astype(jnp.bfloat16)
    shards: list[dict[str, np.ndarray]] = [{}]
    for key, slot in slots(family.rules(config), parameter_shapes(config)).items():
        if sum(x.nbytes for x in shards[-1].values()) > SHARD:
            shards.append({})
        shards[-1][key] = np.resize(block, slot.shape)
    weight_map = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
        shards[i] = {}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9


def peak() -> float:
    """Highest resident memory of this process so far, in GB; ru_maxrss would start at the parent's."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def load(folder: Path) -> float:
    config, family = read_config(folder)
    start = time.perf_counter()
    params = jax.block_until_ready(load_params(folder, config, family, jnp.bfloat16))
    seconds = time.perf_counter() - start
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    return seconds


def read(folder: Path) -> float:
    start = time.perf_counter()
    kept = [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]
    del kept
    return time.perf_counter() - start


def measure(folder: Path, repeats: int) -> dict[str, object]:
    parameter_shapes(read_config(folder)[0])  # what is imported and traced on the way does not grow with the weights
    jnp.zeros(1).block_until_ready()
    idle = peak()
    load(folder)
    memory = peak() - idle
    seconds = []
    for _ in range(repeats):
        gc.collect()
        plain = read(folder)
        gc.collect()
        seconds.append((plain, load(folder)))
    return {"peak": memory, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="0.5 GB")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="measure this one, in this process")
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(measure(args.folder, args.repeats)))
        return
    with tempfile.TemporaryDirectory() as name:
        size = write(Path(name), SMALL if args.small else FULL)
        command = [sys.executable, __file__, "--folder", name, "--repeats", str(args.repeats)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ratio = statistics.median(ours / plain for plain, ours in found["seconds"])
    print(json.dumps({"size": size, **found, "peak_to_size": found["peak"] / size, "load_to_read": ratio}))


if __name__ == "__main__":
    main()
