"""Noise bases in the form in which the paper's authors released theirs: a `.pt` file with one matrix per hooked layer.

PyTorch saves a zip archive: a pickle that names storages, and their bytes. It is read here without PyTorch by an
unpickler that knows the four names such a list needs and refuses every other, so that no code of a file runs.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from seen_jax.errors import BasisError
from seen_jax.subspace.basis import NoiseBasis

SITE = "encoder.mlp_act"  # what the authors hook in all three models


def read_vectors(path: str | Path) -> list[Float[np.ndarray, "width rank"]]:
    """The matrices of a released file: one [D, r_l], float32, per hooked layer; r_l may be 0.

    path: a `.pt` file. BasisError: it is missing, damaged, or holds anything but a list of float matrices.
    >>> path = subspace.save_released(basis.with_layers("all"), folder / "vectors.pt")
    >>> [q.shape[1] for q in subspace.read_vectors(path)] == list(basis.ranks)
    True
    """
    path = Path(path).expanduser()
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise BasisError(f"{path} is a zip archive without PyTorch data: expected a released .pt list.")
            vectors = _Reader(archive, names[0].removesuffix("data.pkl")).load()
    except BasisError as e:
        raise BasisError(f"{path}: {e}") from None
    except FileNotFoundError:
        raise BasisError(f"there is no file {path}.") from None
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, KeyError, ValueError, EOFError) as e:
        raise BasisError(f"{path} is damaged or no PyTorch file of the zip kind ({e}).") from None
    if not (isinstance(vectors, list) and vectors and all(isinstance(x, np.ndarray) and x.ndim == 2 for x in vectors)):
        raise BasisError(f"{path} does not hold a list of matrices, one per layer.")
    if len({len(x) for x in vectors}) > 1:
        raise BasisError(f"{path} holds matrices of different widths {sorted({len(x) for x in vectors})}.")
    return [np.ascontiguousarray(x, np.float32) for x in vectors]


def load_released(path: str | Path, layers: int, site: str = SITE) -> NoiseBasis:
    """A released file as a noise basis, which keeps the layers of the file.

    path, site: a `.pt` file, and the hooked site.
    layers: number of layers of the model; the matrices belong to the last ones.
    Raises BasisError: as `read_vectors`; more matrices than layers; columns that are not orthonormal.
    >>> path = subspace.save_released(basis.with_layers((2, 3)), folder / "two_layers.pt")
    >>> subspace.load_released(path, layers=4).layers
    (2, 3)
    """
    vectors = read_vectors(path)
    if len(vectors) > layers:
        raise BasisError(f"{path} holds {len(vectors)} matrices for a stack of {layers} layers: another model's.")
    first = layers - len(vectors)
    columns = [vectors[0][:, :0]] * first + vectors
    return NoiseBasis.of_columns(site, columns, tuple(range(first, layers)), {"released": Path(path).name})


def save_released(basis: NoiseBasis, path: str | Path) -> Path:
    """Write the kept layers of a basis in the released form, for `torch.load(weights_only=True)`. Returns the path.

    basis, path: the kept layers must be the last ones of the stack, as in the released files; of a new file.
    Raises BasisError: other layers, an existing file, or a disk that refuses.
    >>> subspace.save_released(basis.with_layers((3,)), folder / "one_layer.pt").name
    'one_layer.pt'
    """
    path, depth = Path(path).expanduser(), len(basis.ranks)
    if list(basis.layers) != list(range(basis.layers[0], depth)):
        kept = f"{basis.layers} of {depth} are kept"
        raise BasisError(f"a released list covers the last layers of the stack, but {kept}.")
    matrices = [np.asarray(basis.q[i, :, : basis.ranks[i]], "<f4") for i in basis.layers]
    try:
        with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
            archive.writestr("basis/data.pkl", _pickled([x.shape for x in matrices]))
            archive.writestr("basis/byteorder", "little")
            for i, x in enumerate(matrices):
                archive.writestr(f"basis/data/{i}", np.ascontiguousarray(x).tobytes())
            archive.writestr("basis/version", "3\n")
    except FileExistsError:
        raise BasisError(f"{path} exists: choose another name.") from None
    except OSError as e:
        path.unlink(missing_ok=True)
        raise BasisError(f"cannot write {path}: {e.strerror or e}.") from None
    return path


def _rebuild(storage: np.ndarray, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if 0 not in shape else -1
    if offset < 0 or min((*shape, *stride), default=0) < 0 or last >= len(storage):
        raise ValueError(f"a tensor of shape {shape} does not fit its storage")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides).copy()


_KNOWN = {
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "collections.OrderedDict": OrderedDict,
    **{f"torch.{kind}Storage": np.dtype(code) for kind, code in (("Float", "<f4"), ("Double", "<f8"), ("Half", "<f2"))},
}


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(root + "data.pkl")))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in _KNOWN:
            return _KNOWN[f"{module}.{name}"]
        raise BasisError(f"it refers to {module}.{name}, which a list of matrices does not need; nothing was run.")

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, count = pid
        storage = np.frombuffer(self.archive.read(f"{self.root}data/{key}"), dtype)
        if len(storage) != count:
            raise ValueError(f"storage {key} holds {len(storage)} numbers, not {count}")
        return storage


def _pickled(shapes: list[tuple[int, ...]]) -> bytes:
    """The pickle of a list of float tensors, opcode by opcode: pickling needs PyTorch's own functions to refer to."""
    number = lambda n: b"J" + n.to_bytes(4, "little", signed=True)
    text = lambda s: b"X" + len(s).to_bytes(4, "little") + s.encode()
    out = b"\x80\x02]("
    for i, (width, rank) in enumerate(shapes):
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(i)) + text("cpu") + number(width * rank)
        sizes = number(width) + number(rank) + b"\x86" + number(rank) + number(1) + b"\x86"
        hooks = b"\x89ccollections\nOrderedDict\n)R"
        out += b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ" + number(0) + sizes + hooks + b"tR"
    return out + b"e."
