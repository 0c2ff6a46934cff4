"""Noise bases in the form in which the paper's authors released theirs: a `.pt` file with one matrix per hooked layer.

PyTorch saves a zip archive: a pickle that names storages, and their bytes. It is read here without PyTorch, and without
`pickle`, by a small machine that knows the opcodes and names of such a list: no code of a file can run.
"""

import difflib
import hashlib
import http.client
import math
import os
import pickletools
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from seen_jax.errors import BasisError
from seen_jax.files import cache_folder, write_file
from seen_jax.subspace.basis import NoiseBasis
from seen_jax.subspace.identity import ORIGINS, RELEASES, released_origin

SOURCE = "https://raw.githubusercontent.com/jyutian/SEEN/{commit}/{folder}/{file}"
LARGEST, PATIENCE = 16 << 20, 60.0  # bytes of a file, and seconds without an answer
SITE = "encoder.mlp_act"  # what the authors hook in all three models
_DTYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2"}
_TENSOR = "torch._utils _rebuild_tensor_v2"
_NAMES = {_TENSOR, "collections OrderedDict", *(f"torch {name}" for name in _DTYPES)}
_MARK = object()
_WIDEST = 1 << 20  # of a matrix; no storage limits one without columns


def read_vectors(path: str | Path) -> list[Float[np.ndarray, "width rank"]]:
    """The matrices of a released file: one [D, r_l], float32, per hooked layer; r_l may be 0.

    path: a `.pt` file. BasisError: it is missing, damaged, or holds anything but a list of float matrices.
    >>> path = subspace.save_released(basis.with_layers("all"), folder / "vectors.pt")
    >>> [q.shape[1] for q in subspace.read_vectors(path)] == list(basis.ranks)
    True
    """
    path = Path(os.path.expanduser(path))
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise BasisError(f"{path} is a zip archive without PyTorch data: expected a released .pt list.")
            machine = _Machine(archive, names[0].removesuffix("data.pkl"))
            tensors = machine.run()
            if not (isinstance(tensors, list) and tensors and all(isinstance(x, _Tensor) for x in tensors)):
                raise BasisError(f"{path} does not hold a list of matrices, one per layer.")
            if sum(math.prod(x.shape) for x in tensors) > sum(map(len, machine.storages.values())):
                raise ValueError("its matrices have more numbers than its storages")
            vectors = [_matrix(x) for x in tensors]
    except BasisError:
        raise
    except FileNotFoundError:
        raise BasisError(f"there is no file {path}.") from None
    except _Foreign as e:
        raise BasisError(f"{path}: {e}, which a list of matrices does not need; nothing was run.") from None
    except Exception as e:  # whatever zipfile, pickletools and the machine meet in a damaged file
        reason = " ".join(f"{type(e).__name__}: {e}".split())
        raise BasisError(f"{path} is damaged or no PyTorch file of the zip kind ({reason:.120}).") from None
    if len({len(x) for x in vectors}) > 1:
        raise BasisError(f"{path} holds matrices of different widths {sorted({len(x) for x in vectors})}.")
    return vectors


def load_released(path: str | Path, layers: int, site: str = SITE, of_model: str | None = None) -> NoiseBasis:
    """A released file as a noise basis, which keeps the layers of the file.

    path, site: a `.pt` file, and the hooked site.
    layers: number of layers of the model; the matrices belong to the last ones.
    of_model: name of the model that the file was made for. The authors' own files are known; the basis of another file
    fits no model without it.
    Raises BasisError: as `read_vectors`; more matrices than layers; columns that are not orthonormal; a known file that
    was made for another model than `of_model`.
    >>> path = subspace.save_released(basis.with_layers((2, 3)), folder / "two_layers.pt")
    >>> subspace.load_released(path, layers=4, of_model="seen-tiny").layers
    (2, 3)
    """
    vectors, path = read_vectors(path), Path(os.path.expanduser(path))
    if len(vectors) > layers:
        raise BasisError(f"{path} holds {len(vectors)} matrices for a stack of {layers} layers: another model's.")
    known = released_origin(path)
    if known and of_model and known.rpartition("/")[2].casefold() != of_model.rpartition("/")[2].casefold():
        raise BasisError(f"{path} was released for {known}, not for {of_model}: leave out what it is said to be of.")
    first = layers - len(vectors)
    columns = [vectors[0][:, :0]] * first + vectors
    card = {"released": path.name} | ({"of_model": name} if (name := known or of_model) else {})
    return NoiseBasis.of_columns(site, columns, tuple(range(first, layers)), card)


def fetch_released(name: str) -> Path:
    """The local copy of a file that the authors released, downloaded once from their repository.

    name: one of `seen_jax.subspace.identity.RELEASES`, such as "qwen2.5-omni/crowd".
    BasisError: an unknown name, no connection, or a file whose SHA-256 is not that of the release; it is not kept.
    >>> subspace.fetch_released("qwen2.5-omni/crwod")
    Traceback (most recent call last):
    seen_jax.errors.BasisError: there is no released basis 'qwen2.5-omni/crwod'. Did you mean 'qwen2.5-omni/crowd'?...
    """
    release = RELEASES.get(name)
    if release is None:
        near = difflib.get_close_matches(name, RELEASES, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        known = f"Known, with their checksums: {', '.join(RELEASES)}; any other .pt list is read by load_released"
        raise BasisError(f"there is no released basis '{name}'.{hint} {known}.")
    path = cache_folder() / "released" / release.folder / release.file
    digest = lambda content: hashlib.sha256(content).hexdigest()
    if path.is_file() and digest(path.read_bytes()) == release.sha256:
        return path
    url = SOURCE.format(commit=ORIGINS[release.folder].commit, folder=release.folder, file=release.file)
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            content = answer.read(LARGEST)
    except (OSError, http.client.HTTPException) as e:
        advice = "download it by hand and read it with load_released (--basis FILE.pt)"
        raise BasisError(f"{name} cannot be downloaded from {url} ({e}): {advice}.") from None
    if digest(content) != release.sha256:
        problem = f"its SHA-256 is {digest(content)}, not {release.sha256}"
        raise BasisError(f"{url} is not the file that the authors released ({problem}): it was not kept.")
    return write_file(path, content, BasisError)


def load_by_name(name: str) -> NoiseBasis:
    """What `NoiseBasis.from_released` gives."""
    path = fetch_released(name)
    basis = load_released(path, ORIGINS[RELEASES[name].folder].layers)
    return replace(basis, card={**basis.card, "noise": name.rpartition("/")[2]})


def save_released(basis: NoiseBasis, path: str | Path) -> Path:
    """Write the kept layers of a basis in the released form, for `torch.load(weights_only=True)`. Returns the path.

    basis, path: the kept layers must be the last ones of the stack, as in the released files; of a new file.
    Raises BasisError: other layers, an existing file, or a disk that refuses.
    >>> subspace.save_released(basis.with_layers((3,)), folder / "one_layer.pt").name
    'one_layer.pt'
    """
    path, depth = Path(os.path.expanduser(path)), len(basis.ranks)
    if list(basis.layers) != list(range(basis.layers[0], depth)):
        kept = f"{basis.layers} of {depth} are kept"
        raise BasisError(f"a released list covers the last layers of the stack, but {kept}.")
    matrices = [np.asarray(basis.q[i, :, : basis.ranks[i]], "<f4") for i in basis.layers]

    def write(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("basis/data.pkl", _pickled([x.shape for x in matrices]))
            archive.writestr("basis/byteorder", "little")
            for i, x in enumerate(matrices):
                archive.writestr(f"basis/data/{i}", np.ascontiguousarray(x).tobytes())
            archive.writestr("basis/version", "3\n")

    if path.exists():
        raise BasisError(f"{path} exists: choose another name.")
    return write_file(path, write, BasisError)


class _Name(NamedTuple):
    """A name that a pickle refers to. It is never imported or called."""

    name: str


class _Tensor(NamedTuple):
    """A view of a storage, in numbers: `_matrix` checks it."""

    storage: np.ndarray
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Machine:
    """Runs data.pkl: a stack, a memo, and the opcodes of a list of tensors. It knows no others."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        self.stack: list[Any] = []
        self.storages: dict[str, np.ndarray] = {}

    def run(self) -> Any:
        """The list that the pickle stands for."""
        stack, memo = self.stack, dict[int, Any]()
        argument: Any
        for opcode, argument, _ in pickletools.genops(self.archive.read(self.root + "data.pkl")):
            match opcode.name:
                case "PROTO":
                    pass
                case "MARK":
                    stack.append(_MARK)
                case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                    stack.append(argument)
                case "NEWFALSE" | "NEWTRUE":
                    stack.append(opcode.name)
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = ["EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"].index(opcode.name)
                    stack[len(stack) - count :] = [tuple(stack[len(stack) - count :])]
                case "TUPLE":
                    stack.append(self.above_mark())
                case "APPEND" | "APPENDS":
                    items = (stack.pop(),) if opcode.name == "APPEND" else self.above_mark()
                    stack[-1].extend(items)
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    if argument not in _NAMES:
                        raise _Foreign(f"it refers to {argument.replace(' ', '.')!r:.80}")
                    stack.append(_Name(argument))
                case "BINPERSID":
                    stack.append(self.storage(*stack.pop()))
                case "REDUCE":
                    arguments, function = stack.pop(), stack.pop()
                    stack.append(_Tensor(*arguments[:4]) if function == _Name(_TENSOR) else None)
                case "STOP":
                    return stack.pop()
                case _:
                    raise _Foreign(f"it holds the opcode {opcode.name}")

    def above_mark(self) -> tuple[Any, ...]:
        """Take what lies above the last mark off the stack, and the mark."""
        place = max(i for i, value in enumerate(self.stack) if value is _MARK)
        items = tuple(self.stack[place + 1 :])
        del self.stack[place:]
        return items

    def storage(self, kind: str, dtype: _Name, key: str, device: str, count: int) -> np.ndarray:
        """The numbers of a file of the archive, read once."""
        name = f"{self.root}data/{key}"
        if name not in self.storages:
            self.storages[name] = np.frombuffer(self.archive.read(name), _DTYPES[dtype.name.removeprefix("torch ")])
        if len(self.storages[name]) != count:
            raise ValueError(f"storage {key} holds {len(self.storages[name])} numbers, not {count}")
        return self.storages[name]


class _Foreign(Exception):
    """A pickle holds something that a list of matrices does not need."""


def _matrix(tensor: _Tensor) -> Float[np.ndarray, "width rank"]:
    """The numbers of a tensor with two axes. It must lie within its storage, and have no more numbers than that."""
    numbers, offset, (width, rank), steps = tensor
    last = offset + (width - 1) * steps[0] + (rank - 1) * steps[1] if width and rank else -1
    fits = 0 <= width < _WIDEST and width * rank <= len(numbers) and last < len(numbers)
    if min(offset, rank, *steps) < 0 or len(steps) != 2 or not fits:
        raise ValueError("the shape of a matrix does not fit its storage")
    if not rank:
        return np.zeros((width, 0), np.float32)
    strides = [step * numbers.itemsize for step in steps]
    matrix = np.lib.stride_tricks.as_strided(numbers[offset:], (width, rank), strides)
    return np.array(matrix, np.float32, order="C")


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
