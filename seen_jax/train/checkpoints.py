"""Training state on disk. The only file that knows orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from seen_jax.errors import CheckpointError


class Checkpoints:
    """The last few states of a run, written atomically: a kill leaves the previous one intact."""

    def __init__(self, folder: Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=False)
        self.folder = folder
        self.manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, step: int, state: Any) -> None:
        try:
            self.manager.save(step, args=ocp.args.StandardSave(state), force=True)
            self.manager.wait_until_finished()
        except OSError as e:
            raise CheckpointError(f"{self.folder}: the state of step {step} cannot be written ({e}).") from None

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step`, in the structure, shapes and dtypes of `like`."""
        try:
            return self.manager.restore(step, args=ocp.args.StandardRestore(like))
        except (ValueError, OSError, KeyError) as e:
            reason = f"does not fit this configuration or is damaged ({e}); delete the folder to start again."
            raise CheckpointError(f"{self.folder / str(step)} {reason}") from None
