"""The identity of a model's weights: by their values, in whatever files, shards and order they are stored."""

import functools
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from seen_jax.models.checkpoint import StoredWeights
from seen_jax.models.config import LalmConfig
from seen_jax.models.safetensors_files import Tensor
from seen_jax.models.sites import PROJECTOR
from seen_jax.subspace.identity import Identity

WHOLE = 1 << 20  # bytes of a tensor up to which all of it counts
PIECES, PIECE = 64, 4096  # of a larger one: evenly spread, the first and the last bytes among them
SAMPLES = 128  # weights that are compared with those of a copy in another precision
GOLDEN = (5**0.5 - 1) / 2  # its multiples are spread evenly


def identify(name: str, weights: StoredWeights, config: LalmConfig) -> dict[str, Identity]:
    """The identity of the encoder with its projector ("encoder") and of all weights ("model"); of parts that are not
    there in `weights` none. It depends on canonical keys, dtypes, shapes and values alone. Tensors of more than 1 MiB
    count by 256 KiB of them, so that a model of 7B takes a second or two."""
    names = sorted(weights.tensors)
    digest = functools.partial(_digest, weights)
    with ThreadPoolExecutor(8) as pool:
        digests = dict(zip(names, pool.map(digest, names), strict=True))
    parts = {"encoder": [key for key in names if weights.slots[key].path[0] == "encoder"], "model": names}
    if len(parts["encoder"]) == len(names):
        del parts["model"]
    width = config.site_shape(PROJECTOR)[1]
    identities = {}
    for part, keys in parts.items():
        fingerprint = hashlib.sha256(b"".join(digests[key] for key in keys)).hexdigest()[:16]
        stored = " ".join(sorted({weights.tensors[key].dtype for key in keys}))
        tensors = {key: weights.tensors[key] for key in keys}
        sample = () if any(key in weights.lora for key in keys) else _sample(tensors)
        identities[part] = Identity(name, config.family, width, fingerprint, stored, sample)
    return identities


def _digest(weights: StoredWeights, key: str) -> bytes:
    """Hash of a tensor and of what is added to it."""
    tensor = weights.tensors[key]
    digest = hashlib.sha256(f"{key} {tensor.dtype} {tensor.shape}\n".encode())
    whole = tensor.nbytes <= WHOLE
    size = tensor.nbytes if whole else PIECE
    with tensor.file.open("rb", buffering=0) as f:
        for start in [0] if whole else np.linspace(0, tensor.nbytes - PIECE, PIECES).astype(int).tolist():
            f.seek(tensor.offset + start)
            digest.update(f.read(size))
    for factor in weights.lora.get(key, ()):
        digest.update(factor.tobytes())
    return digest.digest()


def _sample(tensors: Mapping[str, Tensor]) -> tuple[float, ...]:
    """Some weights of the matrices, evenly spread over all of them."""
    matrices = [tensor for tensor in tensors.values() if len(tensor.shape) > 1]
    values = []
    for i in range(SAMPLES if matrices else 0):
        tensor = matrices[i * len(matrices) // SAMPLES]
        dtype = tensor.numpy_dtype
        place = int(i * GOLDEN % 1 * (tensor.nbytes // dtype.itemsize))
        with tensor.file.open("rb") as f:
            f.seek(tensor.offset + place * dtype.itemsize)
            values.append(float(f"{float(np.frombuffer(f.read(dtype.itemsize), dtype)[0]):.6g}"))
    return tuple(values)
