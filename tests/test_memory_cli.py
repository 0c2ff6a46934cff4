"""What the command line says about memory: of a model, of a batch that cannot fit, and when memory runs out."""

from __future__ import annotations

import cli_support
import pytest
from cli_support import run

from seen_jax.models import memory
from seen_jax.models.devices import GIB
from seen_jax.models.sharding import MeshConfig

world = cli_support.world


def test_the_list_names_hub_size_licence_and_devices():
    families = {entry["name"]: entry for entry in run("models", "--json").data}
    omni = families["qwen2_5_omni"]
    assert omni["hub"][0] == "Qwen/Qwen2.5-Omni-7B" and "Apache" in omni["licence"]
    assert "v6e-1" in omni["fits"]["whole"] and "t4" not in omni["fits"]["whole"] and "t4" in omni["fits"]["encoder"]
    assert omni["bytes"] == pytest.approx(16.5e9, rel=0.01)
    assert "Qwen/Qwen2.5-Omni-7B" in run("models").out


def test_a_model_that_does_not_fit_comes_with_what_to_change():
    argv = ("models", "qwen2_5_omni", "--device", "v5e-1", "--batch-size", "16", "--seconds", "30")
    [entry] = run(*argv, "--json").data
    whole, encoder = entry["memory"]
    assert not whole["fits"] and encoder["fits"] and encoder["part"] == "encoder"
    assert whole["total"] == pytest.approx(sum(whole["need"].values()))
    assert any("int8" in change for change in whole["changes"]) and any("mesh" in change for change in whole["changes"])
    text = run(*argv).out
    assert "does not fit. Use" in text and "bfloat16" in text
    assert "float16" in run("models", "qwen2_5_omni", "--device", "t4").out


def test_every_device_is_listed_without_one():
    [entry] = run("models", "seen-tiny", "--json").data
    assert {one["device"] for one in entry["memory"]} >= {"t4", "v5e-1", "v6e-1", "v4-8", "a100", "h100"}
    assert all(one["fits"] for one in entry["memory"])


def test_an_unknown_device_is_wrong_usage():
    done = run("models", "seen-tiny", "--device", "v9")
    assert done.status == 2 and "v9" in done.err


def test_a_batch_that_cannot_fit_is_refused_before_loading(world, monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 0.0001 * GIB)
    monkeypatch.setattr("seen_jax.cli._inputs.load", lambda *_: pytest.fail("it was loaded"))
    shared = ("--model", world.model, "--batch-size", "4")
    calibrate = ("calibrate", world.clips, "--noise", "white", "--out", world.root / "no")
    for argv in (("generate", world.clips), calibrate):
        done = run(*argv, *shared)
        assert done.status == 1 and "GiB, of 0.0 that the device has" in done.err and "Traceback" not in done.err


def test_an_experiment_that_cannot_fit_is_refused_before_loading(world, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 0.0001 * GIB)
    monkeypatch.setattr("seen_jax.evaluate.prepare.load", lambda *_, **__: pytest.fail("it was loaded"))
    (tmp_path / "config.yaml").write_text("datasets: [{path: seen-tiny/demo}]\nnoises: [white]\n")
    done = run("evaluate", tmp_path / "config.yaml", "--model", world.model, "--out", tmp_path / "out")
    assert done.status == 1 and "GiB, of 0.0 that the device has" in done.err and "Traceback" not in done.err


def test_all_devices_share_a_batch_in_the_estimate(monkeypatch):
    monkeypatch.setattr("jax.local_device_count", lambda: 8)
    assert MeshConfig(-1, 2).devices == (4, 2) and MeshConfig(3, 1).devices == (3, 1)
    assert MeshConfig(-1, 16).devices == (1, 16)


def test_a_batch_that_fits_runs(world, monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 1.0 * GIB)
    assert run("generate", world.clips, "--model", world.model, "--max-new-tokens", "2").status == 0
