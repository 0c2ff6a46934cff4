"""Loading a model from the package, a Hugging Face folder or the hub."""

import contextlib
import functools
import importlib.util
import os
from pathlib import Path
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from seen_jax.errors import CheckpointError, ConfigError
from seen_jax.files import cache_folder
from seen_jax.hub import Hub, HubOptions
from seen_jax.models.chat_template import processor_template
from seen_jax.models.checkpoint import (
    ModelPart,
    Sharding,
    find_weights,
    gather,
    read_config,
    read_params,
    wanted_weights,
    with_stored_head,
)
from seen_jax.models.config import LalmConfig
from seen_jax.models.family import Family
from seen_jax.models.folders import fetch_weights, find_folder, is_hub_name
from seen_jax.models.identify import identify
from seen_jax.models.lalm import Lalm
from seen_jax.models.lora import LORA
from seen_jax.models.model import Model
from seen_jax.models.precision import dtype_for
from seen_jax.models.processor import Processor
from seen_jax.models.quantized import check_weights
from seen_jax.models.sharding import parameter_sharding
from seen_jax.models.tokenizer_limits import check_tokenizer
from seen_jax.progress import Progress, automatic

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


def load(
    name: str | Path = "seen-tiny",
    dtype: str = "auto",
    mesh: Mesh | None = None,
    progress: Progress = automatic,
    part: ModelPart = None,
    weights: str | None = None,
    **options: Unpack[HubOptions],
) -> Model:
    """Load a model: "seen-tiny" (embedded), a Hugging Face folder, or a hub name. Nothing is unpickled and no remote
    code runs. Raises CheckpointError for files that are missing, damaged or unsupported, before weights are downloaded
    where the list of files tells; ConfigError for an unknown dtype, part or kind of weights, and for a revision of what
    is not on the hub.

    name: a folder holds config.json, safetensors and a tokenizer; a hub name is "org/model".
    dtype: of parameters and activations, "float32", "bfloat16" or "float16" (the operands of products alone: residual
        stream, norms and activations are float32); "auto": float32 on a CPU, bfloat16 on a TPU and on GPUs that have
        it, float16 on other GPUs.
    mesh: of `make_mesh`, over which parameters and everything computed with them are split; None: one device.
    progress: called as progress("loading NAME", bytes read, bytes in all).
    part: "encoder" reads, downloads and holds the audio encoder and projector alone, which is all that `score` and
        `calibrate` need at their sites; no tokenizer is needed. None: the whole model.
    weights: how matrices are stored. None: in dtype; "int8": those of the decoder as 8-bit integers with a scale for
        each output channel; "int8-all": those of the encoder and the projector too; "int4": those of the decoder's
        layers as 4-bit integers with a scale for 64 inputs of each channel, embeddings and output map in 8 bits.
    revision: branch, tag or commit of a hub name. token: an access token; None: that of `hf auth login`.
    local_files_only: use what was downloaded before, and ask the hub nothing.

    >>> seen_jax.load("seen-tiny").config.encoder.layers
    4
    >>> seen_jax.load("seen-tiny", part="encoder")
    Model('seen-tiny', family='qwen2_5_omni', encoder=4 layers of 192, dtype=float32)
    """
    dtype = dtype_for(dtype)
    check_weights(weights)
    if part not in (None, "encoder"):
        raise ConfigError(f"part must be 'encoder', or None for the whole model, not '{part}'.")
    hub = Hub(**options)
    if hub.revision is not None and not is_hub_name(name):
        raise ConfigError(f"a revision is one of a hub name, and {name} is not on the hub: leave it out.")
    use_compilation_cache()
    folder = find_folder(name, hub)
    config, family = read_config(folder, part, hub)
    fetch_weights(name, folder, wanted_weights(config, family, part), hub, [LORA] if config.lora else [])
    tensors = gather(folder, config, family, part, hub)
    config = config if part else with_stored_head(tensors, config, family)
    stored = find_weights(folder, config, family, tensors, part)
    report = functools.partial(progress, f"loading {name}")
    params = read_params(stored, config, jnp.dtype(dtype), _sharding(mesh), weights, report)
    processor = Processor(None if part else _checked_tokenizer(folder, config, family), config, family, mesh)
    lalm = Lalm(config, dtype=jnp.dtype(dtype), mesh=mesh, weights=weights)
    return Model(str(name), folder, lalm, {"params": params}, processor, identify(str(name), stored, config))


def _sharding(mesh: Mesh | None) -> Sharding | None:
    """Where parameters live; None on one CPU, which takes over what the host has read."""
    if mesh is not None:
        return functools.partial(parameter_sharding, mesh)
    device = jax.config.values.get("jax_default_device") or jax.local_devices()[0]
    return None if device.platform == "cpu" else lambda path, shape: SingleDeviceSharding(device)


def _checked_tokenizer(folder: Path, config: LalmConfig, family: Family) -> Any:
    """The tokenizer of a folder, with the chat template that prompts follow."""
    template, tokenizer = processor_template(folder), _tokenizer(folder, config, family)
    stands = tokenizer.get_vocab().get(family.audio, config.audio_token)
    if config.audio_token >= 0 and stands != config.audio_token:
        stated = f"config.json states the token {config.audio_token} for audio"
        raise CheckpointError(f"{folder}: {stated}, the tokenizer's {family.audio} is {stands}: they do not fit.")
    family.choose_template(tokenizer, template)
    return tokenizer


def _tokenizer(folder: Path, config: LalmConfig, family: Family) -> Any:
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise CheckpointError(f"{folder} holds no tokenizer: none of {', '.join(VOCABULARIES)} is there.")
    check_tokenizer(folder)
    tekken = (folder / "tekken.json").is_file() and not (folder / "tokenizer.json").is_file()
    if tekken and importlib.util.find_spec("mistral_common") is None:
        raise CheckpointError(f'{folder / "tekken.json"} needs mistral-common: pip install "seen-jax[voxtral]".')
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as e:
        reason = str(e).splitlines()[0]
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({reason}); is tokenizer.json there?") from None
    vocabulary = dict(tokenizer.get_vocab())
    if config.audio_token < 0:  # its text only marks a place, and may have an id without an embedding
        vocabulary.pop(family.audio, None)
    highest = max(*vocabulary.values(), config.audio_token, config.pad_token, *config.stop_tokens)
    if highest >= config.decoder.vocab:
        raise CheckpointError(
            f"{folder}: the tokenizer has token ids up to {highest}, the model knows {config.decoder.vocab}: "
            "tokenizer and config.json are of different models."
        )
    return tokenizer


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless JAX was told where to keep them. SEEN_JAX_CACHE names
    another folder; set it to an empty string to switch the cache off."""
    if not jax.config.values.get("jax_compilation_cache_dir") and os.environ.get("SEEN_JAX_CACHE") != "":
        with contextlib.suppress(OSError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
