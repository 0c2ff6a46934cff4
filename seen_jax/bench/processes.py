"""Suites that start programs: import and the demo; and what compiling costs."""

import dataclasses
import itertools
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seen_jax.audio import write_audio
from seen_jax.bench.card import SEVEN_B
from seen_jax.bench.suites import Bench, Timed, experiment
from seen_jax.bench.timing import Times, ratio
from seen_jax.data.items import load_clips
from seen_jax.errors import SeenError
from seen_jax.evaluate.config import CalibrationConfig
from seen_jax.files import to_json, write_file
from seen_jax.models.decoder import Decoder
from seen_jax.models.load import load


def python(*args: str, **env: str) -> str:
    """What a program of this Python prints. SeenError if it fails."""
    done = subprocess.run([sys.executable, *args], env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode:
        program = textwrap.shorten(" ".join(args), 80, placeholder=" ...")
        raise SeenError(f"python {program} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return done.stdout


def imports(bench: Bench) -> Timed:
    """A process that imports jax, and one that imports this package."""
    sides = {"jax": lambda: python("-c", "import jax"), "seen_jax": lambda: python("-c", "import jax, seen_jax")}
    times = bench.turns("import", sides)
    beyond = sorted(b - a for a, b in zip(times["jax"], times["seen_jax"], strict=True))
    return Timed(times, {}, values={"seconds beyond import jax": beyond[len(beyond) // 2]})


def demo(bench: Bench) -> Timed:
    """The demo as a user starts it, with an empty compilation cache and with a filled one."""
    times: Times = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(2):
            for kind, seconds in times.items():
                start, cache = time.perf_counter(), f"{folder}/cache{turn}"
                python("-m", "seen_jax.cli", "demo", "--out", f"{folder}/{kind}{turn}", SEEN_JAX_CACHE=cache)
                seconds.append(time.perf_counter() - start)
                bench.progress("demo", len(times["cold"]) + len(times["warm"]), 4)
    return Timed(times, {}, values={"warm demo, seconds": min(times["warm"]), "cold": min(times["cold"])})


def compiling(bench: Bench) -> Timed:
    """Compilation of a prompt pass of Qwen2.5-7B's decoder with 4 and with 28 layers, from shapes alone."""

    def compiled(layers: int) -> None:
        decoder = Decoder(dataclasses.replace(SEVEN_B.decoder, layers=layers), dtype=jnp.bfloat16)
        x = jax.ShapeDtypeStruct((1, 256, SEVEN_B.decoder.width), jnp.bfloat16)
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
    loaded = lambda: jax.block_until_ready(load(bench.model.folder, "float32").variables)
    times = bench.turns("loading", {"load": loaded, "read": lambda: [file.read_bytes() for file in files]})
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
    """Peak memory of `seen-jax evaluate` on 10 times as many items beside the peak on few, compiled before. Few are 4
    batches: the first ones still widen the heap."""
    few = 4 * bench.batch
    program = f"import sys; from seen_jax.cli import main; code = main(sys.argv[1:]){PEAK}sys.exit(code)"
    with tempfile.TemporaryDirectory() as folder:
        named = enumerate(zip(bench.waves, load_clips("demo"), strict=False))
        files = [(write_audio(Path(folder) / f"{i}.wav", wave), item.answer) for i, (wave, item) in named]

        def peak(items: int, turn: str) -> float:
            lines = [f'{i},{path},"{answer}"' for i, (path, answer) in zip(range(items), itertools.cycle(files))]
            manifest = write_file(Path(folder) / f"{turn}.csv", "\n".join(["id,path,answer", *lines]) + "\n")
            asked = experiment(bench, manifest, calibration=CalibrationConfig(clips=8))
            config = write_file(Path(folder) / f"{turn}.yaml", to_json(dataclasses.asdict(asked)))
            printed = python("-c", program, "evaluate", str(config), SEEN_JAX_CACHE=f"{folder}/cache")
            return float(printed.strip().splitlines()[-1]) / 1024

        peak(few, "warm")
        peaks: Times = {"few": [], "ten times": []}
        for turn in range(bench.runs):
            peaks["few"].append(peak(few, f"few{turn}"))
            peaks["ten times"].append(peak(10 * few, f"many{turn}"))
            bench.progress("memory", turn + 1, bench.runs)
    ratios = {"memory_10x_items": ratio(peaks["ten times"], peaks["few"])}
    return Timed({}, ratios, values={"peak MiB": max(peaks["few"])})
