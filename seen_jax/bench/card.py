"""A random bfloat16 Qwen2.5-Omni 7B on one accelerator: decoding and the prompt pass, beside PyTorch with hooks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seen_jax.bench.roofline import ceilings, roofline
from seen_jax.bench.suites import Bench, Timed
from seen_jax.bench.timing import alternate, ratio
from seen_jax.errors import ConfigError
from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.edits import Edit
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.model import forward
from seen_jax.models.sites import ENCODER_MLP_ACT

NEW = 64  # tokens that are decoded
FRAMES = 1000  # 10 s of audio
RANK = 16
AUDIO_TOKEN = 151_646
VISION_START = 151_652

SEVEN_B = LalmConfig(
    family="qwen2_5_omni",
    encoder=EncoderConfig(
        n_mels=128, width=1280, layers=32, heads=20, ffn=5120, output_width=3584, pad_frames=200, chunked=True
    ),
    decoder=DecoderConfig(
        vocab=152_064, width=3584, layers=28, heads=28, kv_heads=4, head_dim=128, ffn=18_944, rope_theta=1e6, eps=1e-6,
        qkv_bias=True,
    ),
    audio_token=AUDIO_TOKEN,
    stop_tokens=(-1,),  # a random model decodes to the end
    pad_token=0,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Load:
    """What is asked. rows: clips at once; text: tokens of a prompt beside those of its clip."""

    rows: int
    text: int


DECODE, PREFILL = Load(1, 32), Load(4, 768)


def card(bench: Bench) -> Timed:
    """Refuses to run on a CPU: the weights alone are 16 GB, and the limits would be others."""
    if jax.default_backend() == "cpu":
        raise ConfigError("the suite `card` needs a GPU or TPU; JAX sees none here: see docs/performance.md")
    return seven_b(bench, SEVEN_B, _torch_side(SEVEN_B))


def seven_b(bench: Bench, config: LalmConfig, torch_side: Any = None) -> Timed:
    """Decoding at batch 1 as a share of the bandwidth of the memory, the prompt pass as one of the matrix units.

    SEEN edits every layer of the encoder, on both sides. torch_side: None where PyTorch is not there.
    """
    top = ceilings(jnp.bfloat16)
    lalm = Lalm(config, dtype=jnp.bfloat16)
    variables = random_weights(lalm)
    depth, width = config.site_shape(ENCODER_MLP_ACT)
    q = jax.vmap(lambda key: jnp.linalg.qr(jax.random.normal(key, (width, RANK)))[0])(
        jax.random.split(jax.random.key(1), depth)
    )
    edits = {ENCODER_MLP_ACT: Edit(u=q, scale=jnp.ones(depth))}
    one, many = batch_of(config, DECODE), batch_of(config, PREFILL)

    def decode(new: int) -> None:
        jax.block_until_ready(generate(lalm, variables, one, edits, Decoding(new)).tokens)

    def prompt() -> None:
        jax.block_until_ready(forward(lalm, variables, many, edits).logits)

    sides = {"decode": lambda: decode(NEW), "first token": lambda: decode(1), "prompt": prompt}
    theirs: Mapping[str, Any] = {}
    if torch_side is not None:
        theirs = torch_side(q, {"decode": (one, NEW), "first token": (one, 1), "prompt": (many, 0)})
    times: dict[str, list[float]] = {}
    for name, side in sides.items():
        both = {f"{name}, ours": side, **({f"{name}, PyTorch": theirs[name]} if theirs else {})}
        times |= alternate(both, bench.runs, functools.partial(bench.progress, f"card: {name}"))

    middle = lambda name: float(np.median(times[name]))
    weights = sum(x.nbytes for x in jax.tree.leaves(variables["params"]["decoder"]))
    read = weights - 2 * config.decoder.vocab * config.decoder.width * (not config.decoder.tied)  # one row of the table
    lines, values = {}, {}
    for who in ("ours", "PyTorch") if theirs else ("ours",):
        loop = middle(f"decode, {who}") - middle(f"first token, {who}")
        lines[f"decode, {who}"] = roofline(0.0, read * (NEW - 1), loop, top)
        lines[f"prompt, {who}"] = roofline(operations(config, PREFILL), 0.0, middle(f"prompt, {who}"), top)
        values[f"tokens per second, {who}"] = (NEW - 1) / loop
    ratios = {
        f"{name}_vs_torch".replace(" ", "_"): ratio(times[f"{name}, PyTorch"], times[f"{name}, ours"])
        for name in theirs
    }
    return Timed(times, ratios, lines, values)


def random_weights(lalm: Lalm) -> Any:
    """Normal weights of the spread that keeps activations near 1, made on the device, one array at a time."""
    shapes = jax.eval_shape(lambda batch: lalm.init(jax.random.key(0), batch), batch_of(lalm.config, DECODE))

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def normal(key: Any, shape: tuple[int, ...], spread: float) -> Any:
        return spread * jax.random.normal(key, shape, lalm.dtype)

    leaves, tree = jax.tree.flatten_with_path(shapes)
    made = []
    for i, (path, leaf) in enumerate(leaves):
        name = path[-1].key
        if name in ("scale", "bias"):
            made.append(jnp.full(leaf.shape, float(name == "scale"), lalm.dtype))
        else:
            spread = 1.0 if name == "embedding" else float(np.prod(leaf.shape[-2:-1])) ** -0.5
            made.append(normal(jax.random.key(i), leaf.shape, spread))
    return jax.tree.unflatten(tree, made)


def batch_of(config: LalmConfig, load: Load) -> Batch:
    """Prompts of one clip and random text each."""
    rng = np.random.default_rng(0)
    audio = int(config.encoder.token_count(FRAMES))
    length = audio + load.text
    # Words from the lower half of the vocabulary: what stands for audio or images is at its end.
    tokens = rng.integers(1, min(1000, config.decoder.vocab // 2), (load.rows, length)).astype(np.int32)
    tokens[:, 4 : 4 + audio] = config.audio_token
    index = np.full((load.rows, length), -1, np.int32)
    index[:, 4 : 4 + audio] = np.arange(load.rows * audio).reshape(load.rows, audio)
    features = rng.normal(size=(load.rows, FRAMES, config.encoder.n_mels)).astype(np.float32)
    full = lambda n: jnp.full(load.rows, n, jnp.int32)
    return Batch(jnp.asarray(tokens), full(length), jnp.asarray(features), full(FRAMES), jnp.asarray(index))


def operations(config: LalmConfig, load: Load) -> float:
    """Of the prompt pass with the logits of all positions: two for every weight and position, and attention's."""
    e, d = config.encoder, config.decoder
    assert isinstance(e, EncoderConfig)
    positions = int(e.position_count(FRAMES))
    tokens = int(e.token_count(FRAMES)) + load.text
    window = int(e.position_count(e.chunk(FRAMES)))
    layer = positions * (4 * e.width**2 + 2 * e.width * e.ffn + 2 * window * e.width + 2 * RANK * e.ffn)
    stem = 3 * (FRAMES * e.n_mels * e.width + positions * e.width**2)
    heads = d.head_dim * (d.heads + d.kv_heads)
    block = tokens * (2 * d.width * heads + 3 * d.width * d.ffn) + tokens**2 * d.heads * d.head_dim
    return 2.0 * load.rows * (e.layers * layer + stem + d.layers * block + tokens * d.width * d.vocab)


def _torch_side(config: LalmConfig) -> Any:
    """The same sizes in PyTorch, random weights of its own: None without PyTorch, or without its own GPU."""
    try:
        import torch
        from transformers import Qwen2_5OmniThinkerConfig
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    with torch.device("cuda"):
        kept = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        own: Any = Qwen2_5OmniThinkerConfig()  # its defaults are the 7B model,
        own.vision_start_token_id = VISION_START  # but for an id that `generate` wants
        model = Thinker(own).eval()
        torch.set_default_dtype(kept)
    return functools.partial(torch_sides, model)


def torch_sides(model: Any, q: Any, loads: Mapping[str, tuple[Batch, int]]) -> dict[str, Any]:
    """{name: a call that answers a batch with so many new tokens, or passes the prompts once (0)} with SEEN's hooks."""
    import torch

    device, dtype = model.device, model.dtype
    bases = torch.tensor(np.asarray(q), device=device)

    def hook(layer: int) -> Any:
        def run(module: Any, args: Any, a: Any) -> Any:
            part = a.float() @ bases[layer]
            return (a.float() - part @ bases[layer].T).to(a.dtype)

        return run

    for i, layer in enumerate(model.model.audio_tower.layers):
        layer.activation_fn.register_forward_hook(hook(i))
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def side(batch: Batch, new: int) -> Any:
        ids = torch.tensor(np.asarray(batch.tokens), device=device).long()
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "input_features": torch.tensor(np.asarray(batch.features)).transpose(1, 2).to(device, dtype),
            "feature_attention_mask": torch.ones(batch.features.shape[:2], device=device).long(),
        }

        def run() -> None:
            with torch.inference_mode():
                if new:
                    model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False)
                else:
                    model(**inputs)
            wait()

        return run

    return {name: side(*load) for name, load in loads.items()}
