"""Suites that start programs: import and the demo; and what compiling costs."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seen_jax.audio import write_audio
from seen_jax.bench.suites import Bench, Timed
from seen_jax.bench.timing import ratio
from seen_jax.data.items import load_clips
from seen_jax.errors import SeenError
from seen_jax.models.config import DecoderConfig
from seen_jax.models.decoder import Decoder
from seen_jax.models.load import load


def started(*args: str, **env: str) -> float:
    """Seconds of a program of this Python. SeenError if it fails."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *args], env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode:
        raise SeenError(f"python {' '.join(args)} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return time.perf_counter() - start


def imports(bench: Bench) -> Timed:
    """A process that imports jax, and one that imports this package."""
    sides = {"jax": lambda: started("-c", "import jax"), "seen_jax": lambda: started("-c", "import jax, seen_jax")}
    times = bench.turns("import", sides)
    beyond = sorted(b - a for a, b in zip(times["jax"], times["seen_jax"], strict=True))
    return Timed(times, {}, values={"seconds beyond import jax": beyond[len(beyond) // 2]})


def demo(bench: Bench) -> Timed:
    """The demo as a user starts it, with an empty compilation cache and with a filled one."""
    with tempfile.TemporaryDirectory() as folder:
        cold: list[float] = []
        warm: list[float] = []
        for turn in range(2):
            cache = str(Path(folder) / f"cache{turn}")
            for kind, seconds in (("cold", cold), ("warm", warm)):
                out = str(Path(folder) / f"{kind}{turn}")
                seconds.append(started("-m", "seen_jax.cli", "demo", "--out", out, SEEN_JAX_CACHE=cache))
                bench.progress("demo", len(cold) + len(warm), 4)
    return Timed({"cold": cold, "warm": warm}, {}, values={"warm demo, seconds": min(warm), "cold": min(cold)})


def compiling(bench: Bench) -> Timed:
    """Compilation of a prompt pass of Qwen2.5-7B's decoder with 4 and with 28 layers, from shapes alone."""
    size = DecoderConfig(
        vocab=152_064, width=3584, layers=4, heads=28, kv_heads=4, head_dim=128, ffn=18_944, rope_theta=1e6, eps=1e-6,
        qkv_bias=True,
    )  # fmt: skip

    def compiled(layers: int) -> None:
        decoder = Decoder(dataclasses.replace(size, layers=layers), dtype=jnp.bfloat16)
        x = jax.ShapeDtypeStruct((1, 256, size.width), jnp.bfloat16)
        mask = jax.ShapeDtypeStruct((1, 256), jnp.bool_)
        make: Any = lambda x, mask: decoder.init(jax.random.key(0), x, mask, mask, {}, method="prompt")
        variables = jax.eval_shape(make, x, mask)
        run = lambda v, x, mask: decoder.apply(v, x, mask, mask, {}, method="prompt")
        jax.jit(run).lower(variables, x, mask).compile()

    kept = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        times = bench.turns("compile", {"28 layers": lambda: compiled(28), "4 layers": lambda: compiled(4)})
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
    return Timed(times, {"compile_28_vs_4": ratio(times["28 layers"], times["4 layers"])})


def loading(bench: Bench) -> Timed:
    """Loading the model beside reading its files into memory."""
    files = sorted(bench.model.folder.glob("*.safetensors"))
    sides = {
        "load": lambda: jax.block_until_ready(load(bench.model.folder).variables),
        "read": lambda: [file.read_bytes() for file in files],
    }
    times = bench.turns("loading", sides)
    return Timed(times, {"load_vs_read": ratio(times["load"], times["read"])})


# ru_maxrss also counts the process that started this one: in Linux the kernel has the peak of the program alone.
PEAK = """
import pathlib, resource
status = pathlib.Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peak = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
print((peak or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss])[0])
"""


def memory(bench: Bench) -> Timed:
    """Peak memory of `seen-jax evaluate` on 10 times as many items beside the peak on few, compiled before.

    Few are four batches: the first ones still widen the heap.
    """
    few = 4 * bench.batch

    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i, (wave, item) in enumerate(zip(bench.waves, load_clips("demo"), strict=False)):
            files.append((write_audio(Path(folder) / f"{i}.wav", wave), item.answer))

        def peak(items: int, turn: str) -> float:
            lines = [f'{i},{path},"{answer}"' for i, (path, answer) in zip(range(items), itertools.cycle(files))]
            manifest = Path(folder) / f"{turn}.csv"
            manifest.write_text("\n".join(["id,path,answer", *lines]) + "\n")
            config = Path(folder) / f"{turn}.yaml"
            config.write_text(
                f"model: seen-tiny\nout: {folder}/{turn}\ndatasets: [{{path: {manifest}}}]\n"
                "calibration: {dataset: {path: seen-tiny/calibration}, clips: 8}\n"
                f"noises: [white]\nsnrs: [0]\nmitigations: [none, seen]\nbatch_size: {bench.batch}\n"
            )
            program = f"import sys; from seen_jax.cli import main; code = main(sys.argv[1:]){PEAK}sys.exit(code)"
            done = subprocess.run(
                [sys.executable, "-c", program, "evaluate", str(config)],
                env={**os.environ, "SEEN_JAX_CACHE": f"{folder}/cache"}, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                raise SeenError(f"the evaluation failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
            return float(done.stdout.strip().splitlines()[-1]) / 1024

        peak(few, "warm")
        peaks: dict[str, list[float]] = {"few": [], "ten times": []}
        for turn in range(bench.runs):
            peaks["few"].append(peak(few, f"few{turn}"))
            peaks["ten times"].append(peak(10 * few, f"many{turn}"))
            bench.progress("memory", turn + 1, bench.runs)
    return Timed(
        {}, {"memory_10x_items": ratio(peaks["ten times"], peaks["few"])}, values={"peak MiB": max(peaks["few"])}
    )
