"""Parameters that are filled on their devices layer by layer: the host never holds all layers of one."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seen_jax.models.safetensors_files import Source, read_arrays

Path = tuple[str, ...]
Shape = tuple[int, ...]


def read_stacks(
    sources: Mapping[Path, Sequence[Source]],
    shapes: Mapping[Path, Shape],
    dtype: Any,
    sharding: Callable[[Path, Shape], jax.sharding.Sharding],
) -> Iterator[tuple[Path, jax.Array]]:
    """(path, array on its devices) of every parameter, one after the other; as `read_arrays`, which reads them. Of a
    parameter with a leading axis of layers one layer is read while the one before it is on its way."""
    parts: dict[tuple[Path, int | None], list[Source]] = {}
    sizes: dict[tuple[Path, int | None], Shape] = {}
    for path, of_path in sources.items():
        for tensor, slot, lora in sorted(of_path, key=lambda source: source[1].index):
            layer = slot.index[0] if slot.index else None
            inside = dataclasses.replace(slot, index=slot.index[1:])
            parts.setdefault((path, layer), []).append((tensor, inside, lora))
            sizes[path, layer] = shapes[path][1:] if slot.index else shapes[path]
    stack: Any = None
    for (path, layer), array in read_arrays(parts, sizes, dtype):
        place = sharding(path, shapes[path])
        if layer is None:
            yield path, jax.device_put(array, place)
            continue
        stack = jnp.zeros(shapes[path], dtype, device=place) if layer == 0 else jax.block_until_ready(stack)
        stack = _put_layer(place)(stack, jax.device_put(array, sharding(path, array.shape)), layer)
        if layer == len(stack) - 1:
            yield path, stack


@functools.cache
def _put_layer(place: jax.sharding.Sharding) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """(stack, one layer, its number) -> the stack with that layer, in place."""
    put = lambda stack, layer, i: jax.lax.dynamic_update_index_in_dim(stack, layer, i, 0)
    return jax.jit(put, donate_argnums=0, out_shardings=place)
