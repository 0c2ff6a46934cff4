"""How much memory a model takes, by its configuration alone: no weights, no compilation.

Weights, inputs, cache and logits are counted. What the compiler holds for a moment is estimated by the fullest moment
of one layer: XLA's programs for CPU and TPU stay within `TOLERANCE` of the total (tests/models/test_memory.py)."""

import dataclasses
import itertools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from seen_jax.audio.features import SAMPLE_RATE
from seen_jax.errors import ConfigError
from seen_jax.models.attention import BLOCK_SCORES, LONG, SCORES
from seen_jax.models.checkpoint import abstract_params, parameter_shapes
from seen_jax.models.config import ConformerConfig, LalmConfig
from seen_jax.models.devices import GIB, Device
from seen_jax.models.lalm import Lalm
from seen_jax.models.precision import dtype_for, stream_dtype
from seen_jax.models.quantized import is_quantized
from seen_jax.models.sharding import DATA, TENSOR, parameter_sharding
from seen_jax.models.sites import ENCODER_MLP_ACT
from seen_jax.registry import FAMILIES

TOLERANCE = 0.1  # of the total
PROMPT, NEW, RANK = 64, 256, 16  # tokens of text around a clip; of an answer; directions per layer of a basis
MULTIPLE = 32  # prompts are padded to one of tokens
ENCODER, WHOLE = "encoder", "whole"  # what is loaded


@dataclasses.dataclass(frozen=True)
class Work:
    """What a model does at once: answer `clips` clips of `seconds` each, or read them with its encoder alone.

    text, new: tokens of a prompt beside those of its clip, and of the longest answer.
    dtype, weights: of parameters and activations, as `load` takes them.
    data, tensor: devices that share the clips, and the weights."""

    clips: int = 1
    seconds: float = 10.0
    part: str = WHOLE
    text: int = PROMPT
    new: int = NEW
    dtype: str = "float32"
    weights: str | None = None
    data: int = 1
    tensor: int = 1


class Shapes(NamedTuple):
    """Of the arrays that a batch of clips becomes."""

    rows: int  # of the encoder
    frames: int  # of a row, padded
    prompts: int
    tokens: int  # of a prompt, padded
    audio: int  # tokens of a clip


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes on each device."""

    weights: float
    bases: float
    inputs: float
    cache: float  # keys and values of prompt and answer
    logits: float
    activations: float  # what else is held at the fullest moment

    @property
    def total(self) -> float:
        return sum(dataclasses.astuple(self))


def shapes(config: LalmConfig, work: Work) -> Shapes:
    """The batch that clips of one length become. AudioError for a clip that is too long for the family."""
    framing, encoder = FAMILIES[config.family].framing, config.encoder
    framing.check_seconds(work.seconds, config.family, 0.0)
    rows = framing.rows(framing.used_samples(round(work.seconds * SAMPLE_RATE)))
    audio = sum(int(encoder.token_count(row.frames)) for row in rows)
    frames = max(encoder.padded(row.visible_frames) for row in rows)
    tokens = -(-(audio + work.text) // MULTIPLE) * MULTIPLE
    return Shapes(work.clips * len(rows), frames, work.clips, tokens, audio)


def count(config: LalmConfig) -> int:
    """The number of parameters."""
    return sum(map(math.prod, parameter_shapes(config).values()))


def need(config: LalmConfig, work: Work) -> Need:
    """What each device must hold for this work.

    >>> from seen_jax.models.family import published_config
    >>> omni = published_config(FAMILIES["qwen2_5_omni"])
    >>> round(need(omni, Work(dtype="bfloat16")).weights / 1e9, 1)
    16.5
    """
    size, stream = (jnp.dtype(kind).itemsize for kind in (work.dtype, stream_dtype(jnp.dtype(work.dtype))))
    shape = shapes(config, work)
    shape = shape._replace(rows=-(-shape.rows // work.data), prompts=-(-shape.prompts // work.data))
    layers, width = config.site_shape(ENCODER_MLP_ACT)
    of_encoder = _conformer if isinstance(config.encoder, ConformerConfig) else _encoder
    encoder = of_encoder(config, shape, work, stream)
    features = 4.0 * shape.rows * shape.frames * config.encoder.n_mels
    weights, bases = _weights(config, work), 4.0 * layers * width * RANK / _split(width, work.tensor)
    if work.part == ENCODER:
        return Need(weights, bases, features, 0.0, 0.0, encoder)
    prompt, step = _keys_values(config, shape, work, size, 0), _keys_values(config, shape, work, size, work.new)
    logits = 4.0 * shape.prompts * config.decoder.vocab
    held = max(encoder, _decoder(config, shape, work, stream) + prompt, prompt + step + logits)
    inputs = features + 8.0 * shape.prompts * shape.tokens
    return Need(weights, bases, inputs, step, logits, max(0.0, held - step - logits))


def _split(width: int, devices: int) -> int:
    """Into how many parts devices split a dimension: it stays whole where they do not divide it."""
    return devices if width % devices == 0 else 1


def _weights(config: LalmConfig, work: Work) -> float:
    mesh, total = AbstractMesh((work.data, work.tensor), (DATA, TENSOR)), 0.0
    lalm = Lalm(config, dtype=jnp.dtype(work.dtype), weights=work.weights)
    for path, leaf in abstract_params(lalm).items():
        if work.part == ENCODER and path[0] != "encoder":
            continue
        split = work.tensor if TENSOR in parameter_sharding(mesh, path, leaf.shape).spec else 1
        bits = jnp.iinfo(leaf.dtype).bits if is_quantized(leaf) else jnp.finfo(leaf.dtype).bits
        total += math.prod(leaf.shape) / split * bits / 8
    return total


def _keys_values(config: LalmConfig, shape: Shapes, work: Work, size: int, new: int) -> float:
    d = config.decoder
    heads = d.kv_heads / _split(d.kv_heads, work.tensor)
    return 2.0 * size * d.layers * shape.prompts * (shape.tokens + new) * heads * d.head_dim


def _encoder(config: LalmConfig, shape: Shapes, work: Work, size: int) -> float:
    """Stem, attention or MLP of one layer, whichever holds the most."""
    e: Any = config.encoder
    windows = e.windows(shape.frames)
    positions = shape.rows * sum(span.parts * span.size for span in windows)
    heads = e.heads / _split(e.heads, work.tensor)
    scores = max(_scores(shape.rows * span.parts, span.size, heads) for span in windows)
    stream = size * positions * e.width
    attention = 4 * stream + (4 + size) * scores
    mlp = stream + (4 + size) * positions * e.ffn / _split(e.ffn, work.tensor)
    first = shape.rows * shape.frames * (e.channels * e.n_mels / 4 if e.channels else e.width)
    return max(2.0 * size * first, stream + max(attention, mlp))


def _scores(rows: int, positions: int, heads: float) -> float:
    """Scores that attention holds at once (`models/attention.py`)."""
    scores = rows * heads * positions**2
    return scores if positions <= LONG and scores <= SCORES else min(scores, BLOCK_SCORES)


def _conformer(config: LalmConfig, shape: Shapes, work: Work, size: int) -> float:
    """Attention inside blocks, or MLP of one layer."""
    e: Any = config.encoder
    positions = shape.rows * shape.frames
    stream, heads = size * positions * e.width, e.heads / _split(e.heads, work.tensor)
    attention = 4 * stream + (8 + size) * positions * e.pad_frames * heads
    return stream + max(attention, (4 + size) * positions * e.ffn / _split(e.ffn, work.tensor))


def _decoder(config: LalmConfig, shape: Shapes, work: Work, size: int) -> float:
    """Attention or MLP of one layer over the prompts."""
    d, positions = config.decoder, shape.prompts * shape.tokens
    heads, stream = d.heads / _split(d.heads, work.tensor), size * positions * d.width
    scores = _scores(shape.prompts, shape.tokens, heads)
    attention = stream + size * positions * 2 * heads * d.head_dim + (4 + size) * scores
    copies = d.top_k if d.experts else 1
    mlp = size * positions * copies * (d.width * (copies > 1) + 2 * d.ffn / _split(d.ffn, work.tensor))
    return stream + max(attention, stream + mlp)


def fits(config: LalmConfig, work: Work, memory: float, surely: bool = False) -> bool:
    """Whether the work needs no more than these bytes on each device. surely: even if the estimate is too low."""
    return need(config, work).total * (1 + TOLERANCE * surely) <= memory


def spread(config: LalmConfig, work: Work, machine: Device) -> Work:
    """The work on all chips of a machine: on as few for the weights as they surely need, on the rest for the clips."""
    sizes = [n for n in range(1, machine.chips + 1) if machine.chips % n == 0]
    works = [replace(work, data=machine.chips // n, tensor=n) for n in sizes]
    return next((one for one in works if fits(config, one, machine.memory, surely=True)), works[-1])


def options(work: Work, half: str, clips: int) -> dict[str, dict[str, Any]]:
    """{words of the command line: fields of `Work` that take less memory}. half: the 16-bit number type of the device.
    clips: a smaller batch, 0 for none."""
    lighter: dict[str, dict[str, Any]] = {}
    if jnp.dtype(work.dtype).itemsize > 2 and half != "float32":
        lighter[f"--dtype {half}"] = {"dtype": half}
    if clips:
        lighter[f"--batch-size {clips}"] = {"clips": clips}
    if work.part == WHOLE:
        if not work.weights:
            lighter["--weights int8"] = {"weights": "int8"}
        lighter["the encoder alone (SEE and calibration at its sites)"] = {"part": ENCODER}
    return lighter


def changes(config: LalmConfig, work: Work, memory: float, half: str = "bfloat16") -> list[str]:
    """What makes work fit that does not: each change that does so by itself; else several together; else nothing."""

    def enough(*several: dict[str, Any]) -> bool:
        return fits(config, replace(work, **{name: x for change in several for name, x in change.items()}), memory)

    fewer = next((n for n in range(work.clips - 1, 0, -1) if enough({"clips": n})), 0)
    single = options(work, half, fewer)
    meshes = {f"--mesh.tensor {n} on {n} such devices": {"tensor": n, "data": 1} for n in (2, 4, 8) if n > work.tensor}
    words = [name for name, change in single.items() if enough(change)]
    words += [name for name, change in meshes.items() if enough(change)][:1]
    if words:
        return words
    steps = {name: x for name, x in options(work, half, min(1, work.clips - 1)).items() if "part" not in x}
    for count in range(2, len(steps) + 1):
        for names in itertools.combinations(steps, count):
            if enough(*(steps[name] for name in names)):
                return [" with ".join(names)]
    return []


def sentence(name: str, config: LalmConfig, work: Work, memory: float, half: str = "bfloat16") -> str:
    """What work needs, what a device has, and what to change."""
    part = "the encoder of " if work.part == ENCODER else ""
    clips = "1 clip" if work.clips == 1 else f"{work.clips} clips"
    asked = f"{part}{name} in {work.dtype} with {clips} of {work.seconds:.0f} s at once"
    advice = changes(config, work, memory, half)
    use = f"use {' or '.join(advice)}" if advice else "use shorter clips or a smaller model"
    return f"{asked} takes {need(config, work).total / GIB:.1f} GiB, of {memory / GIB:.1f} that the device has: {use}."


def check(name: str, config: LalmConfig, work: Work) -> None:
    """ConfigError for work that cannot fit the devices of this process, if JAX knows their memory, with what to change.
    Work that may fit is let through: the estimate is not exact."""
    memory = limit()
    if memory is not None and need(config, work).total * (1 - TOLERANCE) > memory:
        raise ConfigError(sentence(name, config, work, memory, half()))


def limit() -> float | None:
    """Bytes that programs may use on a device of this process; None where JAX does not know, as on a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def half() -> str:
    """The 16-bit number type of this process's devices."""
    return "float16" if dtype_for("auto") == "float16" else "bfloat16"
