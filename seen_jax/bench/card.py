"""Random weights at the sizes of Qwen2.5-Omni 7B, beside PyTorch: its encoder's layers in float32; the whole model in
bfloat16 on one accelerator, where decoding and the prompt pass are timed, with hooks on the other side."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from seen_jax.bench.suites import Bench, Timed
from seen_jax.bench.timing import Times, ceilings, decoder_work, encoder_work, ratio, roofline
from seen_jax.errors import ConfigError, SeenError
from seen_jax.models.checkpoint import abstract_params, stored_tensors
from seen_jax.models.config import DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.edits import Edit
from seen_jax.models.encoder import Audio
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.model import forward
from seen_jax.models.quantized import is_quantized, scale_path
from seen_jax.models.sites import ENCODER_MLP_ACT
from seen_jax.registry import FAMILIES

NEW = 64  # tokens that are decoded
FRAMES = 1000  # 10 s of audio
LAYERS, CLIPS = 4, 8  # of the encoder alone
RANK = 16
INTEGER_SPREAD = 127 / 3**0.5  # standard deviation of uniform integers

ENCODER = EncoderConfig(
    n_mels=128, width=1280, layers=32, heads=20, ffn=5120, output_width=3584, pad_frames=200, chunked=True
)
DECODER = DecoderConfig(
    vocab=152_064, width=3584, layers=28, heads=28, kv_heads=4, head_dim=128, ffn=18_944, rope_theta=1e6, eps=1e-6,
    qkv_bias=True,
)  # fmt: skip
# Without a token to stop at: a random model decodes to the end.
SEVEN_B = LalmConfig("qwen2_5_omni", ENCODER, DECODER, audio_token=151_646, stop_tokens=(-1,), pad_token=0)


class Load(NamedTuple):
    rows: int  # clips at once
    text: int  # tokens of a prompt beside those of its clip


DECODE, PREFILL = Load(1, 32), Load(4, 768)


def card(bench: Bench) -> Timed:
    """Refuses to run on a CPU: the weights alone are 16 GB, and the limits would be others."""
    if jax.default_backend() == "cpu":
        raise ConfigError("the suite `card` needs a GPU or TPU; JAX sees none here: see docs/performance.md")
    return seven_b(bench, SEVEN_B, _torch_side())


def seven_b(bench: Bench, config: LalmConfig, torch_side: Any = None) -> Timed:
    """Decoding at batch 1 as a share of the bandwidth of the memory, the prompt pass as one of the matrix units, with
    weights in bfloat16 and in int8. SEEN edits every layer of the encoder, on all sides. torch_side: None where PyTorch
    is not there."""
    top = ceilings(jnp.bfloat16)
    lalms = {"ours": Lalm(config, dtype=jnp.bfloat16), "int8": Lalm(config, dtype=jnp.bfloat16, weights="int8")}
    models = {name: (lalm, random_weights(lalm)) for name, lalm in lalms.items()}
    depth, width = config.site_shape(ENCODER_MLP_ACT)
    q = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (depth, width, RANK)))[0]
    edits = {ENCODER_MLP_ACT: Edit(u=q, scale=jnp.ones(depth))}
    one, many = batch_of(config, DECODE), batch_of(config, PREFILL)
    loads = {"decode": (one, NEW), "first token": (one, 1), "prompt": (many, 0)}

    def ours(name: str, batch: Batch, new: int) -> None:
        answer = lambda: generate(*models[name], batch, edits, Decoding(new)).tokens
        jax.block_until_ready(answer() if new else forward(*models[name], batch, edits).logits)

    theirs = torch_side(q, loads) if torch_side is not None else {}
    times: Times = {}
    for name, load in loads.items():
        sides = {f"{name}, {who}": functools.partial(ours, who, *load) for who in models}
        sides |= {f"{name}, PyTorch": theirs[name]} if theirs else {}
        times |= bench.turns(f"card: {name}", sides)
    middle = lambda name: float(np.median(times[name]))
    lines, values = {}, {}
    for who in (*models, "PyTorch") if theirs else models:
        loop = middle(f"decode, {who}") - middle(f"first token, {who}")
        read = decoded_bytes(config, models.get(who, models["ours"])[1])
        lines[f"decode, {who}"] = roofline(0.0, read * (NEW - 1), loop, top)
        lines[f"prompt, {who}"] = roofline(operations(config, PREFILL), 0.0, middle(f"prompt, {who}"), top)
        values[f"tokens per second, {who}"] = (NEW - 1) / loop
    beside = lambda name, other, one: ratio(times[f"{name}, {other}"], times[f"{name}, {one}"])
    ratios = {f"{name}_vs_torch".replace(" ", "_"): beside(name, "PyTorch", "ours") for name in theirs}
    ratios |= {f"int8_{name}_vs_ours".replace(" ", "_"): beside(name, "int8", "ours") for name in loads}
    return Timed(times, ratios, lines, values)


def decoded_bytes(config: LalmConfig, variables: Any) -> float:
    """What must be read to decode one token: the language model's weights, of the table of embeddings one row."""
    decoder = variables["params"]["decoder"]
    parts = [part for name, part in decoder.items() if name != "embed" or config.decoder.tied]
    return float(sum(x.nbytes for x in jax.tree.leaves(parts)))


def random_weights(lalm: Lalm) -> Any:
    """Weights of the spread that keeps activations near 1, made on the device, one array at a time: normal ones, and
    uniform integers where they are quantised."""
    shapes = abstract_params(lalm)
    spread = lambda path: 1.0 if path[-1] == "embedding" else shapes[path].shape[-2] ** -0.5
    scales = {scale_path(path): spread(path) / INTEGER_SPREAD for path, x in shapes.items() if is_quantized(x)}

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def normal(key: Any, shape: tuple[int, ...], spread: float) -> Any:
        return spread * jax.random.normal(key, shape, lalm.dtype)

    @functools.partial(jax.jit, static_argnums=1)
    def integers(key: Any, shape: tuple[int, ...]) -> Any:
        return jax.random.randint(key, shape, -127, 128, jnp.int8)

    def made(i: int, path: tuple[str, ...], leaf: Any) -> Any:
        if path in scales or path[-1] in ("scale", "bias"):
            return jnp.full(leaf.shape, scales.get(path, float(path[-1] == "scale")), leaf.dtype)
        key = jax.random.key(i)
        return integers(key, leaf.shape) if is_quantized(leaf) else normal(key, leaf.shape, spread(path))

    return {"params": unflatten_dict({path: made(i, path, x) for i, (path, x) in enumerate(shapes.items())})}


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
    stem, layer = encoder_work(e, FRAMES)
    edit = 2 * RANK * e.ffn * int(e.position_count(FRAMES))
    tokens = int(e.token_count(FRAMES)) + load.text
    block = tokens * decoder_work(d)[1] + tokens**2 * d.heads * d.head_dim
    return 2.0 * load.rows * (e.layers * (layer + edit) + stem + d.layers * block + tokens * d.width * d.vocab)


def encoders(bench: Bench) -> Timed:
    """The audio encoder's forward pass of 8 clips of 10 s with fewer layers and random weights, float32."""
    try:
        import torch
        from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniAudioEncoderConfig
        from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder
    except ImportError as error:
        raise ConfigError('this suite needs PyTorch: pip install "seen-jax[parity]"') from error
    shape = dataclasses.replace(ENCODER, layers=LAYERS)
    no_text = dataclasses.replace(SEVEN_B.decoder, vocab=4, layers=1, heads=1, kv_heads=1, ffn=1)
    lalm = Lalm(dataclasses.replace(SEVEN_B, encoder=shape, decoder=no_text))
    params = random_weights(lalm)["params"]
    stored = stored_tensors(params, lalm.config, FAMILIES[SEVEN_B.family])
    weights = {key: torch.tensor(x) for key, x in stored.items() if key.startswith("audio_tower.")}
    theirs = Qwen2_5OmniAudioEncoder(Qwen2_5OmniAudioEncoderConfig(encoder_layers=LAYERS)).eval()
    theirs.load_state_dict({key.removeprefix("audio_tower."): x for key, x in weights.items()}, strict=False)
    features = np.random.default_rng(0).normal(size=(CLIPS, FRAMES, shape.n_mels)).astype(np.float32)
    audio = Audio(jnp.asarray(features), jnp.full(CLIPS, FRAMES))
    encode = jax.jit(lambda params, audio: lalm.apply({"params": params}, audio, method="encode").tokens)
    packed = torch.tensor(features).reshape(-1, shape.n_mels).T.contiguous()
    lengths = torch.full((CLIPS,), FRAMES)
    outputs: dict[str, Any] = {}

    def ours() -> None:
        outputs["ours"] = encode(params, audio).block_until_ready()

    def pytorch() -> None:
        with torch.inference_mode():
            made = theirs(packed, feature_lens=lengths, aftercnn_lens=(lengths - 1) // 2 + 1)
            outputs["torch"] = made.last_hidden_state

    times = bench.turns("encoder", {"ours": ours, "PyTorch": pytorch})
    gap = np.abs(np.asarray(outputs["ours"]).reshape(-1, shape.output_width) - outputs["torch"].numpy()).max()
    if gap > 1e-3:
        raise SeenError(f"the two encoders differ by {gap:g}: nothing to compare")
    stem, layer = encoder_work(shape, FRAMES)
    last = int(shape.token_count(FRAMES)) * shape.width * shape.output_width
    moved = sum(x.nbytes for x in jax.tree.leaves(params["encoder"]))
    work = 2.0 * CLIPS * (LAYERS * layer + stem + last)
    lines = {name: roofline(work, moved, float(np.median(seconds)), bench.top) for name, seconds in times.items()}
    return Timed(times, {"encoder_vs_torch": ratio(times["PyTorch"], times["ours"])}, lines)


def _torch_side() -> Any:
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
        shape: Any = Qwen2_5OmniThinkerConfig()  # its defaults are the 7B model,
        shape.vision_start_token_id = 151_652  # but for an id that `generate` wants
        model = Thinker(shape).eval()
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

    inner = model.model if hasattr(model.model, "audio_tower") else model  # the second up to transformers 5.17
    for i, layer in enumerate(inner.audio_tower.layers):
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

        answer = functools.partial(model.generate, max_new_tokens=new, min_new_tokens=new, do_sample=False)

        def run() -> None:
            with torch.inference_mode():
                (answer if new else model)(**inputs)
            wait()

        return run

    return {name: side(*load) for name, load in loads.items()}
