"""Blind scores: how likely it is that noise changed an answer, without noise clips and without the clean clip.

A clip is encoded as it is, denoised, and with a little more noise. What the encoder makes of the three, and how likely
the answer is under each, is what a score knows."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from seen_jax.audio import denoiser, is_silent, mix_at_snr, noise_source
from seen_jax.checks import as_requests, check_finite
from seen_jax.errors import AudioError, BasisError, ConfigError
from seen_jax.files import digest
from seen_jax.models.batching import Group, Prepared, Wave, group_requests, run_batches
from seen_jax.models.edits import Edits
from seen_jax.models.encoder import Audio
from seen_jax.models.evidence import Answers, doubt_of_answers, doubt_of_others, forced
from seen_jax.models.generate import Decoding, generate
from seen_jax.models.lalm import split_records
from seen_jax.models.model import Model, encode
from seen_jax.models.pooling import per_request
from seen_jax.models.processor import DEFAULT_PROMPT, Bucket, Request
from seen_jax.models.sites import DECODER_RESID, ENCODER_RESID, PROJECTOR, Taps
from seen_jax.options import FitOptions, Options, chosen_options, one_or_many
from seen_jax.progress import Progress
from seen_jax.subspace.blind import BlindModel, CleanModel, disagreement, fit_clean, fit_monotone

SHIPPED = Path(__file__).parent / "assets" / "blind"
NOISES = ("white", "pink", "brown", "hum", "babble", "impulses", "engine")  # of the fit; the other synthetic ones test
SNRS = (-10.0, -5.0, 0.0, 5.0, 10.0, 20.0, 30.0)
MORE_NOISE = 20.0  # dB of a clip above the white noise that is added to it
MOST_LAYERS, RANK = 8, 32  # layers that count, evenly spread; directions of a clean model
CLIP_FRAMES = 64  # of each clean clip that the clean model is fitted to, evenly spread
TAPS = Taps((ENCODER_RESID, PROJECTOR), "full")


def noisier(wave: Wave) -> Wave:
    """A clip with a little white noise, always the same for clips of one length; silence stays silence."""
    noise = np.random.default_rng(len(wave)).standard_normal(len(wave)).astype(np.float32)
    return wave if is_silent(wave) else mix_at_snr(wave, noise, MORE_NOISE).audio


OTHERS: Mapping[str, Callable[[Wave], Wave]] = {"denoised": denoiser("spectral_subtraction"), "noisier": noisier}


@dataclass(frozen=True)
class BlindScore:
    """The blind score of one clip.

    risk: probability, in [0, 1], that the answer is not the one that the model gives to the clip without its noise;
    None of an encoder alone.
    encoder_risk: the same as far as the encoder shows it, before any token is decoded.
    answer: the answer that `risk` is about. tokens: its ids.

    >>> seen_jax.BlindScore(risk=0.25, encoder_risk=0.5, answer="a dog")
    BlindScore(risk=0.25, encoder_risk=0.5, answer='a dog')
    """

    risk: float | None
    encoder_risk: float
    answer: str | None
    tokens: tuple[int, ...] = field(default=(), repr=False)


class Evidence(NamedTuple):
    """What a score is made of, for one clip."""

    encoder: Float[np.ndarray, " statistics"]
    answer: Float[np.ndarray, " statistics"]  # empty of an encoder alone
    text: str | None = None
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Observer:
    """Gathers evidence batch by batch. decoding: of the answers; None: the encoder alone is asked."""

    model: Model
    layers: tuple[int, ...]
    clean: CleanModel
    decoding: Decoding | None
    edits: Edits = field(default_factory=dict)

    def __call__(self, prepared: Prepared, requests: Sequence[Request], given: Answers | None = None) -> list[Evidence]:
        """The evidence of every row of a batch. requests: those of the rows. given: answers to judge; without them
        the model answers first."""
        frames = prepared.inputs.features.shape[1]
        audios: dict[str, Any] = {"given": prepared.inputs}
        for name, change in OTHERS.items():
            changed = [request.with_audio([change(wave) for wave in request.audio]) for request in requests]
            audios[name] = self.model.processor.prepared(changed, Bucket(frames), text=False)[0]
        if self.decoding is None:
            taps = {name: self._encoded(audio, prepared) for name, audio in audios.items()}
            return [Evidence(self._encoder(taps, row), np.zeros(0)) for row in range(len(prepared.rows))]
        taps, doubt, answers = self._answered(prepared, audios, given)
        ids = [tuple(row[:n].tolist()) for row, n in zip(*answers, strict=True)]
        texts = self.model.processor.decode(*answers)
        return [Evidence(self._encoder(taps, i), doubt[i], texts[i], ids[i]) for i in range(len(prepared.rows))]

    def _encoded(self, audio: Audio, prepared: Prepared) -> dict[str, list[np.ndarray]]:
        out = encode(self.model.tapped(TAPS), self.model.variables, audio, dict(self.edits))
        return self._of_rows(split_records(out.records)[0], prepared)

    def _of_rows(self, taps: Mapping[str, Any], prepared: Prepared) -> dict[str, list[np.ndarray]]:
        """{site: [L, T, D] of every row}, of the layers that count."""
        kept = {ENCODER_RESID: taps[ENCODER_RESID][jnp.asarray(self.layers)], PROJECTOR: taps[PROJECTOR]}
        return {site: per_request(self.model, site, x, prepared) for site, x in kept.items()}

    def _answered(
        self, prepared: Prepared, audios: Mapping[str, Any], given: Answers | None
    ) -> tuple[dict[str, dict[str, list[np.ndarray]]], Float[np.ndarray, "rows statistics"], Answers]:
        """(taps of every audio, statistics of the answers, the answers)."""
        model, batch, edits = self.model, prepared.batch, dict(self.edits)
        if given is None:
            out = generate(model.lalm, model.variables, batch, edits, self.decoding)
            given = Answers(out.tokens, out.lengths)
        lengths, lalm, end = np.asarray(given.lengths), model.tapped(TAPS), None
        taps, doubt = {}, dict[str, np.ndarray]()
        for name, audio in audios.items():
            inputs = batch if name == "given" else replace(batch, **vars(audio))
            out = jax.device_get(forced(lalm, model.variables, inputs, edits, given, end))
            taps[name] = self._of_rows(out.taps, prepared)
            if name == "given":
                end = np.take_along_axis(out.expected, lengths[:, None], axis=1)[:, 0]
            each = doubt_of_answers(out, lengths) if name == "given" else doubt_of_others(out.log_probs, lengths)
            doubt |= {f"{name} {statistic}": x for statistic, x in each.items()}
        return taps, np.stack(list(doubt.values()), axis=1), Answers(np.asarray(given.tokens), lengths)

    def _encoder(self, taps: Mapping[str, Mapping[str, list[np.ndarray]]], row: int) -> Float[np.ndarray, " _"]:
        """Statistics of the encoder: how near frames are to the middle of clean ones, to which noise pulls them, and
        how much the other audios move them."""
        given = taps["given"]
        far = self.clean.distances(given[ENCODER_RESID][row])
        parts = [-of_frames(frames, axis=1) for frames in far.values() for of_frames in (np.mean, np.std)]
        for name, site in itertools.product(OTHERS, (ENCODER_RESID, PROJECTOR)):
            parts += disagreement(given[site][row], taps[name][site][row]).values()
        return np.concatenate(parts)


def blind_model(model: Model) -> BlindModel:
    """The blind model that ships with the package, which is that of seen-tiny. Raises BasisError for another model.

    model: of `load`.
    >>> seen_jax.blind_model(model).card["model"]
    'seen-tiny'
    """
    blind = _shipped()
    check_blind(model, blind)
    return blind


@functools.cache
def _shipped() -> BlindModel:
    return BlindModel.load(SHIPPED)


def check_blind(model: Model, blind: BlindModel) -> None:
    """Raise BasisError for a blind model of another model."""
    if model.has_decoder:
        blind.check(model.identity(DECODER_RESID))
    else:
        blind.check(model.identity(ENCODER_RESID), "encoder")


@one_or_many
def blind_score(
    model: Model,
    audio: Sequence[Any],
    prompt: str | Sequence[str] = DEFAULT_PROMPT,
    blind: BlindModel | None = None,
    decoding: Decoding | None = None,
    encoder_only: bool = False,
    **options: Unpack[Options],
) -> list[BlindScore]:
    """How likely it is that noise changed the model's answer about each clip: a `BlindScore`, or a list of them for a
    list of clips. It needs neither noise clips nor the clean clip.

    model, audio, prompt, batch_size, progress: as for `generate`. A model without its decoder is scored by its encoder.
    blind: of `fit_blind`; by default the one that ships (`blind_model`), which is seen-tiny's.
    decoding: how to answer; greedily by default.
    encoder_only: leave the answer out, which is several times as fast.
    Raises AudioError and ConfigError as `generate`, BasisError for a blind model of another model, and SeenError that
    names a clip whose numbers are not finite.

    >>> score = seen_jax.blind_score(model, clips[0], "transcribe the speech")
    >>> 0 <= score.risk <= 1, 0 <= score.encoder_risk <= 1
    (True, True)
    """
    chosen = chosen_options(options, Options, "blind_score")
    blind = blind_model(model) if blind is None else blind
    check_blind(model, blind)
    alone = encoder_only or not model.has_decoder
    observer = Observer(model, blind.layers, blind.clean, None if alone else decoding or Decoding())
    requests = as_requests(audio, prompt)
    groups = group_requests(model, requests, chosen.batch_size, text=not alone)
    return scores_of(blind, observe(observer, requests, groups, chosen.progress))


def observe(
    observer: Observer, requests: Sequence[Request], groups: Sequence[Group], progress: Progress,
    given: Sequence[tuple[int, ...]] | None = None,
) -> list[Evidence]:  # fmt: skip
    """The evidence of every request. given: ids of the answers to judge."""
    model = observer.model

    def run(prepared: Prepared) -> list[Evidence]:
        of_rows = [requests[i] for i in prepared.rows]
        answers = None if given is None else padded_answers([given[i] for i in prepared.rows], observer)
        evidence = observer(prepared, of_rows, answers)
        finite = [np.isfinite(x.encoder).all() and np.isfinite(x.answer).all() for x in evidence]
        check_finite(model, prepared, np.asarray(finite), "what its blind score is made of is")
        return evidence

    return run_batches(model, requests, run, groups, progress=progress, stage="scoring blindly")


def padded_answers(ids: Sequence[tuple[int, ...]], observer: Observer) -> Answers:
    """Answers of a batch as `generate` gives them."""
    longest = observer.decoding.max_new_tokens if observer.decoding else max(map(len, ids))
    tokens = np.full((len(ids), longest), observer.model.config.pad_token, np.int32)
    for row, answer in zip(tokens, ids, strict=True):
        row[: len(answer)] = answer
    return Answers(tokens, np.asarray([len(answer) for answer in ids], np.int32))


def scores_of(blind: BlindModel, evidence: Sequence[Evidence]) -> list[BlindScore]:
    """The scores that a blind model makes of evidence. Raises BasisError where the two have other statistics."""
    if not evidence:
        return []
    encoder, answer = np.stack([x.encoder for x in evidence]), np.stack([x.answer for x in evidence])
    if encoder.shape[1] != len(blind.encoder.knots) or answer.shape[1] not in (0, len(blind.answer.knots)):
        raise BasisError("this blind model was fitted by another version of seen_jax: fit it again")
    risks = blind.answer(answer).tolist() if answer.size else [None] * len(evidence)
    of_encoder = blind.encoder(encoder).tolist()
    rows = zip(risks, of_encoder, evidence, strict=True)
    return [BlindScore(risk, encoder_risk, x.text, x.tokens) for risk, encoder_risk, x in rows]


def fit_blind(
    model: Model,
    clips: Sequence[Any],
    prompt: str | Sequence[str] = DEFAULT_PROMPT,
    noises: Sequence[str] = NOISES,
    snrs_db: Sequence[float] = SNRS,
    max_new_tokens: int = 32,
    **options: Unpack[FitOptions],
) -> BlindModel:
    """Fit a blind model: the model answers about clean clips, and about each with every noise at an SNR drawn for it;
    whether the answer changed is what the risk is fitted to.

    model: of `load`, with its decoder. clips: clean ones, one per prompt, never those that are scored later.
    prompt: one for all clips or one per clip, such as will be asked.
    noises: names of synthetic noises, or what else `noise_source` takes. snrs_db: SNRs to draw from.
    max_new_tokens: longest answer. seed: of noises and draws. card: what to remember of the data's origin.
    batch_size, progress: as for `score`.
    Raises AudioError and ConfigError as `generate`, and BasisError where noise changed no answer or all.

    >>> seen_jax.fit_blind(model, clips, noises=["white", "babble"], snrs_db=[-10, 20], max_new_tokens=4)
    BlindModel('seen-tiny', layers=(0, 1, 2, 3), rank=32, statistics=...)
    """
    chosen = chosen_options(options, FitOptions, "fit_blind")
    model.need_decoder("fit_blind")
    requests = as_requests(clips, prompt)
    if any(len(request.audio) != 1 for request in requests):
        raise ConfigError("a blind model is fitted to requests of one clip each.")
    if not (requests and noises and snrs_db):
        raise AudioError("a blind model needs at least one clip, one noise and one SNR.")
    depth = model.config.site_shape(ENCODER_RESID)[0]
    layers = tuple(np.unique(np.linspace(0, depth - 1, min(depth, MOST_LAYERS)).round().astype(int)).tolist())
    frames = clean_frames(model, requests, layers, chosen.batch_size, chosen.progress)
    clean = fit_clean(frames, min(RANK, frames.shape[2] - 1))
    observer = Observer(model, layers, clean, Decoding(max_new_tokens))
    evidence, changed = observe_noises(observer, requests, (noises, snrs_db, chosen.seed), chosen)
    encoder = fit_monotone(np.stack([x.encoder for x in evidence]), changed)
    answer = fit_monotone(np.stack([x.answer for x in evidence]), changed)
    card = model.identity(DECODER_RESID).card() | {"encoder": model.identity(ENCODER_RESID).card()}
    card |= {"noises": list(noises), "snrs_db": [float(snr) for snr in snrs_db], "seed": chosen.seed}
    card |= {"max_new_tokens": max_new_tokens, "answers": len(changed), "changed": int(changed.sum())}
    card["data"] = [digest([request.audio[0].tobytes()]) for request in requests]
    return BlindModel(layers, clean, encoder, answer, card | (chosen.card or {}))


def clean_frames(
    model: Model, requests: Sequence[Request], layers: Sequence[int], batch_size: int, progress: Progress
) -> Float[np.ndarray, "layers frames width"]:
    """Frames of clean clips, a few of each."""

    def run(prepared: Prepared) -> list[np.ndarray]:
        records = encode(model.tapped(TAPS), model.variables, prepared.inputs, {}).records
        kept = split_records(records)[0][ENCODER_RESID][jnp.asarray(layers)]
        clips = per_request(model, ENCODER_RESID, kept, prepared)
        return [x[:, np.unique(np.linspace(0, x.shape[1] - 1, CLIP_FRAMES).astype(int))] for x in clips]

    groups = group_requests(model, requests, batch_size, text=False)
    parts = run_batches(model, requests, run, groups, progress=progress, stage="encoding clean clips")
    return np.concatenate(parts, axis=1).astype(np.float32)


def observe_noises(
    observer: Observer, requests: Sequence[Request], drawn: tuple[Sequence[str], Sequence[float], int], chosen: Any
) -> tuple[list[Evidence], np.ndarray]:
    """The evidence of every clip, clean and with every noise at one of the SNRs, and whether its answer changed. drawn:
    noises, SNRs and a seed."""
    noises, snrs, seed = drawn
    sources, rng = {noise: noise_source(noise) for noise in noises}, np.random.default_rng(seed)
    rows: list[tuple[int, str | None]] = list(itertools.product(range(len(requests)), (None, *noises)))
    levels = rng.choice(np.asarray(snrs, float), len(rows))

    def hear(k: int) -> Wave:
        (i, noise), wave = rows[k], requests[rows[k][0]].audio[0]
        if noise is None:
            return wave
        return mix_at_snr(wave, sources[noise].clip(i, len(wave), seed, "calibration"), float(levels[k])).audio

    def run(prepared: Prepared) -> list[Evidence]:
        return observer(prepared, [requests[rows[k][0]].with_audio([hear(k)]) for k in prepared.rows])

    each = [requests[i] for i, _ in rows]
    groups = group_requests(observer.model, each, chosen.batch_size)
    evidence = run_batches(observer.model, each, run, groups, hear, chosen.progress, "fitting a blind model")
    clean = {i: x.text for (i, noise), x in zip(rows, evidence, strict=True) if noise is None}
    return evidence, np.array([x.text != clean[i] for (i, _), x in zip(rows, evidence, strict=True)])
