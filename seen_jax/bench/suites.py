"""The suites of `seen-jax bench`. Each is a function of a `Bench` that returns what it timed."""

import contextlib
import csv
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seen_jax.api import score
from seen_jax.audio import mix_at_snr, noise_source, read_audio, write_audio
from seen_jax.bench.hooks import Hooked, Prompt
from seen_jax.bench.timing import Ceilings, Ratio, Roofline, Times, alternate, ceilings, four_answers, ratio, roofline
from seen_jax.data.datasets import DatasetConfig
from seen_jax.data.items import load_clips
from seen_jax.edits import projection
from seen_jax.errors import SeenError
from seen_jax.evaluate.config import ExperimentConfig
from seen_jax.evaluate.prepare import prepare
from seen_jax.experiment import run
from seen_jax.files import write_file
from seen_jax.models.batching import Prepared, group_requests, run_batches
from seen_jax.models.edits import Edit
from seen_jax.models.encoder import first_edited
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.generate_edits import generate_edits
from seen_jax.models.model import MICROBATCH, Model, forward
from seen_jax.models.pooling import pool
from seen_jax.models.processor import Request
from seen_jax.models.sites import DECODER_RESID, ENCODER_MLP_ACT
from seen_jax.progress import Progress, silent
from seen_jax.subspace import NoiseBasis, Selection

SECONDS, SNR_DB = 3, 0.0  # of a clip
PAIRS = 50  # of a calibration
NEW, LOOP = 8, 128  # tokens of an answer, of a decode loop
PASSES = 8  # through the model in one turn, where single ones differ by more than what is sought
STRENGTHS = tuple(i / 10 for i in range(13))
PROMPT = "which sound is it? A. dog B. cat C. car D. rain"


@dataclasses.dataclass
class Bench:
    """What the suites share."""

    model: Model
    items: int
    batch: int  # items at once
    runs: int  # turns that count
    progress: Progress = silent
    keep: Callable[[str, Times], None] = lambda suite, times: None  # called with what a suite has timed so far

    @functools.cached_property
    def waves(self) -> list[np.ndarray]:
        """Shipped clips, repeated to one length, as 16-bit files hold them."""
        clips = [item.wave for name in ("demo", "validation", "calibration") for item in load_clips(name)]
        waves = [np.resize(clips[i % len(clips)], SECONDS * 16_000) for i in range(max(self.items, PAIRS))]
        return [np.rint(wave * 32768).clip(-32768, 32767).astype(np.float32) / 32768 for wave in waves]

    @functools.cached_property
    def noises(self) -> list[np.ndarray]:
        return [noise_source("white").clip(i, len(wave), 0, "test") for i, wave in enumerate(self.waves)]

    @functools.cached_property
    def noisy(self) -> list[np.ndarray]:
        return [mix_at_snr(wave, noise, SNR_DB).audio for wave, noise in zip(self.waves, self.noises, strict=True)]

    @functools.cached_property
    def basis(self) -> NoiseBasis:
        """As in the paper: directions by thresholds, of the last third of the layers."""
        with evaluation(self) as (config, _):
            return prepare(config, silent).bases["white"]

    @functools.cached_property
    def top(self) -> Ceilings:
        return ceilings()

    @functools.cached_property
    def hooked(self) -> Hooked:
        return Hooked(self.model.folder)

    @functools.cached_property
    def prompt(self) -> Prompt:
        """What the other side is asked: all clips have one length, so all prompts have the same tokens."""
        batch = self.model.processor.prepare([Request([self.waves[0]], PROMPT)])
        ids = np.asarray(batch.tokens)[0, : int(batch.lengths[0])].tolist()
        return Prompt(ids, int(batch.frames[0]))

    def turns(self, suite: str, sides: Mapping[str, Callable[[], Any]]) -> Times:
        times = alternate(sides, self.runs, lambda done, total: self.progress(suite, done, total))
        self.keep(suite, times)
        return times


@dataclasses.dataclass(frozen=True)
class Timed:
    seconds: Times  # of every side, per turn
    ratios: dict[str, Ratio]  # times of one side over another
    rooflines: dict[str, Roofline] = dataclasses.field(default_factory=dict)
    values: dict[str, float] = dataclasses.field(default_factory=dict)


def experiment(bench: Bench, manifest: Path, **settings: Any) -> ExperimentConfig:
    """Items of a manifest, clean and in white noise at one SNR, without and with SEEN."""
    return ExperimentConfig(
        model=str(bench.model.folder), out=str(manifest.with_suffix("")),
        datasets=(DatasetConfig(str(manifest), name="clips"),), noises=("white",), snrs=(SNR_DB,),
        batch_size=bench.batch, **settings,
    )  # fmt: skip


@contextlib.contextmanager
def evaluation(bench: Bench) -> Iterator[tuple[ExperimentConfig, list[Path]]]:
    """An experiment with a basis as in the paper on files of clips, and these files."""
    with tempfile.TemporaryDirectory() as folder:
        files = [write_audio(Path(folder) / f"{i:04d}.wav", wave) for i, wave in enumerate(bench.waves[: bench.items])]
        lines = [f'{path.stem},{path},"{PROMPT}"' for path in files]
        manifest = write_file(Path(folder) / "items.csv", "\n".join(["id,path,prompt", *lines]) + "\n")
        selection = Selection(method="threshold", layers="last_third")
        yield experiment(bench, manifest, selection=selection, max_new_tokens=NEW), files


def evaluate(bench: Bench) -> Timed:
    """`seen-jax evaluate` from files to tables, beside the authors' way from files to a table of results.
    The other side reads and mixes a clip, answers it clean and noisy, without and with SEEN, by four calls of
    `generate` under a hook that measures and edits; one item at a time, and in batches of two sizes, of which the
    faster counts. Both sides load the model in every turn; bases are there before. The answers are compared."""
    outputs: dict[str, dict[tuple[str, bool, bool], str]] = {}
    with evaluation(bench) as (config, files):
        basis = prepare(config, silent).bases["white"]

        def ours() -> None:
            shutil.rmtree(config.folder() / "tables", ignore_errors=True)
            (config.folder() / "answers.jsonl").unlink(missing_ok=True)
            results = run(prepare(config, silent))
            assert results is not None
            outputs["ours"] = {(t.item, t.snr_db is not None, t.mitigation == "seen"): t.output for t in results.trials}

        def hooks(size: int) -> None:
            rows = list(hooked_answers(bench, Hooked(bench.model.folder), files, basis, size))
            with (config.folder() / "hooks.csv").open("w", newline="") as file:
                csv.writer(file).writerows(rows)
            outputs[f"hooks, {size} at once"] = {row[:3]: row[3] for row in rows}

        sizes = dict.fromkeys((1, MICROBATCH // 4, bench.batch))
        theirs = {f"hooks, {size} at once": functools.partial(hooks, size) for size in sizes}
        times = bench.turns("evaluate", {"ours": ours, **theirs})
    one, *batched = theirs
    for name in theirs:
        if outputs[name] != outputs["ours"]:
            differ = sum(outputs[name].get(key) != text for key, text in outputs["ours"].items())
            raise SeenError(f"{differ} of {4 * bench.items} answers differ from those of {name}: nothing to compare")
    fastest = min(batched, key=lambda name: np.median(times[name]))
    named = {"evaluate_vs_hooks": one, "evaluate_vs_hooks_batched": fastest}
    ratios = {name: ratio(times[side], times["ours"]) for name, side in named.items()}
    values = {}
    for name, seconds in times.items():
        values[f"ms per item, {name}, median"] = 1e3 * float(np.median(seconds)) / bench.items
        values[f"ms per item, {name}, best"] = 1e3 * min(seconds) / bench.items
    return Timed(times, ratios, {"evaluate": _work(bench, times["ours"])}, values)


def hooked_answers(
    bench: Bench, hooked: Hooked, files: Sequence[Path], basis: NoiseBasis, size: int
) -> Iterator[tuple[str, bool, bool, str, float]]:
    """(item, noisy, with SEEN, output, SEE) of every file, in batches of `size`."""
    source = noise_source("white")
    for start in range(0, len(files), size):
        part = files[start : start + size]
        clean = [read_audio(path) for path in part]
        drawn = [source.clip(start + i, len(wave), 0, "test") for i, wave in enumerate(clean)]
        noisy = [mix_at_snr(wave, noise, SNR_DB).audio for wave, noise in zip(clean, drawn, strict=True)]
        for is_noisy, waves in ((False, clean), (True, noisy)):
            inputs = hooked.inputs(bench.prompt, waves)
            for strength in (0.0, 1.0):
                see: list[Any] = []
                with hooked.seen(basis, strength, see):
                    tokens = hooked.generate(inputs, NEW)
                value = float(sum(see) / len(see))
                for path, row in zip(part, tokens, strict=True):
                    text = bench.model.processor.tokenizer.decode(row, skip_special_tokens=True).strip()
                    yield path.stem, is_noisy, strength > 0, text, value


def _work(bench: Bench, seconds: Sequence[float]) -> Roofline:
    """The four answers of all items without padding and without what may be shared: the model's own products."""
    model, prompt = bench.model, bench.prompt
    first = first_edited(model.config.encoder, projection(model, bench.basis, 1.0))
    operations = bench.items * four_answers(model.config, prompt.frames, len(prompt.ids), NEW, first)
    weights = sum(x.nbytes for x in jax.tree.leaves(model.variables))
    return roofline(operations, weights * -(-bench.items // bench.batch), float(np.median(seconds)), bench.top)


def sweep(bench: Bench) -> Timed:
    """SEEN at 13 strengths on noisy items, beside the four answers about the same items."""
    model, clean, noisy = bench.model, bench.waves[: bench.items], bench.noisy[: bench.items]
    edit = projection(model, bench.basis, 1.0)[bench.basis.site]
    variants = [{bench.basis.site: dataclasses.replace(edit, scale=s * edit.scale)} for s in STRENGTHS]

    def answers(waves: Sequence[np.ndarray], variants: Sequence[Mapping[str, Edit]], batch: int) -> None:
        def answer(prepared: Prepared) -> list[Any]:
            several = (model.lalm, model.variables, prepared.batch, variants, Decoding(NEW), model.microbatch)
            return list(zip(*(out.tokens for out in generate_edits(*several)), strict=True))

        requests = [Request([wave], PROMPT) for wave in waves]
        run_batches(model, requests, answer, group_requests(model, requests, batch))

    four = lambda: answers([*clean, *noisy], [variants[0], variants[10]], MICROBATCH // 2)
    times = bench.turns("sweep", {"13 strengths": lambda: answers(noisy, variants, 1), "four answers": four})
    return Timed(times, {"sweep_vs_four_answers": ratio(times["13 strengths"], times["four answers"])})


def calibration(bench: Bench) -> Timed:
    """Pooled activations of 50 clean clips and 50 noises: ours; one clip at a time with hooks while the model answers,
    the call that a script has anyway; and with hooks on the audio tower alone."""
    waves, noises, hooked = bench.waves[:PAIRS], bench.noises[:PAIRS], bench.hooked

    def ours() -> None:
        for part in (waves, noises):
            pool(bench.model, part, [ENCODER_MLP_ACT], batch_size=MICROBATCH // 4)

    def hooks(new: int) -> None:
        for wave in (*waves, *noises):
            hooked.pooled(hooked.inputs(bench.prompt, [wave]), new)

    sides = {"ours": ours, "hooks, answering": lambda: hooks(NEW), "hooks, tower alone": lambda: hooks(0)}
    times = bench.turns("calibration", sides)
    named = {"calibration_vs_hooks": "hooks, answering", "calibration_vs_tower": "hooks, tower alone"}
    return Timed(times, {name: ratio(times[side], times["ours"]) for name, side in named.items()})


def scoring(bench: Bench) -> Timed:
    """SEE of every item: ours, and one clip at a time with hooks."""
    waves, hooked, basis, prompt = bench.noisy[: bench.items], bench.hooked, bench.basis, bench.prompt

    def hooks() -> None:
        for wave in waves:
            with hooked.seen(basis, 0.0, []):
                hooked.pooled(hooked.inputs(prompt, [wave]))

    sides = {"ours": lambda: score(bench.model, waves, basis, batch_size=MICROBATCH // 4), "hooks": hooks}
    times = bench.turns("scoring", sides)
    return Timed(times, {"scoring_vs_hooks": ratio(times["hooks"], times["ours"])})


def overhead(bench: Bench) -> Timed:
    """SEEN and SEE inside the pass beside the plain pass; a decode loop edited at a decoder site beside a plain one,
    both with their prompt pass."""
    model = bench.model
    batch = model.processor.prepare([Request([wave], PROMPT) for wave in bench.noisy[: bench.batch]])
    plain, edited = dict[str, Edit](), projection(model, bench.basis, 1.0)

    def passes(edits: Mapping[str, Edit]) -> None:
        for _ in range(PASSES):
            jax.block_until_ready(forward(model.lalm, model.variables, batch, edits))

    times = bench.turns("forward", {"plain": lambda: passes(plain), "SEEN and SEE": lambda: passes(edited)})
    depth, width = model.config.site_shape(DECODER_RESID)
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(depth, width, 16)))[0]
    decoder = {DECODER_RESID: Edit(u=jnp.asarray(q, jnp.float32), scale=jnp.full(depth, 1e-6), text=jnp.ones(depth))}
    endless = model.lalm.clone(config=dataclasses.replace(model.config, stop_tokens=(-1,)))  # a loop of a known length

    def decode(edits: Mapping[str, Edit]) -> None:
        jax.block_until_ready(generate(endless, model.variables, batch, edits, Decoding(LOOP)).tokens)

    loops = bench.turns("decode", {"plain loop": lambda: decode(plain), "edited loop": lambda: decode(decoder)})
    ratios = {
        "seen_forward_vs_plain": ratio(times["SEEN and SEE"], times["plain"]),
        "edited_decode_vs_plain": ratio(loops["edited loop"], loops["plain loop"]),
    }
    tokens = bench.batch * LOOP / float(np.median(loops["plain loop"]))
    return Timed({**times, **loops}, ratios, values={"tokens per second": tokens})
