"""The suites of `seen-jax bench`. Each is a function of a `Bench` that returns what it timed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seen_jax.api import calibrate, pool, score, seen_edit
from seen_jax.audio import mix_at_snr, noise_for_clip
from seen_jax.bench.hooks import Hooked, Prompt
from seen_jax.bench.roofline import Ceilings, Roofline, ceilings, roofline
from seen_jax.bench.timing import Ratio, alternate, ratio
from seen_jax.data.items import load_clips
from seen_jax.errors import SeenError
from seen_jax.evaluate.four_way import FourWay, four_way
from seen_jax.models.edits import Edit
from seen_jax.models.encoder import first_edited
from seen_jax.models.generate import Decoding, generate_each
from seen_jax.models.generate import generate as generate_batch
from seen_jax.models.lalm import Batch, Lalm
from seen_jax.models.model import FLIGHT, Model, forward, roomy_batches
from seen_jax.models.processor import Request
from seen_jax.models.sites import DECODER_RESID, ENCODER_MLP_ACT
from seen_jax.prefetch import overlapped
from seen_jax.subspace import NoiseBasis, Selection

SECONDS = 3  # of a clip
NEW = 8  # tokens of an answer
PAIRS = 50  # of a calibration
FEW = FLIGHT // 4  # items at once, of which each has four answers: what our side does best with on a CPU
LOOP = 128  # tokens of a decode loop
PASSES = 8  # through the model in one turn, where single ones differ by more than what is sought
LAMBDAS = tuple(i / 10 for i in range(13))
PROMPT = "which sound is it? A. dog B. cat C. car D. rain"


@dataclasses.dataclass
class Bench:
    """What the suites share. items: how many; batch: how many at once; runs: turns that count."""

    model: Model
    items: int = 32
    batch: int = 16
    runs: int = 5
    tick: Callable[[str, int, int], None] = lambda stage, done, total: None

    @functools.cached_property
    def waves(self) -> list[np.ndarray]:
        """Shipped clips, repeated to one length."""
        clips = [item.wave for name in ("demo", "validation", "calibration") for item in load_clips(name)]
        samples = SECONDS * 16_000
        return [np.resize(clips[i % len(clips)], samples) for i in range(max(self.items, PAIRS))]

    @functools.cached_property
    def noises(self) -> list[np.ndarray]:
        return [noise_for_clip("white", len(wave), i) for i, wave in enumerate(self.waves)]

    @functools.cached_property
    def noisy(self) -> list[np.ndarray]:
        return [mix_at_snr(wave, noise, 0.0).audio for wave, noise in zip(self.waves, self.noises, strict=True)]

    @functools.cached_property
    def basis(self) -> NoiseBasis:
        """As in the paper: directions by thresholds, of the last third of the layers."""
        found = calibrate(self.model, self.waves[:PAIRS], self.noises[:PAIRS], batch_size=self.batch)
        return found.select(Selection(method="threshold", layers="last_third"))

    @functools.cached_property
    def hooked(self) -> Hooked:
        return Hooked(self.model.folder)

    @functools.cached_property
    def top(self) -> Ceilings:
        return ceilings()

    def requests(self, waves: Sequence[np.ndarray]) -> list[Request]:
        return [Request([wave], PROMPT) for wave in waves]

    def prompts(self, waves: Sequence[np.ndarray]) -> list[Prompt]:
        """What the other side gets."""
        found = []
        for wave, request in zip(waves, self.requests(waves), strict=True):
            frames = int(self.model.processor.audio(request.audio)[0].frames[0])
            found.append(Prompt(self.model.processor.prompt_ids(request), wave, frames))
        return found

    def turns(self, suite: str, sides: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
        return alternate(sides, self.runs, lambda done, total: self.tick(suite, done, total))


@dataclasses.dataclass(frozen=True)
class Found:
    """Of one suite. seconds: of every side, per turn. ratios: named; times of one side over another."""

    seconds: dict[str, list[float]]
    ratios: dict[str, Ratio]
    rooflines: dict[str, Roofline] = dataclasses.field(default_factory=dict)
    values: dict[str, float] = dataclasses.field(default_factory=dict)


def evaluate(bench: Bench) -> Found:
    """Four answers about every item, from its samples on: ours, one item at a time with hooks, and with hooks in
    batches of two sizes, of which the faster counts."""
    n, waves, noisy = bench.items, bench.waves[: bench.items], bench.noisy[: bench.items]
    model, basis, hooked = bench.model, bench.basis, bench.hooked
    requests = bench.requests(waves)
    pairs = [bench.prompts(waves), bench.prompts(noisy)]
    said: dict[str, list[Any]] = {}

    def ours() -> None:
        found = four_way(model, requests, noisy, basis, 1.0, Decoding(NEW), FEW)
        said["ours"] = [[list(getattr(f, name).tokens) for f in found] for name in FourWay.__dataclass_fields__]

    def hooks(size: int) -> None:
        answers: list[list[list[int]]] = [[], [], [], []]
        for start in range(0, n, size):
            inputs = [hooked.inputs(prompts[start : start + size]) for prompts in pairs]
            for way, (heard, strength) in enumerate(itertools.product(inputs, (0.0, 1.0))):
                see: list[Any] = []
                with hooked.seen(basis, strength, see):
                    answers[way] += hooked.generate(heard, NEW)
                assert see
        said[f"hooks, {size} at once"] = answers

    sizes = dict.fromkeys((1, FEW, bench.batch))
    sides: dict[str, Callable[[], None]] = {"ours": ours}
    sides |= {f"hooks, {size} at once": functools.partial(hooks, size) for size in sizes}
    times = bench.turns("evaluate", sides)
    for name in list(sides)[1:]:
        if said[name] != said["ours"]:
            ways = zip(said[name], said["ours"], strict=True)
            differ = sum(a != b for theirs, own in ways for a, b in zip(theirs, own, strict=True))
            raise SeenError(f"{differ} of {4 * n} answers differ from those of {name}: nothing to compare")
    one, *batched = (times[name] for name in list(sides)[1:])
    ratios = {
        "evaluate_vs_hooks": ratio(one, times["ours"]),
        "evaluate_vs_hooks_batched": ratio(min(batched, key=np.median), times["ours"]),
    }
    values = {f"ms per item, {name}": 1e3 * float(np.median(own)) / n for name, own in times.items()}
    return Found(times, ratios, {"evaluate": _work(bench, times["ours"])}, values)


def _work(bench: Bench, seconds: Sequence[float]) -> Roofline:
    """Of the four-way evaluation, without padding and without what may be shared: of the model's own products."""
    model, audio = bench.model, bench.model.processor.audio(bench.waves[:1])[0]
    ids = len(bench.prompts(bench.waves[:1])[0].ids)
    operations = bench.items * four_way_operations(model.lalm, int(audio.frames[0]), ids, NEW, first_layer(bench))
    weights = sum(x.nbytes for x in jax.tree.leaves(model.variables))
    return roofline(operations, weights * -(-bench.items // FEW), float(np.median(seconds)), bench.top)


def first_layer(bench: Bench) -> int:
    return first_edited(bench.model.config.encoder, seen_edit(bench.model, bench.basis, 1.0))


def four_way_operations(lalm: Lalm, frames: int, tokens: int, new: int, first: int) -> float:
    """Multiplications and additions of the four answers about one clip, without what need not be computed twice: the
    encoder up to the first edited layer, and the last layer of the prompt but for keys, values and one position."""
    e, d = lalm.config.encoder, lalm.config.decoder
    positions = int(e.position_count(frames))
    stem = 3 * (frames * e.n_mels * e.width + positions * e.width**2)
    window = min(positions, int(e.position_count(e.chunk(frames))))
    layer = positions * (4 * e.width**2 + 2 * e.width * e.ffn + 2 * window * e.width)
    shared = min(first + 1, e.layers)
    encoder = 2 * (stem + shared * layer) + 4 * (e.layers - shared) * layer
    keys = 2 * d.width * d.head_dim * d.kv_heads
    block = keys + 2 * d.width * d.head_dim * d.heads + 3 * d.width * d.ffn
    positions = (d.layers - 1) * tokens + d.layers * new
    decoder = 4 * (positions * block + tokens * keys + positions * (tokens + new) * d.heads * d.head_dim)
    return 2.0 * (encoder + decoder + 4 * (1 + new) * d.width * d.vocab)


def sweep(bench: Bench) -> Found:
    """SEEN's strength at 13 values on noisy items, beside one four-way evaluation of these items."""
    model, basis = bench.model, bench.basis
    waves, noisy = bench.requests(bench.waves[: bench.items]), bench.noisy[: bench.items]
    one = seen_edit(model, basis, 1.0)[basis.site]
    scale = jnp.stack([basis.strengths(s) for s in LAMBDAS])
    edits = {basis.site: Edit(u=one.u, scale=scale)}
    first = first_edited(model.config.encoder, edits)

    prepare = lambda group: model.processor.prepare(group.requests, room=group.room)  # noqa: E731

    def answers(batch: Batch) -> Any:
        out = generate_each(model.lalm, model.variables, batch, edits, Decoding(NEW), None, first)
        return jax.device_get((out.tokens, out.see))

    def every() -> None:
        groups = roomy_batches(model, bench.requests(noisy), max(1, FLIGHT // len(LAMBDAS)))
        list(overlapped(groups, prepare, answers, model.concurrent))

    four = lambda: four_way(model, waves, noisy, basis, 1.0, Decoding(NEW), FEW)  # noqa: E731
    times = bench.turns("sweep", {"13 strengths": every, "four answers": four})
    return Found(times, {"sweep_vs_evaluation": ratio(times["13 strengths"], times["four answers"])})


def calibration(bench: Bench) -> Found:
    """Pooled activations of 50 clean clips and 50 noises: ours; one clip at a time with hooks while the model answers,
    the call that a script has anyway; and with hooks on the audio tower alone."""
    waves, noises, hooked = bench.waves[:PAIRS], bench.noises[:PAIRS], bench.hooked
    prompts = [*bench.prompts(waves), *bench.prompts(noises)]

    def ours() -> None:
        for own in (waves, noises):
            pool(bench.model, own, ENCODER_MLP_ACT, batch_size=FEW)

    def hooks(new: int) -> None:
        for prompt in prompts:
            hooked.pooled(hooked.inputs([prompt]), new)

    sides = {"ours": ours, "hooks, answering": lambda: hooks(NEW), "hooks, tower alone": lambda: hooks(0)}
    times = bench.turns("calibration", sides)
    ratios = {
        "calibration_vs_hooks": ratio(times["hooks, answering"], times["ours"]),
        "calibration_vs_tower": ratio(times["hooks, tower alone"], times["ours"]),
    }
    return Found(times, ratios)


def scoring(bench: Bench) -> Found:
    """SEE of every item: ours, and one clip at a time with hooks."""
    waves, hooked, basis = bench.noisy[: bench.items], bench.hooked, bench.basis
    prompts = bench.prompts(waves)

    def hooks() -> None:
        for prompt in prompts:
            with hooked.seen(basis, 0.0, []):
                hooked.pooled(hooked.inputs([prompt]))

    sides = {"ours": lambda: score(bench.model, waves, basis, batch_size=FEW), "hooks": hooks}
    times = bench.turns("scoring", sides)
    return Found(times, {"scoring_vs_hooks": ratio(times["hooks"], times["ours"])})


def overhead(bench: Bench) -> Found:
    """SEEN and SEE inside the pass beside the plain pass; a decode loop edited at a decoder site beside a plain one,
    both with their prompt pass."""
    model = bench.model
    batch = model.processor.prepare(bench.requests(bench.noisy[: bench.batch]))
    plain: dict[str, Edit] = {}
    edited = seen_edit(model, bench.basis, 1.0)

    def run(edits: Mapping[str, Edit]) -> None:
        for _ in range(PASSES):
            jax.block_until_ready(forward(model.lalm, model.variables, batch, edits))

    times = bench.turns("forward", {"plain": lambda: run(plain), "SEEN and SEE": lambda: run(edited)})
    depth, width = model.config.site_shape(DECODER_RESID)
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(depth, width, 16)))[0]
    decoder = {DECODER_RESID: Edit(u=jnp.asarray(q, jnp.float32), scale=jnp.full(depth, 1e-6), text=jnp.ones(depth))}
    lalm = _endless(model.lalm)

    def decode(edits: Mapping[str, Edit]) -> None:
        jax.block_until_ready(generate_batch(lalm, model.variables, batch, edits, Decoding(LOOP)).tokens)

    loops = bench.turns("decode", {"plain loop": lambda: decode(plain), "edited loop": lambda: decode(decoder)})
    ratios = {
        "seen_forward_vs_plain": ratio(times["SEEN and SEE"], times["plain"]),
        "edited_decode_vs_plain": ratio(loops["edited loop"], loops["plain loop"]),
    }
    tokens = bench.batch * LOOP / float(np.median(loops["plain loop"]))
    return Found({**times, **loops}, ratios, values={"tokens per second": tokens})


def _endless(lalm: Lalm) -> Lalm:
    """The same model without stop tokens: a decode loop of a known length."""
    return lalm.clone(config=dataclasses.replace(lalm.config, stop_tokens=(-1,)))
