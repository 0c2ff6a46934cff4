"""Blind scores beside what else may tell a changed answer: the answer's own doubt, SEE along the right basis, the SNR.

Axes: N subjects, C conditions (a noise at an SNR)."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from seen_jax.blind import NOISES, Evidence, Observer, blind_model, check_blind, fit_blind, scores_of
from seen_jax.errors import BasisError, ConfigError
from seen_jax.evaluate.metrics import TAILS, auroc
from seen_jax.evaluate.prepare import calibration_entries
from seen_jax.models.batching import Prepared
from seen_jax.models.evidence import DOUBTS
from seen_jax.models.generate import Decoding
from seen_jax.report.figures import line_sweep
from seen_jax.report.format import number, share
from seen_jax.studies.base import Case, Column, Figure, Lab, Measurements, Study
from seen_jax.studies.lab import Level
from seen_jax.studies.measure import pearson
from seen_jax.subspace import BlindModel, conformal_threshold

DRAWS = 300  # of the subjects, for intervals
COVERAGES = np.arange(1, 21) / 20
ALPHA = 0.1  # of the conformal threshold
FOLDER = "blind"  # of a model's own blind model, in the experiment's folder
INSIDE = "auroc_inside"

Table = Float[np.ndarray, "subjects conditions"]


class Observed(NamedTuple):
    """What came of every subject under every condition."""

    scores: dict[str, Table]  # each rises with the risk that it sees
    changed: Bool[np.ndarray, "subjects conditions"]  # whether the answer is not that to the clean clip
    tasks: Shaped[np.ndarray, " subjects"]


class Blind(Study):
    name = "blind"
    title = "Study: blind scores"
    lead = (
        "Which scores tell an answer that noise changed. Pearson r: of mean score and GSR over all tasks, noises and "
        "SNRs, and in the task where it is worst. AUROC: of single answers, over all and inside one noise at one SNR. "
        "A score needs no noise clips and no clean clip if it is blind or one of the answer; SEE has the basis of the "
        f"very noise. Of the clips that a threshold lets through, chosen on one half of the items so that at most "
        f"{100 * ALPHA:g} % of all clips get a wrong answer, the last columns show the share in the other half."
    )
    names = ("score",)
    values = ("pearson", "worst", "auroc", INSIDE, "answered", "wrong")
    columns: Mapping[str, Column] = {
        "pearson": ("Pearson r", number),
        "worst": ("worst task", number),
        "auroc": ("AUROC (%)", share),
        INSIDE: ("inside (%)", share),
        "answered": ("answered (%)", share),
        "wrong": ("wrong (%)", share),
        "coverage": ("answered clips (%)", share),
        "error": ("wrong answers among them (%)", share),
    }

    def cases(self, lab: Lab) -> Iterator[Case]:
        """The basis of every noise, for SEE."""
        for noise in lab.noises:
            yield Case({"noise": noise}, noise, lab.basis(noise))

    def rows(self, lab: Lab, cases: Sequence[Case], measured: Measurements) -> pd.DataFrame:
        """One row per score; each value has an interval over the subjects (`_low`, `_high`). error: among the share
        `coverage` of the clips whose score is lowest."""
        observed = observe(lab, cases, measured)
        draws = np.random.default_rng(lab.config.seed).integers(len(observed.tasks), size=(DRAWS, len(observed.tasks)))
        rows = []
        for name, score in observed.scores.items():
            row: dict[str, Any] = {"score": name, **rates(score, observed.changed, observed.tasks)}
            drawn = pd.DataFrame([rates(score[d], observed.changed[d], observed.tasks[d]) for d in draws], dtype=float)
            ends = drawn.quantile(list(TAILS))
            row |= {f"{key}_{end}": ends[key].iloc[i] for key in drawn for i, end in enumerate(("low", "high"))}
            row |= gated(score, observed.changed)
            row |= {"coverage": COVERAGES.tolist(), "error": errors(score, observed.changed)}
            rows.append(row)
        return pd.DataFrame(rows)

    def figures(self, rows: pd.DataFrame) -> Iterator[Figure]:
        curves = rows[["score", "coverage", "error"]].explode(["coverage", "error"]).astype({"error": float})
        labels = [*(self.columns[key][0] for key in ("coverage", "error")), "score"]
        caption = "Wrong answers among the clips of the lowest scores, over all tasks, noises and SNRs."
        table = curves.assign(coverage=100 * curves["coverage"].astype(float))
        yield "blind_coverage", caption, partial(line_sweep, table, "coverage", "error", "score", labels)


def observe(lab: Lab, cases: Sequence[Case], measured: Measurements) -> Observed:
    """All scores of all subjects, clean and under every noise at every SNR."""
    blind = model_of(lab)
    observer = Observer(lab.model, blind.layers, blind.clean, Decoding(lab.config.max_new_tokens))
    conditions = list(itertools.product(lab.noises, lab.config.snrs))
    jobs: list[tuple[str | None, Level]] = [(None, None), *conditions]
    evidence: dict[Any, list[Evidence]] = {}
    for done, (noise, snr) in enumerate(jobs):
        hear = lambda k, noise=noise, snr=snr: lab.subjects[k].wave(noise or "", snr)

        def run(prepared: Prepared, hear: Any = hear) -> list[Evidence]:
            return observer(prepared, [lab.subjects[k].request.with_audio([hear(k)]) for k in prepared.rows])

        evidence[noise, snr] = lab.run(run, "blind scores", hear, (done, len(jobs)))
    answers = {key: np.array(lab.answers([x.text or "" for x in part])) for key, part in evidence.items()}
    changed = np.stack([answers[key] != answers[None, None] for key in conditions], axis=1)
    each = [scores(blind, evidence[key]) | {"-SNR": np.full(len(changed), -key[1])} for key in conditions]
    tables = {name: np.stack([score[name] for score in each], axis=1) for name in each[0]}
    tables["1 / (1 + 10^(SNR / 20))"] = 1 / (1 + 10 ** (-tables["-SNR"] / 20))
    see = {case.noise: measured.see[case][1:] for case in cases}
    tables["SEE, basis of the noise"] = np.concatenate([see[noise] for noise in lab.noises]).T.astype(float)
    return Observed(tables, changed, np.array([subject.item.task for subject in lab.subjects]))


def scores(blind: BlindModel, evidence: Sequence[Evidence]) -> dict[str, Float[np.ndarray, " subjects"]]:
    """The blind scores, and plain ones of the same evidence."""
    made, layers = scores_of(blind, evidence), len(blind.layers)
    answer, encoder = np.stack([x.answer for x in evidence]), np.stack([x.encoder for x in evidence])
    doubts = dict(zip(DOUBTS, answer.T, strict=False))
    near = encoder[:, : 6 * layers].reshape(len(encoder), 3, 2, layers)[:, :, 0].mean(-1)
    return {
        "blind, with the answer": np.array([score.risk for score in made], float),
        "blind, encoder alone": np.array([score.encoder_risk for score in made]),
        "entropy of the answer": doubts["entropy"],
        "1 - probability of the answer": 1 - np.exp(-doubts["surprise"]),
        "-Mahalanobis distance": near[:, 0],
        "-residual outside of clean": near[:, 1],
        "log-likelihood of clean": near[:, 2],
    }


def model_of(lab: Lab) -> BlindModel:
    """The blind model of the experiment's folder; else the one that ships, if it is the model's; else one that is
    fitted to the calibration's clips, with synthetic noises that are not tested, and kept in the folder."""
    folder, model, config = lab.config.folder() / FOLDER, lab.model, lab.config
    if not folder.is_dir():
        try:
            return blind_model(model)
        except BasisError:
            entries = calibration_entries(config.calibration.dataset, config.calibration.clips)
            items = [entry.item() for entry in entries]
            noises = [noise for noise in NOISES if noise not in lab.noises] or list(NOISES)
            options: Any = {"seed": config.seed, "batch_size": config.batch_size, "progress": lab.progress}
            asked = [item.wave for item in items], [item.prompt for item in items]
            try:
                fitted = fit_blind(model, *asked, noises, config.snrs, config.max_new_tokens, **options)
            except BasisError as error:
                raise ConfigError(f"the study 'blind' cannot be made of this model and calibration: {error}") from None
            fitted.save(folder)
    blind = BlindModel.load(folder)
    check_blind(model, blind)
    return blind


def rates(
    score: Table, changed: Bool[np.ndarray, "subjects conditions"], tasks: Shaped[np.ndarray, " subjects"]
) -> dict[str, float | None]:
    """Correlations of mean score and GSR over cells of a task and a condition, and AUROCs of single answers; None where
    they are not defined."""
    of_task = {task: tasks == task for task in np.unique(tasks)}
    cells = {task: (score[rows].mean(0), 1 - changed[rows].mean(0)) for task, rows in of_task.items()}
    each = [r for means in cells.values() if (r := pearson(*means)) is not None]
    happened = changed.sum(0)
    pairs, inside = happened * (len(changed) - happened), auroc(score, changed)
    return {
        "pearson": pearson(*(np.concatenate(side) for side in zip(*cells.values(), strict=True))),
        "worst": max(each, default=None),
        "auroc": defined(auroc(score.reshape(-1), changed.reshape(-1))),
        INSIDE: float(np.nansum(inside * pairs) / pairs.sum()) if pairs.any() else None,
    }


def defined(x: Any) -> float | None:
    """A number, None for NaN."""
    return None if np.isnan(x) else float(x)


def errors(score: Table, changed: Bool[np.ndarray, "subjects conditions"]) -> list[float]:
    """The share of wrong answers among the clips of the lowest scores, for each of `COVERAGES`."""
    wrong = np.cumsum(changed.reshape(-1)[np.argsort(score.reshape(-1), kind="stable")])
    kept = np.maximum(1, np.round(COVERAGES * len(wrong)).astype(int))
    return (wrong[kept - 1] / kept).tolist()


def gated(score: Table, changed: Bool[np.ndarray, "subjects conditions"]) -> dict[str, float]:
    """The share of clips that are answered under a conformal threshold, and the share that gets a wrong answer: each
    half of the subjects under the threshold of the other one."""
    halves = np.arange(len(score)) % 2
    answered, wrong = [], []
    for half in (0, 1):
        known, outcome = (x[halves != half].reshape(-1) for x in (score, changed))
        given = score[halves == half] <= conformal_threshold(known, outcome, alpha=ALPHA)
        answered.append(given)
        wrong.append(given & changed[halves == half])
    return {name: float(np.concatenate(x).mean()) for name, x in (("answered", answered), ("wrong", wrong))}


BLIND = Blind()
