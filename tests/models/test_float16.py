"""float16: where the originals clamp the encoder's residual stream, or overflow, it is kept in float32 here."""

from __future__ import annotations

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import FOLDER
from safetensors.flax import load_file, save_file
from tiny_omni import wave

from seen_jax.api import run
from seen_jax.errors import SeenError
from seen_jax.models.load import load
from seen_jax.models.safetensors_files import WEIGHTS
from seen_jax.models.sites import ENCODER_RESID

LARGE = {  # the bias of the last map of an encoder layer
    "qwen2_5_omni": "audio_tower.layers.{}.fc2.bias",
    "qwen3_omni": "audio_tower.layers.{}.fc2.bias",
    "qwen2_audio": "audio_tower.layers.{}.fc2.bias",
    "audio_flamingo_3": "audio_tower.layers.{}.fc2.bias",
    "minicpm_o": "apm.layers.{}.fc2.bias",
    "ultravox": "audio_tower.layers.{}.fc2.bias",
    "glm_asr": "audio_tower.layers.{}.mlp.fc2.bias",
    "step_audio_2": "encoder.blocks.{}.mlp.2.bias",
    "granite_speech": "encoder.layers.{}.ff1.down_proj.bias",
}


@pytest.fixture
def overflowing(tmp_path):
    """A golden folder whose first two encoder layers add a large number to every second dimension."""

    def make(family: str):
        folder = shutil.copytree(FOLDER / family, tmp_path / family)
        tensors = load_file(folder / WEIGHTS)
        for layer in range(2):
            [name] = [name for name in tensors if name.endswith(LARGE[family].format(layer))]
            large = jnp.where(jnp.arange(len(tensors[name])) % 2, 65280.0, -65280.0)
            tensors[name] = large.astype(tensors[name].dtype)
        save_file(tensors, folder / WEIGHTS)
        return folder

    return make


@pytest.mark.parametrize("family", LARGE)
def test_residuals_beyond_float16_are_those_of_float32(overflowing, family):
    folder = overflowing(family)
    ours, exact = (
        run(load(folder, dtype=dtype), wave(9000), "red", sites=ENCODER_RESID) for dtype in ("float16", "float32")
    )
    resid, expected = (x.activations[ENCODER_RESID] for x in (ours, exact))
    if family != "granite_speech":  # whose layers end in a norm
        assert np.abs(expected).max() > 65504
    np.testing.assert_allclose(resid, expected, atol=2e-3 * np.abs(expected).max(), rtol=0)
    if family != "qwen3_omni":  # where rounding makes a router choose another expert
        np.testing.assert_allclose(ours.logits, exact.logits, atol=0.05, rtol=0)


def test_the_original_clamps_what_is_kept_here(overflowing):
    """In float16, to 1000 below the largest number; its float32 does not."""
    torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")
    import transformers

    folder = overflowing("qwen2_audio")
    original = transformers.Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float16)
    layer = original.model.audio_tower.layers[0]
    x = torch.zeros(1, 8, 16)
    with torch.no_grad():
        half, full = (
            (out[0] if isinstance(out, tuple) else out).abs().max()
            for out in (layer(x.half(), None), layer.float()(x, None))
        )
    assert half == 64512 and full > 65000
    resid = run(load(folder, dtype="float16"), wave(9000), "red", sites=ENCODER_RESID).activations[ENCODER_RESID]
    assert np.abs(resid[0]).max() > 65000


def test_what_attention_cannot_hold_is_named(overflowing):
    """Queries, keys and values are float16."""
    folder = overflowing("qwen2_audio")
    tensors = load_file(folder / WEIGHTS)
    [name] = [name for name in tensors if name.endswith("audio_tower.layers.1.self_attn.v_proj.bias")]
    [kernel] = [name for name in tensors if name.endswith("audio_tower.layers.1.self_attn.v_proj.weight")]
    save_file(tensors | {name: tensors[name] + 60000, kernel: tensors[kernel] + 20000}, folder / WEIGHTS)
    with pytest.raises(SeenError, match=r"clip 0: the model's logits are not finite .* float16 ends at 65504"):
        run(load(folder, dtype="float16"), wave(9000), "red")
