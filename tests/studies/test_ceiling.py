"""Ceilings: places, shares of the change, the finding, and rows on models of other shapes without any calibration."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from golden_cases import FOLDER
from study_bases import E1, E2, E3, basis_of
from tiny_omni import hiss

import seen_jax
from seen_jax.audio import noise_source
from seen_jax.data.items import Item
from seen_jax.evaluate.config import ExperimentConfig
from seen_jax.evaluate.findings import diagnoses
from seen_jax.evaluate.tables import ALL
from seen_jax.models.processor import Request
from seen_jax.models.sites import SITES
from seen_jax.studies.ceiling import CEILING, Changes, Place, places_of, selection_at
from seen_jax.studies.lab import Lab, Subject
from seen_jax.studies.measure import measure
from seen_jax.subspace.diagnose import low_ceiling


def test_places_of_a_deep_stack_are_few_and_hold_its_ends():
    basis = basis_of(*[[E1]] * 3, kept=(1, 2))
    names = [(place.layer, place.layers, place.name) for place in places_of(3, {"experiment": basis})]
    assert names[:4] == [(0, (0,), "whole"), (1, (1,), "whole"), (2, (2,), "whole"), ("all", (0, 1, 2), "whole")]
    assert names[-2:] == [("kept", (1, 2), "experiment"), ("kept", (1, 2), "outside experiment")]
    assert [place.layer for place in places_of(32, {})] == [0, 4, 9, 13, 18, 22, 27, 31, "all"]
    assert [place.layer for place in places_of(1, {})] == [0]


def test_places_that_patch_alike_share_a_key():
    empty, full = basis_of([], [E1]).with_layers((0,)), basis_of([], [E1]).with_layers((1,))
    assert Place(0, (0,), "paper", empty).key is None
    assert Place(0, (0,), "paper", empty, outside=True).key == Place(0, (0,), "whole").key
    assert Place(1, (1,), "paper", full).key == Place("kept", (1,), "experiment", full).key
    assert Place(1, (1,), "paper", full).key != Place(1, (1,), "paper", full, outside=True).key


def test_shares_of_the_change_are_ratios_of_sums_then_means_over_layers():
    total = np.array([[1.0, 8.0], [3.0, 0.0]])
    changes = Changes(total, {"whole": 0.5 * total, "paper": np.array([[1.0, 2.0], [0.0, 0.0]])})
    basis = basis_of([E1, E2], [E3])
    both = (0, 1)
    assert changes.shares(Place("all", both, "paper", basis)) == {"change": 0.25, "change_clean": 0.5}
    assert changes.shares(Place("all", both, "paper", basis, outside=True))["change"] == 0.75
    assert changes.shares(Place(1, (1,), "whole"))["change"] == 1.0


@pytest.mark.parametrize("ends", [(0.164, 0.1, 0.2), (0.04, 0.01, 0.06), (np.nan, np.nan, np.nan)])
def test_a_ceiling_that_may_be_high_is_no_finding(ends):
    assert low_ceiling(*ends) is None


def test_a_low_ceiling_of_the_edited_layers_is_diagnosed():
    row = lambda **fields: {
        "noise": "rain",
        "site": SITES[0],
        "layer": "all",
        "subspace": "experiment",
        "items": 20,
        **fields,
    }
    low = {"ceiling": 0.023, "ceiling_low": 0.016, "ceiling_high": 0.03}
    high = {"ceiling": 0.2, "ceiling_low": 0.1, "ceiling_high": 0.3}
    rows = [row(**high), row(layer="kept", **low), row(subspace="whole", **low), row(noise="hum", **high)]
    rows += [row(noise=ALL, **low), row(site=SITES[1], **low), row(noise="wind", items=19, **low)]
    found = list(CEILING.findings(pd.DataFrame(rows)))
    assert [(noise, site, f.code) for noise, site, f in found] == [("rain", s, "low-ceiling") for s in SITES[:2]]
    table = diagnoses({}, {("rain", "seen"): basis_of([E1])}, found)
    assert len(table) == 1  # of a site that nobody edits nothing is said
    assert "projection cannot help here: ceiling +2.3 points (+1.6 to +3.0)" in table["message"][0]


def test_the_headline_is_of_the_first_site_over_all_noises():
    ends = {"ceiling": 0.5, "ceiling_low": 0.4, "ceiling_high": 0.6}
    row = lambda subspace, layer, noise=ALL, site=SITES[0], ceiling=0.5: {
        "noise": noise, "site": site, "layer": layer, "subspace": subspace, **ends, "ceiling": ceiling,
    }  # fmt: skip
    rows = [row("whole", 0, ceiling=0.1), row("whole", "all"), row("whole", "all", noise="rain", ceiling=0.2)]
    rows += [row("experiment", "all", ceiling=0.3), row("experiment", "kept", ceiling=0.04), row("paper", "all")]
    rows += [row("whole", "all", site=SITES[1], ceiling=0.9)]
    numbers = list(CEILING.headline(pd.DataFrame(rows)))
    assert [value for value, _ in numbers] == ["+50.0", "+4.0"]
    assert all(SITES[0] in what and what.endswith("(+40.0 to +60.0)") for _, what in numbers)


def test_layer_indices_count_at_sites_of_the_same_depth_alone():
    chosen = seen_jax.Selection(method="complement", layers=(2,))
    model = seen_jax.load(FOLDER / "qwen3_omni")
    config = ExperimentConfig(model="", selection=chosen, site=SITES[0])
    lab = Lab(config, model, {}, [], [], {})
    assert selection_at(lab, SITES[1]) == chosen
    assert selection_at(lab, "projector") == dataclasses.replace(chosen, layers="all")


@pytest.mark.parametrize("name", ["granite_speech", "qwen3_omni"])
def test_rows_without_a_calibration(name):
    """A conformer, and experts: clean activations of the projector give every clean answer back."""
    model, source = seen_jax.load(FOLDER / name), noise_source("white")
    config = ExperimentConfig(model=str(FOLDER / name), noises=("white",), snrs=(-10.0, 20.0), max_new_tokens=2)
    waves = [hiss(seconds, 3) for seconds in (0.3, 0.4)]
    subjects = []
    for i, wave in enumerate(waves):
        item = Item(str(i), "transcription", wave, "which color ?")
        noises = {"white": source.clip(i, len(wave), 0, "test")}
        subjects.append(Subject(i, item, Request([wave], item.prompt), noises))
    lab = Lab(config, model, {"white": source}, subjects, [], {})
    rows = CEILING.rows(lab, [], measure(lab, []))
    assert set(rows["site"]) == set(SITES) and set(rows["subspace"]) == {"whole"}
    depths = rows[rows["noise"] == ALL].groupby("site")["layer"].nunique().to_dict()
    assert depths == {site: n + (n > 1) for site in SITES for n in [model.config.site_shape(site)[0]]}
    restored = rows[(rows["site"] == "projector") & (rows["noise"] == "white")].iloc[0]
    assert restored["gsr"] + restored["ceiling"] == 1 and restored["change"] == 1
    assert rows["change_clean"].between(0, 1 + 1e-6).all() and rows["gain"].isna().all()
