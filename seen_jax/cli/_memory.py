"""Memory on the command line: work that cannot fit is refused before anything is loaded."""

from typing import Any

from seen_jax.hub import Hub
from seen_jax.models import memory
from seen_jax.models.checkpoint import ModelPart, read_config
from seen_jax.models.folders import find_folder
from seen_jax.models.precision import dtype_for
from seen_jax.models.sharding import MeshConfig


def work_of(args: Any, seconds: float, part: str) -> memory.Work:
    """What the options of a command ask for. seconds: of the longest clip. part: `memory.WHOLE` or `memory.ENCODER`."""
    data, tensor = MeshConfig(args.mesh.data, args.mesh.tensor).devices
    kept = {"dtype": dtype_for(args.dtype), "weights": args.weights, "new": args.get("max_new_tokens") or 0}
    return memory.Work(args.batch_size, seconds, part, data=data, tensor=tensor, **kept)


def check_memory(args: Any, seconds: float, part: str = memory.WHOLE) -> None:
    """ConfigError for a batch that cannot fit the devices, if JAX knows their memory."""
    if memory.limit() is not None:
        hub = Hub(args.revision, local_files_only=args.local_files_only)
        of: ModelPart = "encoder" if part == memory.ENCODER else None
        config = read_config(find_folder(args.model, hub), of, hub)[0]
        memory.check(str(args.model), config, work_of(args, seconds, part))


def out_of_memory(args: Any) -> str:
    """What to change where memory ran out. args: the options of the command."""
    words = ["shorter clips", "a smaller batch"]
    if args.get("batch_size") and args.get("dtype"):
        half = memory.half()
        words = [*memory.options(work_of(args, 1.0, memory.WHOLE), half, args.batch_size // 2), "shorter clips"]
    about = f"`seen-jax models {args.model}`" if args.get("model") else "`seen-jax models NAME`"
    return f"out of memory: use {' or '.join(words)}; {about} says what fits, and --debug where it ran out."
