"""The report of an experiment on made-up answers: sections, numbers, escaping, and nothing from outside the page."""

import html.parser
import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from seen_jax.errors import ConfigError
from seen_jax.evaluate import tables
from seen_jax.evaluate.report import MINUS, NOTHING
from seen_jax.report import figures as plots
from seen_jax.report import format as paper_parts
from seen_jax.report import published as paper_published
from seen_jax.report import write as paper
from seen_jax.report.blocks import plain
from seen_jax.report.format import folded, pooled
from seen_jax.report.published import model_of_paper, published
from seen_jax.report.sections import compared
from seen_jax.report.studies import CSV, STUDIES
from seen_jax.report.write import write_report

HOSTILE = "<script>alert('x')</script>|*b* _c_ `d` [e](f) $g$ & \"h\""
NOISES, TASKS, SNRS = ("gauss", HOSTILE), ("music", "transcription"), (-10.0, 10.0, 20.0)
ARMS = ("wiener", "none", "seen")
COSINES = ("act-act_noise", "act-deact_noise", "deact-act_noise", "act-deact", "deact-deact_noise")
COSINES += ("act_noise-deact_noise",)


def answers(noises=NOISES, tasks=TASKS, items=6):
    """Rows as the runner writes them. More noise changes more answers; SEEN mends one item, wiener breaks one."""
    rows = []
    for noise, task, snr, arm, i in itertools.product(noises, tasks, (None, *SNRS), ARMS, range(items)):
        wrong = 0 if snr is None else {-10.0: 5, 10.0: 3, 20.0: 1}[snr]
        wrong += (arm == "wiener") - (arm == "seen" and wrong > 0)
        right = "B" if i < wrong else "A"
        where = {"dataset": HOSTILE, "task": task, "item": f"{task}{i}", "noise": noise}
        row = {**where, "snr_db": snr, "mitigation": arm}
        if (task, i) == ("music", 5):
            rows.append({**row, "failed": f"damaged {HOSTILE}"})
            continue
        level = 0.01 if snr is None else 0.01 * (1 + wrong)
        row |= {"output": f"{right}: x" if task == "music" else f"say {right}", "see": level, "see_after": level / 2}
        row |= {"letter": right if task == "music" else None, "right": "A" if task == "music" else None}
        row |= {"reference": None if task == "music" else "say a", "energy": [1.0, 2.0]}
        row |= {"layers": [level, level], "layers_after": [0.0, 0.0]}
        if arm == "seen" and snr is not None:
            row["cosines"] = dict.fromkeys(COSINES, 0.5)
        rows.append(row)
    return rows


def make_tables(rows):
    cells = tables.conditions(rows)
    failed = {(r["item"], r["noise"]): r for r in rows if "failed" in r}.values()
    keys = ("dataset", "task", "item", "noise")
    return {
        "conditions": cells,
        "correlations": tables.correlations(cells),
        "comparisons": tables.comparisons(rows),
        "overall": tables.overall(rows),
        "similarities": tables.similarities(rows),
        "layers": tables.layers(rows),
        "failures": [{**{key: r[key] for key in keys}, "why": r["failed"]} for r in failed],
        "bases": [
            {"noise": noise, "mitigation": arm, "site": "encoder.mlp_act", "ranks": [0, 3], "layers": [1],
             "localised": i == 0, "first_layer": 1 if i == 0 else None, "calibrated": True}
            for i, noise in enumerate(dict.fromkeys(r["noise"] for r in rows)) for arm in ARMS
        ],
    }  # fmt: skip


def make_studies():
    rng = np.random.default_rng(0)
    values = {
        "calibration": NOISES, "noise": NOISES, "clips": (6, 48), "calibration_snr_db": (-10.0, 0.0),
        "strength": (0.0, 1.0, 1.2), "snr_db": (None, -10.0, 0.0), "delta": (0.05, None), "semantic_alpha": (0.9, 0.95),
        "layer": (0, 1, "all"),
        "noise_source": ("pure", "difference"), "share": (0.0, 0.5, 1.0), "pooled": (False, True),
    }  # fmt: skip
    found = {}
    for name, study in STUDIES.items():
        keys = [values[key] for key in study.names]
        found[name] = [
            {**dict(zip(study.names, own, strict=True)), **{v: float(rng.uniform(0, 1)) for v in study.values}}
            for own in itertools.product(*keys)
        ]
    found["transfer"][0]["pearson"] = float("nan")
    found["localisation"] = [
        {"noise": n, "site": "encoder.mlp_act", "magnitude": [1.0, 2.0], "direction": [0.5, 0.1], "l_star": 1}
        for n in NOISES
    ]
    fixed = {
        "energy": "sigma",
        "noise_source": "pure",
        "center": False,
        "noise_alpha": None,
        "layers": "auto",
        "ranks": [0, 7],
    }
    found["readings"] = [
        {"site": "encoder.resid", "method": "threshold", "delta": 0.01 * i, **fixed, "noise": n,
         "pearson": None if i == 0 else -i / 25, "see_clean": 0.01, "see_noisy": None}
        for i in range(21) for n in NOISES
    ]  # fmt: skip
    return found


def make_manifest(name=HOSTILE):
    arm = {"options": {}, "site": None, "selection": None, "strength": None}
    kinds = {"none": (None, False), "wiener": ("wiener", False), "seen": (None, True)}
    return {
        "identity": {
            "dtype": "float32",
            "noises": [{"spec": n, "name": None, "calibrated": True} for n in NOISES],
            "snrs": list(SNRS),
            "mitigations": [{"name": n, "denoiser": d, "seen": s, **arm} for n, (d, s) in kinds.items()],
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
        "device": HOSTILE,
        "model": {"name": name, "family": "f", "fingerprint": "abc"},
    }


class Page(html.parser.HTMLParser):
    """Tags, links, headings, rows of tables and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids, self.titles, self.rows, self.text = set(), [], [], [], [], ""
        self.open = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open = tag
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [(name, value) for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        if tag == "tr":
            self.rows.append([])
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
    for name in ("conditions", "comparisons", "failures", CSV.format("delta")):
        (folder / "tables" / f"{name}.csv").write_text("a\n1\n")
    found = make_tables(answers())
    path = write_report(folder, make_manifest(), found, make_studies())
    assert path == folder / "index.html"
    return folder, path.read_text("utf-8"), found


@pytest.fixture
def fast(monkeypatch, tmp_path):
    """Write a report into a folder without rendering its figures; returns its page."""

    def save(figure, folder, name):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.png").write_bytes(b"")
        return folder / f"{name}.png", folder / f"{name}.svg"

    monkeypatch.setattr(plots, "save", save)

    def write(found, studies, manifest=None):
        return Page(write_report(tmp_path, manifest or make_manifest(), found, studies).read_text("utf-8"))

    return write


def test_page_loads_nothing_and_its_links_lead_somewhere(made):
    folder, text, _ = made
    page = Page(text)
    images = [value for name, value in page.links if name == "src"]
    links = [value for name, value in page.links if name == "href"]
    assert len(images) > 20 and all(value.startswith("data:image/png;base64,") for value in images)
    assert len(images) == text.count("<figure>") == len(list((folder / "figures").glob("*.svg")))
    for link in links:
        assert link[1:] in page.ids if link.startswith("#") else (folder / link).is_file()
    assert "tables/conditions.csv" in links and "tables/study_delta.csv" in links
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


def test_tables_stay_short(made):
    _, text, _ = made
    long = [{"calibration": str(i), "noise": "x", "pearson": 0.5, "gain": 0.1} for i in range(50)]
    assert len(folded(long, ("calibration", "noise"), ("gain",))[0]) == 50  # nothing left to fold
    lengths = [table.count("<tr>") for table in re.findall("<table>.*?</table>", text, re.DOTALL)]
    assert len(lengths) > 15 and max(lengths) <= 1 + paper_parts.MOST_ROWS


WHERE = {
    "bases": {"Layers and ranks of the bases"},
    "similarities": {"Cosines of activations"},
    "layers": {"SEE of every layer"},
    "readings": {"Study: readings of the method"},
    **{name: {study.title} for name, study in STUDIES.items() if name != "layers"},
}
CELLS = {"In short", "SEE against GSR", "SEE against SNR", "Mitigations", "Clean damage", "Accuracy and word errors"}
CELLS |= {"Beside the paper", "Failures"}


def test_a_section_is_there_if_its_data_are(fast):
    found, studies = make_tables(answers()), make_studies()
    every = fast(found, studies).titles
    assert set(every) == {"What was run", *CELLS, *set().union(*WHERE.values()), STUDIES["layers"].title}
    assert len(every) == len(set(every))
    for name, titles in WHERE.items():
        fewer = {k: v for k, v in found.items() if k != name}
        own = {k: v if k != name or k == "layers" else [] for k, v in studies.items()}
        if name == "bases":
            own.pop("localisation")
        assert set(every) - set(fast(fewer, own).titles) == titles, name
    without = {k: v for k, v in studies.items() if k != "layers"}
    assert set(every) - set(fast(found, without).titles) == {STUDIES["layers"].title}
    assert fast({}, {}).titles == ["What was run"]
    one = make_tables([row for row in answers(tasks=("music",)) if row["mitigation"] == "none"])
    assert CELLS - set(fast(one, {}).titles) == {"Mitigations", "Clean damage"}


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
    failed = ["music", f"damaged {HOSTILE}", "1"]
    assert failed in rows and "1 items could not be asked" in page.text
    assert ["wiener", "music", "gauss"] not in [row[:3] for row in rows]
    damage = next(row for row in rows if row[0] == "wiener" and len(row) == 6 and "(" in row[4])
    assert damage[1:4] == ["81.8", "80.0", "83.3"] and damage[5] == "4"


def test_unparseable_answers_are_counted(fast):
    rows = answers()
    for row in rows:
        if row["task"] == "music" and "failed" not in row and row["snr_db"] == -10 and row["mitigation"] == "seen":
            row |= {"letter": None, "output": ""}
    page = fast(make_tables(rows), {})
    assert ["SEEN", "≤ 10 dB", "44", "20", "10", "10"] in page.rows
    assert ["nothing", "≤ 10 dB", "44", "20", "0", "0"] in page.rows
    assert "nonsense" in page.text


def test_the_paper_has_a_column_of_its_own(fast, monkeypatch):
    found = make_tables(answers(noises=("gauss", "crowd", "wind")))
    page = fast(found, {}, make_manifest("Qwen/Qwen2.5-Omni-7B"))
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
    rows = {(row[0], row[1]): row[2:] for row in fast(found, {}, elsewhere).rows if len(row) == 5}
    for what in ("SEE, clean → noisiest (%)", "ranks of the kept layers"):
        assert rows[what, "gauss"][1:] == [NOTHING, NOTHING]
    other = fast(found, {}, make_manifest("seen-tiny"))
    theirs = [row[3] for row in other.rows if len(row) == 5 and row[0].startswith(("GSR of clean", "ranks"))]
    assert theirs and set(theirs) == {NOTHING}
    changed = json.loads(json.dumps(published()).replace("0.0035", "0.77").replace("-0.98", "0.11"))
    monkeypatch.setattr(paper_published, "published", lambda: changed)
    after = fast(found, {}, make_manifest("Qwen/Qwen2.5-Omni-7B"))
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


def test_many_cells_are_folded(fast):
    page = fast(make_tables(answers(noises=[f"n{i}" for i in range(21)])), {})
    header = next(i for i, row in enumerate(page.rows) if row[:2] == ["noise", "tasks"])
    assert page.rows[header + 1][:2] == ["n0", "2"]
    rows = [{"noise": n, "strength": x, "gain": 0.1 * x, "gsr": None} for n in "ba" for x in range(30)]
    short, kept = folded(rows, ("strength", "noise"), ("gain", "gsr"))
    assert kept == ["strength"] and len(short) == 30
    assert short[3] == {"strength": 3, "gain": pytest.approx(0.3), "gsr": None}
    short, kept = folded(rows, ("strength", "noise"), ("gain",), 60)
    assert [(r["strength"], r["noise"]) for r in short[:3]] == [(0, "b"), (0, "a"), (1, "b")]


def test_pooled_counts_every_item_the_same():
    cells = [{"gsr": 1.0, "items": 1}, {"gsr": 0.5, "items": 3}, {"gsr": None, "items": 9}]
    assert pooled(cells, "gsr") == 2.5 / 4
    assert pooled(cells[2:], "gsr") is None


def test_a_pair_of_mitigations_is_found_either_way(made):
    *_, found = made
    rows = found["comparisons"]
    (ahead,) = [c for c in rows if {c["mitigation"], c["against"]} == {"none", "wiener"} and c["group"] == "clean"]
    one, other = (compared(rows, *pair, "clean") for pair in (("wiener", "none"), ("none", "wiener")))
    assert ahead in (one, other)
    assert one["difference"] == -other["difference"] < 0 and (one["low"], one["high"]) == (
        -other["high"],
        -other["low"],
    )
    assert one["gsr"] == other["gsr_against"] < one["gsr_against"] == other["gsr"]
    assert (one["only_mitigation"], one["only_against"]) == (other["only_against"], other["only_mitigation"]) == (0, 4)
    assert compared(rows, "wiener", "none", "no such group") is None


def test_readings_are_ranked_and_undefined_ones_last(made):
    _, text, _ = made
    rows = [row for row in Page(text).rows if row[:2] == ["encoder.resid", "threshold"]]
    assert len(rows) == 15 and rows[0][2] == "0.2" and rows[0][8:10] == [f"{MINUS}0.80", f"{MINUS}0.80"]
    assert [row[2] for row in rows] == [f"{0.01 * i:.4g}" for i in range(20, 5, -1)]


@pytest.mark.parametrize(
    ("form", "x", "text"),
    [
        (paper_parts.points, -0.0001, "0.0"),
        (paper_parts.points, 0.2, "+20.0"),
        (paper_parts.points, -0.1, f"{MINUS}10.0"),
        (paper_parts.points, 0.0, "0.0"),
        (paper_parts.share, None, NOTHING),
        (paper_parts.see, 0.01234, "1.23"),
        (paper_parts.level, -5.0, f"{MINUS}5 dB"),
        (paper_parts.p_value, 0.0004, "< 0.001"),
        (paper_parts.plain, [1, 0], "1 0"),
        (paper_parts.finite, float("nan"), None),
        (paper_parts.finite, {"a": [float("inf"), 1]}, {"a": [None, 1]}),
    ],
)
def test_numbers_as_text(form, x, text):
    assert form(x) == text


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the report in"):
        write_report(tmp_path / "file", make_manifest(), {}, {})


def test_figures_without_data_say_so(fast):
    studies = make_studies()
    for row in studies["transfer"]:
        row["pearson"] = None
    page = fast({}, {"transfer": studies["transfer"]})
    assert "No figure (Pearson r of SEE and GSR)" in page.text
    assert ["calibrated on", "tested on", "GSR gain (points)"] in page.rows
    assert paper.TABLES.keys() >= make_tables(answers()).keys()
