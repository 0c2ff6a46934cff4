"""Read damaged files: `python tests/fuzz/run.py READER [--first 0] [--count 1000]`.

Every input must give the original result (where the format can tell), another valid one (where it cannot), or one clear
error of the package. Prints counts and the seeds of all others; exit status 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

import numpy as np  # noqa: E402
from mutations import mutated  # noqa: E402
from readers import READERS, SAME, Reader, released_pickles  # noqa: E402

from seen_jax.errors import SeenError  # noqa: E402

SECONDS = 20  # that one input may take
MEMORY = 3 << 30  # bytes that it may add to the process
LONGEST = 700  # characters of a message


class Hangs(BaseException):
    """An input took too long."""


def damage(folder: Path, reader: Reader, name: str, rng: np.random.Generator) -> None:
    """Damage one of the files in the folder."""
    files = sorted(path for path in folder.glob(reader.damaged) if path.is_file())
    path = files[int(rng.integers(len(files)))]
    if name == "released" and rng.random() < 0.5:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: archive.read(info) for info in archive.infolist()}
        [pickled] = [entry for entry in entries if entry.endswith("data.pkl")]
        entries[pickled] = released_pickles(rng) if rng.random() < 0.5 else mutated(entries[pickled], rng)
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content)
        return
    path.write_bytes(mutated(path.read_bytes(), rng))


def outcome(reader: Reader, folder: Path, original: Any, same: Any) -> tuple[str, str]:
    """(what came of reading, details)."""
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        result = reader.read(folder)
    except SeenError as error:
        text = str(error)
        if "\n" in text.strip() or len(text) > LONGEST or not text.isprintable():
            return "unclear", f"{len(text)} characters: {text[:200]!r}"
        return "refused", text
    except MemoryError as error:
        return "memory", repr(error)
    except Hangs:
        return "hang", f"{time.monotonic() - started:.0f} s"
    except BaseException as error:
        return "unexpected", f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if same(original, result):
        return "right", ""
    return ("wrong", "a damaged file gave another result") if reader.exact else ("other", "")


def stop(*_: Any) -> None:
    raise Hangs


def fuzz(name: str, first: int, count: int) -> tuple[Counter[str], list[str]]:
    """Counts of outcomes, and a line for every input that is neither read right nor refused."""
    reader, same = READERS[name], SAME.get(name, lambda a, b: a == b)
    outcomes: Counter[str] = Counter()
    bad = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "input"
        for seed in range(first, first + count):
            rng = np.random.default_rng([sum(name.encode()), seed])
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            reader.make(folder, rng)
            try:
                original = reader.read(folder)
            except Exception as error:
                bad.append(f"{name} seed {seed}: undamaged: {type(error).__name__}: {error}")
                continue
            for _ in range(2 if name == "checkpoint" else 1):  # of both states, or one
                damage(folder, reader, name, rng)
            print(f"seed {seed}", file=sys.stderr, flush=True)
            kind, detail = outcome(reader, folder, original, same)
            outcomes[kind] += 1
            if kind not in ("right", "refused", "other"):
                bad.append(f"{name} seed {seed}: {kind}: {detail}")
    return outcomes, bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    args = parser.parse_args()
    signal.signal(signal.SIGALRM, stop)
    import jax

    jax.numpy.zeros(1).block_until_ready()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    outcomes, bad = fuzz(args.reader, args.first, args.count)
    print(json.dumps({"reader": args.reader, "outcomes": outcomes}))
    print("\n".join(bad[:200]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
