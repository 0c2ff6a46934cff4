"""Every figure: labelled axes, the series it was asked for, files in two formats, and refusals."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from seen_jax.errors import ConfigError
from seen_jax.evaluate.metrics import correlation
from seen_jax.report import figures as plots
from seen_jax.report import score_figures as scores
from seen_jax.report import style

NOISES = ("gauss", "crowd", "machine", "traffic", "wind", "shower", "water", "animal", "rain", "hum", "engine", "alarm")
MITIGATIONS = ("none", "seen", "wiener", "wavelet", "rnnoise", "webrtc", "spectral_gating", "spectral_subtraction")
SNRS = (30, -10, 0, 10)
TASKS = (("MMAU", "music"), ("MMAU", "speech"), ("LibriSpeech", "transcription"))


def make_cells(noises=2, mitigations=3, tasks=2):
    rng = np.random.default_rng(0)
    found = []
    for (dataset, task), noise, mitigation, snr in itertools.product(
        TASKS[:tasks], NOISES[:noises], MITIGATIONS[:mitigations], (*SNRS, None)
    ):
        gsr = float(np.clip(0.5 + (50 if snr is None else snr) / 100 + 0.03 * rng.normal(), 0, 1))
        cell = {"dataset": dataset, "task": task, "noise": noise, "snr_db": snr, "mitigation": mitigation, "items": 50}
        cell |= {"gsr": gsr, "gsr_low": max(0, gsr - 0.1), "gsr_high": min(1, gsr + 0.1), "accuracy": 0.5, "wer": None}
        found.append(cell | {"wer_clean": None, "see": 0.1 - 0.08 * gsr, "see_after": 0.01})
    return pd.DataFrame(found)


def make_curves(noises):
    curves = [
        {"noise": n, "magnitude": [1.0 * k for k in range(32)], "direction": [0.9] * 32, "l_star": 20 if i else None}
        for i, n in enumerate(NOISES[:noises])
    ]
    return pd.DataFrame(curves)


def make_probe(noises):
    keys = {"pearson": -0.8, "pearson_low": -0.9, "pearson_high": -0.7, "gain": 0.02, "gain_low": 0, "gain_high": 0.1}
    return pd.DataFrame([{"noise": n, "layer": k, **keys} for n in NOISES[:noises] for k in range(32)])


def make_sweep(noises):
    rows = [
        {"noise": n, "strength": k / 5, "gsr": 0.5 + k / 20, "gsr_low": 0.4 + k / 20, "gsr_high": 0.6 + k / 20}
        for n in NOISES[:noises]
        for k in (3, 0, 5)
    ]
    return pd.DataFrame(rows)


def make_transfer(noises):
    own = NOISES[:noises]
    return pd.DataFrame([{"calibration": a, "noise": b, "gain": 0.1 * (a == b) - 0.01} for a in own for b in own])


def make_points(groups):
    rows = [
        {"damage": k / 100, "suppression": math.sqrt(k / 10), "label": f"s {k}", "group": f"g {g}"}
        for g in range(groups)
        for k in range(g, 8)
    ]
    return pd.DataFrame(rows)


def make_layers(noises):
    rows = [
        {"noise": n, "snr_db": snr, "layer": k, "see": 0.01 * (k + i)}
        for i, n in enumerate(NOISES[:noises])
        for snr in (-10.0, None)
        for k in range(24)
    ]
    return pd.DataFrame(rows)


def chosen(cells, **wanted):
    for key, value in wanted.items():
        cells = cells[cells[key] == value]
    return cells[cells["snr_db"].notna()]


def make_waves(n):
    t = np.arange(16000) / 16000
    waves = {f"wave {i}": np.sin(2 * np.pi * 1000 * t).astype(np.float32) / (1 + i) for i in range(min(n, 3))}
    return waves, {"wave 0": (np.linspace(0, 1, 9), np.full(9, 0.25))}


GROUPS = {"clean": [math.nan], "low": [-10.0, 0.0]}
FIGURES = {
    "see_gsr_grid": lambda n: scores.see_gsr_grid(make_cells(n)),
    "see_vs_snr": lambda n: scores.see_vs_snr(make_cells(n)),
    "layer_curves": lambda n: plots.layer_curves(make_curves(n)),
    "denoiser_radar": lambda n: scores.denoiser_radar(make_cells(n, 8)),
    "mitigation_bars": lambda n: scores.mitigation_bars(make_cells(n, 8), GROUPS),
    "line_sweep": lambda n: plots.line_sweep(make_sweep(n), "strength", "gsr", "noise"),
    "see_by_layer": lambda n: plots.see_by_layer(make_layers(n)),
    "layer_probe": lambda n: plots.layer_probe(make_probe(n)),
    "transfer_heatmap": lambda n: plots.transfer_heatmap(make_transfer(n), "gain"),
    "pareto": lambda n: plots.pareto(make_points(n), "x", "y"),
    "spectrograms": lambda n: plots.spectrograms(*make_waves(n)),
}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("noises", [1, 12])
@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled_and_files_written(name, noises, tmp_path):
    figure = FIGURES[name](noises)
    assert isinstance(figure, Figure)
    shown = [axes for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]
    for axes in shown:
        place = axes.get_subplotspec()
        if axes.name == "polar":
            assert all(tick.get_text() for tick in axes.get_xticklabels())
            continue
        assert axes.get_xlabel() or not place.is_last_row()
        assert axes.get_ylabel() or not place.is_first_col()
    png = style.save(figure, tmp_path / "new", name)
    svg = png.with_suffix(".svg")
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and b"<svg" in svg.read_bytes()[:1000]
    first = svg.read_bytes()
    style.save(FIGURES[name](noises), tmp_path / "new", name)
    assert svg.read_bytes() == first


def test_looks_can_be_told_apart():
    looks = [style.look(i) for i in range(24)]
    assert len({str(look) for look in looks}) == 24
    assert len({(look["marker"], str(look["linestyle"])) for look in looks}) == 24  # also without colour
    for look in looks:
        luminance = np.dot([0.2126, 0.7152, 0.0722], to_rgb(look["color"]))
        assert luminance < 0.7  # on white


def test_grid_has_a_panel_per_task_and_noise_with_its_correlation():
    cells = make_cells(3, tasks=2)
    figure = scores.see_gsr_grid(cells)
    panels = {axes.get_title().split("\n")[0]: axes for axes in figure.axes[:-1]}
    assert set(panels) == {f"{task}, {noise}" for _, task in TASKS[:2] for noise in NOISES[:3]}
    axes = panels["speech, crowd"]
    own = chosen(cells, task="speech", noise="crowd", mitigation="none")
    points = axes.collections[-1].get_offsets()
    assert sorted(map(tuple, points)) == sorted(zip(100 * own["see"], 100 * own["gsr"], strict=True))
    r = correlation(own["see"].tolist(), own["gsr"].tolist())
    assert axes.get_title().endswith(f"{abs(r):.2f}")
    (line,) = axes.lines
    slope, start = np.polyfit(*points.T, 1)
    np.testing.assert_allclose(line.get_ydata(), start + slope * line.get_xdata(), atol=1e-6)


def test_grid_says_where_nothing_correlates():
    cells = make_cells(1).assign(see=0.0)
    assert "r undefined" in scores.see_gsr_grid(cells).axes[0].get_title()


def test_grid_hides_panels_without_cells():
    cells = make_cells(2)
    figure = scores.see_gsr_grid(cells[(cells["task"] != "music") | (cells["noise"] != "crowd")])
    assert [axes.get_visible() for axes in figure.axes[:4]].count(False) == 1


def test_see_lines_by_rising_snr_and_the_clean_level():
    cells = make_cells(2)
    axes = scores.see_vs_snr(cells).axes[0]
    solid = [line for line in axes.lines if line.get_label() in NOISES]
    assert [line.get_label() for line in solid] == ["gauss", "crowd"]
    assert solid[0].get_xdata().tolist() == sorted(SNRS)
    of_clean = cells[cells["snr_db"].isna() & (cells["mitigation"] == "none") & (cells["task"] == "music")]
    clean = of_clean.set_index("noise")["see"]["gauss"]
    assert any(line.get_ydata()[0] == pytest.approx(100 * clean) for line in axes.lines if line not in solid)


def test_no_panel_of_see_cuts_off_its_lines():
    for cells in (make_cells(2), make_cells(2)[::-1]):
        figure = scores.see_vs_snr(cells.assign(see=cells["see"].where(cells["task"] == "music", 5 * cells["see"])))
        for axes in figure.axes:
            highest = max(y for line in axes.lines for y in line.get_ydata())
            assert 0 == axes.get_ylim()[0] < highest <= axes.get_ylim()[1]


def test_see_of_layers_has_a_panel_for_clean_and_one_for_noisy_audio():
    clean, noisy = plots.see_by_layer(make_layers(2)).axes
    assert (clean.get_title(), noisy.get_title()) == ("clean", "\N{MINUS SIGN}10 dB")
    assert [line.get_label() for line in clean.lines] == list(NOISES[:2])
    assert clean.lines[1].get_xdata().tolist() == list(range(24))
    assert clean.lines[1].get_ydata()[:2] == pytest.approx([1, 2])


def test_the_same_task_of_two_datasets_is_two_panels():
    twice = pd.concat([make_cells(1, tasks=1).assign(dataset=name) for name in ("A", "B")], ignore_index=True)
    titles = [axes.get_title() for axes in scores.see_vs_snr(twice).axes]
    assert titles == ["A: music", "B: music"]


def test_l_star_is_marked():
    figure = plots.layer_curves(make_curves(2))
    assert legend(figure) == ["gauss (no l*)", "crowd"]
    stars = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert [line.get_xydata().tolist() for line in stars] == [[[20, 20]]]


@pytest.mark.parametrize(("noises", "charts", "spokes"), [(1, 1, 2), (3, 1, 6), (12, 2, 12)])
def test_radar_has_a_spoke_per_task_and_noise(noises, charts, spokes):
    cells = make_cells(noises, 4)
    figure = scores.denoiser_radar(cells)
    assert [len(axes.get_xticks()) for axes in figure.axes] == [spokes] * charts
    assert legend(figure) == ["nothing", "SEEN", "wiener", "wavelet"]
    nothing = figure.axes[0].lines[0].get_ydata()
    own = chosen(cells, task="music", noise="gauss", mitigation="none")
    assert nothing[0] == nothing[-1] == pytest.approx(100 * own["gsr"].mean())


def test_bars_with_intervals_per_group():
    cells = make_cells(2, 3)
    figure = scores.mitigation_bars(cells, {"low": [-10.0, 0.0], "clean": [math.nan]})
    axes = figure.axes[0]
    assert [len(bars.patches) for bars in axes.containers if hasattr(bars, "patches")] == [2, 2, 2]
    assert [t.get_text() for t in figure.axes[-1].get_xticklabels()] == ["low", "clean"]
    own = (
        100
        * chosen(cells, task="music", mitigation="none").loc[lambda c: c["snr_db"] <= 0, ["gsr", "gsr_low", "gsr_high"]]
    )
    bars = next(b for b in axes.containers if b.get_label() == "nothing")
    assert bars.patches[0].get_height() == pytest.approx(own["gsr"].mean())
    assert bars.errorbar.lines[2][0].get_segments()[0][:, 1] == pytest.approx(own[["gsr_low", "gsr_high"]].mean())
    many = pd.concat([make_cells(1, 1, 1).assign(mitigation=f"m{i}") for i in range(16)], ignore_index=True)
    bars = [b.patches[0] for b in scores.mitigation_bars(many, GROUPS).axes[0].containers if hasattr(b, "patches")]
    assert len({(b.get_facecolor(), b.get_hatch()) for b in bars}) == len(bars) == 16


def test_sweep_lines_are_sorted_and_have_bands_while_few():
    figure = plots.line_sweep(make_sweep(3), "strength", "gsr", "noise")
    axes = figure.axes[0]
    assert legend(figure) == list(NOISES[:3]) and len(axes.collections) == 3
    assert axes.lines[0].get_xydata().tolist() == [[0, 50], [0.6, 65], [1.0, 75]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("strength λ", "GSR (%)")
    assert not plots.line_sweep(make_sweep(12), "strength", "gsr", "noise").axes[0].collections
    bare = make_sweep(1).drop(columns="gsr_low")
    assert not plots.line_sweep(bare, "strength", "gsr", "noise").axes[0].collections


def test_a_line_is_the_mean_over_everything_else():
    rows = pd.concat([make_sweep(2), make_sweep(2).assign(gsr=0.0)], ignore_index=True)
    first = plots.line_sweep(rows, "strength", "gsr", "noise").axes[0].lines[0]
    assert first.get_xydata().tolist() == [[0, 25], [0.6, 32.5], [1.0, 37.5]]


def test_probe_draws_both_measures_of_every_layer():
    rows = make_probe(2)
    rows.loc[3, "gain"] = np.nan
    top, bottom = plots.layer_probe(rows).axes
    assert len(top.lines[0].get_xdata()) == 32 and len(bottom.lines[0].get_xdata()) == 31
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), 2.0)


def test_heatmap_numbers_and_gaps():
    axes = plots.transfer_heatmap(make_transfer(3)[1:], "gain").axes[0]
    texts = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in axes.texts]
    assert texts == ["-", "-1.0", "-1.0", "-1.0", "+9.0", "-1.0", "-1.0", "-1.0", "+9.0"]
    assert [t.get_text() for t in axes.get_xticklabels()] == list(NOISES[:3])


def test_front_by_hand():
    damage, suppression = np.array([0.0, 1.0, 1.0, 2.0, 3.0, 0.0]), np.array([1.0, 2.0, 3.0, 3.0, 5.0, 1.0])
    assert plots.front(damage, suppression).tolist() == [True, False, True, False, True, True]


def test_pareto_names_the_points_of_the_front():
    rows = [
        {"damage": d, "suppression": s, "label": label, "group": ""}
        for d, s, label in ((0.0, 0.1, "a"), (0.2, 0.1, "b"), (0.1, 0.5, "c_$"), (0.0, 0.1, "d"))
    ]
    figure = plots.pareto(pd.DataFrame(rows), "x", "y")
    assert legend(figure) == ["1: a and 1 more", r"2: c \$"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2"]


def test_a_long_front_has_few_numbers():
    rows = [{"damage": d, "suppression": d**0.5, "label": f"{d:g}", "group": ""} for d in np.linspace(0, 1, 60)]
    numbers = [text.get_text() for text in plots.pareto(pd.DataFrame(rows), "x", "y").axes[0].texts]
    assert numbers == [str(i) for i in range(1, plots.MOST_NUMBERS + 1)]
    line = [(x, 0.0) for x in (0.0, 0.01, 0.02, 0.5, 0.98, 0.99, 1.0)]
    assert plots.spaced(line, 3) == [line[0], line[3], line[-1]] and plots.spaced(line, 7) == line


def test_mitigations_in_words():
    names = ("none", "seen", "spectral_gating", "wiener+seen", "wiener+restoration", "wiener + SEEN")
    words = ["nothing", "SEEN", "spectral gating", "wiener + SEEN", "wiener + restoration", "wiener + SEEN"]
    assert list(map(style.in_words, names)) == words


def test_spectrograms_share_a_scale_and_have_see_beneath():
    figure = plots.spectrograms(*make_waves(2))
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    loud, soft = (panels[i].images[0].get_array() for i in range(2))
    assert [axes.get_title() for axes in panels[:2]] == ["wave 0", "wave 1"]
    assert loud.max() == pytest.approx(0, abs=1e-4) and soft.max() == pytest.approx(20 * np.log10(0.5), abs=0.01)
    assert panels[0].images[0].get_clim() == panels[1].images[0].get_clim()
    strongest = int(np.argmax(loud.mean(1)))  # the tone of 1 kHz, at its tick
    ticks = dict(zip([t.get_text() for t in panels[0].get_yticklabels()], panels[0].get_yticks(), strict=True))
    assert strongest == pytest.approx(ticks["1"], abs=1)
    assert panels[2].lines[0].get_ydata() == pytest.approx(25) and not panels[3].lines
    silent = plots.spectrograms({"silence": np.zeros(4000, np.float32)}, {})
    assert np.isfinite(silent.axes[0].images[0].get_array()).all()


def test_a_meter_leaves_out_layers_that_are_not_kept():
    wave, times = next(iter(make_waves(1)[0].values())), np.linspace(0.1, 0.9, 5)
    frames = np.linspace(0, 0.4, 15).reshape(3, 5)
    figure = plots.meter("noisy", wave, {"clean": (times, frames[0]), "noisy": (times, frames[2])}, frames, (0, 2))
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert legend(figure) == ["clean", "noisy"] and panels[0].get_title() == "noisy"
    assert panels[2].lines[1].get_ydata() == pytest.approx(100 * frames[2])
    heat = np.ma.filled(panels[3].images[0].get_array(), np.nan)
    assert np.isnan(heat[1]).all() and heat[2] == pytest.approx(100 * frames[2])


def test_nothing_to_draw_is_refused():
    cells = make_cells(1)
    empty = cells[:0]
    bars = lambda own: scores.mitigation_bars(own, GROUPS)
    for draw in (scores.see_gsr_grid, scores.see_vs_snr, scores.denoiser_radar, bars, plots.layer_curves):
        with pytest.raises(ConfigError, match="nothing to draw"):
            draw(empty)
    with pytest.raises(ConfigError, match="nothing to draw"):
        scores.see_gsr_grid(cells.assign(see=np.nan))
    with pytest.raises(ConfigError, match="nothing to draw"):
        scores.denoiser_radar(cells[cells["snr_db"].isna()])
    with pytest.raises(ConfigError, match="a table has no gsr, only see"):
        scores.see_gsr_grid(pd.DataFrame([{"see": 1.0}]))
