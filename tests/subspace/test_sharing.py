"""Bases and calibrations pushed to a stand-in of the hub and pulled again: the same to the bit, or refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_support import run
from hub_server import StandIn, stand_in
from safetensors.numpy import load_file, save_file
from subspace_arrays import statistics

import seen_jax
from seen_jax.audio import noise_for_clip
from seen_jax.data.items import load_clips
from seen_jax.errors import BasisError
from seen_jax.files import to_json
from seen_jax.subspace import Calibration, NoiseBasis, Selection
from seen_jax.subspace.card import public_card

TOKEN = StandIn.token
CARD = {"model": "org/lalm", "fingerprint": "f" * 16, "stored": "float32", "noise": "white", "snr_db": 0.0}
PULL = """
import sys, numpy, seen_jax
basis = seen_jax.NoiseBasis.from_pretrained("org/basis", revision=sys.argv[1])
model = seen_jax.load("seen-tiny", part="encoder", dtype="float32")
score = seen_jax.score(model, numpy.load(sys.argv[2]), basis)
print([x.hex() for x in (score.see, *score.per_layer)])
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with stand_in(tmp_path / "cache", monkeypatch) as server:
        yield server


@pytest.fixture
def calibration() -> Calibration:
    return Calibration("encoder.mlp_act", statistics(), CARD)


@pytest.fixture
def basis(calibration) -> NoiseBasis:
    return calibration.select(Selection(method="complement", layers="all"))


@pytest.fixture(scope="module")
def model():
    return seen_jax.load("seen-tiny", part="encoder", dtype="float32")


def held(hub: StandIn, name: str) -> Path:
    return hub.models[name, "main"]


def test_a_basis_gives_the_same_see_in_another_process(hub: StandIn, model, tmp_path):
    clips = [item.wave[:16000] for item in load_clips("calibration")[:3]]
    noises = [noise_for_clip("babble", len(clip), i) for i, clip in enumerate(clips)]
    made = seen_jax.calibrate(model, clips, noises, card={"noise": "babble"})
    basis = made.select(Selection(method="complement"))
    score = seen_jax.score(model, clips[0], basis)
    commit = basis.push_to_hub("org/basis", see=made.source.pooled_see(basis.q), token=TOKEN)
    np.save(tmp_path / "clip.npy", clips[0])
    places = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.port}", "HF_HUB_CACHE": str(tmp_path / "other cache")}
    command = [sys.executable, "-c", PULL, commit, str(tmp_path / "clip.npy")]
    done = subprocess.run(command, env={**os.environ, **places}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([x.hex() for x in (score.see, *score.per_layer)])
    assert score.see > 0


def test_what_is_pushed(hub: StandIn, basis, calibration):
    see = calibration.source.pooled_see(basis.q)
    commit = basis.push_to_hub("org/basis", see=see, licence="cc-by-4.0", token=TOKEN)
    assert {p.name for p in held(hub, "org/basis").iterdir()} == {
        "README.md", "basis.safetensors", "card.json", "layers.png",
    }  # fmt: skip
    _, front, text = (held(hub, "org/basis") / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "seen-jax",
        "tags": ["seen-jax", "noise-basis", "audio"],
        "license": "cc-by-4.0",
        "base_model": "org/lalm",
    }
    for words in ("| model | org/lalm |", f"| its weights | {'f' * 16}, stored as float32 |", "| noise | white |",
                  "| clips | 12 |", "| SNR of calibration (dB) | 0.0 |", "method complement", "2601.07331", "cc-by-4.0",
                  'NoiseBasis.from_pretrained("org/basis")',
                  "| layer | kept | rank | SEE, clean | SEE, noisy |"):  # fmt: skip
        assert words in text
    assert f"| 0 | yes | {basis.ranks[0]} | {100 * see['clean'][0]:.2f} % |" in text
    pulled = NoiseBasis.from_pretrained("org/basis", revision=commit)
    assert (pulled.ranks, pulled.layers, pulled.site) == (basis.ranks, basis.layers, basis.site)
    np.testing.assert_array_equal(pulled.q, basis.q)
    assert hub.sent == ["basis.safetensors", "card.json"] or hub.sent == ["card.json", "basis.safetensors"]


def test_a_calibration_there_and_back(hub: StandIn, calibration):
    calibration.push_to_hub("org/calibration", token=TOKEN)
    pulled = Calibration.from_pretrained("org/calibration")
    np.testing.assert_array_equal(pulled.statistics.clean, calibration.statistics.clean)
    assert pulled.select().ranks == calibration.select().ranks
    text = (held(hub, "org/calibration") / "README.md").read_text()
    assert "| layer | kept | rank | magnitude | direction | SEE, clean | SEE, noisy |" in text
    with pytest.raises(BasisError, match="org/calibration holds a calibration on the hub, not a noise basis: read"):
        NoiseBasis.from_pretrained("org/calibration")
    with pytest.raises(BasisError, match="org/calibration holds a calibration on the hub: give the noise basis a repo"):
        calibration.select().push_to_hub("org/calibration", token=TOKEN)


def test_a_revision_stays_what_it_was(hub: StandIn, basis):
    first = basis.push_to_hub("org/basis", token=TOKEN)
    fewer = basis.with_layers((1,))
    second = fewer.push_to_hub("org/basis", token=TOKEN)
    assert first != second
    assert NoiseBasis.from_pretrained("org/basis").layers == (1,)
    assert NoiseBasis.from_pretrained("org/basis", revision=first).layers == basis.layers
    asked = list(hub.asked)
    again = NoiseBasis.from_pretrained("org/basis", revision=first, local_files_only=True)
    assert again.layers == basis.layers and hub.asked == asked


def test_a_tampered_one_is_refused(hub: StandIn, basis, tmp_path):
    basis.push_to_hub("org/basis", token=TOKEN)
    tensors, card = held(hub, "org/basis") / "basis.safetensors", held(hub, "org/basis") / "card.json"
    whole = load_file(tensors), card.read_text()
    q = whole[0]["q"].copy()
    q[..., 0] *= -1  # as orthonormal as before
    for name, change in (
        ("tensors", lambda: save_file({"q": q}, tensors)),
        ("card", lambda: card.write_text(whole[1].replace("white", "pink!"))),
    ):
        change()
        hub.models[f"org/{name}", "main"] = Path(shutil.copytree(tensors.parent, tmp_path / name))
        with pytest.raises(BasisError, match=rf"^org/{name} on the hub: .* is damaged: its card and tensors are"):
            NoiseBasis.from_pretrained(f"org/{name}")
        save_file(whole[0], tensors)
        card.write_text(whole[1])


def test_another_models_is_refused_where_it_is_used(hub: StandIn, basis, model):
    own = NoiseBasis.of_columns(
        "encoder.mlp_act", [np.eye(768, 2, dtype=np.float32)] * 4, (3,), {**CARD, "model": "org/other"}
    )
    own.push_to_hub("org/basis", token=TOKEN)
    pulled = NoiseBasis.from_pretrained("org/basis")
    clip = load_clips("demo")[0].wave[:8000]
    with pytest.raises(BasisError, match=r"^this noise basis was made for org/other: model fingerprint f{16} "):
        seen_jax.score(model, clip, pulled)


def test_a_pickled_one_is_refused(hub: StandIn, basis, tmp_path):
    class Bad:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "basis.pt").write_bytes(pickle.dumps(Bad()))
    hub.add("org/pickled", tmp_path / "pickled")
    with pytest.raises(BasisError, match=r"^org/pickled is no noise basis .* pickled files \(basis\.pt\), which are"):
        NoiseBasis.from_pretrained("org/pickled")
    assert hub.sent == []
    saved = basis.save(tmp_path / "disguised")
    (saved / "basis.safetensors").write_bytes(pickle.dumps(Bad()))
    hub.add("org/disguised", saved)
    with pytest.raises(BasisError, match=r"^org/disguised on the hub: .*basis\.safetensors is damaged"):
        NoiseBasis.from_pretrained("org/disguised")
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_pushed_or_pulled(hub: StandIn, basis, tmp_path, monkeypatch):
    with pytest.raises(BasisError, match="org/basis cannot be written on the hub: log in with `hf auth login`"):
        basis.push_to_hub("org/basis", token="hf_wrong")
    with pytest.raises(BasisError, match="SEE of 'clean' must be one number for each of the 3 layers"):
        basis.push_to_hub("org/basis", see={"clean": [0.1]}, token=TOKEN)
    with pytest.raises(BasisError, match="org/gone was not found on the hub; a private noise basis needs"):
        NoiseBasis.from_pretrained("org/gone")
    with pytest.raises(BasisError, match=r"there is no folder \./gone, and this is no name on the hub"):
        NoiseBasis.from_pretrained("./gone")
    with pytest.raises(BasisError, match="no name of a repository on the hub"):
        NoiseBasis.from_pretrained("org/a name")
    with pytest.raises(BasisError, match="a b/c is no name of a repository on the hub"):
        basis.push_to_hub("a b/c", token=TOKEN)
    basis.push_to_hub("org/basis", token=TOKEN)
    with pytest.raises(BasisError, match="org/basis has no revision 'v9' on the hub"):
        NoiseBasis.from_pretrained("org/basis", revision="v9")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: [].pop())  # whatever fails
    with pytest.raises(BasisError, match=r"^org/basis cannot be written on the hub \(IndexError: "):
        basis.push_to_hub("org/basis", token=TOKEN)


@pytest.mark.parametrize(
    ("name", "public"),
    [("/home/me/models/tiny", "tiny"), ("C:\\models\\tiny\\", "tiny"), ("org/lalm", "org/lalm"), ("", "")],
)
def test_no_folder_of_this_machine_is_published(name, public):
    assert public_card({"model": name, "noise": "white"}) == {"model": public, "noise": "white"}


def test_the_text_of_a_card_is_no_markup(calibration, tmp_path):
    noise = "a | b\n# head [x](http://y) <img>"
    text = Calibration("encoder.mlp_act", statistics(), {**CARD, "noise": noise}).select().save(tmp_path / "basis")
    shown = run("card", text)
    assert shown.status == 0
    assert "a \\| b # head \\[x\\](http://y) \\<img\\>" in shown.out and "\n# head" not in shown.out


def test_the_command_shows_the_card(hub: StandIn, basis, calibration, tmp_path):
    basis.push_to_hub("org/basis", licence="mit", token=TOKEN)
    readme = (held(hub, "org/basis") / "README.md").read_text()
    assert run("card", "hub:org/basis").out.strip() == readme.strip()
    saved = calibration.save(tmp_path / "calibration")
    shown = run("card", saved, "--json").data
    assert (shown["kind"], shown["site"], shown["card"]["noise"]) == ("calibration", "encoder.mlp_act", "white")
    assert set(shown["columns"]) == {"magnitude", "direction", "SEE, clean", "SEE, noisy"}
    assert to_json(shown)  # finite
    gone = run("card", "hub:org/gone@v2")
    assert gone.status == 1 and "org/gone was not found on the hub" in gone.err
    assert json.loads((saved / "card.json").read_text())["kind"] == "calibration"
