"""Figures of the model card: how a trained model does on held-out items, clean and under noise, and its curves.

python -m seen_jax.train.card configs/seen_tiny.yaml --model seen-tiny --out docs/seen_tiny"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seen_jax.audio.mix import mix_at_snr
from seen_jax.audio.noise import noise_for_clip
from seen_jax.config import load_config
from seen_jax.errors import ConfigError
from seen_jax.files import to_json, write_file
from seen_jax.models.load import load
from seen_jax.models.model import Model
from seen_jax.report.style import PALETTE, new_figure
from seen_jax.train.config import DataSize, TrainConfig
from seen_jax.train.dataset import build_dataset
from seen_jax.train.tasks import TASKS
from seen_jax.train.trainer import LOG, answers, key, task_scores

NOISES = ("white", "pink", "babble", "engine")
SNRS = (30, 20, 15, 10, 5, 0, -5, -10)


def measure(model: Model, data: DataSize, per_task: int) -> dict[str, Any]:
    """Scores on clean clips of the test split (voices and sentences that training never saw); and per noise (of a clip,
    by the clip alone) and SNR the scores, and GSR: the share of items whose output equals the model's own clean output
    (letters for multiple choice)."""
    if data.test < len(TASKS) * per_task:
        raise ConfigError(f"the test split holds fewer than {per_task} items of each task: raise data.test.")
    dataset = build_dataset(Path(data.folder) / "test", data.test, "test", 0, data.workers)
    meta = dataset.meta[: len(TASKS) * per_task]  # the tasks take turns
    waves = dataset.clips(range(len(meta)))
    clean = answers(model, waves, meta)
    result: dict[str, Any] = {"items_per_task": per_task, "clean": task_scores(meta, clean), "gsr": []}
    print(f"clean {result['clean']}", flush=True)
    for noise, snr in itertools.product(NOISES, SNRS):
        drawn = [noise_for_clip(noise, len(wave), int(np.abs(wave).sum() * 1e3)) for wave in waves]
        noisy = [mix_at_snr(wave, part, snr).audio for wave, part in zip(waves, drawn, strict=True)]
        outputs = answers(model, noisy, meta)
        pairs = [(key(row, a), key(row, b)) for row, a, b in zip(meta, clean, outputs, strict=True)]
        same = [a == b is not None for a, b in pairs]
        gsr = {task: float(np.mean(same[i :: len(TASKS)])) for i, task in enumerate(TASKS)}
        result["gsr"].append({"noise": noise, "snr_db": snr, **gsr, "scores": task_scores(meta, outputs)})
        print(f"{noise} {snr} dB", *(f"{task} {share:.3f}" for task, share in gsr.items()), flush=True)
    return result


def plot_gsr(rows: Sequence[dict[str, Any]]) -> Any:
    """GSR against SNR, one panel per noise."""
    table = pd.DataFrame(rows).sort_values("snr_db").set_index("snr_db")
    figure = new_figure(3.2 * len(NOISES), 3)
    panels = figure.subplots(1, len(NOISES), sharey=True)
    for axes, noise in zip(panels, NOISES, strict=True):
        for task, colour, marker in zip(TASKS, PALETTE, "os^D", strict=False):
            series = table.loc[table["noise"] == noise, task]
            axes.plot(series.index, series, marker, ls="-", color=colour, label=task)
        axes.set(title=noise, xlabel="SNR (dB)", ylim=(0, 1.02))
    panels[0].set_ylabel("GSR")
    panels[-1].legend(fontsize=8)
    return figure


def plot_curves(log: Path) -> Any:
    """Losses and validation scores over all stages of a run."""
    entries = pd.read_json(log, lines=True)
    last = entries.groupby("stage", sort=False)["step"].max()
    starts = last.cumsum() - last
    entries.index = entries["step"] + entries["stage"].map(starts)
    figure = new_figure(8, 6)
    losses, scores = figure.subplots(2, 1, sharex=True)
    labels = {"word": "word loss", "answer": "answer loss"}
    labels |= {**{f"val_{task}": task for task in TASKS}, "val_wer": "word error rate"}
    for column, colour in zip(labels, (*PALETTE[:2], *PALETTE), strict=False):
        axes, look = (scores, "o-") if column.startswith("val_") else (losses, "-")
        if column in entries:
            series = entries[column].dropna()
            axes.plot(series.index, series, look, color=colour, lw=1, label=labels[column])
    losses.set(ylabel="loss (nats)", yscale="log")
    scores.set(xlabel="step", ylabel="validation score", ylim=(-0.02, 1.02))
    for axes in (losses, scores):
        axes.legend(fontsize=8)
        for start in starts:
            axes.axvline(start, color="0.6", lw=0.8, ls="--")
    for stage, start in starts.items():
        losses.text(start + last.sum() / 100, losses.get_ylim()[1], stage, va="top", fontsize=9)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="the training configuration (its data recipe and run folder)")
    parser.add_argument("--model", default="seen-tiny")
    parser.add_argument("--out", required=True, type=Path, help="folder for card.json, gsr.png and curves.png")
    parser.add_argument("--items", type=int, default=200, help="held-out items per task")
    args = parser.parse_args()
    config = load_config(TrainConfig, args.config, [])
    result = measure(load(args.model, "float32"), config.data, args.items)
    write_file(args.out / "card.json", to_json(result))
    figures = {"gsr": plot_gsr(result["gsr"])}
    if (log := Path(config.out) / LOG).is_file():
        figures["curves"] = plot_curves(log)
    for name, figure in figures.items():
        for axes in figure.axes:
            axes.grid(alpha=0.3)
        figure.set_layout_engine("tight")
        figure.savefig(args.out / f"{name}.png", dpi=130)
