"""The identity of weights: of their values, whatever files hold them; a copy in another precision is known as one."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_checkpoint import edit_tensors, shard
from tiny_omni import identities_of, random_basis, wave, write_checkpoint

import seen_jax
from seen_jax.errors import BasisError
from seen_jax.models import identify as identify_module
from seen_jax.models.folders import WEIGHTS
from seen_jax.models.load import load
from seen_jax.models.sites import DECODER_RESID, ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR
from seen_jax.subspace import NoiseBasis, load_released, save_released
from seen_jax.subspace.identity import ORIGINS, Identity


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def cast(folder: Path, dtype) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({key: x.astype(dtype) for key, x in tensors.items()}))


@pytest.mark.parametrize("parts", [1, 4])
def test_files_and_names_do_not_count(folder, copy, parts):
    """Other shards, the keys of the published form, other tensors beside them, metadata."""

    def rename(tensors: dict) -> None:
        old = dict(tensors)
        tensors.clear()
        tensors.update({f"thinker.{key}": old[key] for key in reversed(old)})
        tensors["talker.x"] = np.ones(3, np.float32)

    edit_tensors(copy, rename)
    if parts > 1:
        shard(copy, parts)
    assert identities_of(copy) == identities_of(folder)


def test_every_weight_counts(folder, copy):
    """A change in the last place of one weight of each tensor; those of the encoder change both identities."""
    before, tensors = identities_of(folder), load_file(folder / WEIGHTS)
    seen = {before["model"].fingerprint}
    keys = sorted(tensors)[:: len(tensors) // 16]
    for i, key in enumerate(keys):
        changed = {name: x.copy() for name, x in tensors.items()}
        flat = changed[key].reshape(-1)
        place = i * 37 % flat.size
        flat[place] = np.nextafter(flat[place], np.float32(9), dtype=np.float32)
        save_file(changed, copy / WEIGHTS)
        after = identities_of(copy)
        seen.add(after["model"].fingerprint)
        assert (after["encoder"] != before["encoder"]) == key.startswith("audio_tower")
    assert len(seen) == 1 + len(keys)


def test_of_large_tensors_evenly_spread_bytes_count(folder, copy, monkeypatch):
    """The first and the last of them too."""
    monkeypatch.setattr(identify_module, "WHOLE", 1000)
    monkeypatch.setattr(identify_module, "PIECES", 4)
    monkeypatch.setattr(identify_module, "PIECE", 64)
    before, tensors = identities_of(folder)["model"], load_file(folder / WEIGHTS)
    key = min((key for key, x in tensors.items() if x.nbytes >= 4000), key=lambda key: tensors[key].nbytes)
    noticed = []
    for place in range(0, tensors[key].size, 16):
        changed = {**tensors, key: tensors[key].copy()}
        changed[key].reshape(-1)[place] += 1
        save_file(changed, copy / WEIGHTS)
        noticed.append(identities_of(copy)["model"].fingerprint != before.fingerprint)
    assert noticed[0] and noticed[-1] and 3 <= sum(noticed) <= 5


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_a_copy_in_another_precision_is_known(folder, copy, dtype):
    cast(copy, dtype)
    of_copy, of_original = identities_of(copy), identities_of(folder)
    for part in ("encoder", "model"):
        assert of_copy[part].fingerprint != of_original[part].fingerprint
        assert of_copy[part].compare(of_original[part]) == "other precision"
        saved = Identity.of_card(json.loads(json.dumps(of_copy[part].card())))
        assert saved.compare(of_original[part]) == "other precision"


def test_two_lossy_copies_of_one_model_are_known(folder, tmp_path):
    copies = []
    for dtype in (ml_dtypes.bfloat16, np.float16):
        copies.append(Path(shutil.copytree(folder, tmp_path / np.dtype(dtype).name)))
        cast(copies[-1], dtype)
    first, second = (identities_of(folder)["encoder"] for folder in copies)
    assert first.compare(second) == second.compare(first) == "other precision"


def test_other_models_are_others_in_any_precision(folder, copy, tmp_path):
    """Random ones, a fine-tune by half a percent, and a change that only the same precision can show."""
    original = identities_of(folder)["model"]
    other = write_checkpoint(tmp_path / "other", seed=1)
    assert identities_of(other)["model"].compare(original) == "other model"
    cast(other, ml_dtypes.bfloat16)
    assert identities_of(other)["model"].compare(original) == "other model"
    rng = np.random.default_rng(0)
    for share, dtype in ((0.005, ml_dtypes.bfloat16), (0.005, np.float16), (1e-6, np.float32)):
        tuned = {k: x * (1 + share * rng.standard_normal(x.shape)) for k, x in load_file(folder / WEIGHTS).items()}
        save_file({k: x.astype(np.float32) for k, x in tuned.items()}, copy / WEIGHTS)
        cast(copy, dtype)
        assert identities_of(copy)["model"].compare(original) == "other model"


# --- bases ---


@pytest.fixture
def encoder(folder):
    return load(folder, part="encoder")


def basis_of(model, site: str) -> NoiseBasis:
    return random_basis(model.config, site, [2] * model.config.site_shape(site)[0], **model.identity(site).card())


@pytest.mark.parametrize("site", [ENCODER_MLP_ACT, ENCODER_RESID, PROJECTOR])
def test_a_basis_of_the_encoder_fits_with_and_without_the_decoder(model, encoder, site):
    pairs = [(one, other) for one in (model, encoder) for other in (model, encoder)]
    scores = [seen_jax.score(one, wave(8000), basis_of(other, site)) for one, other in pairs]
    assert len(set(scores)) == 1


def test_another_decoder_does_not_matter_to_a_basis_of_the_encoder(model, copy):
    edit_tensors(copy, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"] + 1}))
    other = load(copy)
    assert seen_jax.score(other, wave(8000), basis_of(model, ENCODER_MLP_ACT)).see > 0
    with pytest.raises(BasisError, match="model fingerprint"):
        seen_jax.score(other, wave(8000), basis_of(model, DECODER_RESID))


def test_a_basis_of_another_precision_loads_with_a_note(model, copy, tmp_path):
    cast(copy, ml_dtypes.bfloat16)
    half = load(copy, part="encoder")
    saved = NoiseBasis.load(basis_of(model, ENCODER_MLP_ACT).save(tmp_path / "basis"))
    with pytest.warns(UserWarning, match="the same weights in another precision: F32 there, BF16 here"):
        assert seen_jax.score(half, wave(8000), saved).see > 0


def test_a_basis_of_another_model_is_refused_unless_told(model, tmp_path):
    other = load(write_checkpoint(tmp_path / "other", seed=1), part="encoder")
    basis = basis_of(model, ENCODER_MLP_ACT)
    with pytest.raises(BasisError, match=r"--any-model \(in Python: basis\.for_any_model\(\)\)"):
        seen_jax.score(other, wave(8000), basis)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert seen_jax.score(other, wave(8000), basis.for_any_model()).see > 0
    with pytest.raises(BasisError, match="site"):
        basis.for_any_model().check(PROJECTOR, 3, 40, other.identity(PROJECTOR))


def test_cards_of_before_are_refused_by_what_helps(model):
    """They hold a hash of files, which no identity equals."""
    old = random_basis(model.config, ENCODER_MLP_ACT, [2] * 3, model="omni", fingerprint="0123456789abcdef")
    with pytest.raises(BasisError, match=r"model fingerprint 0123456789abcdef .* --any-model"):
        seen_jax.score(model, wave(8000), old)


# --- the bases that the authors released ---

RELEASED = {
    "Qwen/v_list_gauss_0.1_0.pt": ("Qwen", 32, 5120),
    "Qwen/v_list_crowd_0.1_0.pt": ("Qwen", 32, 5120),
    "MiniCPM/v_list_gauss_0.1_0.pt": ("MiniCPM", 24, 4096),
    "StepAudio/v_list_gauss_0.1_0.pt": ("StepAudio", 32, 5120),
}


@pytest.mark.parametrize("name", list(RELEASED))
def test_a_released_file_is_known_by_its_hash(recordings, tmp_path, name):
    key, layers, width = RELEASED[name]
    file = Path(shutil.copy(recordings / "released_bases" / name, tmp_path / "renamed.pt"))
    basis = load_released(file, layers)
    for other, origin in ORIGINS.items():
        model = Identity("any folder", origin.family, origin.width)
        if other == key:
            basis.check(ENCODER_MLP_ACT, layers, width, model)
            continue
        with pytest.raises(BasisError, match=f"made for {ORIGINS[key].name}: family or size"):
            basis.check(ENCODER_MLP_ACT, layers, width, model)
    with pytest.raises(BasisError, match="family or size"):  # the 3B model: the same encoder, other audio tokens
        basis.check(ENCODER_MLP_ACT, layers, width, Identity("small", ORIGINS[key].family, 2048))
    with pytest.raises(BasisError, match=f"released for {ORIGINS[key].name}, not for org/other"):
        load_released(file, layers, of_model="org/other")


def test_other_released_files_are_known_by_name_and_folder(model, tmp_path):
    basis = random_basis(model.config, ENCODER_MLP_ACT, [2] * 3)
    (tmp_path / "StepAudio").mkdir()
    for place, expected in (
        ("StepAudio/v_list_babble_0.1_0.pt", "stepfun-ai/Step-Audio-2-mini"),
        ("StepAudio/mine.pt", None),
        ("v_list_babble_0.1_0.pt", None),
    ):
        assert load_released(save_released(basis, tmp_path / place), 3).card.get("of_model") == expected


def test_a_released_basis_of_an_unknown_model_asks(encoder, tmp_path):
    file = save_released(random_basis(encoder.config, ENCODER_MLP_ACT, [2] * 3), tmp_path / "mine.pt")
    with pytest.raises(BasisError, match=r"mine\.pt does not say which model .* --of-model NAME"):
        seen_jax.score(encoder, wave(8000), load_released(file, 3))
    for name in (encoder.name, "org/omni", "qwen2_5_omni"):
        assert seen_jax.score(encoder, wave(8000), load_released(file, 3, of_model=name)).see > 0
    for name in ("org/other", "Qwen/Qwen2.5-Omni-7B"):
        with pytest.raises(BasisError, match=f"made for {name}: family or size"):
            seen_jax.score(encoder, wave(8000), load_released(file, 3, of_model=name))
