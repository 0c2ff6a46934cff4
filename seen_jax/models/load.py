"""Loading a model from the package, a Hugging Face folder or the hub."""

import contextlib
import functools
import hashlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from seen_jax.errors import CheckpointError
from seen_jax.models.chat_template import processor_template
from seen_jax.models.checkpoint import LORA, LORA_CONFIG, gather, load_params, read_config, with_stored_head
from seen_jax.models.config import LalmConfig
from seen_jax.models.family import Family
from seen_jax.models.folders import cache_folder, find_folder
from seen_jax.models.lalm import Lalm
from seen_jax.models.model import Model
from seen_jax.models.precision import dtype_for
from seen_jax.models.processor import Processor
from seen_jax.models.quantized import check_weights
from seen_jax.models.safetensors_files import Tensor
from seen_jax.models.sharding import parameter_sharding
from seen_jax.models.tokenizer_limits import check_tokenizer
from seen_jax.progress import Progress, silent

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


def load(
    name: str | Path = "seen-tiny",
    dtype: str = "auto",
    mesh: Mesh | None = None,
    progress: Progress = silent,
    weights: str | None = None,
) -> Model:
    """Load a model: "seen-tiny" (embedded), a Hugging Face folder, or a hub name. Nothing is unpickled and no remote
    code runs. CheckpointError for files that are missing, damaged or unsupported, ConfigError for unknown dtypes and
    weights.

    name: a folder holds config.json, safetensors and a tokenizer; a hub name is "org/model".
    dtype: of parameters and activations, "float32", "bfloat16" or "float16" (the operands of products alone: residual
        stream, norms and activations are float32); "auto": float32 on a CPU, bfloat16 on a TPU and on GPUs that have
        it, float16 on other GPUs.
    mesh: of `make_mesh`, over which parameters and everything computed with them are split; None: one device.
    progress: called as progress("loading NAME", bytes read, bytes in all).
    weights: how matrices are stored. None: in dtype; "int8": those of the decoder as 8-bit integers with a scale for
        each output channel; "int8-all": those of the encoder and the projector too; "int4": those of the decoder's
        layers as 4-bit integers with a scale for 64 inputs of each channel, embeddings and output map in 8 bits.

    >>> seen_jax.load("seen-tiny").config.encoder.layers
    4
    """
    dtype = dtype_for(dtype)
    check_weights(weights)
    use_compilation_cache()
    folder = find_folder(name)
    config, family = read_config(folder)
    config = with_stored_head(folder, config, family)
    sharding = None if mesh is None else functools.partial(parameter_sharding, mesh)
    report = functools.partial(progress, f"loading {name}")
    params = load_params(folder, config, family, jnp.dtype(dtype), sharding, weights, report)
    template, tokenizer = processor_template(folder), _tokenizer(folder, config, family)
    stands = tokenizer.get_vocab().get(family.audio, config.audio_token)
    if config.audio_token >= 0 and stands != config.audio_token:
        stated = f"config.json states the token {config.audio_token} for audio"
        raise CheckpointError(f"{folder}: {stated}, the tokenizer's {family.audio} is {stands}: they do not fit.")
    family.choose_template(tokenizer, template)
    processor = Processor(tokenizer, config, family, mesh)
    lalm = Lalm(config, dtype=jnp.dtype(dtype), mesh=mesh, weights=weights)
    extra = [folder / LORA, folder / LORA_CONFIG] if config.lora else []
    identity = fingerprint(gather(folder, config, family), extra)
    return Model(str(name), folder, lalm, {"params": params}, processor, identity)


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


def fingerprint(tensors: Mapping[str, Tensor], extra: Sequence[Path] = ()) -> str:
    """Identity of the weights: a hash over names, dtypes and shapes of all tensors and 64 MB of every file, evenly
    spread; a smaller file counts whole. extra: further files that belong to them."""
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tensor.shape}\n".encode())
    for file in dict.fromkeys([*(tensor.file for tensor in tensors.values()), *extra]):
        size = file.stat().st_size
        with file.open("rb") as f:
            for offset in range(0, size, max(size // 64, 1 << 20)):
                f.seek(offset)
                digest.update(f.read(1 << 20))
    return digest.hexdigest()[:16]


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless JAX was told where to keep them. SEEN_JAX_CACHE names
    another folder; set it to an empty string to switch the cache off."""
    if not jax.config.values.get("jax_compilation_cache_dir") and os.environ.get("SEEN_JAX_CACHE") != "":
        with contextlib.suppress(OSError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
