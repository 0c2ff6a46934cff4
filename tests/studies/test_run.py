"""All studies of an experiment: their rows, their sections, and resuming."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

import seen_jax
from seen_jax.errors import ConfigError
from seen_jax.registry import STUDIES
from seen_jax.report.blocks import Grid, Picture, Section, to_html, to_markdown
from seen_jax.report.format import Target
from seen_jax.studies.base import Case, Study
from seen_jax.studies.lab import open_lab
from seen_jax.studies.run import Parts, run_studies

SITE = "encoder.mlp_act"


@pytest.fixture(scope="module")
def config(config):
    return dataclasses.replace(config, study_sites=(SITE, "encoder.resid", "decoder.resid"))


@pytest.fixture(scope="module")
def experiment(experiment, config):
    return dataclasses.replace(experiment, config=config)


@pytest.fixture(scope="module")
def done(experiment):
    return run_studies(experiment)


def same(tables, expected):
    assert list(tables) == list(expected)
    for name in tables:
        pd.testing.assert_frame_equal(tables[name], expected[name])


def test_all_studies_have_their_rows(done, config):
    assert set(done) == set(STUDIES)
    assert set(done["localisation"]) == {"noise", "site", "magnitude", "direction", "l_star", "l_first"}
    assert set(done["strength"]) == {"noise", "strength", "snr_db", "gsr", "clean_gsr", "gain"}
    assert set(done["partial"]) == {"noise", "share", "see", "see_inside", "see_outside", "gsr"}
    assert {"pearson", "pearson_snr", "spearman", "mean_pearson", "clean_gsr", "chosen"} < set(done["selections"])
    assert set(done["localisation"]["site"]) == set(config.study_sites)
    assert len(done["selections"]) == 2 * 4 * 2 * 2 * 2 * 2 * 3 * 2
    assert not done["selections"].duplicated(["selection", "noise"]).any()
    assert len(done["strength"]) == 3 * 13 * 4
    assert set(done["transfer"]["calibration"]) == {"white", "pink", "union"}
    assert set(done["transfer"]["noise"]) == {"white", "pink", "engine"}
    sizes = done["calibration_size"]
    assert sizes["clips"][sizes["noise"] == "pink"].tolist() == [10, 12]
    assert sizes["overlap"][sizes["clips"] == 12].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert set(done["layers"]["layer"]) == {0, 1, 2, "first_third", "middle_third", "last_third", "all", "auto"}
    for name in STUDIES:
        stored = json.loads((config.folder() / "studies" / f"{name}.json").read_text())
        assert stored["items"] == 3
        pd.testing.assert_frame_equal(pd.DataFrame(stored["rows"]), done[name])


def test_rows_agree_with_each_other(done):
    rows = {name: table.to_dict("records") for name, table in done.items()}
    zero = [row for row in rows["strength"] if row["strength"] == 0]
    assert all(row["clean_gsr"] == 1 and row["gain"] == 0 for row in zero)
    wanted = {"site": SITE, "method": "complement", "energy": "sigma", "noise_source": "pure", "center": False}
    wanted |= {"layers": "all", "noise": "white"}
    selected = next(
        row
        for row in rows["selections"]
        if pd.isna(row["noise_alpha"]) and all(row[key] == value for key, value in wanted.items())
    )
    pooled = next(row for row in rows["pooling"] if row["pooled"] and row["noise"] == "white")
    plain = next(
        row
        for row in rows["delta"]
        if pd.isna(row["delta"]) and (row["noise"], row["semantic_alpha"]) == ("white", 0.95)
    )
    for other in (pooled, plain):
        assert (other["see_clean"], other["see_noisy"]) == (selected["see_clean"], selected["see_noisy"])
        assert other["rank"] == np.mean(selected["ranks"])
    equal = [row for row in rows["calibration_snr"] if row["calibration_snr_db"] == 0]
    assert len(equal) == 4 and all(row["overlap"] == pytest.approx(1, abs=1e-5) for row in equal if row["rank"])
    for noise in ("white", "pink"):
        strong = {(r["strength"], r["snr_db"]): r for r in rows["strength"] if r["noise"] == noise}
        clean = next(r for r in rows["strength"] if r["noise"] == noise and r["strength"] == 1 and pd.isna(r["snr_db"]))
        gains = [strong[1.0, snr]["gain"] for snr in (-5.0, 0.0)]
        matched = next(r for r in rows["transfer"] if r["calibration"] == r["noise"] == noise)
        whole = next(r for r in rows["layers"] if r["noise"] == noise and r["layer"] == "all")
        assert matched["gain"] == pytest.approx(np.mean(gains)) == pytest.approx(whole["gain"])
        assert whole["clean_gsr"] == clean["gsr"]
    answered = [row for row in rows["pareto"] if not pd.isna(row["gain"])]
    assert {row["strength"] for row in answered} == {0.5, 1.0}
    assert all(0 <= row["damage"] <= 1 and 0 <= row["suppression"] <= 1 + 1e-6 for row in rows["pareto"])
    assert any(row["front"] for row in rows["pareto"]) and not all(row["front"] for row in rows["pareto"])


def test_noise_over_the_whole_clip_is_the_noisy_clip(done, experiment):
    lab = open_lab(experiment, [], 0)
    for noise in lab.noises:
        partial = done["partial"][done["partial"]["noise"] == noise].set_index("share")
        waves = [subject.wave(noise, 0.0) for subject in lab.subjects]
        expected = np.mean([score.see for score in seen_jax.score(experiment.model, waves, lab.basis(noise))])
        assert partial["see"][1.0] == pytest.approx(expected, abs=1e-6)
        assert np.isnan(partial["see_outside"][1.0])
        assert partial["see_inside"][1.0] == pytest.approx(expected, abs=1e-6)
        strength = done["strength"].set_index(["noise", "strength", "snr_db"])
        assert partial["gsr"][1.0] == strength["gsr"][noise, 0.0, 0.0]
        assert partial["see_outside"][0.5] != partial["see_inside"][0.5]


def refuse(monkeypatch, *names):
    def rows(*_):
        raise AssertionError("computed again")

    for name in names:
        monkeypatch.setattr(type(STUDIES[name]), "rows", rows)


def test_what_is_on_disk_is_not_computed_again(done, experiment, config, monkeypatch):
    with monkeypatch.context() as patch:
        refuse(patch, *STUDIES)
        same(run_studies(experiment), done)
    for again in ("selections", "pareto", "strength", "layers"):  # to the last bit, in whatever order a run was cut
        path = config.folder() / "studies" / f"{again}.json"
        before = path.read_bytes()
        path.unlink()
        with monkeypatch.context() as patch:
            refuse(patch, *({*STUDIES} - {again} - ({"delta"} if again == "pareto" else set())))
            same(run_studies(experiment), done)
        assert path.read_bytes() == before
    text = path.read_text()
    path.write_text(text[:-20])
    with pytest.raises(ConfigError, match=r"layers\.json is damaged"):
        run_studies(experiment)
    path.write_text(text)
    fewer = dataclasses.replace(config, studies=("localisation", "partial"), study_items=2)
    other = run_studies(dataclasses.replace(experiment, config=fewer))
    pd.testing.assert_frame_equal(other["localisation"], done["localisation"])
    assert not other["partial"].equals(done["partial"])
    at_projector = dataclasses.replace(config, studies=("localisation",), study_sites=("projector",))
    rows = run_studies(dataclasses.replace(experiment, config=at_projector))["localisation"]
    assert set(rows["site"]) == {"projector"}
    nowhere = dataclasses.replace(at_projector, studies=("selections",))
    with pytest.raises(ConfigError, match=r"'selections' looks at .*`study_sites` names none"):
        run_studies(dataclasses.replace(experiment, config=nowhere))


def test_a_killed_run_keeps_what_was_done(config, experiment, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    config = dataclasses.replace(config, studies=("localisation", "partial"), out=str(tmp_path / "out"))
    monkeypatch.setattr(type(STUDIES["partial"]), "rows", killed)
    with pytest.raises(KeyboardInterrupt):
        run_studies(dataclasses.replace(experiment, config=config))
    assert [path.name for path in (config.folder() / "studies").iterdir()] == ["localisation.json"]


def test_every_study_has_a_section(done, config, tmp_path):
    sections = {name: STUDIES[name].section(table, Target(tmp_path)) for name, table in done.items()}
    for name, blocks in sections.items():
        grid = [block for block in blocks if isinstance(block, Grid)][-1]
        assert grid.rows and all(len(row) == len(grid.header) for row in grid.rows), name
        page = [Section(STUDIES[name].title, blocks)]
        assert STUDIES[name].title in to_html("title", "lead", page) and STUDIES[name].lead in to_markdown("", "", page)
    drawn = {block.path.stem for blocks in sections.values() for block in blocks if isinstance(block, Picture)}
    of_sites = {f"localisation_{site.replace('.', '_')}" for site in config.study_sites}
    assert of_sites | {"pareto", "partial_see_noise"} <= drawn
    (chosen,) = [b for b in sections["selections"] if isinstance(b, Grid) and b.title == "The chosen selection"]
    assert len(chosen.rows) == int(done["selections"]["chosen"].any())


class Half(Study):
    """A study as somebody else would write it: the first half of the layers."""

    name = "half"
    title = "Study: half of the layers"
    lead = "Only the lower half."

    def cases(self, lab):
        for noise in lab.calibrated:
            basis = lab.basis(noise)
            yield Case({"noise": noise}, noise, basis.with_layers(tuple(range(len(basis.ranks) // 2))))


def test_a_study_of_somebody_else_needs_its_cases_alone(config, experiment, tmp_path, monkeypatch):
    monkeypatch.setitem(STUDIES._objects, "half", Half())
    config = dataclasses.replace(config, studies=("half",), out=str(tmp_path))
    (rows,) = run_studies(dataclasses.replace(experiment, config=config)).values()
    assert list(rows) == ["noise", "rank", "pearson", "pearson_snr", "see_clean", "see_noisy"]
    lead, table = Half().section(rows, Target(tmp_path))
    assert lead.text == "Only the lower half." and [row[0] for row in table.rows] == ["pink", "white"]


def test_parts_of_a_study_are_made_once_for_what_was_asked(tmp_path):
    calls: list[str] = []

    def make():
        calls.append("made")
        return [{"layer": "all", "gain": None, "kept": [True, False], "share": 0.1}]

    parts = Parts(tmp_path / "slow", {"items": 3})
    assert parts("white", make) == parts("white", make) and len(calls) == 1
    Parts(tmp_path / "slow", {"items": 4})("white", make)
    assert len(calls) == 2
    parts.remove()
    assert not list(tmp_path.iterdir())
