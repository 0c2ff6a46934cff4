"""Answers of a part of a data set under every mitigation, clean and at every SNR of a noise."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from seen_jax.audio.mix import mix_at_snr
from seen_jax.data.items import Entry, Item
from seen_jax.data.letters import answer_letter
from seen_jax.data.permute import permuted_choices
from seen_jax.edits import measuring, projection
from seen_jax.errors import AudioError, ConfigError
from seen_jax.evaluate.metrics import cosine_similarities
from seen_jax.evaluate.prepare import Experiment, request_of
from seen_jax.evaluate.trials import NONE, Trial
from seen_jax.evaluate.units import Unit
from seen_jax.mitigations.base import Wave
from seen_jax.mitigations.chain import Chain
from seen_jax.models.batching import Group, Prepared, filled, run_batches
from seen_jax.models.edits import Edits
from seen_jax.models.generate import Decoding, Generated
from seen_jax.models.generate_edits import generate_edits
from seen_jax.models.pooling import of_clips
from seen_jax.models.sites import Taps

DIGITS = 7  # of a float32, which is all that is kept of a number


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
    """The items of a part that can be read, by their place in the data set, and why the others cannot be."""

    items: dict[int, Item]
    failures: dict[int, str]


class Measured(NamedTuple):
    """What came of one clip under one mitigation. see, see_after: SEE per layer before and after the edit; energy: raw
    projected energy per layer before it; pooled: mean activations [L, D] at the experiment's site, after it."""

    output: str
    see: Float[np.ndarray, " layers"]
    see_after: Float[np.ndarray, " layers"]
    energy: Float[np.ndarray, " layers"]
    pooled: Float[np.ndarray, "layers width"]


Answers = dict[tuple[str, str], Measured]  # of a noise and a mitigation


def read_questions(experiment: Experiment, unit: Unit) -> Questions:
    """Read the items of a unit; a file that cannot be read fails its own item alone."""
    config, entries = experiment.config, experiment.entries[unit.dataset]
    questions = Questions({}, {})
    for place in unit.places:
        try:
            item = entries[place].item()
            experiment.model.processor.checked(item.wave)
        except AudioError as error:
            questions.failures[place] = str(error)
            continue
        permute = config.permute_choices and item.choices
        questions.items[place] = permuted_choices(item, config.seed)[0] if permute else item
    return questions


def answer_versions(
    experiment: Experiment,
    unit: Unit,
    questions: Questions,
    versions: Sequence[Sequence[Wave]],
    noises: Sequence[str],
) -> list[list[Answers]]:
    """[version][item]: the answers under every mitigation to some versions of the audio of all items.

    noises: whose bases SEEN removes. Mitigations that give the model the same audio share a batch.
    """
    entries, items = experiment.entries[unit.dataset], questions.items
    chains: dict[str, list[Chain]] = {}
    for config_chain in experiment.config.chains:
        chains.setdefault(config_chain.audio_key, []).append(experiment.mitigations[config_chain.label])
    jobs = list(itertools.product(versions, chains.values()))
    one = [request_of(experiment, entries[place], item) for place, item in items.items()]
    count, size = len(one), min(experiment.config.batch_size, len(entries))
    places = [list(range(job * count, (job + 1) * count)) for job in range(len(jobs))]
    groups = [Group(own, filled(own, size, experiment.model.rows), unit.bucket) for own in places]

    def hear(index: int) -> Wave:
        waves, alike = jobs[index // count]
        return alike[0].hear(waves[index % count])

    def run(prepared: Prepared) -> list[Answers]:
        return measure(experiment, prepared, jobs[prepared.rows[0] // count][1], noises)

    answers = run_batches(experiment.model, one * len(jobs), run, groups, hear)
    merged: list[list[Answers]] = [[{} for _ in one] for _ in versions]
    for (job, k), part in zip(itertools.product(range(len(jobs)), range(count)), answers, strict=True):
        merged[job // len(chains)][k] |= part
    return merged


def measure(
    experiment: Experiment, prepared: Prepared, chains: Sequence[Chain], noises: Sequence[str]
) -> list[Answers]:
    """The answers of a batch under some mitigations, with SEE and pooled activations from the same pass."""
    model, batch = experiment.model, prepared.batch
    lalm = model.tapped(Taps((experiment.config.site,)))
    edits = {chain.label: chain.edits(batch.audio, experiment.noises) for chain in chains}
    answers: list[Answers] = [{} for _ in prepared.rows]
    decoding = Decoding(experiment.config.max_new_tokens)
    for pairs in group_calls(edits, experiment.noises, noises):
        together = len({label for _, label in pairs}) > 1
        variants = [with_measure(experiment, edits[label][noise], noise, label, together) for noise, label in pairs]
        outputs = generate_edits(lalm, model.variables, batch, variants, decoding, model.microbatch)
        for (noise, label), out in zip(pairs, outputs, strict=True):
            for row, value in enumerate(measured(experiment, prepared, out, noise, label)):
                answers[row][noise, label] = value
    return answers


def group_calls(
    edits: Mapping[str, Mapping[str, Edits]], every: Sequence[str], noises: Sequence[str]
) -> list[list[tuple[str, str]]]:
    """(noise, mitigation) pairs that are answered in one call. edits: of each mitigation, for every noise.

    What depends on the noise is answered noise by noise, together with the unedited model: both share the layers below
    the first edited one. Edits that are one object for all noises, and the unedited model by itself, are measured along
    the bases of all noises in one pass, whatever noises are wanted, so that it has one shape.
    """
    constant = {label for label, by_noise in edits.items() if len({id(edit) for edit in by_noise.values()}) == 1}
    unedited = [label for label, by_noise in edits.items() if not any(by_noise.values())]
    changing = [label for label in edits if label not in constant and label not in unedited]
    calls = [[(noise, label) for noise in every] for label in edits if label in constant and label not in unedited]
    if changing:
        return calls + [[(noise, label) for label in (*unedited, *changing)] for noise in noises]
    return calls + [[(noise, label) for label in unedited for noise in every]] * bool(unedited)


def with_measure(experiment: Experiment, edits: Edits, noise: str, mitigation: str, together: bool) -> Edits:
    """The edits of a mitigation and, where none of them measures SEE, one that does.

    together: beside edits of the activations, so that it is one of strength 0, which takes the same form.
    """
    basis = experiment.basis(noise, mitigation)
    if basis.site not in edits:
        measure = projection(experiment.model, basis, 0.0) if together else measuring(experiment.model, basis)
        return {**edits, **measure}
    if edits[basis.site].v is not None:
        raise ConfigError(f"mitigation {mitigation} edits {basis.site}: SEE must be measured at another `site`")
    return edits


def measured(
    experiment: Experiment, prepared: Prepared, out: Generated, noise: str, mitigation: str
) -> Iterator[Measured]:
    """What came of every row."""
    model, site = experiment.model, experiment.basis(noise, mitigation).site
    see = out.see[site]
    before, after, energy = (
        of_clips(model, site, np.asarray(x, np.float32), prepared) for x in (see.before, see.after, see.energy)
    )
    tapped = experiment.config.site
    pooled = of_clips(model, tapped, np.asarray(out.taps[tapped], np.float32), prepared)
    for row, text in enumerate(model.processor.decode(out.tokens, out.lengths)):
        yield Measured(text, before[:, row], after[:, row], energy[:, row], pooled[:, row])


class CleanAnswers:
    """Questions and clean answers of the last part: they are the same under every noise, so they are made once."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._part: int | None = None
        self._kept: tuple[Questions, list[Answers]] = Questions({}, {}), []

    def __call__(self, unit: Unit) -> tuple[Questions, list[Answers]]:
        if self._part != unit.part:
            questions = read_questions(self.experiment, unit)
            clean: list[Answers] = []
            if questions.items:
                waves = [item.wave for item in questions.items.values()]
                [clean] = answer_versions(self.experiment, unit, questions, [waves], self.experiment.noises)
            self._kept, self._part = (questions, clean), unit.part
        return self._kept


def answer_unit(experiment: Experiment, unit: Unit, clean_answers: CleanAnswers) -> list[Trial]:
    """The trials of a unit: every item clean and at every SNR, under every mitigation."""
    config, entries = experiment.config, experiment.entries[unit.dataset]
    questions, clean = clean_answers(unit)
    failures = dict(questions.failures)
    noisy: dict[int, list[Wave]] = {}
    for place, item in questions.items.items():
        try:
            noise = experiment.sources[unit.noise].clip(place, len(item.wave), config.seed, "test")
            noisy[place] = [mix_at_snr(item.wave, noise, snr).audio for snr in config.snrs]
        except AudioError as error:
            failures[place] = str(error)
    levels = (None, *config.snrs)
    conditions = [(snr, chain.label) for snr in levels for chain in config.chains]
    trials = [
        Trial(unit.dataset, entries[place].task, entries[place].id, unit.noise, snr, label, failed=reason)
        for place, reason in failures.items()
        for snr, label in conditions
    ]
    if not noisy:
        return trials
    waves = [noisy.get(place, [item.wave] * len(config.snrs)) for place, item in questions.items.items()]
    answers = [clean, *answer_versions(experiment, unit, questions, list(zip(*waves, strict=True)), [unit.noise])]
    for condition in conditions:
        for k, (place, item) in enumerate(questions.items.items()):
            if place in noisy:
                of_item = {snr: answers[level][k] for level, snr in enumerate(levels)}
                trials.append(make_trial(experiment, unit, entries[place], item, condition, of_item))
    return trials


def make_trial(
    experiment: Experiment,
    unit: Unit,
    entry: Entry,
    item: Item,
    condition: tuple[float | None, str],
    answers: Mapping[float | None, Answers],
) -> Trial:
    """The trial of an item at one SNR under one mitigation. answers: of the item, at every SNR."""
    (snr, label), noise = condition, unit.noise
    answer, basis = answers[snr][noise, label], experiment.basis(noise, label)
    chain = experiment.mitigations[label]
    cosines = None
    if snr is not None and basis.site == experiment.config.site and chain.basis(noise) and not chain.changes_audio:
        act, deact, act_noise, deact_noise = (
            answers[level][noise, name].pooled for level in (None, snr) for name in (NONE, label)
        )
        similar = cosine_similarities(act, deact, act_noise, deact_noise)
        cosines = {name: rounded([value])[0] for name, value in similar.items() if np.isfinite(value)}
    return Trial(
        dataset=unit.dataset,
        task=entry.task,
        item=entry.id,
        noise=noise,
        snr_db=snr,
        mitigation=label,
        output=answer.output,
        letter=answer_letter(answer.output, item.choices) if item.letter else None,
        right=item.letter or None,
        reference=item.answer if not item.letter and item.answer else None,
        see=rounded([float(basis.mean_see(answer.see))])[0],
        see_after=rounded([float(basis.mean_see(answer.see_after))])[0],
        layers=rounded(answer.see),
        layers_after=rounded(answer.see_after),
        energy=rounded(answer.energy),
        cosines=cosines,
    )


def rounded(values: Sequence[float] | Float[np.ndarray, " n"]) -> tuple[float, ...]:
    """Numbers as a trial keeps them: no more digits than a float32 has."""
    return tuple(float(f"{float(x):.{DIGITS}g}") for x in values)
