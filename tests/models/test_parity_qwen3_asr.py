"""Qwen3-ASR live against PyTorch, beyond what all families are held to: its transcription requests, and our folders."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from tiny_omni import prompt_ids, random_params, wave  # noqa: E402
from torch_families import Original, Tiny  # noqa: E402
from torch_qwen3_asr import build_qwen3_asr  # noqa: E402

from seen_jax.models.checkpoint import read_config, save_params  # noqa: E402
from seen_jax.models.load import load  # noqa: E402
from seen_jax.models.model import forward  # noqa: E402
from seen_jax.models.processor import Request  # noqa: E402
from seen_jax.models.prompts import task_request  # noqa: E402
from seen_jax.registry import FAMILIES  # noqa: E402

SIZE = Tiny(n_mels=20, encoder_layers=1, encoder_width=16, encoder_heads=2, width=24, heads=2, kv_heads=1, layers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("qwen3_asr")


@pytest.fixture(scope="module")
def original(folder) -> Original:
    return build_qwen3_asr(FAMILIES["qwen3_asr"], SIZE, folder, 0)


@pytest.fixture(scope="module")
def model(original, folder):
    return load(folder)


@pytest.mark.parametrize("language", ["en", None])
@pytest.mark.parametrize("prompt", ["red, blue", None])
def test_parity_of_transcription_requests(model, original, language, prompt):
    options = {"audio_kwargs": {"sampling_rate": 16000}, "language": language, "prompt": prompt}
    expected = original.processor.apply_transcription_request(audio=[wave(9000)], **options)
    messages = [{"role": "system", "content": prompt}] * (prompt is not None)
    messages += [{"role": "user", "content": [{"type": "audio"}]}]
    messages += [{"role": "assistant", "content": "language English<asr_text>"}] * (language is not None)
    ids = prompt_ids(model, Request([wave(9000)], messages=messages))
    assert ids == expected["input_ids"][0].tolist()
    if (language, prompt) == ("en", None):
        assert ids == prompt_ids(model, task_request(model, "transcription", wave(9000)))


def test_parity_of_a_folder_that_we_wrote(model, original, folder, tmp_path):
    """PyTorch reads it without a missing or unexpected weight, and computes the same logits."""
    config, family = read_config(folder)
    params = random_params(config, 3)
    save_params(tmp_path, params, config, family)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    read, report = type(original.model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    request = Request([wave(20_000)], messages=[{"role": "user", "content": [{"type": "audio"}]}])
    out = forward(model.lalm, {"params": params}, model.processor.prepare([request]), {})
    expected = Original.forward(type(original)(family, read.eval(), original.processor), request)[0]
    assert abs(out.logits[0, : len(expected)] - expected).max() < 1e-4 < abs(expected).max()
