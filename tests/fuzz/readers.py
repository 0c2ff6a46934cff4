"""The readers of the package: how a valid input of each is made, and what reading it gives."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax import subspace


@dataclasses.dataclass(frozen=True)
class Reader:
    """make: writes valid files into a folder. read: what the reader gives, comparable with ==. exact: damage is
    noticed, so that a result is the original one. damaged: which files are damaged."""

    make: Callable[[Path, np.random.Generator], None]
    read: Callable[[Path], Any]
    exact: bool = False
    damaged: str = "**/*"


def wave(rng: np.random.Generator, samples: int = 1600) -> np.ndarray:
    return (0.3 * rng.standard_normal(samples)).clip(-0.9, 0.9).astype(np.float32)


AUDIO = [
    *(("wav", "PCM_16"), ("wav", "FLOAT"), ("wav", "GSM610"), ("wav", "ULAW"), ("flac", "PCM_16"), ("ogg", "VORBIS")),
    *(("mp3", "MPEG_LAYER_III"), ("aiff", "PCM_16"), ("au", "PCM_16"), ("w64", "PCM_16"), ("rf64", "PCM_16")),
    *(("caf", "PCM_16"), ("ogg", "OPUS")),
]


def make_audio(folder: Path, rng: np.random.Generator) -> None:
    import soundfile

    kind, subtype = AUDIO[int(rng.integers(len(AUDIO)))]
    rate = 8000 if subtype == "GSM610" else int(rng.choice([8000, 16000, 48000]))
    shape = (1600,) if subtype == "GSM610" or rng.random() < 0.7 else (1600, 2)
    samples = (0.3 * rng.standard_normal(shape)).clip(-0.9, 0.9)
    soundfile.write(folder / f"clip.{kind}", samples, rate, subtype=subtype, format=kind.upper())


def read_audio(folder: Path) -> Any:
    from seen_jax.audio import audio_seconds
    from seen_jax.audio import read_audio as read

    [path] = folder.iterdir()
    audio_seconds(path)
    return read(path).shape


def statistics(rng: np.random.Generator) -> subspace.Statistics:
    return subspace.Statistics(*(rng.standard_normal((2, 6, 8)).astype(np.float32) for _ in range(3)))


def make_calibration(folder: Path, rng: np.random.Generator) -> None:
    source: Any = statistics(rng)
    if rng.random() < 0.4:
        source = subspace.Streamed.of(source)
    subspace.Calibration("encoder.mlp_act", source, {"model": "m", "noise": "white"}).save(folder, overwrite=True)


def read_calibration(folder: Path) -> Any:
    calibration = subspace.Calibration.load(folder)
    calibration.select()
    tensors = {name: (x.shape, x.tobytes()) for name, x in calibration.source.tensors().items()}
    return calibration.site, tensors, json.dumps(calibration.card, sort_keys=True)


def basis(rng: np.random.Generator) -> subspace.NoiseBasis:
    selection = subspace.Selection(method="complement", layers="all")
    return subspace.Calibration("encoder.mlp_act", statistics(rng), {"model": "m"}).select(selection)


def make_basis(folder: Path, rng: np.random.Generator) -> None:
    basis(rng).save(folder, overwrite=True)


def read_basis(folder: Path) -> Any:
    read = subspace.NoiseBasis.load(folder)
    card = json.dumps(read.card, sort_keys=True)
    return read.site, read.ranks, read.layers, np.asarray(read.q).tobytes(), card


def make_released(folder: Path, rng: np.random.Generator) -> None:
    subspace.save_released(basis(rng), folder / "vectors.pt")


def read_released(folder: Path) -> Any:
    return [(x.shape, x.tobytes()) for x in subspace.read_vectors(folder / "vectors.pt")]


def make_ledger(folder: Path, rng: np.random.Generator) -> None:
    from trials_support import trial

    from seen_jax.evaluate.ledger import ANSWERS, Ledger

    ledger = Ledger(folder / ANSWERS)
    for unit in range(4):
        rows = [trial(item=f"{unit}.{i}", snr=s, see=float(rng.random())) for i in range(2) for s in (None, 0.0)]
        ledger.add(f"d/{unit}/rain", [row.to_json() for row in rows])


def read_ledger(folder: Path) -> Any:
    """What is left is done again: of a ledger that opens, every unit has its own rows or none."""
    from seen_jax.evaluate.ledger import ANSWERS, Ledger
    from seen_jax.evaluate.tables import Trial

    ledger = Ledger(folder / ANSWERS)
    return [Trial.from_json(row) for row in ledger.rows()]


def rows_are_those(original: list[Any], read: list[Any]) -> bool:
    return all(row in original for row in read) and len(read) == len(set(map(repr, read)))


KINDS = ("csv", "tsv", "jsonl", "json", "parquet", "txt")


def make_manifest(folder: Path, rng: np.random.Generator) -> None:
    import pandas as pd

    from seen_jax.audio import write_audio

    kind = KINDS[int(rng.integers(len(KINDS)))]
    chapter = folder / "dev" / "1" / "2"
    names = ["1-2-0000", "1-2-0001"]
    for name in names:
        write_audio((chapter if kind == "txt" else folder) / f"{name}.wav", wave(rng))
    rows = [
        {
            "id": name,
            "audio": f"{name}.wav",
            "question": "what?",
            "choices": ["cat", "dog"],
            "answer": "cat",
            "task": "sound",
        }
        for name in names
    ]
    table = folder / f"table.{kind}"
    if kind in ("csv", "tsv"):
        frame = pd.DataFrame(rows).assign(choices='["cat", "dog"]').rename(columns={"audio": "path"})
        frame.to_csv(table, index=False, sep="," if kind == "csv" else "\t")
    elif kind == "jsonl":
        table.write_text("".join(json.dumps({**row, "path": row["audio"]}) + "\n" for row in rows))
    elif kind == "json":
        table.write_text(json.dumps(rows))
    elif kind == "parquet":
        content = (folder / f"{names[0]}.wav").read_bytes()
        pd.DataFrame([{**row, "audio": {"bytes": content, "path": None}} for row in rows]).to_parquet(table)
        for path in folder.glob("*.wav"):
            path.unlink()
    else:
        (chapter / "1-2.trans.txt").write_text("".join(f"{name} SOME WORDS\n" for name in names))


def read_manifest(folder: Path) -> Any:
    from seen_jax.data.datasets import DatasetConfig, load_dataset

    tables = list(folder.glob("table.*"))
    entries = load_dataset(DatasetConfig(str(tables[0] if tables else folder)))
    return [(entry.id, entry.wave().shape, entry.item().prompt) for entry in entries]


def make_model(folder: Path, rng: np.random.Generator) -> None:
    from seen_jax.models.folders import EMBEDDED

    shutil.copytree(EMBEDDED["seen-tiny"], folder, dirs_exist_ok=True)


def read_model(folder: Path) -> Any:
    import seen_jax

    model = seen_jax.load(folder)
    return str(model.config)


def make_restoration(folder: Path, rng: np.random.Generator) -> None:
    from seen_jax.mitigations.restoration import FrameSums, Pairs, save_pairs

    square = rng.standard_normal((5, 9))
    sums = FrameSums(square.T @ square, rng.standard_normal((9, 8)))
    save_pairs(Pairs(sums, rng.standard_normal((3, 4))), folder / "white_0.safetensors")


def read_restoration(folder: Path) -> Any:
    from seen_jax.mitigations.restoration import load_pairs

    pairs = load_pairs(folder / "white_0.safetensors")
    arrays = [pairs.descriptors, *([] if pairs.sums is None else [pairs.sums.gram, pairs.sums.cross])]
    return [(x.shape, str(x.dtype), x.tobytes()) for x in arrays]


STEPS = (3, 5)


def make_checkpoint(folder: Path, rng: np.random.Generator) -> None:
    """Two states: where the newer one is damaged, the other is used."""
    from seen_jax.train.checkpoints import Checkpoints

    for step in STEPS:
        Checkpoints(folder / "checkpoints").save(step, checkpoint_state(step))


def checkpoint_state(step: int) -> dict[str, Any]:
    import jax.numpy as jnp

    weights = jnp.asarray(np.random.default_rng(step).standard_normal((8, 8)), jnp.float32)
    return {"state": {"w": weights, "step": jnp.int32(step)}, "stage": jnp.int32(0)}


def plain_state(step: int, state: dict[str, Any]) -> Any:
    return step, np.asarray(state["state"]["w"]).tobytes(), int(state["state"]["step"]), int(state["stage"])


def read_checkpoint(folder: Path) -> Any:
    from seen_jax.train.checkpoints import Checkpoints

    restored = Checkpoints(folder / "checkpoints").restore(checkpoint_state(0))
    return None if restored is None else plain_state(*restored)


def state_is_one_of_them(original: Any, read: Any) -> bool:
    return read in [plain_state(step, checkpoint_state(step)) for step in STEPS]


CONFIGS = Path(__file__).parents[2] / "configs"


def make_config(folder: Path, rng: np.random.Generator) -> None:
    names = ["paper_tiny.yaml", "paper_qwen2_5_omni.yaml", "seen_tiny.yaml"]
    shutil.copy(CONFIGS / str(rng.choice(names)), folder)


def read_config(folder: Path) -> Any:
    from seen_jax.config import load_config
    from seen_jax.evaluate.config import ExperimentConfig
    from seen_jax.train.config import TrainConfig

    [path] = folder.iterdir()
    return repr(load_config(TrainConfig if path.name == "seen_tiny.yaml" else ExperimentConfig, path))


READERS = {
    "audio": Reader(make_audio, read_audio),
    "basis": Reader(make_basis, read_basis, exact=True),
    "calibration": Reader(make_calibration, read_calibration, exact=True),
    "checkpoint": Reader(make_checkpoint, read_checkpoint, exact=True),
    "config": Reader(make_config, read_config),
    "ledger": Reader(make_ledger, read_ledger, exact=True),
    "manifest": Reader(make_manifest, read_manifest),
    "model": Reader(make_model, read_model),
    "released": Reader(make_released, read_released),
    "restoration": Reader(make_restoration, read_restoration, exact=True),
}
SAME: dict[str, Callable[[Any, Any], bool]] = {"checkpoint": state_is_one_of_them, "ledger": rows_are_those}


def released_pickles(rng: np.random.Generator) -> bytes:
    """A PyTorch archive whose pickle is made of random opcodes that such a list may hold."""
    opcodes = [
        *(
            b"]",
            b"(",
            b"t",
            b"R",
            b"Q",
            b"a",
            b"e",
            b"0",
            b"2",
            b"\x85",
            b"\x86",
            b"\x87",
            b"\x89",
            b")",
            b"}",
            b"b",
            b"u",
        ),
        *(b"q\x00", b"h\x00", b"r\x00\x00\x00\x00", b"\x81", b"N", b"c__builtin__\neval\n", b"cos\nsystem\n"),
        *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n"),
        *(b"J" + int(n).to_bytes(4, "little", signed=True) for n in (0, 1, 8, -1, 2**31 - 1)),
        *(b"\x8a\x08" + int(n).to_bytes(8, "little", signed=True) for n in (2**62, -(2**62))),
        *(b"X\x07\x00\x00\x00storage", b"X\x03\x00\x00\x00cpu", b"X\x01\x00\x00\x000"),
    ]
    count = int(rng.integers(3, 60))
    return pickle.PROTO + b"\x02" + b"".join(opcodes[int(i)] for i in rng.integers(len(opcodes), size=count)) + b"."
