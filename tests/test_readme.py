"""What README.md tells a new user to type."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from cli_support import make_clips, run

from seen_jax.audio import read_audio, synthetic_noise, write_audio

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_the_python_code_runs(capsys):
    [code] = blocks("python")
    exec(code, {})
    see, answer, shape = capsys.readouterr().out.strip().splitlines()
    assert 0 < float(see) < 1 and "see_after" in answer and shape.startswith("(4, ")


def test_the_commands_on_own_audio_run(tmp_path, monkeypatch):
    """But for the experiment, which other tests run."""
    make_clips(tmp_path / "clean", 3)
    for path in (tmp_path / "clean").iterdir():
        (tmp_path / "speech").mkdir(exist_ok=True)
        write_audio(tmp_path / "speech" / f"{path.stem}.flac", read_audio(path))
    write_audio(tmp_path / "traffic.wav", 0.1 * synthetic_noise("engine", 32_000, 0))
    monkeypatch.chdir(tmp_path)
    lines = [line for line in blocks("bash")[1].splitlines() if line.startswith("seen-jax")]
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        if words[0] == "evaluate":
            assert (ROOT / words[1]).is_file()
            continue
        words = [str(p) for word in words for p in (sorted(Path().glob(word)) if "*" in word else [word])]
        outcome = run(*words)
        assert outcome.status == 0, f"{line}: {outcome.err}"
