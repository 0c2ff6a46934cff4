"""Train a small audio language model from scratch on synthetic speech, sounds and music.

CONFIG is a YAML file such as configs/seen_tiny.yaml; override any of its fields, as in --joint.steps 100. Rerun the
command to resume from the last checkpoint. Speech needs `pip install "seen-jax[train]"`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from seen_jax.cli._output import Result, check_writable, progress
from seen_jax.cli._parser import Parser
from seen_jax.config import dotted_defaults, load_config
from seen_jax.errors import ConfigError
from seen_jax.train.config import TrainConfig

EXAMPLES = "seen-jax train configs/seen_tiny.yaml --out runs/mine --joint.steps 100"
TAKES_OVERRIDES = True


def options(parser: Parser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, for instance configs/seen_tiny.yaml")
    parser.add_fields(dotted_defaults(TrainConfig))


def run(args: Any) -> Result:
    config = load_config(TrainConfig, args.config, args.overrides)
    check_writable(Path(config.out))
    check_writable(Path(config.data.folder))
    if find_spec("espeakng_loader") is None:
        raise ConfigError('training needs espeak-ng for its speech, which is missing: pip install "seen-jax[train]".')
    from seen_jax.train.trainer import train

    with progress() as tick:
        folder = train(config, tick)
    return Result({"model": str(folder), "out": config.out}, [f"trained: {folder}"])
