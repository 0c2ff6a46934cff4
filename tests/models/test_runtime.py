"""What `runtime` says of this process, and how it advises to load a model, device by device."""

from __future__ import annotations

import pytest

import seen_jax
from seen_jax.errors import CheckpointError
from seen_jax.models import runtime as module
from seen_jax.models.devices import DEVICES, GIB
from seen_jax.models.runtime import LocalDevice, Runtime


def advice(monkeypatch, devices: list[LocalDevice], dtype: str) -> Runtime:
    monkeypatch.setattr(module, "local_devices", lambda: tuple(devices))
    monkeypatch.setattr(module, "dtype_for", lambda name: dtype)
    return seen_jax.runtime()


def test_this_process(capsys):
    runtime = seen_jax.runtime()
    assert {one.platform for one in runtime.devices} == {"cpu"} and runtime.dtype == "float32"
    assert runtime.devices[0].memory > GIB / 4
    lines = str(runtime).splitlines()
    assert lines[0].startswith("1 x cpu, ") and "float32" in lines[1] and lines[2] == runtime.advice
    assert runtime.advice.startswith("Qwen/Qwen2.5-Omni-7B: ")
    assert capsys.readouterr() == ("", ""), "transformers warns about token ids that nobody uses"


@pytest.mark.parametrize(
    "name, whole",
    [
        ("t4", 'load(NAME, weights="int8") takes 8.'),
        ("v5e-1", 'load(NAME, weights="int8") takes 8.'),
        ("v5e-4", "load(NAME, mesh=make_mesh(2, 2)) takes 7."),
        ("a100", "load(NAME) takes 15."),
    ],
)
def test_the_best_way_to_load_a_7b_model(monkeypatch, name, whole):
    device = DEVICES[name]
    runtime = advice(monkeypatch, [LocalDevice(name, "tpu", device.memory)] * device.chips, device.half)
    assert whole in runtime.advice and '; load(NAME, part="encoder") takes 1.2' in runtime.advice
    assert str(runtime).startswith(f"{device.chips} x {name} (tpu), {device.memory / GIB:.1f} GiB\n")


def test_what_does_not_fit_and_what_nobody_knows(monkeypatch):
    small = advice(monkeypatch, [LocalDevice("cpu", "cpu", 4 * GIB)], "float32")
    assert 'no whole model fits; load(NAME, part="encoder") takes 2.' in small.advice
    assert "nor does its encoder" in advice(monkeypatch, [LocalDevice("cpu", "cpu", GIB)], "float32").advice
    unknown = advice(monkeypatch, [LocalDevice("X", "gpu", None), LocalDevice("X", "gpu", GIB)], "float16")
    assert "memory of the devices is unknown" in unknown.advice and "1 x X (gpu), memory unknown\n" in str(unknown)


def test_a_folder_and_a_name_that_is_none(tmp_path):
    assert seen_jax.runtime(seen_jax.load("seen-tiny").folder).advice.count("load(NAME") == 2
    with pytest.raises(CheckpointError):
        seen_jax.runtime(tmp_path)
