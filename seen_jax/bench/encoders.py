"""The audio encoder at Qwen2.5-Omni's layer shapes, fewer layers, random weights: ours beside PyTorch's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seen_jax.bench.roofline import roofline
from seen_jax.bench.suites import Bench, Timed
from seen_jax.bench.timing import ratio
from seen_jax.errors import ConfigError, SeenError
from seen_jax.models.config import EncoderConfig
from seen_jax.models.encoder import Audio, Encoder

LAYERS, CLIPS, SECONDS = 4, 8, 10
CONFIG = EncoderConfig(
    n_mels=128, width=1280, layers=LAYERS, heads=20, ffn=5120, output_width=3584, pad_frames=200, chunked=True
)


def encoders(bench: Bench) -> Timed:
    """The forward pass of 8 clips of 10 s, float32."""
    try:
        import torch
        from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniAudioEncoderConfig
        from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder
    except ImportError as error:
        raise ConfigError('this suite needs PyTorch: pip install "seen-jax[parity]"') from error
    frames = 100 * SECONDS
    own = Qwen2_5OmniAudioEncoderConfig(
        num_mel_bins=CONFIG.n_mels, d_model=CONFIG.width, encoder_layers=LAYERS, encoder_attention_heads=CONFIG.heads,
        encoder_ffn_dim=CONFIG.ffn, output_dim=CONFIG.output_width, n_window=100, max_source_positions=1500,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = Qwen2_5OmniAudioEncoder(own).eval()
    features = np.random.default_rng(0).normal(size=(CLIPS, frames, CONFIG.n_mels)).astype(np.float32)
    encoder = Encoder(CONFIG)
    audio = Audio(jnp.asarray(features), jnp.full(CLIPS, frames))
    variables = {"params": converted(theirs)}
    apply: Any = encoder.apply
    forward = jax.jit(lambda v, a: apply(v, a, {}).tokens)
    packed = torch.tensor(features).reshape(-1, CONFIG.n_mels).T.contiguous()
    lengths = torch.full((CLIPS,), frames)
    after = (lengths - 1) // 2 + 1
    outputs: dict[str, Any] = {}

    def ours() -> None:
        outputs["ours"] = forward(variables, audio).block_until_ready()

    def hooks() -> None:
        with torch.inference_mode():
            outputs["torch"] = theirs(packed, feature_lens=lengths, aftercnn_lens=after).last_hidden_state

    times = bench.turns("encoder", {"ours": ours, "PyTorch": hooks})
    gap = np.abs(np.asarray(outputs["ours"]).reshape(-1, CONFIG.output_width) - outputs["torch"].numpy()).max()
    if gap > 1e-3:
        raise SeenError(f"the two encoders differ by {gap:g}: nothing to compare")
    positions, window = CLIPS * frames // 2, CONFIG.pad_frames // 2
    layer = positions * (4 * CONFIG.width**2 + 2 * CONFIG.width * CONFIG.ffn + 2 * window * CONFIG.width)
    stem = 3 * CLIPS * frames * CONFIG.n_mels * CONFIG.width + 3 * positions * CONFIG.width**2
    operations = 2.0 * (LAYERS * layer + stem + positions // 2 * CONFIG.width * CONFIG.output_width)
    weights = sum(x.nbytes for x in jax.tree.leaves(variables))
    lines = {name: roofline(operations, weights, float(np.median(own)), bench.top) for name, own in times.items()}
    return Timed(times, {"encoder_vs_torch": ratio(times["PyTorch"], times["ours"])}, lines)


def converted(encoder: Any) -> dict[str, Any]:
    """The weights of the PyTorch module as ours."""
    state = {name: x.detach().numpy() for name, x in encoder.state_dict().items()}
    dense = lambda key: {"kernel": state[f"{key}.weight"].T, **_bias(state, key)}
    norm = lambda key: {"scale": state[f"{key}.weight"], "bias": state[f"{key}.bias"]}
    conv = lambda key: {"kernel": state[f"{key}.weight"].transpose(2, 1, 0), **_bias(state, key)}

    def layer(i: int) -> dict[str, Any]:
        at = f"layers.{i}"
        names = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "out": "self_attn.out_proj"}
        parts = {name: dense(f"{at}.{key}") for name, key in {**names, "fc1": "fc1", "fc2": "fc2"}.items()}
        return parts | {"norm1": norm(f"{at}.self_attn_layer_norm"), "norm2": norm(f"{at}.final_layer_norm")}

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(layer(i) for i in range(LAYERS)))
    rest = {"conv1": conv("conv1"), "conv2": conv("conv2"), "norm_post": norm("ln_post"), "proj": dense("proj")}
    return {"layers": stacked, **jax.tree.map(jnp.asarray, rest)}


def _bias(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {"bias": state[f"{key}.bias"]} if f"{key}.bias" in state else {}
