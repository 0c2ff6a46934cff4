"""The public surface: every name of `seen_jax`, and calibrate, score, generate and run on top of `load`.

Wherever audio is asked for, a clip is a path (str or Path), a one-dimensional array at 16 kHz, a pair (samples, rate in
Hz), a dictionary with "array" and "sampling_rate" as Hugging Face `datasets` give, or a `Request`. One clip gives one
result, a list of clips gives a list."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from seen_jax.blind import BlindScore, blind_model, blind_score, fit_blind
from seen_jax.calibrating import calibrate, calibrate_stream
from seen_jax.checks import as_requests, check_finite
from seen_jax.edits import check_edits, joined, linear_map, measuring, projection, steering
from seen_jax.gate import Action, When, risks_of_answers
from seen_jax.models.batching import Group, Prepared, group_requests, run_batches
from seen_jax.models.edits import Edits, See
from seen_jax.models.generate import Decoding
from seen_jax.models.generate import generate as generate_batch
from seen_jax.models.load import load
from seen_jax.models.model import Model, forward
from seen_jax.models.pooling import measured, of_requests, per_request, position_seconds
from seen_jax.models.processor import DEFAULT_PROMPT, Request
from seen_jax.models.runtime import Runtime, runtime
from seen_jax.models.sites import ENCODER_MLP_ACT, ENCODER_SITES, SITES, Taps
from seen_jax.options import GenerateOptions, chosen_options, one_or_many
from seen_jax.patching import Patched, patch
from seen_jax.progress import Progress, automatic
from seen_jax.subspace import BlindModel, Calibration, NoiseBasis, Selection

__all__ = [
    "SITES", "Answer", "BlindModel", "BlindScore", "Calibration", "Decoding", "Model", "NoiseBasis", "Patched",
    "Request", "Run", "Runtime", "Score", "Selection", "Taps", "When", "blind_model", "blind_score", "calibrate",
    "calibrate_stream", "fit_blind", "generate", "linear_map", "load", "measuring", "patch", "projection", "run",
    "runtime", "score", "steering",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Score:
    """SEE of one clip.

    see: mean over the kept layers, in [0, 1].
    per_layer: [L]; 0 where the rank is 0. energy: [L], raw projected energy ||a Q||^2 per frame.
    kept: the layers that count.
    frames: [L, T] float32, SEE over time; None unless asked for.
    times: [T] seconds, the middle of the audio that each position stands for.

    >>> seen_jax.Score(see=0.25, per_layer=(0.0, 0.25), energy=(0.0, 3.5), kept=(1,))
    Score(see=0.25, kept=(1,))
    """

    see: float
    per_layer: tuple[float, ...] = dataclasses.field(repr=False)
    energy: tuple[float, ...] = dataclasses.field(repr=False)
    kept: tuple[int, ...]
    frames: Float[np.ndarray, "layers positions"] | None = dataclasses.field(default=None, repr=False, compare=False)
    times: Float[np.ndarray, " positions"] | None = dataclasses.field(default=None, repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class Answer:
    """A generated answer.

    text: without special tokens. tokens: the generated ids before the stop token.
    see, see_after: SEE of the input before and after SEEN, of the same pass; None without a basis.
    finished: whether it ended by itself; False if it was cut at `Decoding.max_new_tokens`.
    action: what a gate (`When`) did: "answer", "mitigate" (this is the second answer) or "abstain" (there is no text).
    risk: the blind risk of the first answer, by which it decided; None without a gate.

    >>> seen_jax.Answer("a dog", (5, 7))
    Answer(text='a dog', see=None, see_after=None, finished=True, action='answer', risk=None)
    """

    text: str
    tokens: tuple[int, ...] = dataclasses.field(repr=False)
    see: float | None = None
    see_after: float | None = None
    finished: bool = True
    action: Action = "answer"
    risk: float | None = None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What one forward pass gave for one clip; host arrays, padding cut.

    logits: [S, V] float32, of the next token at every position of the prompt.
    activations: {site: [L, T, D] float32}, after the edit of the site. T are the encoder positions of the clip (all of
    its encoder rows in order), its audio tokens at "projector", the whole prompt at decoder sites.
    see: {site: See} where edits are projections; before, after and energy are [L].

    >>> seen_jax.Run(np.zeros((9, 50), np.float32), {"projector": np.zeros((1, 4, 8), np.float32)}, {})
    Run(logits=[9, 50], activations={'projector': [1, 4, 8]}, see=[])
    """

    logits: Float[np.ndarray, "positions vocab"]
    activations: dict[str, Float[np.ndarray, "..."]]
    see: dict[str, See]

    def __repr__(self) -> str:
        shapes = {site: list(a.shape) for site, a in self.activations.items()}
        return f"Run(logits={list(self.logits.shape)}, activations={shapes}, see={list(self.see)})"


@one_or_many
def score(
    model: Model,
    audio: Sequence[Any],
    basis: NoiseBasis,
    prompt: str | Sequence[str] = DEFAULT_PROMPT,
    frames: bool = False,
    batch_size: int = 8,
    progress: Progress = automatic,
) -> list[Score]:
    """SEE of each clip (paper: online measurement): a `Score`, or a list of them for a list of clips. Silence gives a
    warning.

    model: of `load`. audio: one clip or a list of clips. basis: a noise basis of this model.
    prompt: one for all clips or one per clip; it matters at decoder sites only.
    frames: also return SEE over time, `Score.frames` and `Score.times`.
    batch_size: clips per pass. progress: called as progress(what is done, clips done, clips in all); by default it
    shows a bar in a notebook.
    Raises AudioError for clips that cannot be used, BasisError for a basis of another model, ConfigError for prompts
    that are not as many as the clips and for a batch size below 1, and SeenError that names a clip whose SEE is not
    finite.

    >>> result = seen_jax.score(model, clips[0], basis, frames=True)
    >>> 0 < result.see < 1, result.frames.shape == (4, len(result.times))
    (True, True)
    """
    model.check_site(basis.site)
    requests = as_requests(audio, prompt)
    groups = group_requests(model, requests, batch_size, text=basis.site not in ENCODER_SITES)
    return score_groups(model, requests, groups, basis, frames, progress)


def score_groups(
    model: Model,
    requests: Sequence[Request],
    groups: Sequence[Group],
    basis: NoiseBasis,
    frames: bool = False,
    progress: Progress = automatic,
) -> list[Score]:
    """`score` of requests that are grouped to batches."""
    edits, site = measuring(model, basis), basis.site
    lalm = model.tapped(Taps(see_frames=True)) if frames else model.lalm

    def run(prepared: Prepared) -> list[Score]:
        see = jax.device_get(measured(model, lalm, prepared, edits)[1][site])
        before, energy = (of_requests(model, site, x, prepared) for x in (see.before, see.energy))
        check_finite(model, prepared, np.isfinite(before).all(0) & np.isfinite(energy).all(0), "its SEE is")
        mean = np.asarray(basis.mean_see(before))
        over_time: Any = [()] * len(mean)
        if frames:
            times = per_request(model, site, position_seconds(model, site, prepared)[None], prepared)
            over_time = zip(per_request(model, site, see.frames, prepared), (x[0] for x in times), strict=True)
        values = zip(mean.tolist(), before.T.tolist(), energy.T.tolist(), over_time, strict=True)
        return [Score(m, tuple(b), tuple(e), basis.layers, *more) for m, b, e, more in values]

    return run_batches(model, requests, run, groups, progress=progress, stage="scoring")


@one_or_many
def generate(
    model: Model,
    audio: Sequence[Any],
    prompt: str | Sequence[str] = DEFAULT_PROMPT,
    basis: NoiseBasis | None = None,
    strength: float = 1.0,
    decoding: Decoding | None = None,
    **options: Unpack[GenerateOptions],
) -> list[Answer]:
    """Answer a prompt about each clip, with or without edits inside the model. Returns an `Answer`, or a list of them
    for a list of clips.

    model, audio, prompt, batch_size, progress: as for `score`.
    basis: apply SEEN along this basis, and report SEE before and after. strength: lambda of SEEN; 0 only measures.
    decoding: how to generate; greedily, 256 tokens at most, by default. `model.decoding()` is what the model's folder
    wants, which may be to sample.
    edits: further edits {site: Edit}, such as `steering`, at other sites than the basis.
    seed: of the draws, when sampling. An answer does not depend on its batch.
    when: a gate: answer, answer again with something done about the noise, or abstain, by the blind risk.
    Raises AudioError, BasisError and ConfigError as `score`, ConfigError for edits that do not fit the model, and
    SeenError that names a clip for which the model's logits are not finite.

    >>> answers = seen_jax.generate(model, clips, "transcribe the speech", basis=basis, batch_size=4)
    >>> len(answers), 0 < answers[0].see < 1
    (3, True)
    """
    chosen = chosen_options(options, GenerateOptions, "generate")
    model.need_decoder("generate")
    requests, given = as_requests(audio, prompt), chosen.edits or {}
    check_edits(model, given)
    edits = joined(given, {} if basis is None else projection(model, basis, strength))
    answers_to = functools.partial(_answers, model, basis=basis, decoding=decoding, chosen=chosen)
    answers = answers_to(requests, edits, range(len(requests)))
    if (when := chosen.when) is None:
        return answers
    check_edits(model, when.edits or {})
    known = [answer.tokens for answer in answers]
    run_options = chosen.batch_size, chosen.progress
    risks = risks_of_answers(model, requests, known, when, edits, decoding or Decoding(), run_options)
    actions = [when.action(risk) for risk in risks]
    again = [i for i, action in enumerate(actions) if action == "mitigate"]
    second = answers_to([when.mitigated(requests[i]) for i in again], joined(edits, when.edits or {}), again)
    last = dict(enumerate(answers)) | dict(zip(again, second, strict=True))
    gated = []
    for i, (risk, action) in enumerate(zip(risks, actions, strict=True)):
        answer = last[i] if action != "abstain" else dataclasses.replace(last[i], text="", tokens=())
        gated.append(dataclasses.replace(answer, action=action, risk=risk))
    return gated


def _answers(
    model: Model,
    requests: Sequence[Request],
    edits: Edits,
    places: Sequence[int],
    basis: NoiseBasis | None,
    decoding: Decoding | None,
    chosen: Any,
) -> list[Answer]:
    """Answers under some edits. places: of the requests among all, by which they are drawn when sampling. basis: along
    which SEE was measured. chosen: the options of `generate`."""

    def run(prepared: Prepared) -> list[Answer]:
        rows = jnp.asarray([places[i] for i in prepared.rows])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(chosen.seed), rows)
        out = jax.device_get(generate_batch(model.lalm, model.variables, prepared.batch, edits, decoding, keys))
        check_finite(model, prepared, out.finite)
        ids = [tuple(row[:n].tolist()) for row, n in zip(out.tokens, out.lengths, strict=True)]
        columns: list[Any] = [model.processor.decode(out.tokens, out.lengths), ids]
        if basis is not None:
            see = out.see[basis.site]
            means = (np.asarray(basis.mean_see(x)) for x in (see.before, see.after))
            columns += [of_requests(model, basis.site, mean, prepared).tolist() for mean in means]
        answers = [Answer(*row) for row in zip(*columns, strict=True)]
        ends = out.finished.tolist()
        return [dataclasses.replace(answer, finished=end) for answer, end in zip(answers, ends, strict=True)]

    groups = group_requests(model, requests, chosen.batch_size)
    return run_batches(model, requests, run, groups, progress=chosen.progress, stage="answering")


@one_or_many
def run(
    model: Model,
    audio: Sequence[Any],
    prompt: str | Sequence[str] = DEFAULT_PROMPT,
    sites: str | Sequence[str] = (ENCODER_MLP_ACT,),
    edits: Edits | None = None,
    batch_size: int = 8,
    progress: Progress = automatic,
) -> list[Run]:
    """One forward pass per clip, with its activations: what `run_with_cache` is in TransformerLens. Returns a `Run`, or
    a list of them for a list of clips.

    model, audio, prompt, batch_size, progress: as for `score`.
    sites: whose activations to return, of `SITES`. All of them at 7B are more than a gigabyte per clip.
    edits: {site: Edit}, such as `projection`, `steering` or `linear_map`.
    Raises AudioError as `score`, ConfigError for an unknown site and for edits that do not fit the model, and SeenError
    that names a clip for which the model's logits are not finite.

    >>> seen_jax.run(model, clips[0], sites=["encoder.resid"], edits=seen_jax.projection(model, basis))
    Run(logits=[..., 913], activations={'encoder.resid': [4, ..., 192]}, see=['encoder.mlp_act'])
    """
    model.need_decoder("run")
    requests = as_requests(audio, prompt)
    check_edits(model, edits or {})
    taps = Taps((sites,) if isinstance(sites, str) else tuple(sites), "full")
    lalm = model.tapped(taps)

    def one_batch(prepared: Prepared) -> list[Run]:
        out = forward(lalm, model.variables, prepared.batch, dict(edits or {}))
        logits, tapped, see = jax.device_get((out.logits, out.taps, out.see))
        cut = lambda site: per_request(model, site, tapped[site].astype(np.float32), prepared, audio_only=False)
        activations, sees = {site: cut(site) for site in taps.sites}, {}
        for site, values in see.items():
            sees[site] = jax.tree.map(lambda x, site=site: of_requests(model, site, x, prepared), values)
        lengths = np.asarray(prepared.batch.lengths).tolist()
        finite = [np.isfinite(row[:length]).all() for row, length in zip(logits, lengths, strict=True)]
        check_finite(model, prepared, np.asarray(finite))
        results = []
        for row, length in enumerate(lengths):
            parts = {site: values[row] for site, values in activations.items()}
            results.append(Run(logits[row, :length], parts, jax.tree.map(lambda x, row=row: x[..., row], sees)))
        return results

    groups = group_requests(model, requests, batch_size)
    return run_batches(model, requests, one_batch, groups, progress=progress, stage="running")
