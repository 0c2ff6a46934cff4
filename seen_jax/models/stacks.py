"""Parameters that are filled on their devices layer by layer: the host never holds all layers of one."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seen_jax.models.quantized import scale_path
from seen_jax.models.safetensors_files import Key, Source, read_arrays

Path = tuple[str, ...]
Shape = tuple[int, ...]


def read_stacks(
    sources: Mapping[Path, Sequence[Source]],
    kept: Mapping[Path, jax.ShapeDtypeStruct],
    sharding: Callable[[Path, Shape], jax.sharding.Sharding],
) -> Iterator[tuple[Path, jax.Array]]:
    """(path, array on its devices) of every parameter, one after the other; as `read_arrays`, which reads them. Of a
    parameter with a leading axis of layers one layer is read while the one before it is on its way."""
    parts: dict[Key, list[Source]] = {}
    layered: dict[Key, jax.ShapeDtypeStruct] = {}
    for path, of_path in sources.items():
        for tensor, slot, lora in sorted(of_path, key=lambda source: source[1].index):
            key = Key(path, slot.index[0] if slot.index else None)
            inside = dataclasses.replace(slot, index=slot.index[1:])
            parts.setdefault(key, []).append((tensor, inside, lora))
            for name in {path, scale_path(path)} & kept.keys():
                shape = kept[name].shape[1:] if slot.index else kept[name].shape
                layered[Key(name, key.layer)] = jax.ShapeDtypeStruct(shape, kept[name].dtype)
    stacks: dict[Path, Any] = {}
    for (path, layer), array in read_arrays(parts, layered):
        whole = kept[path]
        place = sharding(path, whole.shape)
        if layer is None:
            yield path, jax.device_put(array, place)
            continue
        stack = jnp.zeros(whole.shape, whole.dtype, device=place) if layer == 0 else stacks.pop(path)
        stack = jax.block_until_ready(stack)
        stacks[path] = _put_layer(place)(stack, jax.device_put(array, sharding(path, array.shape)), layer)
        if layer == len(stack) - 1:
            yield path, stacks.pop(path)


@functools.cache
def _put_layer(place: jax.sharding.Sharding) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """(stack, one layer, its number) -> the stack with that layer, in place."""
    put = lambda stack, layer, i: jax.lax.dynamic_update_index_in_dim(stack, layer, i, 0)
    return jax.jit(put, donate_argnums=0, out_shardings=place)
