"""One file per model family: its config, its weight table, its prompt."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from seen_jax.errors import CheckpointError

FAMILIES = (
    "qwen2_5_omni",
    "qwen3_omni",
    "qwen2_audio",
    "audio_flamingo_3",
    "glm_asr",
    "voxtral",
    "minicpm_o",
    "step_audio_2",
    "ultravox",
    "granite_speech",
)


def families() -> list[ModuleType]:
    return [importlib.import_module(f"{__name__}.{name}") for name in FAMILIES]


def family_of(model_type: Any, where: Path) -> ModuleType:
    """The family module that handles a config.json's model_type."""
    for family in families():
        if model_type in family.MODEL_TYPES:
            return family
    known = ", ".join(kind for family in families() for kind in family.MODEL_TYPES)
    raise CheckpointError(f"{where}: model_type '{model_type}' is not supported. Supported: {known}.")
