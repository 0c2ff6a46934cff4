"""The LoRA that a folder may hold beside its weights, as peft writes it: it is added to them on loading."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from seen_jax.errors import CheckpointError
from seen_jax.models.family import Family
from seen_jax.models.folders import read_json
from seen_jax.models.safetensors_files import check_file
from seen_jax.models.weights import Slot, canonical

LORA, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"
LORA_KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])\.weight")
LORA_OPTIONS = (
    *("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save"),
    *("layer_replication", "alora_invocation_tokens"),
)


def read_lora(folder: Path, table: Mapping[str, Slot], family: Family) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{canonical key: (alpha / r * B, A), float32, whose product is added to the weight} of the LoRA that peft wrote.
    Other kinds and keys than those of plain linear maps are refused by name."""
    if not (folder / LORA).is_file():
        raise CheckpointError(f"{folder}: config.json says has_lora_adapter, but {LORA} is missing; audio needs it.")
    from safetensors.flax import load_file

    raw = read_json(folder / LORA_CONFIG, "LoRA configuration")
    refused = [f"{name} = {raw[name]!r}" for name in LORA_OPTIONS if raw.get(name)]
    refused += [f"{k} = {raw[k]!r}" for k, v in {"peft_type": "LORA", "bias": "none"}.items() if raw.get(k, v) != v]
    refused += [f"{name} = {raw.get(name)!r}" for name in ("r", "lora_alpha") if not raw.get(name)]
    if refused:
        raise CheckpointError(f"{folder / LORA_CONFIG}: {', '.join(refused)} is not supported.")
    parts: dict[str, dict[str, np.ndarray]] = {}
    problems = []
    check_file(folder / LORA)
    for key, value in load_file(folder / LORA).items():
        if (parsed := LORA_KEY.fullmatch(key)) is None:
            problems.append(f"unexpected: {key}")
            continue
        name = canonical(f"{parsed['layer']}.weight", family.renames)
        parts.setdefault(name, {})[parsed["part"]] = np.asarray(value, np.float32)
    scale = raw["lora_alpha"] / (raw["r"] ** 0.5 if raw.get("use_rslora") else raw["r"])
    lora = {}
    for name, pair in parts.items():
        if name not in table or len(pair) < 2:
            problems.append(f"unexpected: LoRA of {name}" if name not in table else f"incomplete: LoRA of {name}")
            continue
        b, a = lora[name] = scale * pair["B"], pair["A"]
        if (b.shape[:1] + a.shape[1:], b.shape[1:]) != (table[name].shape, a.shape[:1]):
            problems.append(f"misshapen: LoRA of {name}, for a weight of {list(table[name].shape)}")
    if problems:
        raise CheckpointError(f"{folder / LORA} does not fit this configuration:", sorted(problems))
    return lora
