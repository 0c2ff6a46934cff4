"""The demo from end to end on a tiny model, with hostile texts, into a folder that a browser could open offline."""

import csv
import dataclasses
import html.parser
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from evaluate_models import random_folder

from seen_jax.audio.io import read_audio, write_audio
from seen_jax.data.items import load_clips
from seen_jax.errors import ConfigError
from seen_jax.evaluate import demo
from seen_jax.evaluate.demo import DemoConfig, calibration_clips, is_demo, run_demo
from seen_jax.evaluate.folders import check_target, fresh_folder
from seen_jax.evaluate.report import telling_snr, wav_bytes
from seen_jax.evaluate.results import labels_of
from seen_jax.subspace import Calibration
from seen_jax.train.tasks import TASKS

HOSTILE = "<script>alert('x')</script> & \"quoted\" {{ 7 * 7 }}"


class Resources(html.parser.HTMLParser):
    """Collects tags and every attribute that could load something."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [(name, value) for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    rng = np.random.default_rng(0)
    noise = write_audio(folder / "a <b> & $c$.wav", 0.1 * rng.normal(size=8000).astype(np.float32))

    def with_hostile_prompts(subset, per_task=None):
        items = load_clips(subset, per_task)
        return [dataclasses.replace(i, prompt=HOSTILE, answer=HOSTILE) if i.task == "music" else i for i in items]

    ticks = []
    config = DemoConfig(
        model=str(random_folder()),
        out=str(folder / "out"),
        noises=("white", str(noise)),
        snrs=(0, 50, 100),
        items_per_task=1,
        calibration_clips=6,
        batch_size=4,
        max_new_tokens=3,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "load_clips", with_hostile_prompts)
        summary = run_demo(config, lambda done, total: ticks.append((done, total)))
    return config, summary, Path(config.out), ticks


def test_folder_is_complete(made):
    _, summary, out, ticks = made
    assert summary["page"] == str(out.resolve() / "index.html")
    assert sorted(p.name for p in out.iterdir()) == [
        *("calibration", "conditions.csv", "figures", "index.html", "items.csv", "results.json")
    ]
    assert [p.name for p in out.parent.iterdir() if p.name.startswith(".")] == []
    assert ticks == sorted(ticks) and ticks[-1] == (2 * 3 * 6 + 2 * 2 * 4 * 4,) * 2
    white = Calibration.load(out / "calibration" / "white")
    assert white.statistics.clean.shape[1] == 6 and white.card["noise"] == "white"


def test_page_loads_nothing_and_escapes_everything(made):
    *_, out, _ = made
    text = (out / "index.html").read_text("utf-8")
    page = Resources(text)
    assert page.links and all(name == "src" and value.startswith("data:") for name, value in page.links)
    kinds = [value.split(";")[0] for _, value in page.links]
    assert kinds.count("data:image/png") == 5 and kinds.count("data:audio/wav") == 8
    assert not {"script", "link", "iframe", "object", "b>"} & page.tags
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    assert f"music: {HOSTILE}" in "".join(page.text)
    assert '<meta name="viewport"' in text


def test_numbers_in_csv_equal_those_in_json(made):
    _, summary, out, _ = made
    found = json.loads((out / "results.json").read_text("utf-8"))
    assert found == {key: value for key, value in summary.items() if key != "page"}
    with (out / "conditions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(found["conditions"]) == 2 * 4 * 2 * 5
    for row, cell in zip(table, found["conditions"], strict=True):
        for key, value in cell.items():
            if isinstance(value, float | int):
                assert float(row[key]) == value
            else:
                assert row[key] == (value or "")
    with (out / "items.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 2 * 4
    cell = next(c for c in found["conditions"] if (c["snr_db"], c["mitigation"], c["task"]) == (50, "seen", "all"))
    own = [r for r in rows if (r["noise"], r["snr_db"], r["mitigation"]) == (cell["noise"], "50.0", "seen")]
    assert np.mean([r["same"] == "True" for r in own]) == cell["gsr"]
    assert np.mean([float(r["see"]) for r in own]) == pytest.approx(cell["see"])


def test_headline_follows_from_the_table(made):
    _, summary, *_ = made
    cells = [c for c in summary["conditions"] if c["task"] == "all"]
    mean = lambda key, *where: np.mean([c[key] for c in cells if (c["snr_db"], c["mitigation"]) in where])  # noqa: E731
    head = summary["headline"]
    assert head["see_clean"] == pytest.approx(mean("see", (None, "none")))
    assert head["see_noisy"] == pytest.approx(mean("see", (0, "none")))
    assert head["gsr_seen"] == pytest.approx(mean("gsr", (0, "seen"), (50, "seen"), (100, "seen")))
    assert head["gsr_clean_seen"] == pytest.approx(mean("gsr", (None, "seen")))
    r = [c["pearson"] for c in summary["correlations"][:-1]]
    assert head["pearson"] == (None if None in r else pytest.approx(np.mean(r)))


def test_figures_show_something(made):
    from matplotlib.image import imread

    *_, out, _ = made
    paths = sorted((out / "figures").glob("*.png"))
    assert [p.stem for p in paths] == ["gsr_by_snr", "localisation", "see_against_gsr", "see_by_layer", "see_by_snr"]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        image = imread(path)[..., :3]
        assert image.shape[0] > 300 and image.shape[1] > 700
        assert 0.01 < (image.min(axis=-1) < 0.95).mean() < 0.95


def test_former_demo_is_replaced_and_nothing_else(made, tmp_path):
    config, _, out, _ = made
    assert is_demo(out)
    check_target(out, is_demo)
    (tmp_path / "mine.txt").write_text("keep")
    for other, folder in ((config, tmp_path), (dataclasses.replace(config, overwrite=False), out)):
        with pytest.raises(ConfigError, match="in use"):
            run_demo(dataclasses.replace(other, out=str(folder)))
    assert (tmp_path / "mine.txt").read_text() == "keep"
    for content in ("", "[]", '{"kind": "other"}'):
        (tmp_path / "results.json").write_text(content)
        assert not is_demo(tmp_path)


def test_fresh_folder_is_all_or_nothing(tmp_path):
    target = tmp_path / "deep" / "out"
    with pytest.raises(RuntimeError), fresh_folder(target, is_demo) as folder:
        (folder / "half").write_text("")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    for content in ("one", "two"):
        with fresh_folder(target, lambda _: True) as folder:
            (folder / "file").write_text(content)
        assert (target / "file").read_text() == content
    with pytest.raises(ConfigError, match="in use"), fresh_folder(target, lambda _: False):
        pytest.fail("the folder is in use")
    with pytest.raises(ConfigError, match="cannot write"), fresh_folder(target / "file" / "x", is_demo):
        pytest.fail("a file is no folder")


@pytest.mark.parametrize(
    "change",
    [
        {"noises": ()},
        {"noises": ("white", "white")},
        {"snrs": (0, 0.0)},
        {"snrs": (float("nan"),)},
        {"items_per_task": 0},
        {"calibration_clips": 1},
        {"batch_size": 0},
        {"seed": -1},
        {"strength": float("inf")},
        {"site": "encoder.mlp"},
    ],
)
def test_settings_without_sense_are_refused(change):
    with pytest.raises(ConfigError):
        DemoConfig(**change)


def test_the_yaml_holds_the_defaults():
    raw = yaml.safe_load((Path(__file__).parents[2] / "configs" / "demo.yaml").read_text())
    default = dataclasses.asdict(DemoConfig())
    assert list(raw) == list(default)
    assert raw == json.loads(json.dumps(default))


def test_calibration_clips_take_the_tasks_in_turn():
    assert [clip.task for clip in calibration_clips(6)] == [*TASKS, *TASKS[:2]]
    assert len({clip.id for clip in calibration_clips(48)}) == 48
    with pytest.raises(ConfigError, match="48 calibration clips, not 49"):
        calibration_clips(49)


def test_labels_are_short_unique_and_safe():
    labels = labels_of(["white", "/x/white.wav", "a/$b$ c.flac", "..", "<i>"])
    assert list(labels.values()) == ["white", "white-2", "b_c", "noise", "i"]


def test_examples_are_shown_where_answers_differ_most(tmp_path):
    cells = [
        {"snr_db": snr, "mitigation": "none", "task": "all", "gsr": gsr}
        for snr, both in ((0, (0.1, 0.2)), (5, (0.3, 0.6)), (9, (0.9, 1.0)))
        for gsr in both
    ]
    assert telling_snr(cells, (0, 5, 9)) == 5
    wave = np.array([0.0, 0.5, -1.0, 1.5], np.float32)
    (tmp_path / "a.wav").write_bytes(wav_bytes(wave))
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), [0, 0.5, -1, 1], atol=1e-4)
