"""What XLA's TPU compiler says of this package's programs, where no TPU is: whether they fit, and how long they take.

Nothing is measured. Seconds are the cycles that the compiler estimates for each instruction, times the trips of its
loops, over the clock of the chip; what it does at once counts one after the other. Weights are shapes."""

import dataclasses
import json
import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from seen_jax.bench import hlo, programs
from seen_jax.bench.programs import EDITS, Lowered, Target
from seen_jax.bench.timing import decoder_work, encoder_work
from seen_jax.errors import ConfigError
from seen_jax.files import parse_json, write_file
from seen_jax.models.checkpoint import read_config
from seen_jax.models.config import LalmConfig
from seen_jax.models.devices import DEVICES, Device
from seen_jax.models.family import published_config
from seen_jax.models.folders import find_folder
from seen_jax.models.memory import ENCODER, Work, fits, need, shapes, spread
from seen_jax.progress import Progress, silent
from seen_jax.registry import FAMILIES

TINY = "seen-tiny"
MODELS = ("qwen2_5_omni", "minicpm_o", "step_audio_2", "qwen2_audio", "audio_flamingo_3", TINY)
MACHINES = ("v5e-1", "v5e-4", "v6e-1", "v4-8")
PRECISIONS: dict[str, dict[str, Any]] = {  # fields of `Work`
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", "weights": "int8"},
}
PROGRAMS = ("encode", "calibrate", "score", "encode with SEEN", "generate", "four answers", "training step")
SECONDS, TEXT, NEW = 10.0, 64, 64  # of a clip; tokens of text and of an answer
CLIPS = (16, 8, 4, 2, 1)  # at once: the first number that surely fits
DECODE, PROMPT, SEEN, FOUR = 0.6, 0.4, 0.03, 1.5  # goals
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_FULL = re.compile(r"(?:Used |temporaries \()([\d.]+)([KMG])\)? (?:of |exceeds available HBM \()([\d.]+)([KMG])")


@dataclasses.dataclass(frozen=True)
class Row:
    """One program on one machine. Bytes are of one chip.

    seconds: of everything. loop: of one trip of the loop that decodes, and none for programs without it.
    copies: of weights, or of the cache in loops; gathers: of weights in loops: their names in the HLO, and sizes.
    used: share of the memory's bandwidth (`loop`) and of the matrix units (the rest) that the work itself needs."""

    model: str
    machine: str
    precision: str
    program: str
    clips: int
    data: int
    tensor: int
    fits: bool
    bytes: float
    available: float
    compile_seconds: float
    seconds: float = 0.0
    loop: float = 0.0
    copies: tuple[str, ...] = ()
    gathers: tuple[str, ...] = ()
    bandwidth: float = 0.0
    matrix: float = 0.0

    @property
    def key(self) -> tuple[str, ...]:
        return self.model, self.machine, self.precision, self.program

    @property
    def prompt(self) -> float:
        """Seconds outside of the loop that decodes."""
        return self.seconds - (NEW - 1) * self.loop


@dataclasses.dataclass(frozen=True)
class Goal:
    name: str
    value: float | None  # None: a program that it needs does not fit, or was not compiled
    limit: float
    reached: bool


def known() -> tuple[str, ...]:
    """The models that can be asked for."""
    return (*FAMILIES, TINY)


def tpu(
    models: Sequence[str],
    machines: Sequence[str],
    precisions: Sequence[str],
    names: Sequence[str] = PROGRAMS,
    out: Path | None = None,
    progress: Progress = silent,
) -> list[Row]:
    """The programs of these names, of every model on every machine. out: a file of earlier rows, which are not made
    again, and which gets each new row at once. ConfigError where libtpu is not installed."""
    rows = {row.key: row for row in saved(out)}
    groups = [(model, machine, kind) for model in models for machine in machines for kind in precisions]
    for done, group in enumerate(groups):
        progress("compiling for TPU", done, len(groups))
        for name, (lowered, to, work) in _programs(*group).items():
            if name not in names or (*group, name) in rows:
                continue
            row = compiled((*group, name), lowered, to, work)
            rows[row.key] = row
            if out is not None:
                kept = [dataclasses.asdict(row) for row in rows.values()]
                write_file(out, json.dumps({"rows": kept}, indent=1) + "\n")
    progress("compiling for TPU", len(groups), len(groups))
    return [row for row in rows.values() if row.key[:3] in groups and row.program in names]


def saved(out: Path | None) -> list[Row]:
    """The rows of a file of this suite. ConfigError for any other file."""
    if out is None or not out.exists():
        return []
    try:
        return [Row(**{**row, "copies": tuple(row["copies"]), "gathers": tuple(row["gathers"])})
                for row in parse_json(out.read_text())["rows"]]  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{out} holds no rows of the suite tpu: choose another --out.") from None


def configuration(model: str) -> LalmConfig:
    return read_config(find_folder(TINY))[0] if model == TINY else published_config(FAMILIES[model])


def _programs(model: str, machine: str, kind: str) -> dict[str, tuple[Lowered, Target, Work]]:
    """The programs of a model on a machine, each with what it is compiled for."""
    config, device = configuration(model), DEVICES[machine]
    base = Work(1, SECONDS, text=TEXT, new=NEW, **PRECISIONS[kind])
    works = {"encoder": largest(config, dataclasses.replace(base, part=ENCODER), device)}
    works["answers"] = largest(config, base, device)
    if model == TINY:
        works["training"] = dataclasses.replace(base, dtype="float32")
    makers = {"encoder": programs.of_encoder, "answers": programs.of_answers, "training": programs.of_training}
    chosen = {}
    for name, work in works.items():
        to = programs.target(config, work, device)
        for program, lowered in makers[name](to).items():
            chosen[program] = lowered, to, work
    return chosen


def largest(config: LalmConfig, work: Work, device: Device) -> Work:
    """The work with as many of `CLIPS` as surely fit by the estimate, on all chips; one clip where none does."""
    several = [spread(config, dataclasses.replace(work, clips=clips), device) for clips in CLIPS]
    return next((one for one in several if fits(config, one, device.memory, surely=True)), several[-1])


def compiled(key: tuple[str, str, str, str], lowered: Lowered, to: Target, work: Work) -> Row:
    """The row of one program."""
    device, begun = DEVICES[key[1]], time.perf_counter()
    row = Row(*key, work.clips, work.data, work.tensor, False, 0.0, device.memory, 0.0)
    try:
        program = lowered().compile()
    except jax.errors.JaxRuntimeError as error:
        if not (full := _FULL.search(str(error))):
            raise
        used, available = (float(full[i]) * UNITS[full[i + 1]] for i in (1, 3))
        return dataclasses.replace(row, bytes=used, available=available, compile_seconds=time.perf_counter() - begun)
    memory = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    seconds = time.perf_counter() - begun
    row = dataclasses.replace(row, fits=True, bytes=held - memory.alias_size_in_bytes, compile_seconds=seconds)
    return dataclasses.replace(row, **estimates(program.as_text(), to, work, device, key[3]))


def estimates(text: str, to: Target, work: Work, device: Device, program: str) -> dict[str, Any]:
    """Seconds, shares, copies and exchanges of an optimised program."""
    steps = hlo.steps(text, to.new - 1)
    seconds = _seconds(steps, work, device)
    loop = _seconds([step for step in steps if step.decodes], work, device) / (to.new - 1)
    looped, (layers, stacks) = [step for step in steps if step.loops], held_sizes(to, work)
    sizes = lambda step: list(step.instruction.shapes[0].sizes)
    names = lambda *parts: tuple(f"{step.instruction.name} {sizes(step)}" for part in parts for step in part)
    made: dict[str, Any] = {"gathers": names(hlo.alike(looped, "all-gather", layers))}
    made["copies"] = names(hlo.alike(looped, "copy", layers), hlo.alike(steps, "copy", stacks))
    made |= {"seconds": seconds, "loop": loop}
    if program == "generate":
        rest = seconds - (to.new - 1) * loop
        made["bandwidth"] = step_bytes(to, work) / device.bandwidth / loop
        made["matrix"] = operations(to.lalm.config, work) / (work.data * work.tensor) / device.operations / rest
    return made


def _seconds(steps: Sequence[hlo.Step], work: Work, device: Device) -> float:
    """Of the compiler's cycles, and of exchanges between the chips that share weights: a ring in both directions."""
    ring = max(work.tensor, 2)
    sent = hlo.exchanged(steps) * (ring - 1) / ring / (min(ring - 1, 2) * device.link)
    return hlo.cycles(steps) / device.clock + sent


def held_sizes(to: Target, work: Work) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Sizes on one chip of what a loop must not copy, one layer of each weight, and keys or values in the cache; and of
    what must not be copied at all, the weights of all layers."""
    layers, stacks = [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(programs.variables(to)["params"]):
        stacked, size = any(key.key == "layers" for key in path), leaf.sharding.shard_shape(leaf.shape)
        if len(size) > 1 + stacked:
            layers.append(size[stacked:])
            stacks += [size] * stacked
    d, rows = to.lalm.config.decoder, max(1, to.shape.prompts // work.data)
    heads = d.kv_heads // (work.tensor if d.kv_heads % work.tensor == 0 else 1)
    cache = (rows, to.shape.tokens + to.new, heads, d.head_dim)
    return [*layers, cache, (d.layers, *cache)], stacks


def step_bytes(to: Target, work: Work) -> float:
    """What a chip must read to decode one token: the language model's weights but for the table of embeddings, of which
    it reads a row, and the cache."""
    config, decoder = to.lalm.config, programs.variables(to)["params"]["decoder"]
    held = lambda leaf: float(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)))
    read = {name: part for name, part in decoder.items() if name != "embed" or config.decoder.tied}
    return sum(map(held, jax.tree.leaves(read))) + need(config, work).cache


def operations(config: LalmConfig, work: Work) -> float:
    """Of the prompt pass, the encoder's too: two for every weight and position, and those of attention."""
    e, d, shape = config.encoder, config.decoder, shapes(config, work)
    stem, layer = encoder_work(e, shape.frames)
    keys, block = decoder_work(d)
    attention = shape.tokens**2 * d.heads * d.head_dim
    prompt = (d.layers - 1) * (shape.tokens * block + attention) + shape.tokens * keys + d.width * d.vocab
    return 2.0 * (shape.rows * (stem + e.layers * layer) + shape.prompts * prompt)


def goals(rows: Sequence[Row]) -> list[Goal]:
    """Of the programs of one model on one machine in one precision."""
    by_name = {row.program: row for row in rows if row.fits}
    answer, four = by_name.get("generate"), by_name.get("four answers")
    plain, seen = by_name.get("encode"), by_name.get("encode with SEEN")
    copies = sum(len(row.copies) for row in by_name.values()) if by_name else None
    whole = answer is not None and answer.tensor == 1  # else the encoder alone would show it
    gathers = sum(len(row.gathers) for row in by_name.values() if row.tensor == 1) if whole else None
    share = None if not (answer and plain and seen) else (
        (seen.seconds - plain.seconds) / seen.clips / (answer.prompt / answer.clips)
    )  # fmt: skip
    times = None
    if answer and four and four.clips == answer.clips:
        times = four.seconds / (FOUR * answer.prompt + EDITS * (NEW - 1) * answer.loop)
    at_least = lambda name, value, limit: Goal(name, value, limit, value is not None and value >= limit)
    at_most = lambda name, value, limit: Goal(name, value, limit, value is not None and value <= limit)
    return [
        at_most("copies of weights, or of the cache in loops", copies, 0),
        at_most("gathers of weights in loops, chips that share clips alone", gathers, 0),
        at_least("decoding: share of the memory's bandwidth", answer and answer.bandwidth, DECODE),
        at_least("prompt pass: share of the matrix units", answer and answer.matrix, PROMPT),
        at_most("SEEN and SEE: share of the prompt pass", share, SEEN),
        at_most(f"four answers: share of {FOUR} prompt passes and {EDITS} decodings of one", times, 1),
    ]


def compiler_alone() -> None:
    """Keep JAX from looking for a TPU. Call before anything is computed."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # other processes may compile too
    jax.config.update("jax_platforms", "cpu")
