"""float16: residuals of the encoder are clamped where the originals clamp them."""

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

CLAMPED = {  # the bias of the last map of an encoder layer
    "qwen2_5_omni": "audio_tower.layers.0.fc2.bias",
    "qwen3_omni": "audio_tower.layers.0.fc2.bias",
    "qwen2_audio": "audio_tower.layers.0.fc2.bias",
    "audio_flamingo_3": "audio_tower.layers.0.fc2.bias",
    "minicpm_o": "apm.layers.0.fc2.bias",
    "ultravox": "audio_tower.layers.0.fc2.bias",
}
OTHERS = {"glm_asr": "audio_tower.layers.0.mlp.fc2.bias", "step_audio_2": "encoder.blocks.0.mlp.2.bias"}


@pytest.fixture
def overflowing(tmp_path):
    """A golden folder whose first encoder layer adds a large number to every second dimension."""

    def make(family: str, key: str):
        folder = shutil.copytree(FOLDER / family, tmp_path / family)
        tensors = load_file(folder / WEIGHTS)
        [name] = [name for name in tensors if name.endswith(key)]
        large = jnp.where(jnp.arange(len(tensors[name])) % 2, 65280.0, -65280.0)
        save_file(tensors | {name: large.astype(tensors[name].dtype)}, folder / WEIGHTS)
        return folder

    return make


@pytest.mark.parametrize("family", CLAMPED)
def test_residuals_are_clamped_as_in_the_original(overflowing, family):
    model = load(overflowing(family, CLAMPED[family]), dtype="float16")
    resid = run(model, wave(9000), "red", sites=ENCODER_RESID).activations[ENCODER_RESID]
    assert np.isfinite(resid).all() and np.abs(resid[0]).max() == 64512 == float(np.float16(65504 - 1000))


@pytest.mark.parametrize("family", OTHERS)
def test_where_the_original_does_not_clamp_the_overflow_is_named(overflowing, family):
    """Its next layer adds as much again."""
    folder = overflowing(family, OTHERS[family])
    tensors = load_file(folder / WEIGHTS)
    [name] = [name for name in tensors if name.endswith(OTHERS[family])]
    tensors[name.replace(".0.", ".1.", 1)] = tensors[name]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(SeenError, match=r"clip 0: the model's logits are not finite .* float16 ends at 65504"):
        run(load(folder, dtype="float16"), wave(9000), "red")


def test_the_original_clamps_to_the_same_number(overflowing):
    torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")
    import transformers

    folder = overflowing("qwen2_audio", CLAMPED["qwen2_audio"])
    original = transformers.Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float16)
    layer = original.model.audio_tower.layers[0]
    with torch.no_grad():
        out = layer(torch.randn(1, 8, 16, dtype=torch.float16), None)
    assert (out[0] if isinstance(out, tuple) else out).abs().max() == 64512
