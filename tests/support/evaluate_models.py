"""A tiny model with random weights, and a few shipped clips to ask it about."""

import functools
import tempfile
from pathlib import Path

from seen_jax.models.load import load
from seen_jax.models.model import Model
from seen_jax.train.config import ModelSize
from seen_jax.train.export import write_folder, write_weights
from seen_jax.train.tasks import vocabulary
from seen_jax.train.trainer import initial_params

SIZE = ModelSize(
    n_mels=16,
    n_window=60,  # clips of up to 2.4 s span two chunks
    encoder_width=24,
    encoder_layers=3,
    encoder_heads=2,
    decoder_width=24,
    decoder_layers=2,
    decoder_heads=2,
)


@functools.cache
def random_folder() -> Path:
    folder = Path(tempfile.mkdtemp()) / "model"
    config = write_folder(folder, SIZE, vocabulary())
    write_weights(folder, initial_params(config, 0)["lalm"])
    return folder


@functools.cache
def random_model() -> Model:
    return load(random_folder())
