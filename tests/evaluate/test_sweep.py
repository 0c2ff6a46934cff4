"""The sweep and its table on a tiny model with random weights."""

import dataclasses

import jax
import numpy as np
import pytest
from evaluate_models import random_model

import seen_jax
from seen_jax.data.items import load_clips
from seen_jax.errors import AudioError, ConfigError
from seen_jax.evaluate.sweep import common_rank, noises_for, sweep
from seen_jax.evaluate.table import ALL, NONE, SEEN, cells, conditions, correlations, layer_means
from seen_jax.models.generate import Decoding, _generate
from seen_jax.subspace import Selection

NOISES, SNRS = ("white", "engine"), (0.0, 60.0)


@pytest.fixture(scope="module")
def items():
    return [item for task in ("transcription", "music") for item in load_clips("demo", 3) if item.task == task][:5]


@pytest.fixture(scope="module")
def bases():
    model, clips = random_model(), load_clips("calibration", 2)
    clean = [clip.wave for clip in clips]
    pure = {noise: noises_for(noise, clean, "calibrate", 0) for noise in NOISES}
    found = {noise: seen_jax.calibrate(model, clean, pure[noise], batch_size=4) for noise in NOISES}
    ranks = {"white": 4, "engine": 2}
    return {n: c.select(Selection(method="complement", layers="all")).truncate(ranks[n]) for n, c in found.items()}


@pytest.fixture(scope="module")
def rows(items, bases):
    return sweep(random_model(), items, NOISES, SNRS, bases, batch_size=4, max_new_tokens=4)


def test_every_item_in_every_condition_once(rows, items):
    keys = [(r.noise, r.snr_db, r.mitigation, r.item) for r in rows]
    expected = [(n, s, m, i.id) for n in NOISES for s in (None, *SNRS) for m in (NONE, SEEN) for i in items]
    assert keys == expected
    assert all(0 < r.see < 1 and len(r.layers) == 3 for r in rows)


def test_answers_and_see_are_those_of_the_public_functions(rows, items, bases):
    model = random_model()
    own = [r for r in rows if (r.noise, r.snr_db) == ("engine", None)]
    waves, prompts = [item.wave for item in items], [item.prompt for item in items]
    scores = seen_jax.score(model, waves, bases["engine"])
    np.testing.assert_allclose([r.see for r in own[:5]], [s.see for s in scores], atol=1e-6)
    np.testing.assert_allclose([r.layers for r in own[:5]], [s.per_layer for s in scores], atol=1e-6)
    decoding = Decoding(4)
    for part, basis in ((own[:5], None), (own[5:], bases["engine"])):
        answers = seen_jax.generate(model, waves, prompts, basis, decoding=decoding, batch_size=2)
        assert [r.output for r in part] == [a.text for a in answers]


def test_the_result_does_not_depend_on_the_batch_size(rows, items, bases):
    for size in (1, 5, 16):
        other = sweep(random_model(), items, NOISES[:1], SNRS[:1], bases, batch_size=size, max_new_tokens=4)
        own = [r for r in rows if r.noise == "white" and r.snr_db != 60]
        assert [r.output for r in other] == [r.output for r in own]
        np.testing.assert_allclose([r.see for r in other], [r.see for r in own], atol=1e-6)


def test_strength_0_is_nothing_and_1_leaves_no_see(rows, items, bases):
    off = cells(sweep(random_model(), items, NOISES[:1], SNRS[:1], bases, 0.0, batch_size=4, max_new_tokens=4))
    plain, seen = off["white", 0.0, NONE], off["white", 0.0, SEEN]
    assert [(r.output, r.layers, r.see_after) for r in plain.values()] == [
        (r.output, r.layers, r.see) for r in seen.values()
    ]
    on = cells(rows)
    assert max(r.see_after for r in on["white", 0.0, SEEN].values()) < 1e-6
    assert all(r.see_after == r.see for r in on["white", 0.0, NONE].values())
    assert any(a.output != b.output for a, b in zip(plain.values(), on["white", 0.0, SEEN].values(), strict=True))


def test_one_program_serves_all_noises_snrs_and_strengths(items, bases):
    same = [dataclasses.replace(items[0], id=str(i)) for i in range(3)]
    jax.clear_caches()
    sweep(random_model(), same, NOISES, SNRS, bases, batch_size=2, max_new_tokens=4)
    assert _generate._cache_size() == 1


def test_noise_is_drawn_per_clip_and_the_same_at_all_snrs(items, bases):
    waves = [item.wave for item in items]
    a, b = noises_for("white", waves, "x", 0), noises_for("white", waves, "x", 0)
    assert all(np.array_equal(p, q) and len(p) == len(w) for p, q, w in zip(a, b, waves, strict=True))
    n = min(map(len, waves))
    assert abs(np.corrcoef(a[0][:n], a[1][:n])[0, 1]) < 0.05
    for other in (noises_for("white", waves, "y", 0), noises_for("white", waves, "x", 1)):
        assert abs(np.corrcoef(a[0], other[0])[0, 1]) < 0.05


def test_progress_and_errors(items, bases):
    seen = []
    args = (random_model(), items[:2], ["white"], [60.0], bases)
    sweep(*args, batch_size=2, max_new_tokens=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 8), (8, 8)]  # both answers to what was heard come together
    with pytest.raises(ConfigError, match="no basis for the noises rain"):
        sweep(random_model(), items, ["rain"], [0.0], bases)
    with pytest.raises(ConfigError, match="at least one item"):
        sweep(random_model(), [], ["white"], [0.0], bases)
    with pytest.raises(ConfigError, match="only once"):
        sweep(random_model(), items, ["white"], [0.0, 0.0], bases)
    with pytest.raises(ConfigError, match="same id"):
        sweep(random_model(), [items[0], items[0]], ["white"], [0.0], bases)
    with pytest.raises(ConfigError, match="batch size"):
        sweep(*args, batch_size=0)
    silent = dataclasses.replace(items[0], id="quiet", wave=np.zeros(1600, np.float32))
    with pytest.raises(AudioError, match="item quiet"):
        sweep(random_model(), [silent], ["white"], [0.0], bases)


def test_common_rank_changes_no_basis(bases):
    padded = common_rank(bases)
    assert {basis.q.shape[-1] for basis in padded.values()} == {4}
    np.testing.assert_array_equal(padded["engine"].q[..., :2], bases["engine"].q)
    assert not np.asarray(padded["engine"].q[..., 2:]).any()


def test_conditions_summarise_the_rows(rows, items):
    table = conditions(rows, items)
    assert len(table) == 2 * 3 * 2 * 3  # noises, levels, mitigations; all tasks and two of them
    by_key = {(c["noise"], c["snr_db"], c["mitigation"], c["task"]): c for c in table}
    by_cell = cells(rows)
    for (noise, snr, mitigation), cell in by_cell.items():
        own = by_key[noise, snr, mitigation, ALL]
        clean = by_cell[noise, None, NONE]
        hits = [cell[i.id].output.strip() == clean[i.id].output.strip() for i in items]
        assert own["gsr"] == pytest.approx(np.mean(hits))
        assert own["gsr_low"] <= own["gsr"] <= own["gsr_high"]
        assert own["see"] == pytest.approx(np.mean([r.see for r in cell.values()]))
        assert own["items"] == 5
        assert (own["fixed"] is None) == (mitigation == NONE)
    assert by_key["white", None, NONE, ALL]["gsr"] == 1
    assert by_key["white", None, NONE, "transcription"]["accuracy"] is None
    assert by_key["white", None, NONE, "transcription"]["wer_clean"] == 0
    assert by_key["white", None, NONE, "music"]["wer"] is None
    assert by_key["white", None, NONE, "music"]["items"] == 2


def test_layer_means_and_correlations(rows, items):
    layers = layer_means(rows)
    assert [(c["noise"], c["snr_db"]) for c in layers] == [(n, s) for n in NOISES for s in (None, *SNRS)]
    own = [r.layers for r in rows if (r.noise, r.snr_db, r.mitigation) == ("engine", 0.0, NONE)]
    np.testing.assert_allclose(layers[4]["see"], np.mean(own, axis=0))
    found = correlations(conditions(rows, items))
    assert [c["noise"] for c in found] == [*NOISES, ALL]
    assert found[0]["pearson"] is None  # two cells are no correlation
    assert found[2]["cells"] == 4
