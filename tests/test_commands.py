"""Every `seen-jax` command of README and docs: all are read to the last option, and those that need no real model, no
hub and no minutes run, page by page, in a folder that holds the files that the page speaks of."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
from cli_support import make_clips, make_model, run

from seen_jax.audio import read_audio, synthetic_noise, write_audio
from seen_jax.cli import COMMANDS
from seen_jax.cli._parser import Parser, split_overrides
from seen_jax.config import load_config
from seen_jax.evaluate.config import ExperimentConfig
from seen_jax.train.config import TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = [path.relative_to(ROOT) for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])]
CONFIGS = {"evaluate": ExperimentConfig, "train": TrainConfig}
QUICK = ("calibrate", "inspect", "card", "merge", "score", "generate", "blind", "models", "doctor", "completion")
# Real models by name, chips and files of others, and several devices or audio that is not here.
ELSEWHERE = re.compile(r"Qwen/|hub:|released:|\.pt\b|\$|cuda|--mesh|librispeech|--task")
FAMILY = re.compile(r"path/to/\S+|FOLDER")


def commands(page: Path) -> list[list[str]]:
    """The words behind `seen-jax` of every command of a page."""
    lines = []
    for block in re.findall(r"^```bash\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            inner = [shlex.split(word) for word in words if word.startswith("seen-jax ")]
            for part in inner or [words]:
                if "seen-jax" in part:
                    lines.append(part[part.index("seen-jax") + 1 : part.index(">") if ">" in part else None])
    return lines


def runs_here(words: list[str]) -> bool:
    return bool(words) and words[0] in QUICK and not ELSEWHERE.search(shlex.join(words))


ALL = [(page, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(("page", "words"), ALL, ids=[f"{page.stem}: {' '.join(words)}" for page, words in ALL])
def test_a_command_is_read_to_its_last_option(page, words, monkeypatch):
    if not words:
        assert "demo" in run().out
        return
    monkeypatch.chdir(ROOT)
    name, *rest = words
    assert name in COMMANDS
    command = importlib.import_module(f"seen_jax.cli.{name}")
    parser = Parser(f"seen-jax {name}", "", "")
    command.options(parser)
    rest, overrides = split_overrides(parser, rest) if hasattr(command, "TAKES_OVERRIDES") else (rest, [])
    args = parser.parse_args(rest)
    if name in CONFIGS:
        load_config(CONFIGS[name], args.config, overrides)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("page", sorted({page for page, words in ALL if runs_here(words)}), ids=str)
def test_the_quick_commands_of_a_page_run(page, model, tmp_path, monkeypatch):
    for folder in ("clean", "clips", "speech"):
        for path in sorted(make_clips(tmp_path / folder, 4).iterdir()):
            write_audio(path.with_suffix(".flac"), read_audio(path))
            path.unlink()
    write_audio(tmp_path / "traffic.wav", 0.1 * synthetic_noise("engine", 32_000, 0))
    rows = [f"{path},which sound is it?" for path in sorted((tmp_path / "clips").iterdir())]
    (tmp_path / "clips.csv").write_text("\n".join(["path,prompt", *rows]))
    monkeypatch.chdir(tmp_path)
    for words in filter(runs_here, commands(page)):
        paths = [str(path) for word in words for path in (sorted(Path().glob(word)) if "*" in word else [word])]
        done = run(*[FAMILY.sub(str(model), word) for word in paths])
        assert done.status == 0, f"{shlex.join(words)}: {done.err}"
