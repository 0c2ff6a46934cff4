"""The report of an experiment on made-up answers: sections, numbers, escaping, and nothing from outside the page."""

import dataclasses
import html.parser
import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from seen_jax.errors import ConfigError
from seen_jax.evaluate.metrics import COSINES
from seen_jax.evaluate.tables import Trial, make_tables, to_csv
from seen_jax.report import format as form
from seen_jax.report import sections, style
from seen_jax.report import sections as paper
from seen_jax.report.blocks import Grid, Section, Text, plain
from seen_jax.report.format import MOST_ROWS, NOTHING, Target
from seen_jax.report.players import ExampleClip
from seen_jax.report.sections import model_of_paper, published
from seen_jax.report.write import TABLES, write_report

HOSTILE = "<script>alert('x')</script>|*b* _c_ `d` [e](f) $g$ & \"h\""
NOISES, TASKS, SNRS = ("gauss", HOSTILE), ("music", "transcription"), (-10.0, 10.0, 20.0)
ARMS = ("wiener", "none", "seen")
MINUS = style.minus("-")


def answers(noises=NOISES, tasks=TASKS, items=6, arms=ARMS):
    """More noise changes more answers; SEEN mends one item, wiener breaks one."""
    trials = []
    for noise, task, snr, arm, i in itertools.product(noises, tasks, (None, *SNRS), arms, range(items)):
        wrong = 0 if snr is None else {-10.0: 5, 10.0: 3, 20.0: 1}[snr]
        wrong += (arm == "wiener") - (arm == "seen" and wrong > 0)
        letter = "B" if i < wrong else "A"
        where = {"dataset": HOSTILE, "task": task, "item": f"{task}{i}", "noise": noise}
        where |= {"snr_db": snr, "mitigation": arm}
        if (task, i) == ("music", 5):
            trials.append(Trial(**where, failed=f"damaged {HOSTILE}"))
            continue
        level = 0.01 if snr is None else 0.01 * (1 + wrong)
        kind = {"output": f"say {letter}", "reference": "say a"}
        if task == "music":
            kind = {"output": f"{letter}: x", "letter": letter, "right": "A"}
        measured = {"see": level, "see_after": level / 2, "layers": (level, level), "layers_after": (0.0, 0.0)}
        cosines = dict.fromkeys(COSINES, 0.5) if arm == "seen" and snr is not None else None
        trials.append(Trial(**where, **kind, **measured, energy=(1.0, 2.0), cosines=cosines))
    return trials


def tables_of(trials):
    noises, arms = (list(dict.fromkeys(getattr(t, key) for t in trials)) for key in ("noise", "mitigation"))
    bases = [
        {"noise": noise, "mitigation": arm, "site": "encoder.mlp_act", "ranks": [0, 3], "layers": [1],
         "localised": i == 0, "first_layer": 1 if i == 0 else None, "calibrated": True}
        for i, noise in enumerate(noises) for arm in arms
    ]  # fmt: skip
    diagnoses = pd.DataFrame(
        [(noise, "encoder.mlp_act", "few", "warning", f"too few {HOSTILE}") for noise in noises],
        columns=["noise", "site", "code", "severity", "message"],
    )
    return make_tables(trials) | {"bases": pd.DataFrame(bases), "diagnoses": diagnoses}


def make_example():
    wave = np.zeros(4000, np.float32)
    trials = {t.snr_db: t for t in answers() if (t.mitigation, t.item, t.noise) == ("none", "music0", "gauss")}
    labels = {"clean": trials[None], HOSTILE: trials[-10.0]}
    waves = {"clean": wave, "noisy": wave + 0.1}
    return ExampleClip("music0", "music", HOSTILE, "A", HOSTILE, -10.0, waves, labels, {})


STUDY = Section(f"Study: {HOSTILE}", [Text("lead"), Grid(["a"], [["1"]])])


def make_manifest(name=HOSTILE):
    seen = {"kind": "seen", "site": None, "selection": None, "strength": None}
    steps = {"none": [], "wiener": [{"kind": "denoiser", "method": "wiener", "options": {}}], "seen": [seen]}
    return {
        "identity": {
            "dtype": "float32",
            "noises": [{"spec": n, "name": None, "calibrated": True} for n in NOISES],
            "snrs": list(SNRS),
            "mitigations": [{"name": name, "steps": kinds} for name, kinds in steps.items()],
            "site": "encoder.mlp_act",
            "selection": {"method": "threshold", "delta": 0.1, "noise_alpha": None},
            "strength": 1.0,
            "calibration": {"dataset": {"name": None, "path": HOSTILE}, "clips": 50, "snr_db": 0.0},
            "task_prompts": True,
            "permute_choices": False,
            "seed": 0,
            "batch_size": 4,
            "max_new_tokens": 8,
        },
        "versions": {"jax": "1"},
        "note": f"chosen on {HOSTILE}",
        "device": HOSTILE,
        "model": {"name": name, "family": "f", "fingerprint": "abc", "parameters": 1234567},
        "seconds": {"load": 1.6, "answer": 300.0},
    }


class Page(html.parser.HTMLParser):
    """Tags, links, headings, rows of tables and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids, self.titles, self.rows, self.text = set(), [], [], [], [], ""
        self.lengths = []  # of tables
        self.open = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open = tag
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [(name, value) for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        if tag == "table":
            self.lengths.append(0)
        elif tag == "tr":
            self.rows.append([])
            self.lengths[-1] += 1
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "h2":
            self.titles.append("")

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        if self.open == "style":
            return
        self.text += data
        if self.open in ("td", "th"):
            self.rows[-1][-1] += data
        elif self.open == "h2":
            self.titles[-1] += data


pytestmark = pytest.mark.filterwarnings("ignore:constrained_layout not applied")  # the hostile name is long


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "tables").mkdir()
    tables = tables_of(answers())
    for name, table in tables.items():
        (folder / "tables" / f"{name}.csv").write_text(to_csv(table))
    path = write_report(folder, make_manifest(), tables, [STUDY], [make_example()])
    assert path == folder / "index.html"
    return folder, path.read_text("utf-8"), tables


def test_answers_and_items_are_escaped(tmp_path):
    """Names of items come from files, answers from a model."""
    trials = [dataclasses.replace(t, **({"item": HOSTILE} if t.failed else {"output": HOSTILE})) for t in answers()]
    example = make_example()
    spoken = {name: dataclasses.replace(t, output=HOSTILE) for name, t in example.trials.items()}
    example = example._replace(item=HOSTILE, prompt=HOSTILE, right=HOSTILE, trials=spoken)
    page = write_report(tmp_path, make_manifest(), tables_of(trials), [], [example]).read_text("utf-8")
    assert "<script>" not in page and Page(page).text.count(HOSTILE) > 5


@pytest.fixture
def fast(monkeypatch, tmp_path):
    """Write a report into a folder without rendering its figures; returns its page."""

    def save(figure, folder, name):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.png").write_bytes(b"")
        return folder / f"{name}.png"

    monkeypatch.setattr(style, "save", save)

    def write(tables, manifest=None):
        return Page(write_report(tmp_path, manifest or make_manifest(), tables).read_text("utf-8"))

    return write


def test_page_loads_nothing_and_its_links_lead_somewhere(made):
    folder, text, _ = made
    page = Page(text)
    images = [value for name, value in page.links if name == "src"]
    links = [value for name, value in page.links if name == "href"]
    players = [value for value in images if value.startswith("data:audio/wav;base64,")]
    images = [value for value in images if value not in players]
    assert len(set(players)) == text.count("<audio controls") == 2
    assert len(images) > 9 and all(value.startswith("data:image/png;base64,") for value in images)
    assert len(images) == text.count("<figure>") == len(list((folder / "figures").glob("*.svg")))
    for link in links:
        assert link[1:] in page.ids if link.startswith("#") else (folder / link).is_file()
    assert {f"tables/{name}.csv" for name in TABLES} <= set(links)
    assert len(page.ids) == len(set(page.ids)) == len(page.titles)
    assert not {"script", "link", "iframe", "object"} & page.tags
    assert not re.search(r"https?:|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text and '<meta name="viewport"' in text


def test_texts_are_escaped_in_page_and_markdown(made):
    folder, text, _ = made
    assert HOSTILE in Page(text).text and "<script>" not in text
    markdown = (folder / "report.md").read_text("utf-8")
    parser = MarkdownIt("commonmark").enable("table")
    shown = Page(parser.render(markdown))
    assert HOSTILE in shown.text and "script" not in shown.tags and "em" not in shown.tags and "code" not in shown.tags
    assert shown.titles == Page(text).titles
    assert shown.rows == Page(text).rows
    for name, value in shown.links:
        assert (folder / value).is_file(), (name, value)
    assert sum(name == "src" for name, _ in shown.links) == text.count("<figure>")


@given(st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" ")))
def test_plain_text_survives_markdown(text):
    shown = Page(MarkdownIt("commonmark").enable(["table"]).render("x " + plain(text)))
    assert shown.text.strip() == " ".join(f"x {text}".split()) and shown.tags == {"p"}


def test_no_number_is_printed_that_is_none(made):
    _, text, _ = made
    words = re.findall(r"[a-z]+", Page(text).text.lower())
    assert not {"nan", "inf", "none"} & set(words)
    assert "No figure" not in text


def test_tables_stay_short(fast):
    page = fast(tables_of(answers(noises=[f"n{i}" for i in range(21)])))
    *others, longest = sorted(page.lengths)
    assert len(others) > 10 and max(others) <= 1 + MOST_ROWS  # the longest one is beside the paper
    assert longest == 1 + 1 + 2 * 21 + 3
    header = next(row for row in page.rows if row[:3] == ["task", "noise", "SNRs"])
    assert header[4] == "lowest to highest task"
    assert ["mean", "n0", "3"] in [row[:3] for row in page.rows]


WHERE = {
    "bases": {"Layers and ranks of the bases"},
    "similarities": {"Cosines of activations"},
    "layers": {"SEE of every layer"},
}
CELLS = {"In short", "SEE against GSR", "SEE against SNR", "Mitigations", "Clean damage", "Accuracy and word errors"}
CELLS |= {"Beside the paper", "Failures"}


def test_a_section_is_there_if_its_data_are(fast, made):
    _, text, tables = made
    every = fast(tables).titles
    assert set(every) == {"What was run", *CELLS, *set().union(*WHERE.values())} and len(every) == len(set(every))
    more = set(Page(text).titles)
    assert more - set(every) == {"Listen and compare", STUDY.title, "Files"} and set(every) < more
    for name, titles in WHERE.items():
        fewer = {key: table for key, table in tables.items() if key != name}
        assert set(every) - set(fast(fewer).titles) == titles, name
    assert fast({}).titles == ["What was run"]
    one = tables_of([t for t in answers(tasks=("music",)) if t.mitigation == "none"])
    assert CELLS - set(fast(one).titles) == {"Mitigations", "Clean damage"}


def test_what_was_run(made):
    facts = Page(made[1]).text
    for words in ("1,234,567 parameters", f"chosen on {HOSTILE}", "load 2, answer 300", "clips 50"):
        assert words in facts
    assert "100.0 % of the choices right, 0.0 % word error rate" in facts


def test_diagnoses_are_told_once_with_their_noises(made):
    text = Page(made[1]).text
    assert text.count(f"too few {HOSTILE}") == 1
    assert f"gauss, {HOSTILE} at encoder.mlp_act: too few" in text


def test_numbers_by_hand(made):
    _, text, _ = made
    page = Page(text)
    rows = page.rows
    # music: 5 items, of which 5, 3 and 1 answers change; transcription: 6; SEEN mends one more in each
    changed = {-10.0: (5, 5), 10.0: (3, 3)}
    plain_gsr = sum((5 - m) + (6 - t) for m, t in changed.values()) / 22
    seen_gsr = sum((5 - m + 1) + (6 - t + 1) for m, t in changed.values()) / 22
    assert f"{100 * plain_gsr:.1f} % → {100 * seen_gsr:.1f} %" in page.text
    assert ["nothing", "100.0", "9.1", "45.5", "81.8"] in rows
    assert ["SEEN", "100.0", "27.3", "63.6", "100.0"] in rows
    assert ["SEEN", "≤ 10 dB", "27.3", "45.5", "+18.2"] in [row[:5] for row in rows]
    assert ["SEEN", "wiener", "13.6", "45.5"] in [row[:4] for row in rows]
    assert ["music", "gauss", "3"] in [row[:3] for row in rows]
    baseline = next(row for row in rows if row[:2] == ["music", "gauss"] and len(row) == 9)
    gsr = [1 - n / 5 for n in (5, 3, 1)]  # of the five music items that could be asked, over the SNRs
    assert baseline[7] == f"{np.corrcoef(SNRS, gsr)[0, 1]:+.2f}"
    failed = ["music", f"damaged {HOSTILE}", "1"]
    assert failed in rows and "1 items could not be asked" in page.text
    assert ["wiener", "music", "gauss"] not in [row[:3] for row in rows]
    damage = next(row for row in rows if row[0] == "wiener" and len(row) == 6 and "(" in row[4])
    assert damage[1:4] == ["81.8", "80.0", "83.3"] and damage[5] == "4"


def test_unparseable_answers_are_counted(fast):
    lost = lambda t: (t.task, t.snr_db, t.mitigation, t.failed) == ("music", -10, "seen", None)
    trials = [dataclasses.replace(t, letter=None, output="") if lost(t) else t for t in answers()]
    page = fast(tables_of(trials))
    assert ["SEEN", "≤ 10 dB", "44", "20", "10", "10"] in page.rows
    assert ["nothing", "≤ 10 dB", "44", "20", "0", "0"] in page.rows
    assert "nonsense" in page.text


def test_the_paper_has_a_column_of_its_own(fast, monkeypatch):
    found = tables_of(answers(noises=("gauss", "crowd", "wind")))
    page = fast(found, make_manifest("Qwen/Qwen2.5-Omni-7B"))
    rows = {(row[0], row[1]): row[2:] for row in page.rows if len(row) == 5}
    see = {noise: rows["SEE, clean → noisiest (%)", noise] for noise in ("gauss", "crowd", "wind")}
    assert [see[n][1] for n in see] == ["0.35 → 1.63", "1.32 → 4.79", NOTHING]
    assert [see[n][2] for n in see] == [published()["source"]] * 2 + [NOTHING]
    assert see["gauss"][0] == "1.00 → 6.00"
    assert rows["GSR of clean audio with SEEN", "music"][:2] == ["100.0 %", "97.7 %"]
    assert rows["GSR of clean audio with SEEN", "transcription"][1] == NOTHING
    assert rows["ranks of the kept layers", "crowd"][:2] == ["3", "5 7 6 3 4 13 15 11 6 (layers 23 to 31)"]
    assert rows["ranks of the kept layers", "wind"][:2] == ["3", NOTHING]
    elsewhere = make_manifest("Qwen/Qwen2.5-Omni-7B")
    elsewhere["identity"]["site"] = "encoder.resid"
    rows = {(row[0], row[1]): row[2:] for row in fast(found, elsewhere).rows if len(row) == 5}
    for what in ("SEE, clean → noisiest (%)", "ranks of the kept layers"):
        assert rows[what, "gauss"][1:] == [NOTHING, NOTHING]
    other = fast(found, make_manifest("seen-tiny"))
    theirs = [row[3] for row in other.rows if len(row) == 5 and row[0].startswith(("GSR of clean", "ranks"))]
    assert theirs and set(theirs) == {NOTHING}
    changed = json.loads(json.dumps(published()).replace("0.0035", "0.77").replace("-0.98", "0.11"))
    monkeypatch.setattr(paper, "published", lambda: changed)
    after = fast(found, make_manifest("Qwen/Qwen2.5-Omni-7B"))
    moved = [(a, b) for a, b in zip(page.rows, after.rows, strict=True) if a != b]
    assert len(moved) == 2 and all(a[:3] + a[4:] == b[:3] + b[4:] for a, b in moved)


def test_published_figures():
    paper_ = published()
    assert {name: [round(100 * x, 2) for x in pair] for name, pair in paper_["see"].items()} == {
        "gauss": [0.35, 1.63], "crowd": [1.32, 4.79], "machine": [1.30, 6.74], "traffic": [1.17, 4.14],
    }  # fmt: skip
    for model, ranks in paper_["ranks"].items():
        first, last = map(int, paper_["layers"][model].split(" to "))
        assert all(len(own) == last - first + 1 for own in ranks.values())
    names = {"openbmb/MiniCPM-o-2_6": "MiniCPM-o-2.6", "/data/Step-Audio-2-mini": "Step-Audio-2-mini"}
    names |= {"Qwen/Qwen2.5-Omni-3B": None, "seen-tiny": None}
    assert {name: model_of_paper(name, paper_) for name in names} == names


def test_pooled_counts_every_item_the_same():
    cells = pd.DataFrame({"gsr": [1.0, 0.5, np.nan], "items": [1, 3, 9], "noise": ["a", "a", "b"]})
    assert form.pooled(cells, "gsr") == 2.5 / 4
    assert np.isnan(form.pooled(cells[2:], "gsr"))
    assert form.pooled_by(cells, "gsr", ["noise"]).fillna(-1).to_dict() == {"a": 2.5 / 4, "b": -1}


def test_crossed_tables_keep_the_order_of_their_rows():
    values = pd.Series({("b", "y"): 0.5, ("b", "x"): np.nan, ("a", "x"): 0.25}).rename_axis(["name", None])
    found = form.crossed(values, form.share)
    assert found.header == ["name", "y", "x"]
    assert found.rows == [["b", "50.0", NOTHING], ["a", NOTHING, "25.0"]]


def test_a_pair_of_mitigations_is_there_in_both_orders(made):
    pairs = sections.both_directions(made[2]["comparisons"]).to_dict("index")
    one, other = (pairs[*names, "clean"] for names in (("wiener", "none"), ("none", "wiener")))
    assert one["difference"] == -other["difference"] < 0 and (one["low"], one["high"]) == (
        -other["high"],
        -other["low"],
    )
    assert one["gsr"] == other["gsr_against"] < one["gsr_against"] == other["gsr"]
    assert (one["only_mitigation"], one["only_against"]) == (other["only_against"], other["only_mitigation"]) == (0, 4)


@pytest.mark.parametrize(
    ("write", "x", "text"),
    [
        (form.points, -0.0001, "0.0"),
        (form.points, 0.2, "+20.0"),
        (form.points, -0.1, f"{MINUS}10.0"),
        (form.points, 0.0, "0.0"),
        (form.share, None, NOTHING),
        (form.see, 0.01234, "1.23"),
        (style.level, -5.0, f"{MINUS}5 dB"),
        (form.p_value, 0.0004, "< 0.001"),
        (form.plain, [1, 0], "1 0"),
        (form.share, float("nan"), NOTHING),
        (form.plain, pd.NA, NOTHING),
        (form.plain, [], NOTHING),
        (form.plain, True, "yes"),
        (form.plain, np.float64(-0.5), f"{MINUS}0.5"),
    ],
)
def test_numbers_as_text(write, x, text):
    assert write(x) == text


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        write_report(tmp_path / "file", make_manifest(), {})


def test_figures_without_data_say_why(tmp_path):
    def draw():
        raise ConfigError("there is nothing to draw")

    (block,) = Target(tmp_path).picture("name", "A caption.", draw)
    assert block == Text("No figure (A caption): there is nothing to draw", note=True)
