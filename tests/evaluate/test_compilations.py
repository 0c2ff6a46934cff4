"""A whole evaluation of clips of many lengths compiles few programs, whatever JAX has compiled before."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import yaml

from seen_jax.audio import write_audio
from seen_jax.data.items import load_clips

MOST = 12
COUNTED = """
import sys, jax
from seen_jax.cli import main
found = []
listen = lambda name, seconds, **about: found.append(name) if name.endswith("backend_compile_duration") else None
jax.monitoring.register_event_duration_secs_listener(listen)
status = main(sys.argv[1:])
print("compiled", len(found))
sys.exit(status)
"""


def test_ragged_clips_compile_few_programs(tmp_path):
    rows = ["id,path,answer"]
    for i, item in enumerate(clip for place, clip in enumerate(load_clips("demo")) if place % 12 < 5):
        samples = round(16_000 * (0.4 + 0.29 * i))  # 0.4 to 5.9 s
        path = write_audio(tmp_path / f"{i}.wav", np.resize(item.wave, samples))
        rows.append(f'{i},{path},"{item.answer}"')
    (tmp_path / "items.csv").write_text("\n".join(rows) + "\n")
    config = {
        "out": str(tmp_path / "run"),
        "datasets": [{"path": str(tmp_path / "items.csv")}],
        "calibration": {"dataset": {"path": "seen-tiny/calibration"}, "clips": 10},
        "noises": ["white", "rain"],
        "snrs": [0, 10],
        "mitigations": ["none", "seen", "wiener", "wiener+seen"],
        "batch_size": 4,
        "max_new_tokens": 4,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, "evaluate", str(tmp_path / "config.yaml")],
        capture_output=True, text=True, env={**os.environ, "SEEN_JAX_CACHE": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout.split()[-1]) <= MOST, done.stdout
