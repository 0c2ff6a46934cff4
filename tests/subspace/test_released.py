"""Bases in the authors' file format: read without PyTorch, written so that PyTorch reads them, nothing ever run."""

import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from subspace_arrays import orthonormal

from seen_jax.errors import BasisError
from seen_jax.subspace import NoiseBasis
from seen_jax.subspace.released import load_released, read_vectors, save_released

PUBLISHED = {
    "Qwen/v_list_gauss_0.1_0.pt": (32, 5120, (1, 0, 0, 1, 1, 6, 5, 6, 3)),
    "Qwen/v_list_crowd_0.1_0.pt": (32, 5120, (5, 7, 6, 3, 4, 13, 15, 11, 6)),
    "MiniCPM/v_list_gauss_0.1_0.pt": (24, 4096, (2, 2, 2, 0, 3, 1)),
    "StepAudio/v_list_gauss_0.1_0.pt": (32, 5120, (10, 10, 10, 10, 10)),
}


@pytest.fixture
def basis() -> NoiseBasis:
    q = np.zeros((4, 12, 3), np.float32)
    rng = np.random.default_rng(0)
    q[2], q[3, :, :2] = orthonormal(rng, 12, 3), orthonormal(rng, 12, 2)
    return NoiseBasis("encoder.mlp_act", jnp.asarray(q), (0, 0, 3, 2), (1, 2, 3))


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_the_released_files(recordings, name):
    """Ranks as METHOD's source reports them; the matrices belong to the last layers."""
    depth, width, ranks = PUBLISHED[name]
    basis = load_released(recordings / "released_bases" / name, depth)
    assert basis.ranks == (0,) * (depth - len(ranks)) + ranks
    assert basis.layers == tuple(range(depth - len(ranks), depth))
    assert basis.q.shape == (depth, width, max(ranks))


def test_there_and_back(basis, tmp_path):
    path = save_released(basis, tmp_path / "v_list_white_0.1_0.pt")
    back = load_released(path, 4)
    assert (back.site, back.ranks, back.layers) == (basis.site, basis.ranks, basis.layers)
    np.testing.assert_array_equal(back.q, basis.q)
    with pytest.raises(BasisError, match="exists"):
        save_released(basis, path)


def test_parity_with_torch(basis, tmp_path):
    torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")
    loaded = torch.load(save_released(basis, tmp_path / "ours.pt"), weights_only=True)
    for x, layer in zip(loaded, basis.layers, strict=True):
        np.testing.assert_array_equal(x.numpy(), basis.q[layer, :, : basis.ranks[layer]])
    torch.save([x.t().contiguous().t() for x in loaded], tmp_path / "theirs.pt")  # other strides
    for x, y in zip(read_vectors(tmp_path / "theirs.pt"), loaded, strict=True):
        np.testing.assert_array_equal(x, y.numpy())


def test_layers_that_are_not_the_last_ones(basis, tmp_path):
    with pytest.raises(BasisError, match="last layers"):
        save_released(basis.with_layers((1, 2)), tmp_path / "a.pt")
    with pytest.raises(BasisError, match="3 matrices for a stack of 2 layers"):
        load_released(save_released(basis, tmp_path / "a.pt"), 2)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def archive(path, content: bytes, name: str = "x/data.pkl"):
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(name, content)
    return path


def test_damaged_and_malicious_files(basis, tmp_path, capsys):
    good = save_released(basis, tmp_path / "good.pt")
    (tmp_path / "cut.pt").write_bytes(good.read_bytes()[:-200])
    (tmp_path / "text.pt").write_text("no archive")
    cases = {
        tmp_path / "gone.pt": "there is no file",
        tmp_path / "cut.pt": "damaged",
        tmp_path / "text.pt": "damaged",
        archive(tmp_path / "empty.pt", b"", "readme.txt"): "without PyTorch data",
        archive(tmp_path / "evil.pt", pickle.dumps([Evil()], 2)): "refers to .*print.* nothing was run",
        archive(tmp_path / "numbers.pt", pickle.dumps([1, 2], 2)): "list of matrices",
        archive(tmp_path / "none.pt", pickle.dumps([], 2)): "list of matrices",
    }
    for path, message in cases.items():
        with pytest.raises(BasisError, match=message):
            read_vectors(path)
    assert capsys.readouterr().out == ""
