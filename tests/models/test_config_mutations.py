"""One key of config.json changed at a time, against PyTorch: refused by name, or the same logits, or PyTorch refuses.

A sample of all changes; `-m slow` makes every one of them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import random
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from test_parity_families import BUILDERS  # noqa: E402
from tiny_omni import hiss  # noqa: E402
from torch_families import Original, Tiny, build  # noqa: E402

from seen_jax.errors import CheckpointError  # noqa: E402
from seen_jax.models.checkpoint import read_config  # noqa: E402
from seen_jax.models.load import load  # noqa: E402
from seen_jax.models.model import Model, forward  # noqa: E402
from seen_jax.models.processor import Request  # noqa: E402
from seen_jax.registry import FAMILIES  # noqa: E402

NATIVE = (  # families that transformers has, so that a changed configuration has an original
    *("qwen2_5_omni", "qwen3_omni", "qwen2_audio", "audio_flamingo_3", "glm_asr", "voxtral", "granite_speech"),
)
SIZE = Tiny(n_mels=40, encoder_layers=2, encoder_width=16, encoder_heads=2, width=24, heads=2, kv_heads=1, ffn=32)
REMOVED = object()
SKIPPED = ("vision_config", "tie_word_embeddings")  # not read; tests of their own
TEXTS = {
    "model_type": ("gemma", "granite", "mistral", "llama", "qwen2", "qwen3", "whisper"),
    "rope_type": ("linear", "dynamic", "yarn", "llama3", "mrope", "proportional"),
    "hidden_act": ("relu", "gelu", "silu", "gelu_pytorch_tanh"),
    "activation_function": ("relu", "gelu_new"),
    "projector_hidden_act": ("relu", "silu"),
}
ADDED = {  # by the end of the section's path
    "": {"projector_hidden_act": "relu", "projector_bias": False, "quantization_config": {"bits": 4}},
    "text_config": {
        **{"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "sliding_window": 16, "attention_bias": True},
        **{"use_sliding_window": True, "layer_types": ["sliding_attention"] * 2, "partial_rotary_factor": 0.5},
        **{"head_dim": 6, "rope_theta": 500.0, "hidden_act": "relu", "final_logit_softcapping": 1.0, "mlp_bias": True},
        **{"logits_scaling": 2.0, "max_position_embeddings": 64, "qk_norm": True},
    },
    "audio_config": {"head_dim": 4, "partial_rotary_factor": 0.25, "max_position_embeddings": 100, "rope_theta": 10.0},
    "rope_parameters": {"factor": 4.0, "partial_rotary_factor": 0.5, "mrope_section": [1, 2, 3]},
}
SECONDS = 60  # of the sample, whatever the machine


@dataclasses.dataclass(frozen=True)
class Change:
    section: tuple[str, ...]
    key: str
    value: Any

    def made(self, raw: dict[str, Any]) -> dict[str, Any]:
        raw = json.loads(json.dumps(raw))
        section = functools.reduce(lambda part, name: part[name], self.section, raw)
        section.pop(self.key, None)
        return raw if self.value is REMOVED else (section.update({self.key: self.value}), raw)[1]

    def __str__(self) -> str:
        return f"{'.'.join((*self.section, self.key))} = {'removed' if self.value is REMOVED else self.value!r}"


def values_for(key: str, value: Any) -> list[Any]:
    """What a value is replaced by."""
    if isinstance(value, bool):
        return [not value, "no", 2]
    if isinstance(value, int):
        return [0, -1, value + 1, 2 * value, value // 2, value + 0.5, str(value), True, 1 << 64]
    if isinstance(value, float):
        return [0.0, -value, 2 * value, value / 3, 1, "1e4", float("nan"), 1e300]
    if isinstance(value, str):
        return ["", "nonsense", 3, *(text for text in TEXTS.get(key, ()) if text != value)]
    if isinstance(value, list):
        return [[], value[::-1], [*value, *value[:1]], "none", 3]
    if isinstance(value, dict):
        return [{}, [], "none"]
    return [0, 1, True, "x"]


def changes(raw: dict[str, Any], section: tuple[str, ...] = ()) -> Iterator[Change]:
    for key, value in raw.items():
        if key in SKIPPED:
            continue
        for other in (REMOVED, None, *values_for(key, value)):
            if other is REMOVED or type(other) is not type(value) or other != value:
                yield Change(section, key, other)
        if isinstance(value, dict):
            yield from changes(value, (*section, key))
    for key, value in ADDED.get(section[-1] if section else "", {}).items():
        if raw.get(key) != value:
            yield Change(section, key, value)


@dataclasses.dataclass
class Unchanged:
    """A tiny model, its original, and what both make of one question."""

    folder: Path
    raw: dict[str, Any]
    model: Model
    original: Original
    request: Request
    logits: np.ndarray


def logits_of(model: Model, request: Request) -> np.ndarray:
    batch = model.processor.prepare([request])
    out = forward(model.lalm, model.variables, batch, {})
    return np.asarray(out.logits[0, : int(batch.lengths[0])])


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    @functools.cache
    def get(name: str) -> Unchanged:
        if name == "voxtral":
            pytest.importorskip("mistral_common", reason="Voxtral's tokenizer needs the `voxtral` extra")
        family, folder = FAMILIES[name], tmp_path_factory.mktemp(name)
        original = BUILDERS.get(name, build)(family, SIZE, folder, 3)
        model, request = load(folder), Request([hiss(9.3, 5)], "which color ?")
        raw = json.loads((folder / "config.json").read_text())
        return Unchanged(folder, raw, model, original, request, logits_of(model, request))

    return get


def theirs(case: Unchanged, folder: Path) -> np.ndarray | None:
    """The original's logits in a changed folder; None where PyTorch refuses."""
    try:
        model = type(case.original.model).from_pretrained(folder).eval()
        with torch.no_grad():
            original = dataclasses.replace(case.original, model=model)
            logits = original.logits(original.inputs(case.request)).numpy()
    except Exception:
        return None
    return logits if np.isfinite(logits).all() else None


def verdict(case: Unchanged, change: Change, folder: Path) -> str:
    """ "refused", "equal", "theirs refuses", or what is wrong."""
    for path in case.folder.iterdir():
        if path.name != "config.json" and not (folder / path.name).exists():
            os.symlink(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps(change.made(case.raw)))
    try:
        config = read_config(folder)[0]
        ours = case.logits if config == case.model.config else logits_of(load(folder), case.request)
    except CheckpointError:
        return "refused"
    except Exception as e:
        return f"ours raises {type(e).__name__}: {e}"
    expected = theirs(case, folder)
    if expected is None:
        return "theirs refuses"
    if expected.shape != ours.shape:
        return f"logits of shape {ours.shape}, not {expected.shape}"
    error = float(np.abs(ours - expected).max())
    return "equal" if error < 1e-4 else f"logits are off by {error:.2g}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.set_verbosity(level)


def judged(case: Unchanged, chosen: list[Change], folder: Path, seconds: float = 1e9) -> dict[str, str]:
    """The verdicts, as long as the time lasts."""
    begun, verdicts = time.monotonic(), {}
    with quiet():
        for change in chosen:
            if time.monotonic() - begun > seconds:
                break
            verdicts[str(change)] = verdict(case, change, folder)
    return verdicts


def assert_right(verdicts: dict[str, str]) -> None:
    wrong = {k: v for k, v in verdicts.items() if v not in ("refused", "equal", "theirs refuses")}
    assert not wrong, "\n".join(f"{change}: {problem}" for change, problem in wrong.items())


@pytest.mark.parametrize("name", NATIVE)
def test_a_sample_of_changed_configurations(unchanged, name, tmp_path):
    case = unchanged(name)
    every = list(changes(case.raw))
    sample = random.Random(name).sample(every, 40)
    verdicts = judged(case, sample, tmp_path, SECONDS / 2 / len(NATIVE))
    assert_right(verdicts)
    assert "refused" in verdicts.values()


@pytest.mark.slow
@pytest.mark.parametrize("name", NATIVE)
def test_every_changed_configuration(unchanged, name, tmp_path):
    case = unchanged(name)
    verdicts = judged(case, list(changes(case.raw)), tmp_path)
    assert_right(verdicts)
    assert len(verdicts) > 200 and {"refused", "equal"} <= set(verdicts.values())
