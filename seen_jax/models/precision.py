"""Number types: which one a device wants, and how products are computed in each."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seen_jax.errors import ConfigError
from seen_jax.models.quantized import dequantize

DTYPES = ("auto", "float32", "bfloat16", "float16")
LARGEST = 2.0**15  # of what is multiplied in float16, which ends at 65504


def dtype_for(name: str, device: Any = None) -> str:
    """The dtype of a model on a device (None: the first of this process). "auto" is float32 on a CPU, bfloat16 on a TPU
    and on GPUs that have it (compute capability 8.0 and above), float16 on other GPUs. ConfigError for other names."""
    if name not in DTYPES:
        raise ConfigError(f"dtype must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, not '{name}'.")
    if name != "auto":
        return name
    device = jax.local_devices()[0] if device is None else device
    if device.platform not in ("gpu", "cuda", "rocm"):
        return "bfloat16" if device.platform == "tpu" else "float32"
    try:
        capability = float(device.compute_capability)
    except (AttributeError, ValueError):  # not NVIDIA's
        capability = 0.0
    return "bfloat16" if capability >= 8 else "float16"


def stream_dtype(dtype: Any) -> Any:
    """The dtype of everything but products: float32 in a float16 model, whose residual stream would overflow."""
    return jnp.float32 if dtype == jnp.float16 else dtype


def full_precision(dtype: Any) -> contextlib.AbstractContextManager[Any]:
    """Inside, products and convolutions of a float32 model are computed in float32. GPUs and TPUs would round their
    operands otherwise; those of other models stay as the device does them fastest."""
    return jax.default_matmul_precision("highest") if dtype == jnp.float32 else contextlib.nullcontext()


def product(
    x: Float[Array, "*batch inputs"], kernel: Any, scale: Float[Array, "groups out"] | None, dtype: Any
) -> Float[Array, "*batch out"]:
    """x times a matrix [inputs, out], whose numbers are kernel times scale, in `dtype`. In float16, and with scales,
    sums and the result are float32. Rows that float16 cannot hold are divided by a number before the product, and the
    result is multiplied by it, so that nothing overflows."""
    after = scale if scale is not None and len(scale) == 1 else None
    kernel = kernel.astype(dtype) if after is not None else dequantize(kernel, scale, dtype)
    half = dtype == jnp.float16
    shrunk = None
    if half and x.dtype != dtype:
        shrunk = jnp.maximum(jnp.abs(x).max(-1, keepdims=True) / LARGEST, 1)
        x = x / shrunk
    y = _dot(x.astype(dtype), kernel, jnp.float32 if half or scale is not None else None)
    y = y if after is None else y * after[0]
    return y if shrunk is None else y * shrunk


def _dot(x: Array, kernel: Array, sums: Any) -> Array:
    """x times a matrix. A TPU's compiler leaves a single row to the vector units, which read the matrix with less than
    half of the memory's bandwidth; two rows are for the matrix units."""
    contracted = (((x.ndim - 1,), (0,)), ((), ()))
    dot = lambda x, kernel: jax.lax.dot_general(x, kernel, contracted, preferred_element_type=sums)
    if x.ndim == 1 or x.size > x.shape[-1]:
        return dot(x, kernel)
    twice = lambda x, kernel: dot(jnp.concatenate([x, x]), kernel)[:1]
    return jax.lax.platform_dependent(x, kernel, tpu=twice, default=dot)
