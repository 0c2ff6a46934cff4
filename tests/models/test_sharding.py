"""Rules of a mesh, and the same figures on meshes of 8 virtual devices as on one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from seen_jax.errors import ConfigError
from seen_jax.models.batching import filled
from seen_jax.models.checkpoint import parameter_shapes
from seen_jax.models.family import published_config
from seen_jax.models.sharding import DATA, TENSOR, MeshConfig, make_mesh, parameter_sharding, spec
from seen_jax.registry import FAMILIES

MESHES = ("8x1", "1x8", "2x4")
CASES = [(name, mesh) for name in ("seen-tiny", "shared_heads") for mesh in MESHES]
CASES += [(name, "2x4") for name in ("in_blocks", "qwen2_5_omni", "maps_per_frame", "qwen3_omni", "granite_speech")]
TOLERANCE = 1e-5


def mesh_of(data: int, tensor: int) -> AbstractMesh:
    return AbstractMesh((data, tensor), (DATA, TENSOR))


@pytest.fixture(scope="module")
def differences(tmp_path_factory) -> dict:
    """One process with 8 devices for all models and meshes."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(jax.config.values["jax_compilation_cache_dir"])}
    cache["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    eight = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    flags = {"XLA_FLAGS": eight, "JAX_PLATFORMS": "cpu"}
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "support" / "mesh_differences.py"),
        str(tmp_path_factory.mktemp("mesh")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | cache | flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mesh"), CASES)
def test_a_mesh_gives_the_same_answers_see_and_pooled_activations(differences, name, mesh):
    figures = dict(differences[name][mesh])
    assert figures.pop("same")
    figures.pop("on_one_device")
    assert all(difference <= TOLERANCE for difference in figures.values()), figures


@pytest.mark.slow
def test_weights_are_shared_by_the_tensor_axis_alone(differences):
    on_one = {case: differences[case[0]][case[1]]["on_one_device"] for case in CASES}
    assert all((share == 1) == (mesh == "8x1") for (_, mesh), share in on_one.items())
    assert on_one["seen-tiny", "1x8"] < 0.23 and on_one["seen-tiny", "2x4"] < 0.34


# --- rules ---


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_no_large_parameter_of_a_published_model_is_whole_on_eight_devices(family):
    mesh = mesh_of(1, 8)
    total = on_one = 0
    for path, shape in parameter_shapes(published_config(family)).items():
        split = parameter_sharding(mesh, path, shape)
        size = math.prod(shape) * 2  # bfloat16
        assert size <= 32e6 or TENSOR in split.spec, (path, shape)
        assert "layers" not in path or not split.spec or split.spec[0] is None
        total, on_one = total + size, on_one + math.prod(split.shard_shape(shape)) * 2
    assert on_one < 0.14 * total


def test_parameters_are_split_as_in_megatron():
    mesh = mesh_of(2, 4)
    split = lambda path, *shape: parameter_sharding(mesh, path.split("/"), shape).spec
    assert split("decoder/layers/q/kernel", 3, 32, 64) == PartitionSpec(None, None, TENSOR)
    assert split("decoder/layers/q/bias", 3, 64) == PartitionSpec(None, TENSOR)
    assert split("decoder/layers/o/kernel", 3, 64, 32) == PartitionSpec(None, TENSOR, None)
    assert split("decoder/layers/gate/kernel", 3, 32, 48) == PartitionSpec(None, None, TENSOR)
    assert split("decoder/layers/down/kernel", 3, 48, 32) == PartitionSpec(None, TENSOR, None)
    assert split("encoder/layers/fc2/bias", 3, 32) == PartitionSpec(None, None)
    assert split("decoder/embed/embedding", 400, 32) == PartitionSpec(TENSOR, None)
    assert split("decoder/embed/embedding", 402, 32) == PartitionSpec(None, TENSOR)  # 4 does not divide it
    assert split("decoder/lm_head/kernel", 32, 400) == PartitionSpec(None, TENSOR)
    assert split("decoder/layers/norm1/scale", 4, 32) == PartitionSpec(None, None)


def test_scales_are_split_as_their_matrix():
    mesh = mesh_of(2, 4)
    split = lambda path, *shape: parameter_sharding(mesh, path.split("/"), shape).spec
    assert split("decoder/layers/q/scale", 3, 1, 64) == PartitionSpec(None, None, TENSOR)
    assert split("decoder/layers/down/scale", 3, 1, 32) == PartitionSpec(None, None, None)
    assert split("decoder/layers/down/scale", 3, 12, 32) == PartitionSpec(None, TENSOR, None)  # in groups
    assert split("decoder/embed/scale", 400, 1) == PartitionSpec(TENSOR, None)
    assert split("decoder/layers/experts/up_scale", 3, 8, 1, 64) == PartitionSpec(None, None, None, TENSOR)


def test_an_axis_that_does_not_divide_is_left_whole():
    mesh = mesh_of(2, 4)
    axes = ("batch", None, "kv_heads", None)
    assert spec(mesh, (6, 10, 4, 8), axes) == PartitionSpec(DATA, None, TENSOR, None)
    assert spec(mesh, (5, 10, 2, 8), axes) == PartitionSpec(None, None, None, None)


def test_batches_have_a_multiple_of_rows():
    assert filled([0, 1, 2], 3, 2) == [0, 1, 2, 0]
    assert filled([4], 3, 2) == [4, 4, 4, 4]
    assert filled([3, 5], 2, 1) == [3, 5]


def test_a_mesh_needs_its_devices():
    count = len(jax.devices())
    with pytest.raises(ConfigError, match=f"data 2 x tensor {count} needs {2 * count} devices; there"):
        make_mesh(2, count)
    with pytest.raises(ConfigError, match="not 0 x 1"):
        MeshConfig(0, 1)
    assert MeshConfig().mesh() is None
    assert make_mesh(-1).shape == {DATA: count, TENSOR: 1}
