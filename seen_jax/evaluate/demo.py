"""The demo: calibrate on noises, measure SEE, answer with and without SEEN, and write one folder that shows it all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seen_jax.api import Progress, calibrate
from seen_jax.data.items import Item, load_clips, voices
from seen_jax.errors import ConfigError
from seen_jax.evaluate.folders import check_target, fresh_folder
from seen_jax.evaluate.results import KIND, NUMBERS, PAGE, Clock, write_results
from seen_jax.evaluate.settings import DemoConfig
from seen_jax.evaluate.sweep import noises_for, sweep
from seen_jax.models.model import Model, load
from seen_jax.subspace import Calibration

__all__ = ["DemoConfig", "is_demo", "run_demo"]


def is_demo(folder: Path) -> bool:
    """Whether a folder was written by `run_demo`."""
    try:
        return json.loads((folder / NUMBERS).read_text("utf-8"))["kind"] == KIND
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run_demo(config: DemoConfig | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Run the demo and write index.html, results.json, conditions.csv, items.csv, figures/ and calibration/.

    progress: called with (clips done, clips in all). Returns the content of results.json and, as "page", the path of
    index.html. The folder appears whole or not at all. Raises ConfigError, CheckpointError, AudioError, BasisError.
    """
    config = config or DemoConfig()
    out = Path(config.out).expanduser()
    mine = is_demo if config.overwrite else (lambda _: False)
    check_target(out, mine)
    clock = Clock()
    model = load(config.model)
    items = load_clips("demo", config.items_per_task)
    clips = calibration_clips(config.calibration_clips)
    with fresh_folder(out, mine) as folder:
        clock.mark("load")
        per_noise = 3 * len(clips)
        before = per_noise * len(config.noises)
        total = before + 2 * len(config.noises) * (1 + len(config.snrs)) * len(items)
        shift = lambda start: (lambda done, _: progress(start + done, total)) if progress else None  # noqa: E731
        calibrations = {
            noise: calibrate_noise(model, config, clips, noise, shift(i * per_noise))
            for i, noise in enumerate(config.noises)
        }
        bases = {noise: c.select(config.selection) for noise, c in calibrations.items()}
        clock.mark("calibrate")
        rows = sweep(
            model,
            items,
            config.noises,
            config.snrs,
            bases,
            config.strength,
            config.seed,
            config.batch_size,
            shift(before),
            voices(clips),
            config.max_new_tokens,
        )
        clock.mark("answer")
        summary = write_results(folder, config, model, items, clips, calibrations, bases, rows, clock)
    return {**summary, "page": str(out.resolve() / PAGE)}


def calibration_clips(count: int) -> list[Item]:
    """So many of the calibration clips, the tasks in turn. ConfigError if there are not as many."""
    clips = load_clips("calibration")
    if count > len(clips):
        raise ConfigError(f"there are {len(clips)} calibration clips, not {count}")
    seen: Counter[str] = Counter()
    place = {}
    for i, item in enumerate(clips):
        place[item.id] = (seen[item.task], i)
        seen[item.task] += 1
    return sorted(clips, key=lambda item: place[item.id])[:count]


def calibrate_noise(
    model: Model, config: DemoConfig, clips: Sequence[Item], noise: str, progress: Progress | None = None
) -> Calibration:
    """Pooled activations of the clips, of the noise alone, and of both. The noise differs from the one in the sweep."""
    clean = [item.wave for item in clips]
    noises = noises_for(noise, clean, f"calibrate/{noise}", config.seed, voices(clips))
    return calibrate(
        model,
        clean,
        noises,
        config.site,
        config.calibration_snr_db,
        batch_size=config.batch_size,
        card={"noise": noise},
        progress=progress,
    )
