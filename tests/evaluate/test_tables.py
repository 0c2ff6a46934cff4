"""Tables of trials against values worked out by hand."""

import io
import itertools
import random

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from trials_support import trial

from seen_jax.errors import ConfigError
from seen_jax.evaluate import metrics
from seen_jax.evaluate.tables import ABOVE, CLEAN, UP_TO, band, make_tables, to_csv


def row(table, **wanted):
    """The one row of a table that has these values; None: missing."""
    for key, value in wanted.items():
        table = table[table[key].isna() if value is None else table[key] == value]
    assert len(table) == 1
    return table.iloc[0]


def choices(answers, right="AAAA", **other):
    """Trials of one condition, an item per letter; "-" names none."""
    letters = [None if a == "-" else a for a in answers]
    return [
        trial(str(i), output=f"{a}: x", letter=letter, right=r, **other)
        for i, (a, letter, r) in enumerate(zip(answers, letters, right, strict=True))
    ]


CHOICES = [
    *choices("AABA"),
    *choices("ABB-", snr=0.0),
    *choices("AABC", mitigation="seen"),
    *choices("BABA", snr=0.0, mitigation="seen", see=0.4, see_after=0.0),
]


def test_scores_of_choices_by_hand():
    cells = make_tables(CHOICES)["conditions"]
    assert list(cells["mitigation"]) == ["none", "seen"] * 2
    noisy, seen = (row(cells, snr_db=0.0, mitigation=m) for m in ("none", "seen"))
    assert tuple(noisy[["gsr", "gsr_low", "gsr_high"]]) == metrics.wilson(2, 4)
    assert tuple(noisy[["accuracy", "accuracy_low", "accuracy_high"]]) == metrics.wilson(1, 4)
    assert noisy["influence"] == 0.5 and noisy["unparseable"] == 1 and pd.isna(noisy["fixed"])
    assert (seen["gsr"], seen["accuracy"]) == (0.75, 0.5)
    assert (seen["fixed"], seen["broken"], seen["fixed_truth"], seen["broken_truth"]) == (2, 1, 2, 1)
    assert (seen["see"], seen["see_after"], seen["energy"]) == (0.4, 0.0, 2.0)
    clean = row(cells, snr_db=None, mitigation="seen")
    assert (clean["gsr"], clean["broken"], clean["influence"]) == (0.75, 1, 0)
    assert cells[["wer", "wer_clean"]].isna().all(axis=None)


def test_answers_are_compared_without_case_and_punctuation():
    same = [trial(output="The cat."), trial(snr=0.0, output="the CAT")]
    assert row(make_tables(same)["conditions"], snr_db=0.0)["gsr"] == 1


@pytest.mark.parametrize(
    ("references", "outputs", "expected"),
    [
        (["a b", "c d e f"], ["a b", "c x e"], 2 / 6),  # pooled over words, not a mean of rates
        (["", ""], ["", ""], 0.0),
        ([""], ["noise"], 1.0),
        (["a b", ""], ["a b", "c"], 1 / 2),
    ],
)
def test_word_error_rates(references, outputs, expected):
    rows = [trial(str(i), output=o, reference=r) for i, (o, r) in enumerate(zip(outputs, references, strict=True))]
    rows += [trial(str(i), snr=0.0, output="p q", reference=r) for i, r in enumerate(references)]
    cells = make_tables(rows)["conditions"]
    clean, noisy = (row(cells, snr_db=snr) for snr in (None, 0.0))
    assert clean["wer"] == pytest.approx(expected) and clean["wer_clean"] == 0
    words = sum(len(output.split()) for output in outputs)
    errors = sum(max(2, len(output.split())) for output in outputs)
    assert noisy["wer_clean"] == pytest.approx(errors / words if words else 1.0)
    assert pd.isna(clean["accuracy"]) and pd.isna(clean["unparseable"])


def test_items_that_could_not_be_asked_are_counted_and_left_out():
    broken = [trial("9", snr, m, right="A", failed="damaged") for snr in (None, 0.0) for m in ("none", "seen")]
    tables = make_tables([*CHOICES, *broken])
    plain = make_tables(CHOICES)
    assert (tables["conditions"]["failed"] == 1).all() and (tables["conditions"]["items"] == 4).all()
    same = tables["conditions"].drop(columns="failed"), plain["conditions"].drop(columns="failed")
    pd.testing.assert_frame_equal(*same)
    for name in ("comparisons", "overall", "layers", "answers"):
        pd.testing.assert_frame_equal(tables[name], plain[name])
    assert tables["failures"].to_dict("records") == [
        {"dataset": "d", "task": "music", "item": "9", "noise": "rain", "why": "damaged"}
    ]
    alone = make_tables(broken)["conditions"]
    assert (alone["items"] == 0).all() and alone[["gsr", "accuracy", "see", "fixed", "influence"]].isna().all(axis=None)


def test_correlations_and_what_the_snr_alone_gives():
    snrs, sees, kept = (-10.0, 0.0, 10.0, 30.0), (0.4, 0.3, 0.1, 0.05), (0, 1, 3, 4)
    rows = [trial(str(i), noise=noise) for noise in ("rain", "wind") for i in range(4)]
    for noise, (snr, see, n) in itertools.product(("rain", "wind"), zip(snrs, sees, kept, strict=True)):
        rows += [trial(str(i), snr, output="a" if i < n else "b", see=see, noise=noise) for i in range(4)]
    table = make_tables(rows)["correlations"]
    assert list(table["noise"]) == ["rain", "wind", "all"] and list(table["cells"]) == [4, 4, 8]
    gsr = np.array(kept) / 4
    one = row(table, noise="rain")
    assert one["pearson"] == pytest.approx(scipy.stats.pearsonr(sees, gsr).statistic)
    assert -1 <= one["pearson_low"] <= one["pearson"] <= one["pearson_high"] < 0
    assert one["spearman"] == pytest.approx(-1)
    assert one["pearson_snr"] == pytest.approx(scipy.stats.pearsonr(snrs, gsr).statistic)
    share = [1 / (1 + 10 ** (snr / 20)) for snr in snrs]
    assert one["pearson_share"] == pytest.approx(scipy.stats.pearsonr(share, gsr).statistic)
    assert (one["spearman_snr"], one["spearman_share"]) == pytest.approx((1, -1))
    assert row(table, noise="all")["pearson_snr"] == pytest.approx(one["pearson_snr"])
    empty = make_tables([trial(), trial(snr=0.0), trial(snr=5.0)])["correlations"]
    assert empty[["pearson", "pearson_snr"]].isna().all(axis=None)


def test_correlations_of_a_noise_pool_the_items_of_all_tasks():
    snrs, sees, kept = (-10.0, 0.0, 10.0), {"music": (0.4, 0.3, 0.1), "sound": (0.2, 0.2, 0.1)}, (0, 2, 3)
    rows = []
    for task, count in (("music", 3), ("sound", 1)):
        names = [f"{task}{i}" for i in range(count)]
        rows += [trial(name, task=task) for name in names]
        for snr, see, n in zip(snrs, sees[task], kept, strict=True):
            rows += [trial(x, snr, task=task, see=see, output="a" if i < n else "b") for i, x in enumerate(names)]
    table = make_tables(rows)["correlations"]
    assert list(table["task"]) == ["music", "sound", "all", "all"] and list(table["cells"]) == [3, 3, 3, 6]
    assert list(table["noise"])[-2:] == [table["noise"][0], "all"]
    see = [(3 * a + b) / 4 for a, b in zip(*sees.values(), strict=True)]
    assert table["pearson"][2] == pytest.approx(scipy.stats.pearsonr(see, [0, 3 / 4, 1]).statistic)


def test_bands():
    snrs = pd.Series([np.nan, -10.0, 10.0, 20.0])
    assert list(band(snrs)) == [CLEAN, UP_TO, UP_TO, ABOVE]


def test_comparisons_on_the_same_trials():
    rows = [*CHOICES, *choices("AAAA", mitigation="alpha"), *choices("ABBA", snr=0.0, mitigation="alpha")]
    rows += [*choices("ABAA", snr=20.0), *choices("AABA", snr=20.0, mitigation="seen")]  # alpha was not asked at 20 dB
    table = make_tables(rows)["comparisons"]
    pairs = table[["mitigation", "against"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["alpha", "none"], ["seen", "none"], ["seen", "alpha"]]  # nothing is always the first
    c = row(table, mitigation="seen", against="none", group=UP_TO)
    assert (c["answers"], c["gsr"], c["gsr_against"], c["difference"]) == (4, 0.75, 0.5, 0.25)
    assert (c["only_mitigation"], c["only_against"], c["p"]) == (2, 1, 1.0)
    assert c["low"] < 0 < c["high"]
    groups = table[(table["mitigation"] == "seen") & (table["against"] == "none")]["group"]
    assert list(groups) == [CLEAN, UP_TO, ABOVE, "0 dB", "20 dB", "rain <= 10 dB"]
    assert ABOVE not in set(table[table["mitigation"] == "alpha"]["group"])


def test_overall_pools_tasks_and_noises():
    more = [*choices("AABA", noise="hum"), *choices("AABA", snr=0.0, noise="hum")]
    table = make_tables([*CHOICES, *more, trial("t"), trial("t", 0.0, output="b")])["overall"]
    one = row(table, mitigation="none", snr_db=0.0)
    assert (one["answers"], one["gsr"]) == (9, pytest.approx(6 / 9)) and one["gsr_low"] < one["gsr"] < one["gsr_high"]
    assert row(table, mitigation="seen", snr_db=None)["gsr"] == 0.75


def test_layers_and_similarities():
    cosines = dict.fromkeys(metrics.COSINES, 0.5)
    rows = [trial(), trial("1", layers=(0.3, 0.5)), trial(snr=0.0), trial("1", 0.0)]
    rows += [trial(snr=0.0, mitigation="seen", cosines=cosines)]
    rows += [trial("1", 0.0, "seen", cosines={"act-deact": 1.0})]
    tables = make_tables(rows)
    assert row(tables["layers"], snr_db=None, layer=1)["see"] == pytest.approx(0.4)
    (one,) = tables["similarities"].to_dict("records")
    assert (one["act-deact"], one["act-act_noise"], one["mitigation"]) == (0.75, 0.5, "seen")


def test_order_of_trials_does_not_matter():
    rows = [*CHOICES, *choices("AABA", noise="hum"), trial("t", reference="a b"), trial("t", 5.0, reference="a b")]
    tables = make_tables(rows)
    shuffled = random.Random(0).sample(rows, len(rows))
    assert {k: to_csv(t) for k, t in make_tables(shuffled).items()} == {k: to_csv(t) for k, t in tables.items()}


def test_no_trials_make_empty_tables():
    assert all(table.empty for table in make_tables([]).values())


def test_two_trials_under_one_condition_are_refused():
    with pytest.raises(ConfigError, match=r"item 3 was answered twice.*rain, 0 dB, none"):
        make_tables([*CHOICES, *choices("----", snr=0.0)[3:]])


def test_csv():
    table = pd.DataFrame({"x": [1 / 3, np.nan], "ranks": [[1, 2], []], "ok": [True, None]})
    text = to_csv(table)
    assert text.splitlines() == ["x,ranks,ok", f'{1 / 3!r},"[1, 2]",True', ",[],"]
    assert pd.read_csv(io.StringIO(text))["x"][0] == 1 / 3
