"""The encoder alone: its bits are those of the whole model, in every family, and what needs the rest says so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import FOLDER
from jax.sharding import SingleDeviceSharding
from tiny_omni import hiss, leaves_equal, random_basis, wave

import seen_jax
from seen_jax.errors import ConfigError
from seen_jax.models import safetensors_files
from seen_jax.models.checkpoint import load_params, read_config
from seen_jax.models.folders import EMBEDDED, WEIGHTS
from seen_jax.models.load import load
from seen_jax.models.model import Model, encode
from seen_jax.models.modules import one_layer
from seen_jax.models.pooling import pool
from seen_jax.models.sites import DECODER_SITES, ENCODER_MLP_ACT, ENCODER_SITES
from seen_jax.registry import FAMILIES
from seen_jax.subspace import NoiseBasis


@pytest.fixture(scope="module")
def encoder(folder) -> Model:
    return load(folder, part="encoder")


def basis_of(model: Model, site: str) -> NoiseBasis:
    return random_basis(model.config, site, [2] * model.config.site_shape(site)[0], **model.identity(site).card())


@pytest.mark.parametrize("folder", [EMBEDDED["seen-tiny"], *(FOLDER / name for name in FAMILIES)], ids=lambda p: p.name)
@pytest.mark.filterwarnings("ignore:the clip lasts")
def test_see_is_that_of_the_whole_model_to_the_bit(folder):
    if folder.name == "voxtral":
        pytest.importorskip("mistral_common", reason="Voxtral's tokenizer needs the `voxtral` extra")
    clips = [hiss(1.1, 0), hiss(0.4, 1), hiss(2.3, 2)]
    whole, alone = load(folder), load(folder, part="encoder")
    assert set(alone.variables["params"]) == {"encoder"}
    assert leaves_equal(alone.variables["params"]["encoder"], whole.variables["params"]["encoder"])
    assert alone.identities == {"encoder": whole.identities["encoder"]}
    for site in ENCODER_SITES:
        basis = basis_of(whole, site)
        assert seen_jax.score(alone, clips, basis, batch_size=2) == seen_jax.score(whole, clips, basis, batch_size=2)


def test_calibration_is_that_of_the_whole_model_to_the_bit(model, encoder):
    clips, noises = [wave(8000, 1), wave(9000, 2)], [hiss(0.5, 3), hiss(0.5, 4)]
    stream = lambda model, one, other, site: seen_jax.calibrate_stream(model, zip(one, other, strict=True), site)
    for make in (seen_jax.calibrate, stream):
        for site in ENCODER_SITES:
            one, other = (make(m, clips, noises, site=site) for m in (model, encoder))
            for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
                np.testing.assert_array_equal(x, y)
            assert {**one.card, "model": ""} == {**other.card, "model": ""}


def test_a_folder_without_a_tokenizer_and_settings_is_enough(folder, tmp_path, encoder):
    for name in ("config.json", WEIGHTS):
        (tmp_path / name).symlink_to(folder / name)
    alone = load(tmp_path, part="encoder")
    assert seen_jax.score(alone, wave(8000), basis_of(encoder, ENCODER_MLP_ACT)).see > 0


@pytest.mark.parametrize("site", DECODER_SITES)
def test_decoder_sites_are_refused(encoder, site):
    clip = wave(8000)
    basis = random_basis(encoder.config, site, [2] * encoder.config.site_shape(site)[0])
    for call in (
        lambda: seen_jax.score(encoder, clip, basis),
        lambda: seen_jax.calibrate(encoder, [clip], [clip], site=site),
        lambda: seen_jax.calibrate_stream(encoder, [(clip, clip)], site=site),
        lambda: seen_jax.projection(encoder, basis),
        lambda: seen_jax.steering(encoder, site, np.ones(encoder.config.site_shape(site)[1])),
        lambda: seen_jax.measuring(encoder, basis),
    ):
        with pytest.raises(ConfigError, match=rf"the site {site} needs the whole model: .* loaded with part='encoder'"):
            call()
    with pytest.raises(ConfigError, match="a prompt needs the whole model"):
        pool(encoder, [clip], [site])


def test_answers_are_refused_before_a_clip_is_read(encoder):
    for call, name in ((seen_jax.generate, "generate"), (seen_jax.run, "run")):
        with pytest.raises(ConfigError, match=f"{name} needs the whole model"):
            call(encoder, "no_such_file.wav")


# --- what the host holds ---


def host_buffers(monkeypatch) -> list[int]:
    """Sizes of the arrays that weights are read into."""
    sizes: list[int] = []
    make = safetensors_files._aligned

    def counted(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        sizes.append(int(np.prod(shape)) * dtype.itemsize)
        return make(shape, dtype)

    monkeypatch.setattr(safetensors_files, "_aligned", counted)
    return sizes


@pytest.mark.parametrize("name", ["seen-tiny", "qwen3_omni", "granite_speech"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_on_an_accelerator_the_host_holds_a_layer_at_a_time(monkeypatch, name, dtype):
    """A placement, as an accelerator has one, makes the difference: the CPU takes over what the host has read."""
    folder = EMBEDDED.get(name, FOLDER / name)
    config, family = read_config(folder)
    sizes = host_buffers(monkeypatch)
    whole = load_params(folder, config, family, dtype)
    largest, before = max(sizes), sum(sizes)
    sizes.clear()
    device = jax.devices()[0]
    placed = load_params(folder, config, family, dtype, lambda path, shape: SingleDeviceSharding(device))
    assert leaves_equal(placed, whole) and sum(sizes) == before
    stacks = [x.nbytes for path, x in jax.tree.leaves_with_path(whole) if "layers" in str(path)]
    others = [x.nbytes for path, x in jax.tree.leaves_with_path(whole) if "layers" not in str(path)]
    depth = min(config.encoder.layers, config.decoder.layers)
    assert max(sizes) <= max(max(others), max(stacks) // depth) and largest == max(stacks + others)


def test_a_cpu_keeps_no_float32_copy_of_bfloat16_layers(folder):
    model = load(folder, "bfloat16", part="encoder")
    audio, _ = model.processor.audio([wave(8000)])
    text = encode.lower(model.lalm, model.variables, audio, {}).compile().as_text()
    shape = model.variables["params"]["encoder"]["layers"]["fc1"]["kernel"].shape
    assert f"bf16[{','.join(map(str, shape))}]" in text and f"f32[{','.join(map(str, shape))}]" not in text


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_layer_of_a_stack_and_its_gradient(dtype):
    stack = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 5)), dtype)
    layer, gradient = jax.jit(jax.value_and_grad(lambda x, i: one_layer(x, i).astype(jnp.float32).sum()))(stack, 1)
    assert layer == stack[1].astype(jnp.float32).sum()
    np.testing.assert_array_equal(np.asarray(gradient, np.float32), np.eye(3)[1][:, None, None] * np.ones((3, 4, 5)))
    np.testing.assert_array_equal(np.asarray(jax.jit(one_layer)(stack, 2)), np.asarray(stack[2]))
