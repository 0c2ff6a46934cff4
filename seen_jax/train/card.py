"""Figures of the model card: how a trained model does on held-out items, clean and under noise, and its curves.

python -m seen_jax.train.card configs/seen_tiny.yaml --model seen-tiny --out docs/seen_tiny
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.audio.mix import mix_at_snr
from seen_jax.audio.noise import noise_for_clip
from seen_jax.config import load_config
from seen_jax.errors import ConfigError
from seen_jax.files import to_json, write_file
from seen_jax.models.load import load
from seen_jax.models.model import Model
from seen_jax.train.config import DataSize, TrainConfig
from seen_jax.train.dataset import build_dataset
from seen_jax.train.measure import Meta, answers, key, task_scores
from seen_jax.train.tasks import TASKS

NOISES = ("white", "pink", "babble", "engine")
SNRS = (30, 20, 15, 10, 5, 0, -5, -10)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")


def noisy(clean: np.ndarray, noise: str, snr: float) -> np.ndarray:
    """The clip with `noise` at `snr` dB. The noise depends on the clip alone."""
    seed = int(np.abs(clean).sum() * 1e3)
    return mix_at_snr(clean, noise_for_clip(noise, len(clean), seed), snr).audio


def agreement(meta: Meta, clean: Sequence[str], outputs: Sequence[str]) -> dict[str, float]:
    """GSR per task: share of items whose output equals the model's own clean output (letters for multiple choice)."""
    keys = [(row["task"], key(row, a), key(row, b)) for row, a, b in zip(meta, clean, outputs, strict=True)]
    return {name: float(np.mean([a == b is not None for task, a, b in keys if task == name])) for name in TASKS}


def measure(model: Model, data: DataSize, per_task: int) -> dict[str, Any]:
    """Scores on clean clips of the test split (voices and sentences that training never saw), and GSR per noise and
    SNR."""
    if data.test < len(TASKS) * per_task:
        raise ConfigError(f"the test split holds fewer than {per_task} items of each task: raise data.test.")
    dataset = build_dataset(Path(data.folder) / "test", data.test, "test", 0, data.workers or None)
    meta = dataset.meta[: len(TASKS) * per_task]  # the tasks take turns
    waves = dataset.clips(range(len(meta)))
    clean = answers(model, waves, meta)
    result: dict[str, Any] = {"items_per_task": per_task, "clean": task_scores(meta, clean), "gsr": []}
    print(f"clean {result['clean']}", flush=True)
    for noise in NOISES:
        for snr in SNRS:
            outputs = answers(model, [noisy(wave, noise, snr) for wave in waves], meta)
            gsr = agreement(meta, clean, outputs)
            result["gsr"].append({"noise": noise, "snr_db": snr, **gsr, "scores": task_scores(meta, outputs)})
            print(f"{noise} {snr} dB", *(f"{task} {share:.3f}" for task, share in gsr.items()), flush=True)
    return result


def plot_gsr(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """GSR against SNR, one panel per noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(NOISES), 3), layout="tight")
    panels = figure.subplots(1, len(NOISES), sharey=True)
    for axes, noise in zip(panels, NOISES, strict=True):
        points = sorted((row for row in rows if row["noise"] == noise), key=lambda row: row["snr_db"])
        for task, colour, marker in zip(TASKS, COLOURS, "os^D", strict=False):
            x, y = ([row[name] for row in points] for name in ("snr_db", task))
            axes.plot(x, y, marker, ls="-", color=colour, label=task)
        axes.set(title=noise, xlabel="SNR (dB)", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("GSR")
    panels[-1].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def plot_curves(log: Path, path: Path) -> None:
    """Losses and validation scores over all stages of a run."""
    from matplotlib.figure import Figure

    entries = [json.loads(line) for line in log.read_text().splitlines()]
    starts, total = {}, 0
    for stage in dict.fromkeys(entry["stage"] for entry in entries):
        starts[stage] = total
        total += max(entry["step"] for entry in entries if entry["stage"] == stage)
    figure = Figure(figsize=(8, 6), layout="tight")
    losses, scores = figure.subplots(2, 1, sharex=True)

    def curve(axes: Any, key: str, label: str, style: str, colour: str) -> None:
        points = [(starts[entry["stage"]] + entry["step"], entry[key]) for entry in entries if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=colour, lw=1, label=label)

    for name, colour in zip(("word", "answer"), COLOURS, strict=False):
        curve(losses, name, f"{name} loss", "-", colour)
    for name, colour in zip((*TASKS, "wer"), COLOURS, strict=True):
        curve(scores, f"val_{name}", "word error rate" if name == "wer" else name, "o-", colour)
    losses.set(ylabel="loss (nats)", yscale="log")
    scores.set(xlabel="step", ylabel="validation score", ylim=(-0.02, 1.02))
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        for start in starts.values():
            axes.axvline(start, color="0.6", lw=0.8, ls="--")
    for stage, start in starts.items():
        losses.text(start + total / 100, losses.get_ylim()[1], stage, va="top", fontsize=9)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="the training configuration (its data recipe and run folder)")
    parser.add_argument("--model", default="seen-tiny")
    parser.add_argument("--out", required=True, type=Path, help="folder for card.json, gsr.png and curves.png")
    parser.add_argument("--items", type=int, default=200, help="held-out items per task")
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config, [])
    result = measure(load(args.model), config.data, args.items)
    write_file(args.out / "card.json", to_json(result))
    plot_gsr(result["gsr"], args.out / "gsr.png")
    log = Path(config.out) / "metrics.jsonl"
    if log.is_file():
        plot_curves(log, args.out / "curves.png")
