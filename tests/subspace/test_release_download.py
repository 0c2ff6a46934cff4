"""The authors' bases by name, from a stand-in of their repository: checked by hash, kept once, or refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from cli_support import run

from seen_jax.errors import BasisError
from seen_jax.models.family import published_config
from seen_jax.models.sites import ENCODER_MLP_ACT
from seen_jax.registry import FAMILIES
from seen_jax.subspace import NoiseBasis, released
from seen_jax.subspace.identity import ORIGINS, RELEASES


class Quiet(SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def log_message(self, *args) -> None:
        self.asked.append(self.path)


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder in the layout of the authors' repository at the pinned commits."""
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.setenv("SEEN_JAX_CACHE", str(tmp_path / "cache"))
    Quiet.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}" + "/{commit}/{folder}/{file}"
    monkeypatch.setattr(released, "SOURCE", address)
    yield root
    server.shutdown()
    server.server_close()
    thread.join()


def place(root: Path, name: str, content: bytes) -> Path:
    release = RELEASES[name]
    path = root / ORIGINS[release.folder].commit / release.folder / release.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", RELEASES)
def test_a_released_basis_by_name(repository, recordings, name):
    release = RELEASES[name]
    place(repository, name, (recordings / "released_bases" / release.folder / release.file).read_bytes())
    basis = NoiseBasis.from_released(name)
    assert basis.card["of_model"] == ORIGINS[release.folder].name and basis.card["noise"] == name.partition("/")[2]
    assert basis.layers[-1] == len(basis.ranks) - 1 and sum(basis.ranks) > 0
    assert NoiseBasis.from_released(name).ranks == basis.ranks
    assert len(Quiet.asked) == 1, "the second time the local copy is read"


def test_another_file_is_not_kept(repository, tmp_path):
    place(repository, "qwen2.5-omni/crowd", b"another file")
    with pytest.raises(BasisError, match=r"is not the file that the authors released \(its SHA-256 is .*not kept"):
        NoiseBasis.from_released("qwen2.5-omni/crowd")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_what_cannot_be_fetched(repository):
    with pytest.raises(BasisError, match=r"cannot be downloaded from http.*404.*download it by hand and read it with"):
        NoiseBasis.from_released("step-audio-2-mini/gauss")
    with pytest.raises(BasisError, match=r"no released basis 'qwen/crowd'.*Known, with their checksums: qwen2\.5-omni"):
        NoiseBasis.from_released("qwen/crowd")
    assert "no released basis 'x'" in run("card", "released:x").err


@pytest.mark.parametrize("folder", ORIGINS)
def test_the_stack_is_that_of_the_family(folder):
    origin = ORIGINS[folder]
    assert published_config(FAMILIES[origin.family]).site_shape(ENCODER_MLP_ACT)[0] == origin.layers
