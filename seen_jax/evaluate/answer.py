"""Answers of a part of a data set under every mitigation, clean and at every SNR of a noise."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from seen_jax.audio.mix import mix_at_snr
from seen_jax.data.items import Item
from seen_jax.data.letters import answer_letter
from seen_jax.data.permute import permuted_choices
from seen_jax.edits import measuring, projection
from seen_jax.errors import AudioError, ConfigError
from seen_jax.evaluate.metrics import cosine_similarities
from seen_jax.evaluate.prepare import Experiment, Unit, check_length, request_of
from seen_jax.evaluate.tables import Trial
from seen_jax.files import escaped
from seen_jax.mitigations.base import NONE, Wave
from seen_jax.mitigations.chain import Chain
from seen_jax.models.batching import Group, Prepared, filled, run_batches
from seen_jax.models.edits import Edits, lasting
from seen_jax.models.generate import Decoding
from seen_jax.models.generate_edits import generate_edits
from seen_jax.models.pooling import of_clips
from seen_jax.models.sites import Taps

NOT_FINITE = "the model's numbers are not finite (NaN or infinite): its weights are damaged, or its dtype is too narrow"


class Measured(NamedTuple):
    """What came of one clip under one mitigation."""

    finite: bool  # whether all numbers are: NaN in a model, or values too large for its dtype, make no answer
    output: str
    see: Float[np.ndarray, " layers"]  # before the edit
    see_after: Float[np.ndarray, " layers"]
    energy: Float[np.ndarray, " layers"]  # raw projected energy before the edit
    pooled: Float[np.ndarray, "layers width"]  # mean activations at the experiment's site, after the edit


Answers = dict[tuple[str, str], Measured]  # of a noise and a mitigation


class Clean(NamedTuple):
    """A part of a data set without noise."""

    items: dict[int, Item]  # those that can be read, by their place in the data set
    failures: dict[int, str]  # why the others cannot be
    answers: list[Answers]  # of each item


def answer_clean(experiment: Experiment, unit: Unit) -> Clean:
    """What all units of a part have in common. A file that cannot be read fails its own item alone."""
    config, entries = experiment.config, experiment.entries[unit.dataset]
    items: dict[int, Item] = {}
    failures = {}
    for place in unit.places:
        try:
            check_length(entries[place], experiment.model)
            item = entries[place].item()
            experiment.model.processor.checked(item.wave)
        except AudioError as error:
            failures[place] = escaped(str(error))
            continue
        permute = config.permute_choices and item.choices
        items[place] = permuted_choices(item, config.seed) if permute else item
    waves = [item.wave for item in items.values()]
    [answers] = answer_versions(experiment, unit, items, [waves], experiment.noises) if items else [[]]
    return Clean(items, failures, answers)


def answer_versions(
    experiment: Experiment, unit: Unit, items: Mapping[int, Item], versions: list[Sequence[Wave]], noises: Sequence[str]
) -> list[list[Answers]]:
    """[version][item]: the answers under every mitigation to some versions of the audio of all items. noises: whose
    bases SEEN removes. Mitigations that give the model the same audio share a batch."""
    entries, model = experiment.entries[unit.dataset], experiment.model
    chains: dict[str, list[Chain]] = {}
    for config_chain in experiment.config.chains:
        chains.setdefault(config_chain.audio_key, []).append(experiment.mitigations[config_chain.label])
    jobs = list(itertools.product(versions, chains.values()))
    requests = [request_of(experiment, entries[place], item) for place, item in items.items()]
    count, size = len(requests), min(experiment.config.batch_size, len(entries))
    indices = [list(range(job * count, (job + 1) * count)) for job in range(len(jobs))]
    groups = [Group(of_job, filled(of_job, size, model.rows), unit.bucket) for of_job in indices]

    def hear(index: int) -> Wave:
        waves, alike = jobs[index // count]
        return alike[0].hear(waves[index % count])

    run = lambda prepared: measure(experiment, prepared, jobs[prepared.rows[0] // count][1], noises)
    answers = run_batches(model, requests * len(jobs), run, groups, hear)
    merged: list[list[Answers]] = [[{} for _ in requests] for _ in versions]
    for (job, k), part in zip(itertools.product(range(len(jobs)), range(count)), answers, strict=True):
        merged[job // len(chains)][k] |= part
    return merged


def measure(
    experiment: Experiment, prepared: Prepared, chains: Sequence[Chain], noises: Sequence[str]
) -> list[Answers]:
    """The answers of a batch under some mitigations, with SEE and pooled activations from the same pass."""
    config, model, batch = experiment.config, experiment.model, prepared.batch
    lalm = model.tapped(Taps((config.site,)))
    edits = {chain.label: chain.edits(batch.audio, experiment.noises) for chain in chains}
    answers: list[Answers] = [{} for _ in prepared.rows]
    decoding = Decoding(config.max_new_tokens)
    for pairs in group_calls(edits, experiment.noises, noises):
        together = len({label for _, label in pairs}) > 1
        variants = [with_measure(experiment, edits[label][noise], noise, label, together) for noise, label in pairs]
        outputs = generate_edits(lalm, model.variables, batch, variants, decoding, model.microbatch)
        for (noise, label), out in zip(pairs, outputs, strict=True):
            see, pooled, site = out.see, out.taps[config.site], experiment.basis(noise, label).site
            per_row = (see[site].before, see[site].after, see[site].energy)
            arrays = [of_clips(model, site, np.asarray(x, np.float32), prepared) for x in per_row]
            arrays.append(of_clips(model, config.site, np.asarray(pooled, np.float32), prepared))
            for row, text in enumerate(model.processor.decode(out.tokens, out.lengths)):
                of_row = [values[:, row] for values in arrays]
                finite = bool(out.finite[row]) and all(np.isfinite(values).all() for values in of_row)
                answers[row][noise, label] = Measured(finite, text, *of_row)
    return answers


def group_calls(
    edits: Mapping[str, Mapping[str, Edits]], every: Sequence[str], noises: Sequence[str]
) -> list[list[tuple[str, str]]]:
    """(noise, mitigation) pairs that are answered in one call. edits: of each mitigation, for every noise. What
    depends on the noise is answered noise by noise, together with the unedited model: both share the layers below
    the first edited one. Edits that are one object for all noises, and the unedited model by itself, are measured
    along the bases of all noises in one pass, whatever noises are wanted, so that it has one shape."""
    constant = {label for label, by_noise in edits.items() if len({id(edit) for edit in by_noise.values()}) == 1}
    unedited = [label for label, by_noise in edits.items() if not any(by_noise.values())]
    edited = [label for label in edits if label not in unedited]
    changing = [label for label in edited if label not in constant]
    calls = [[(noise, label) for noise in every] for label in edited if label in constant]
    if changing:
        return calls + [[(noise, label) for label in (*unedited, *changing)] for noise in noises]
    return calls + [[(noise, label) for label in unedited for noise in every]] * bool(unedited)


def with_measure(experiment: Experiment, edits: Edits, noise: str, mitigation: str, together: bool) -> Edits:
    """The edits of a mitigation and, where none of them measures SEE, one that does. together: beside edits of the
    activations, so that it is one of strength 0, which takes the same form."""
    basis = experiment.basis(noise, mitigation)
    if basis.site not in edits:
        measure = projection(experiment.model, basis, 0.0) if together else measuring(experiment.model, basis)
        return {**edits, **measure}
    if (edit := lasting(edits).get(basis.site)) is None or edit.v is not None:
        raise ConfigError(f"mitigation {mitigation} edits {basis.site}: SEE must be measured at another `site`")
    return edits


def answer_unit(experiment: Experiment, unit: Unit, clean: Clean) -> list[Trial]:
    """The trials of a unit: every item clean and at every SNR, under every mitigation. clean: of `answer_clean`."""
    config, entries = experiment.config, experiment.entries[unit.dataset]
    failures = dict(clean.failures)
    noisy: dict[int, list[Wave]] = {}
    for place, item in clean.items.items():
        try:
            noise = experiment.sources[unit.noise].clip(place, len(item.wave), config.seed, "test")
            noisy[place] = [mix_at_snr(item.wave, noise, snr).audio for snr in config.snrs]
        except AudioError as error:
            failures[place] = escaped(str(error))
    levels = (None, *config.snrs)
    conditions = [(snr, chain.label) for snr in levels for chain in config.chains]
    trials = [
        Trial(unit.dataset, entries[place].task, entries[place].id, unit.noise, snr, label, failed=reason)
        for place, reason in failures.items()
        for snr, label in conditions
    ]
    if not noisy:
        return trials
    waves = [noisy.get(place, [item.wave] * len(config.snrs)) for place, item in clean.items.items()]
    versions: list[Sequence[Wave]] = list(zip(*waves, strict=True))
    answers = [clean.answers, *answer_versions(experiment, unit, clean.items, versions, [unit.noise])]
    for condition in conditions:
        for k, (place, item) in enumerate(clean.items.items()):
            if place in noisy:
                of_item = {snr: answers[level][k] for level, snr in enumerate(levels)}
                trials.append(make_trial(experiment, unit, item, condition, of_item))
    return trials


def make_trial(
    experiment: Experiment, unit: Unit, item: Item, condition: tuple[float | None, str], answers: Mapping[Any, Answers]
) -> Trial:
    """The trial of an item at one SNR under one mitigation. answers: of the item, at every SNR."""
    (snr, label), noise = condition, unit.noise
    answer, basis = answers[snr][noise, label], experiment.basis(noise, label)
    if not answer.finite:
        return Trial(unit.dataset, item.task, item.id, noise, snr, label, failed=NOT_FINITE)
    chain = experiment.mitigations[label]
    cosines = None
    if snr is not None and basis.site == experiment.config.site and chain.basis(noise) and not chain.changes_audio:
        pooled = [answers[level][noise, name].pooled for level in (None, snr) for name in (NONE, label)]
        cosines = {name: rounded(x) for name, x in cosine_similarities(*pooled).items() if np.isfinite(x)}
    letter = answer_letter(answer.output, item.choices) if item.letter else None
    reference = item.answer if not item.letter and item.answer else None
    texts = (answer.output, letter, item.letter or None, reference)
    see, see_after = (rounded(basis.mean_see(values)) for values in (answer.see, answer.see_after))
    layers: Any = {"layers": answer.see, "layers_after": answer.see_after, "energy": answer.energy}
    layers = {name: tuple(map(rounded, values)) for name, values in layers.items()}
    condition_of_item = (unit.dataset, item.task, item.id, noise, snr, label)
    return Trial(*condition_of_item, *texts, see, see_after, **layers, cosines=cosines)


def rounded(x: Any) -> float:
    """A number with the digits of a float32, which is all that a trial keeps."""
    return float(f"{float(x):.7g}")
