"""Model folders of somebody else: whatever their small files hold, one clear error says so, quickly."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seen_jax.errors import CheckpointError
from seen_jax.models.checkpoint import gather, read_config
from seen_jax.models.folders import EMBEDDED
from seen_jax.models.load import _tokenizer
from seen_jax.models.tokenizer_limits import can_backtrack_for_ever

DEEP = "[" * 100_000 + "]" * 100_000
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(EMBEDDED["seen-tiny"], tmp_path / "model"))


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def read(folder: Path) -> None:
    config, family = read_config(folder)
    _tokenizer(folder, config, family)
    gather(folder, config, family)


def test_an_undamaged_folder_is_read(folder):
    read(folder)


@pytest.mark.parametrize("value", [DEEP, "NaN", "-Infinity", "1e999", '"\\ud800"'])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
def test_json_that_is_none_is_refused(folder, name, value):
    path = folder / name
    path.write_text(path.read_text().replace("{", '{"more": ' + value + ",", 1))
    with pytest.raises(CheckpointError, match=f"{name} cannot be read as JSON"):
        read(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("eos_token_id", x) for x in ("abc", {"a": 1}, 1.5, -5, True, [2, None])] + [("pad_token_id", [1, 2])],
)
def test_what_is_no_token_id_is_refused(folder, key, value):
    change(folder / "generation_config.json", lambda content: content.update({key: value}))
    with pytest.raises(CheckpointError, match=f"{key} holds .*, which is no token id"):
        read(folder)


@pytest.mark.parametrize("name", ["x" * 400, "\x00", "é" * 200])
def test_a_shard_whose_name_no_file_can_have_is_missing(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="which is missing from"):
        read(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "config.json"])
def test_a_huge_file_is_not_read(folder, name):
    with (folder / name).open("ab") as file:
        file.truncate(20 << 30)  # sparse: it takes no room on the disk
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=f"{name} has more than 256 MiB"):
        read(folder)
    assert time.monotonic() - began < 5


def replacing(**step: Any) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": [{"type": "Replace", **step}] * 9}


def test_replacements_that_grow_without_limit_are_refused(folder):
    grow = replacing(pattern={"String": "a"}, content="a" * 10)
    change(folder / "tokenizer.json", lambda content: content.update(normalizer=grow))
    with pytest.raises(CheckpointError, match="replacements could make a text 1,000,000,000 times as long"):
        read(folder)
    fine = replacing(pattern={"String": " "}, content="▁")
    change(folder / "tokenizer.json", lambda content: content.update(normalizer=fine))
    read(folder)


def test_a_pattern_that_could_take_for_ever_is_refused(folder):
    split = {"type": "Split", "pattern": {"Regex": "^(([a-z])+.)+[A-Z]$"}, "behavior": "Isolated", "invert": False}
    change(folder / "tokenizer.json", lambda content: content.update(pre_tokenizer=split))
    with pytest.raises(CheckpointError, match="could take for ever on some texts"):
        read(folder)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)*$", "((a+)b?)+", "(x{2,}){3}", "(?:a*){2,}", r"(\)+)*"])
def test_patterns_that_repeat_ambiguous_groups_are_recognised(pattern):
    assert can_backtrack_for_ever(pattern)


@pytest.mark.parametrize(
    "pattern", [CL100K, O200K, "[(a+)+]+", r"\(a+\)+", "(ab)+c+", " ?[^(\\s|[.,!?\u2026\u3002])]+", ""]
)
def test_patterns_of_published_tokenizers_are_taken(pattern):
    assert not can_backtrack_for_ever(pattern)
