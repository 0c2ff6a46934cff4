"""Train as `python train_on_a_bad_disk.py CONFIG DISK`; the disk goes bad after the second step of the first stage.

DISK: "full", no weights can be written any more, or "locked", the run's folders are read-only. Prints the error.
"""

import dataclasses
import resource
import sys
from pathlib import Path

from seen_jax.config import load_config
from seen_jax.errors import SeenError
from seen_jax.train.config import TrainConfig
from seen_jax.train.trainer import train

SPACE = 40_000  # bytes that a file may have: enough for descriptions, not for weights


def main(path: str, disk: str) -> None:
    config = dataclasses.replace(load_config(TrainConfig, path), checkpoint_seconds=0.0)

    def spoil(at: str, done: int, total: int) -> None:
        if (at, done) != ("training: words", 2):
            return
        if disk == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (SPACE, resource.RLIM_INFINITY))
        else:
            for folder in (Path(config.out), Path(config.out, "checkpoints")):
                folder.chmod(0o555)

    try:
        train(config, spoil)
    except SeenError as error:
        print(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
