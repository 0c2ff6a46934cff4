"""Hugging Face model folders <-> parameters, without PyTorch. Nothing is unpickled and no remote code runs."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from seen_jax.errors import CheckpointError
from seen_jax.files import write_file
from seen_jax.hub import HUB, Hub
from seen_jax.models.config import LalmConfig
from seen_jax.models.constraints import read_settings
from seen_jax.models.family import Family, family_of
from seen_jax.models.folders import WEIGHTS, Wanted, part_folder, read_json
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.lora import read_lora
from seen_jax.models.quantized import is_quantized, scale_path
from seen_jax.models.ranges import check_fit, check_largest
from seen_jax.models.safetensors_files import (
    FLOATS,
    Key,
    LowRank,
    Source,
    Tensor,
    equal_tensors,
    list_tensors,
    read_arrays,
)
from seen_jax.models.stacks import read_stacks
from seen_jax.models.weights import Slot, canonical, slots

Sharding = Callable[[tuple[str, ...], tuple[int, ...]], jax.sharding.Sharding]
ModelPart = str | None  # "encoder": that with its projector; None: the whole model
HEAD = r"(^|\.)lm_head\.weight$"


def read_config(folder: Path, of: ModelPart = None, hub: Hub = HUB) -> tuple[LalmConfig, Family]:
    """config.json (+ generation_config.json) -> the model's configuration and its family. Raises CheckpointError for
    files that are missing or damaged, and for values that are not supported, by name. of: "encoder" reads config.json
    alone, and leaves out how answers are made: token ids are 0."""
    path = folder / "config.json"
    raw = read_json(path, "model configuration")
    family = family_of(raw.get("model_type"), path)
    for part in family.parts:
        if raw.get(part.attribute) and not raw.get(part.section):
            other = part_folder(folder, part, str(raw[part.attribute]), hub)
            raw[part.section] = read_json(other / "config.json", f"configuration of {part.attribute}")
    check_largest(raw)
    try:
        full = family.complete(raw)
        family.check(full)
        tokens = (*family.tokens, *family.stops)
        full["tokens"] = dict.fromkeys(tokens, 0) if of else {token: _token_id(folder, token) for token in tokens}
        config = family.config(full, *(((0,), 0) if of else _stop_tokens(folder, full)))
    except CheckpointError:
        raise
    except KeyError as e:
        raise CheckpointError(f"{path} lacks the attribute {e}.") from None
    except Exception as e:
        reason = " ".join(str(e).split()).partition(". Errors:")[0]
        raise CheckpointError(f"{path} is not a valid {raw['model_type']} configuration: {reason}") from None
    check_fit(config)
    return (config if of else dataclasses.replace(config, **_settings(folder, raw, family))), family


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
    return {path: leaf.shape for path, leaf in _traced(config, None).items()}


def abstract_params(lalm: Lalm) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """{parameter path: shape and dtype} as `load` keeps them, without allocating anything: quantised matrices as
    integers with float32 scales, all others in the dtype of the model."""
    made = _traced(lalm.config, lalm.weights)
    integers = {path for path, x in made.items() if is_quantized(x)}
    stay = integers | {scale_path(path) for path in integers}
    return {p: jax.ShapeDtypeStruct(x.shape, x.dtype if p in stay else lalm.dtype) for p, x in made.items()}


@functools.lru_cache(maxsize=8)
def _traced(config: LalmConfig, weights: str | None) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """{parameter path: shape and dtype} as the model makes them, in float32 where they are no integers."""

    def init() -> Any:
        features = jnp.zeros((1, config.encoder.pad_frames, config.encoder.n_mels))
        one, row = jnp.ones(1, jnp.int32), jnp.zeros((1, 4), jnp.int32)
        return Lalm(config, weights=weights).init(jax.random.key(0), Batch(row, one, features, one, row))

    return flatten_dict(jax.eval_shape(init)["params"])


@functools.lru_cache(maxsize=8)
def weight_table(config: LalmConfig, family: Family, of: ModelPart = None) -> dict[str, Slot]:
    """{canonical key: slot} of every weight of a model, or of its encoder and projector."""
    table = slots(family.rules(config), parameter_shapes(config))
    return {key: slot for key, slot in table.items() if of in (None, slot.path[0])}


def wanted_weights(config: LalmConfig, family: Family, of: ModelPart = None) -> Wanted:
    """Which stored keys are to be read: all but those of other parts and those known to be unused."""
    known, needed = weight_table(config, family), weight_table(config, family, of)
    unused = (*family.unused, *((HEAD,) if of else ()))  # a head that differs from the embeddings counts

    def wanted(key: str) -> bool:
        name = canonical(key, family.renames)
        return name in needed or not (name in known or any(re.search(pattern, name) for pattern in unused))

    return wanted


def gather(folder: Path, config: LalmConfig, family: Family, of: ModelPart = None, hub: Hub = HUB) -> dict[str, Tensor]:
    """Every wanted tensor of a model, by key: those of its folder, and those of the parts that it leaves to other
    folders."""
    wanted, table = wanted_weights(config, family, of), weight_table(config, family, of)
    tensors = list_tensors(folder, wanted)
    held = {canonical(key, family.renames) for key in tensors}
    for part in family.parts:
        if held.issuperset(key for key in table if key.startswith(part.prefix)):
            continue
        name = read_json(folder / "config.json", "model configuration").get(part.attribute)
        if name:
            wanted_there = lambda key, prefix=part.prefix: wanted(prefix + key)
            others = list_tensors(part_folder(folder, part, str(name), hub, wanted_there), wanted_there)
            prefixed = {part.prefix + key: tensor for key, tensor in others.items()}
            tensors |= {key: x for key, x in prefixed.items() if canonical(key, family.renames) not in held}
        elif not any(key.startswith(part.prefix) for key in held):
            problem = f"holds no weights {part.prefix}*, and its config.json names no {part.attribute} that does"
            raise CheckpointError(f"{folder} {problem}.")
    return tensors


def with_stored_head(tensors: Mapping[str, Tensor], config: LalmConfig, family: Family) -> LalmConfig:
    """The configuration with an output map of its own, if the tensors hold one that differs from the embeddings: as in
    transformers, it counts whatever `tie_word_embeddings` says."""
    if not config.decoder.tied:
        return config
    untied = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, tied=False))
    keys = {rule.path: rule.key for rule in family.rules(untied)}
    stored = {canonical(key, family.renames): tensor for key, tensor in tensors.items()}
    head, embeddings = (
        stored.get(keys.get(("decoder", *path), "")) for path in (("lm_head", "kernel"), ("embed", "embedding"))
    )
    if head is None or embeddings is None or not {head.dtype, embeddings.dtype} <= FLOATS.keys():
        return config  # `match` names what is missing or no number
    return config if equal_tensors(head, embeddings) else untied


def match(tensors: Mapping[str, Tensor], table: Mapping[str, Slot], family: Family, folder: Path) -> dict[str, Slot]:
    """{stored key: slot}. An unmapped, missing or misshapen key is an error that lists them all. An output map is
    skipped where the table has none: it is tied to the embeddings."""
    unused = (*family.unused, HEAD)
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


class StoredWeights(NamedTuple):
    """The weights of a model that have not been read yet, by canonical key."""

    tensors: dict[str, Tensor]
    slots: dict[str, Slot]
    lora: dict[str, LowRank]  # what is added to some of them


def find_weights(
    folder: Path, config: LalmConfig, family: Family, tensors: Mapping[str, Tensor], of: ModelPart = None
) -> StoredWeights:
    """The weights among gathered tensors. Raises CheckpointError that lists all that are missing, unexpected or
    misshapen."""
    plan = match(tensors, weight_table(config, family, of), family, folder)
    lora = read_lora(folder, weight_table(config, family), family) if config.lora else {}
    names = {key: canonical(key, family.renames) for key in plan}
    return StoredWeights(
        {name: tensors[key] for key, name in names.items()},
        {name: plan[key] for key, name in names.items()},
        {name: lora[name] for name in names.values() if name in lora},
    )


def read_params(
    stored: StoredWeights,
    config: LalmConfig,
    dtype: Any = jnp.float32,
    sharding: Sharding | None = None,
    weights: str | None = None,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Read parameters, one after the other: the host holds only the one being read. sharding: (path, shape) of a
    parameter -> where it lives; then the host holds only a layer of it. None: where JAX puts arrays by default.
    weights: a key of `quantized.WEIGHTS`; they are quantised block by block. report(bytes read, bytes in all) is called
    after each. Raises CheckpointError for weights that are damaged."""
    kept = abstract_params(Lalm(config, dtype=dtype, weights=weights))
    sources: dict[tuple[str, ...], list[Source]] = {}
    for name, slot in stored.slots.items():
        sources.setdefault(slot.path, []).append((stored.tensors[name], slot, stored.lora.get(name)))
    total, done = sum(tensor.nbytes for tensor in stored.tensors.values()), 0
    flat: dict[tuple[str, ...], Any] = {}
    if sharding is None:
        whole = read_arrays({Key(path): x for path, x in sources.items()}, {Key(path): x for path, x in kept.items()})
        arrays: Iterator[tuple[tuple[str, ...], Any]] = ((key.path, jax.device_put(array)) for key, array in whole)
    else:
        arrays = read_stacks(sources, kept, sharding)
    for path, array in arrays:
        flat[path] = array
        done += sum(tensor.nbytes for tensor, _, _ in sources.get(path, ()))
        if report is not None:
            report(done, total)
    return unflatten_dict(flat)


def load_params(
    folder: Path,
    config: LalmConfig,
    family: Family,
    dtype: Any = jnp.float32,
    sharding: Sharding | None = None,
    weights: str | None = None,
) -> dict[str, Any]:
    """The parameters of a folder: `gather`, `find_weights` and `read_params`, with what these raise."""
    stored = find_weights(folder, config, family, gather(folder, config, family))
    return read_params(stored, config, dtype, sharding, weights)


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
