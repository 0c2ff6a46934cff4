"""Hugging Face model folders <-> parameters, without PyTorch. Nothing is unpickled and no remote code runs."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from seen_jax.errors import CheckpointError
from seen_jax.files import write_file
from seen_jax.models.config import LalmConfig
from seen_jax.models.constraints import read_settings
from seen_jax.models.family import Family, family_of
from seen_jax.models.folders import part_folder, read_json
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.ranges import check_fit, check_largest
from seen_jax.models.safetensors_files import (
    FLOATS,
    WEIGHTS,
    Source,
    Tensor,
    check_file,
    equal_tensors,
    list_tensors,
    read_arrays,
)
from seen_jax.models.weights import Slot, canonical, slots
from seen_jax.progress import Progress, silent

Sharding = Callable[[tuple[str, ...], tuple[int, ...]], jax.sharding.Sharding]
LORA, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"
LORA_KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])\.weight")
LORA_OPTIONS = (
    *("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save"),
    *("layer_replication", "alora_invocation_tokens"),
)


def read_config(folder: Path) -> tuple[LalmConfig, Family]:
    """config.json (+ generation_config.json) -> the model's configuration and its family. Raises CheckpointError for
    files that are missing or damaged, and for values that are not supported, by name."""
    path = folder / "config.json"
    raw = read_json(path, "model configuration")
    family = family_of(raw.get("model_type"), path)
    for part in family.parts:
        if raw.get(part.attribute) and not raw.get(part.section):
            other = part_folder(folder, part, str(raw[part.attribute]), weights=False)
            raw[part.section] = read_json(other / "config.json", f"configuration of {part.attribute}")
    check_largest(raw)
    try:
        full = family.complete(raw)
        family.check(full)
        full["tokens"] = {token: _token_id(folder, token) for token in (*family.tokens, *family.stops)}
        config = family.config(full, *_stop_tokens(folder, full))
    except CheckpointError:
        raise
    except KeyError as e:
        raise CheckpointError(f"{path} lacks the attribute {e}.") from None
    except Exception as e:
        reason = " ".join(str(e).split()).partition(". Errors:")[0]
        raise CheckpointError(f"{path} is not a valid {raw['model_type']} configuration: {reason}") from None
    check_fit(config)
    return dataclasses.replace(config, **_settings(folder, raw, family)), family


def _settings(folder: Path, raw: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """How answers are made, by generation_config.json, or by config.json without one."""
    path = folder / "generation_config.json"
    if path.is_file():
        settings = read_json(path, "generation configuration")
    else:
        path, set_in = folder / "config.json", lambda s: {key: x for key, x in s.items() if x is not None}
        settings = set_in(raw.get("text_config") or {}) | set_in(raw)
    constraints, sampling = read_settings(settings, not family.embeds_prompt, path)
    return {"constraints": constraints, "sampling": sampling}


def _stop_tokens(folder: Path, config: Mapping[str, Any]) -> tuple[tuple[int, ...], int | None]:
    sources = [config.get("text_config") or {}, config]
    if (folder / "generation_config.json").is_file():
        sources.insert(0, read_json(folder / "generation_config.json", "generation configuration"))
    first = lambda key: next((s[key] for s in sources if s.get(key) is not None), None)
    eos = first("eos_token_id")
    if eos is None:
        tokenizer = read_json(folder / "tokenizer_config.json", "tokenizer configuration")
        eos = _token_id(folder, tokenizer.get("eos_token"))
    if eos is None or eos == []:
        files = "generation_config.json, config.json or tokenizer_config.json"
        raise CheckpointError(f"{folder}: no end-of-text token in {files}.")
    stops, pad = tuple(eos) if isinstance(eos, (list, tuple)) else (eos,), first("pad_token_id")
    for key, ids in (("eos_token_id", stops), ("pad_token_id", () if pad is None else (pad,))):
        if wrong := [x for x in ids if type(x) is not int or x < -(key == "pad_token_id")]:
            raise CheckpointError(f"{folder}: {key} holds {wrong[0]!r:.60}, which is no token id.")
    return stops, pad


def _token_id(folder: Path, token: Any) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    if (folder / "tokenizer.json").is_file():
        added = read_json(folder / "tokenizer.json", "tokenizer").get("added_tokens", [])
        return next((entry["id"] for entry in added if entry["content"] == text), None)
    if not (folder / "tokenizer_config.json").is_file():  # `load` says what is missing
        return None
    added = read_json(folder / "tokenizer_config.json", "tokenizer configuration").get("added_tokens_decoder", {})
    return next((int(i) for i, entry in added.items() if entry["content"] == text), None)


def parameter_shapes(config: LalmConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
    """{parameter path: shape} of the whole model, without allocating anything."""

    def init() -> Any:
        features = jnp.zeros((1, config.encoder.pad_frames, config.encoder.n_mels))
        one, row = jnp.ones(1, jnp.int32), jnp.zeros((1, 4), jnp.int32)
        return Lalm(config).init(jax.random.key(0), Batch(row, one, features, one, row))

    return {path: leaf.shape for path, leaf in flatten_dict(jax.eval_shape(init)["params"]).items()}


def gather(folder: Path, config: LalmConfig, family: Family) -> dict[str, Tensor]:
    """Every tensor of a model, by key: those of its folder, and those of the parts that it leaves to other folders."""
    tensors = list_tensors(folder)
    if not family.parts:
        return tensors
    held = {canonical(key, family.renames) for key in tensors}
    table = slots(family.rules(config), parameter_shapes(config))
    for part in family.parts:
        if held.issuperset(key for key in table if key.startswith(part.prefix)):
            continue
        name = read_json(folder / "config.json", "model configuration").get(part.attribute)
        if name:
            others = list_tensors(part_folder(folder, part, str(name)))
            prefixed = {part.prefix + key: tensor for key, tensor in others.items()}
            tensors |= {key: x for key, x in prefixed.items() if canonical(key, family.renames) not in held}
        elif not any(key.startswith(part.prefix) for key in held):
            problem = f"holds no weights {part.prefix}*, and its config.json names no {part.attribute} that does"
            raise CheckpointError(f"{folder} {problem}.")
    return tensors


def with_stored_head(folder: Path, config: LalmConfig, family: Family) -> LalmConfig:
    """The configuration with an output map of its own, if the folder stores one that differs from the embeddings: as in
    transformers, it counts whatever `tie_word_embeddings` says."""
    if not config.decoder.tied:
        return config
    untied = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, tied=False))
    keys = {rule.path: rule.key for rule in family.rules(untied)}
    stored = {canonical(key, family.renames): tensor for key, tensor in gather(folder, config, family).items()}
    head, embeddings = (
        stored.get(keys.get(("decoder", *path), "")) for path in (("lm_head", "kernel"), ("embed", "embedding"))
    )
    if head is None or embeddings is None or not {head.dtype, embeddings.dtype} <= FLOATS.keys():
        return config  # `match` names what is missing or no number
    return config if equal_tensors(head, embeddings) else untied


def match(tensors: Mapping[str, Tensor], table: Mapping[str, Slot], family: Family, folder: Path) -> dict[str, Slot]:
    """{stored key: slot}. An unmapped, missing or misshapen key is an error that lists them all. An output map is
    skipped where the table has none: it is tied to the embeddings."""
    unused = (*family.unused, r"(^|\.)lm_head\.weight$")
    plan: dict[str, Slot] = {}
    stored: dict[str, str] = {}  # canonical name -> key
    problems: list[str] = []
    for key, tensor in tensors.items():
        name = canonical(key, family.renames)
        if name in table:
            slot = table[name]
            if (twin := stored.setdefault(name, key)) != key:
                problems.append(f"twice: {key} is the same weight as {twin}")
            elif tensor.shape != slot.shape:
                problems.append(f"misshapen: {key} is {list(tensor.shape)}, expected {list(slot.shape)}")
            elif tensor.dtype not in FLOATS:
                problems.append(f"wrong dtype: {key} is {tensor.dtype}, expected one of {', '.join(FLOATS)}")
            plan[key] = slot
        elif not any(re.search(pattern, name) for pattern in unused):
            problems.append(f"unexpected: {key}")
    problems += [f"missing: {key}" for key in table if key not in stored]
    if problems:
        raise CheckpointError(f"{folder}: {len(problems)} weights do not fit this configuration:", sorted(problems))
    return plan


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


def load_params(
    folder: Path,
    config: LalmConfig,
    family: Family,
    dtype: Any = jnp.float32,
    sharding: Sharding | None = None,
    progress: Progress = silent,
    stage: str = "loading the model",
) -> dict[str, Any]:
    """Read the parameters of a folder, one after the other: the host holds only the one being read. sharding: (path,
    shape) of a parameter -> where it lives. progress(stage, bytes read, bytes in all) is called after each. Raises
    CheckpointError that lists all weights that are missing, unexpected, misshapen or damaged."""
    shapes = parameter_shapes(config)
    tensors = gather(folder, config, family)
    table = slots(family.rules(config), shapes)
    plan = match(tensors, table, family, folder)
    lora = read_lora(folder, table, family) if config.lora else {}
    sources: dict[tuple[str, ...], list[Source]] = {}
    for key, slot in plan.items():
        sources.setdefault(slot.path, []).append((tensors[key], slot, lora.get(canonical(key, family.renames))))
    total, done = sum(tensors[key].nbytes for key in plan), 0
    flat: dict[tuple[str, ...], Any] = {}
    for path, array in read_arrays(sources, shapes, dtype):
        flat[path] = jax.device_put(array, sharding(path, shapes[path]) if sharding else None)
        done += sum(tensor.nbytes for tensor, _, _ in sources[path])
        progress(stage, done, total)
    return unflatten_dict(flat)


def stored_tensors(params: Mapping[str, Any], config: LalmConfig, family: Family) -> dict[str, np.ndarray]:
    """Parameters by their canonical checkpoint keys, in the stored layout."""
    flat = flatten_dict(dict(params))
    table = slots(family.rules(config), {path: leaf.shape for path, leaf in flat.items()})
    return {key: slot.layout(np.asarray(flat[slot.path][slot.index])) for key, slot in table.items()}


def save_params(
    folder: Path,
    params: Mapping[str, Any],
    config: LalmConfig,
    family: Family,
    dtype: Any = None,
    extra: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write model.safetensors under the published key names. extra: further tensors that the original expects. Raises
    CheckpointError for weights that are not finite in `dtype`, and where the disk refuses."""
    from safetensors.numpy import save_file

    tensors = stored_tensors(params, config, family) | dict(extra or {})
    with np.errstate(over="ignore"):
        tensors = {key: np.asarray(x, dtype or x.dtype, order="C") for key, x in tensors.items()}
    if wrong := [key for key, x in tensors.items() if not np.isfinite(x).all()]:
        problem = f"{len(wrong)} of its weights are not finite in {tensors[wrong[0]].dtype}, such as {wrong[0]}"
        raise CheckpointError(f"{folder / WEIGHTS} is not written: {problem}; train with a lower learning rate.")
    write_file(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}), CheckpointError)
