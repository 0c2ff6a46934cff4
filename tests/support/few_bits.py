"""What fewer bits cost, on this machine: bytes of weights, answers, GSR, SEE and logits beside float32.

    python tests/support/few_bits.py bytes              # seen-tiny as loaded, and Qwen2.5-Omni-7B by shape alone
    python tests/support/few_bits.py logits             # seen-tiny and the tiny golden model of every family
    python tests/support/few_bits.py answers [FOLDER]   # 200 new clips of seen-tiny; finished runs in FOLDER are kept

Prints tables in Markdown.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax.traverse_util import flatten_dict, unflatten_dict
from golden_cases import BACKBONES, FOLDER, golden_requests

from seen_jax.bench.card import SEVEN_B
from seen_jax.data.datasets import DatasetConfig
from seen_jax.data.items import load_clips
from seen_jax.evaluate.config import ExperimentConfig
from seen_jax.evaluate.tables import Trial
from seen_jax.experiment import evaluate
from seen_jax.models.checkpoint import abstract_params
from seen_jax.models.lalm import Lalm
from seen_jax.models.load import load
from seen_jax.models.model import Model, forward
from seen_jax.models.processor import Request
from seen_jax.models.quantized import dequantize, is_quantized, scale_path
from seen_jax.registry import FAMILIES
from seen_jax.subspace import Selection

KINDS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "int8": {"dtype": "float32", "weights": "int8"},
    "float16": {"dtype": "float16"},
    "int8-all": {"dtype": "float32", "weights": "int8-all"},
    "int4": {"dtype": "float32", "weights": "int4"},
    "float16, int8": {"dtype": "float16", "weights": "int8"},
    "bfloat16": {"dtype": "bfloat16"},
}
CLIPS, NOISES, SNRS = "seen-tiny/test-50", ("white", "babble"), (-5.0, 5.0, 15.0)
CHOSEN = Selection(
    method="complement", energy="sigma2", noise_source="difference", noise_alpha=0.95, layers=(2,)
)  # of configs/paper_tiny.yaml


def dequantized(model: Model) -> Model:
    """The float32 model of the numbers that a model's integers and scales stand for."""
    flat = flatten_dict(model.variables["params"])
    scales = {path: flat[scale_path(path)] for path, x in flat.items() if is_quantized(x)}
    plain: dict[tuple[str, ...], Any] = {}
    for path in flat.keys() - {scale_path(path) for path in scales}:
        if path[-1] == "embedding" and path in scales:  # its rows are the channels
            plain[path] = dequantize(flat[path].T, scales[path].T, jnp.float32).T
        else:
            x = flat[path]
            plain[path] = dequantize(x, scales[path], jnp.float32) if path in scales else x.astype(jnp.float32)
    lalm = model.lalm.clone(dtype=jnp.float32, weights=None)
    return dataclasses.replace(model, lalm=lalm, variables={"params": unflatten_dict(plain)})


def nbytes(dtype: Any, shape: tuple[int, ...]) -> float:
    return math.prod(shape) * (0.5 if dtype == jnp.int4 else np.dtype(dtype).itemsize)


def weight_bytes() -> list[str]:
    """Bytes of all weights; 4 bits count as half a byte, as accelerators store them."""
    rows = ["| weights | seen-tiny | Qwen2.5-Omni-7B, encoder and decoder |", "|---|---|---|"]
    seven = {"bfloat16": (jnp.bfloat16, None), "float32": (jnp.float32, None)}
    seven |= {f"bfloat16, {name}": (jnp.bfloat16, name) for name in ("int8", "int8-all", "int4")}
    tiny = load().config
    for name, (dtype, weights) in seven.items():
        sizes = []
        for config in (tiny, SEVEN_B):
            leaves = abstract_params(Lalm(config, dtype=dtype, weights=weights)).values()
            sizes.append(sum(nbytes(x.dtype, x.shape) for x in leaves))
        rows.append(f"| {name} | {sizes[0] / 1e6:.2f} MB | {sizes[1] / 1e9:.2f} GB |")
    return rows


def requests_of(model: Model) -> list[Request]:
    if model.name == "seen-tiny":
        return [Request([item.wave], item.prompt) for item in load_clips("validation")[::2]]
    return golden_requests(model.processor.family)


def logits_of(model: Model, batch: Any) -> np.ndarray:
    """Logits [N, V] at all real positions."""
    out = np.asarray(forward(model.lalm, model.variables, batch, {}).logits)
    return np.concatenate([row[: int(n)] for row, n in zip(out, batch.lengths, strict=True)])


def logits_error(name: str | Path, kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """{kind: (largest error of a logit, its root mean square as a share of the logits' standard deviation)}."""
    reference = load(name, dtype="float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch, _ = reference.processor.prepared(requests_of(reference))
    expected = logits_of(reference, batch)
    errors = {}
    for kind, options in kinds.items():
        error = logits_of(load(name, **options), batch) - expected
        errors[kind] = float(np.abs(error).max()), float(np.sqrt(np.square(error).mean()) / expected.std())
    return errors


def logit_table() -> list[str]:
    kinds = {name: options for name, options in KINDS.items() if name != "float32"}
    rows = [f"| model | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for name in ("seen-tiny", *(FOLDER / family for family in FAMILIES), *sorted(BACKBONES.iterdir())):
        errors = logits_error(name, kinds).values()
        cells = [f"{largest:.3f} ({100 * share:.2f} %)" for largest, share in errors]
        rows.append(f"| {Path(name).name} | {' | '.join(cells)} |")
    return rows


def trials(kind: str, folder: Path) -> pd.DataFrame:
    """The answers of an experiment on 200 clips, clean and noisy, without mitigation and with SEEN."""
    data = (DatasetConfig(CLIPS, name="clips"),)
    config = ExperimentConfig(
        out=str(folder / kind.replace(", ", "-")), datasets=data, noises=NOISES, snrs=SNRS, selection=CHOSEN,
        batch_size=20, max_new_tokens=12, **KINDS[kind],
    )  # fmt: skip
    evaluate(config)
    lines = (config.folder() / "answers.jsonl").read_text().splitlines()
    rows = [Trial.from_json(row) for line in lines for row in json.loads(line)["rows"]]
    values = [(t.item, t.noise, t.snr_db, t.mitigation, t.answer, t.see, t.see_after, t.failed) for t in rows]
    columns = ["item", "noise", "snr", "mitigation", "answer", "see", "see_after", "failed"]
    frame = pd.DataFrame(values, columns=columns).astype({"snr": float})
    clean = frame[frame["snr"].isna() & (frame["mitigation"] == "none")]
    joined = frame.merge(clean[["item", "noise", "answer"]], on=["item", "noise"], suffixes=("", "_clean"))
    joined["same"] = joined["answer"] == joined["answer_clean"]
    return joined.sort_values(["noise", "mitigation", "item", "snr"], ignore_index=True)


def compared(frame: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    """Figures of one kind beside float32. gsr: the largest difference between points of the curves (all items under one
    noise, SNR and mitigation), in percentage points; see: the largest relative difference of such a mean."""
    same = frame["answer"] == reference["answer"]
    plain = frame["mitigation"] == "none"
    clean = frame["snr"].isna() & plain
    curve = lambda x: x[x["snr"].notna()].groupby(["noise", "snr", "mitigation"])[["same", "see", "see_after"]].mean()
    ours, theirs = curve(frame), curve(reference)
    relative = (ours["see"] / theirs["see"] - 1).abs()
    points = 100 * (ours["same"] - theirs["same"])
    return {
        "clean answers": 100 * same[clean].mean(),
        "noisy answers": 100 * same[~clean].mean(),
        "gsr": points.abs().max(),
        "gsr, mean": points.abs().mean(),
        "see": 100 * relative.max(),
        "failed": frame["failed"].notna().sum(),
    }


def answer_table(folder: Path) -> list[str]:
    reference = trials("float32", folder)
    rows: list[str] = []
    for kind in KINDS:
        figures = compared(trials(kind, folder), reference)
        rows = rows or [f"| numbers | {' | '.join(figures)} |", "|---" * (len(figures) + 1) + "|"]
        rows.append(f"| {kind} | {' | '.join(f'{x:.2f}' for x in figures.values())} |")
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main(what: str, folder: str | None = None) -> None:
    jax.config.update("jax_platforms", "cpu")
    if what == "answers":
        with tempfile.TemporaryDirectory() as temporary:
            rows = answer_table(Path(folder or temporary))
    else:
        rows = {"bytes": weight_bytes, "logits": logit_table}[what]()
    print("\n".join(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
