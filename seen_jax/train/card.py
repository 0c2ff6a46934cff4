"""Figures of the model card: how a trained model does on held-out items, clean and under noise, and its curves.

python -m seen_jax.train.card configs/seen_tiny.yaml --model seen-tiny --out docs/seen_tiny
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.audio.mix import mix_at_snr
from seen_jax.audio.noise import noise_for_clip
from seen_jax.errors import ConfigError
from seen_jax.models.config import token_count
from seen_jax.models.model import Model, load
from seen_jax.train.batches import Batcher
from seen_jax.train.config import DataSize
from seen_jax.train.dataset import build_dataset
from seen_jax.train.measure import answers, task_scores
from seen_jax.train.tasks import TASKS, answer_letter

NOISES = ("white", "pink", "babble", "engine")
SNRS = (30, 20, 15, 10, 5, 0, -5, -10)


def held_out(model: Model, data: DataSize, per_task: int, seed: int = 0) -> tuple[Batcher, list[int]]:
    """Examples of the test split (voices and sentences that training never saw), `per_task` of each task."""
    dataset = build_dataset(Path(data.folder) / "test", data.test, "test", seed, data.workers or None)
    c = model.config
    batcher = Batcher(dataset, model.processor.tokenizer, c.audio_token, c.pad_token, token_count(c.encoder.pad_frames))
    short = [task for task, pool in zip(TASKS, batcher.pools, strict=True) if len(pool) < per_task]
    if short:
        raise ConfigError(f"the test split holds fewer than {per_task} items of {', '.join(short)}: raise data.test.")
    return batcher, [i for pool in batcher.pools for i in pool[:per_task]]


def noisy(noise: str, snr: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """(waves, samples) -> waves with `noise` mixed in at `snr` dB."""

    def transform(waves: np.ndarray, samples: np.ndarray) -> np.ndarray:
        out = np.array(waves)
        for row, n in enumerate(samples):
            clean = waves[row, :n]
            seed = int(np.abs(clean).sum() * 1e3)  # the noise follows the clip, not its place in the batch
            out[row, :n] = mix_at_snr(clean, noise_for_clip(noise, int(n), seed), snr).audio
        return out

    return transform


def agreement(meta: Sequence[dict[str, Any]], clean: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """GSR per task: share of items whose output equals the model's own clean output (letters for multiple choice)."""
    same: dict[str, list[bool]] = {task: [] for task in TASKS}
    for m, a, b in zip(meta, clean, texts, strict=True):
        letters = m["task"] != "transcription"
        same[m["task"]].append(answer_letter(a) == answer_letter(b) is not None if letters else a == b)
    return {task: float(np.mean(values)) for task, values in same.items()}


def measure(
    model: Model,
    data: DataSize,
    per_task: int,
    noises: Sequence[str],
    snrs: Sequence[float],
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Clean scores on the test split, and GSR per noise and SNR."""
    batcher, indices = held_out(model, data, per_task)
    meta = [batcher.data.meta[i] for i in indices]
    ask = lambda change=None: answers(  # noqa: E731
        model.lalm, model.variables, batcher, model.processor.tokenizer, indices, transform=change
    )
    clean = ask()
    result: dict[str, Any] = {"items_per_task": per_task, "clean": task_scores(meta, clean), "gsr": []}
    report(f"clean {result['clean']}")
    for noise in noises:
        for snr in snrs:
            texts = ask(noisy(noise, snr))
            row = {"noise": noise, "snr_db": snr, **agreement(meta, clean, texts), "scores": task_scores(meta, texts)}
            result["gsr"].append(row)
            report(
                "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{v}" for k, v in row.items() if k != "scores")
            )
    return result


def plot_gsr(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    noises = sorted({row["noise"] for row in result["gsr"]}, key=[r["noise"] for r in result["gsr"]].index)
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
    figure, axes = plt.subplots(1, len(noises), figsize=(3.2 * len(noises), 3), sharey=True, squeeze=False)
    for axis, noise in zip(axes[0], noises, strict=True):
        rows = sorted((r for r in result["gsr"] if r["noise"] == noise), key=lambda r: r["snr_db"])
        for task, colour, marker in zip(TASKS, colours, "os^D", strict=True):
            axis.plot([r["snr_db"] for r in rows], [r[task] for r in rows], marker, ls="-", color=colour, label=task)
        axis.set(title=noise, xlabel="SNR (dB)", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("GSR")
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_curves(log: Path, path: Path) -> None:
    """Losses and validation scores over all stages of a run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    entries = [json.loads(line) for line in log.read_text().splitlines()]
    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    offset, start = {}, 0
    for stage in stages:
        offset[stage] = start
        start += max(e["step"] for e in entries if e["stage"] == stage)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True)
    for name, colour in (("word", "#0072B2"), ("answer", "#D55E00")):
        points = [(offset[e["stage"]] + e["step"], e[name]) for e in entries if name in e]
        top.plot(*zip(*points, strict=True), color=colour, lw=1, label=f"{name} loss")
    top.set(ylabel="loss (nats)", yscale="log")
    for name, colour in zip((*TASKS, "wer"), ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"), strict=True):
        points = [(offset[e["stage"]] + e["step"], e[f"val_{name}"]) for e in entries if f"val_{name}" in e]
        if points:
            bottom.plot(
                *zip(*points, strict=True), "o-", color=colour, label="word error rate" if name == "wer" else name
            )
    bottom.set(xlabel="step", ylabel="validation score", ylim=(-0.02, 1.02))
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        for stage in stages:
            axis.axvline(offset[stage], color="0.6", lw=0.8, ls="--")
    for stage in stages:
        top.text(offset[stage] + start / 100, top.get_ylim()[1], stage, va="top", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    from seen_jax.config import load_config
    from seen_jax.train.config import TrainConfig

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="the training configuration (its data recipe and run folder)")
    parser.add_argument("--model", default="seen-tiny")
    parser.add_argument("--out", required=True, help="folder for card.json, gsr.png and curves.png")
    parser.add_argument("--items", type=int, default=200, help="held-out items per task")
    args = parser.parse_args(argv)
    config, out = load_config(TrainConfig, args.config, []), Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    result = measure(load(args.model), config.data, args.items, NOISES, SNRS, lambda s: print(s, flush=True))
    (out / "card.json").write_text(json.dumps(result, indent=2) + "\n")
    plot_gsr(result, out / "gsr.png")
    log = Path(config.out) / "metrics.jsonl"
    if log.is_file():
        plot_curves(log, out / "curves.png")


if __name__ == "__main__":
    main()
