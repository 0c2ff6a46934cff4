"""The app: what it computes, that no slider compiles anything, and the page in a real Chromium."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from cli_support import run
from hypothesis import given
from hypothesis import strategies as st

import seen_jax
from seen_jax.app import views
from seen_jax.app.session import ALL, NO_NOISE, Choice, Session, calibrations, compared, open_session
from seen_jax.audio import write_audio
from seen_jax.data.items import load_clips
from seen_jax.errors import AudioError, ConfigError
from seen_jax.progress import silent

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["chromium"]
ROOT = Path(__file__).parents[1]
WIDTHS = (1280, 390)
SHOTS = Path(folder) if (folder := os.environ.get("SEEN_JAX_SCREENSHOTS")) else None  # where they are kept: docs/app


@pytest.fixture(scope="module")
def session() -> Session:
    model = seen_jax.load()
    return open_session(model, calibrations(model, ["white", "babble"], 8, silent), seconds=4.0)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return load_clips("demo")[0].wave


def test_sliders_compile_nothing(session, clip):
    compiled: list[str] = []

    def listen(name: str, seconds: float, **about: object) -> None:
        if name.endswith("backend_compile_duration"):
            compiled.append(name)

    def use(choice: Choice, strength: float, wave: np.ndarray, noise: str, snr: float) -> float:
        waves, basis = session.waves(wave, noise, snr, "spectral_subtraction"), session.basis(choice)
        scores = session.measure(waves, basis)
        rows = session.answers(waves, "transcribe the speech", basis, strength)
        assert len(rows) == 2 * len(waves)
        return [*scores.values()][1].see

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        first = use(Choice("white"), 1.0, clip, "white", 0)
        assert compiled
        compiled.clear()
        seen = {use(Choice("white", layers=(1, 3)), 0.4, clip, "white", 0)}
        seen.add(use(Choice("babble", "threshold", 0.8, 0.3), 0.0, clip, "babble", -5))
        seen.add(use(Choice(ALL, "complement", 0.7, layers=(0,)), 2.0, clip[:-3000], NO_NOISE, 0))
        assert len(seen | {first}) == 4 and not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_answers_are_those_of_the_package(session, clip):
    """The filler of a batch and the common rank change nothing."""
    waves = session.waves(clip, "white", -5, "spectral_subtraction")
    assert list(waves) == ["clean", "noisy", "denoised (spectral subtraction)"]
    basis, plain = session.basis(Choice("white")), session.sources["white"]
    alone = plain.select(seen_jax.Selection(method="complement", noise_alpha=0.95, layers="all"))
    assert basis.q.shape[2] == session.rank > alone.q.shape[2] and basis.ranks == alone.ranks
    rows = session.answers(waves, "transcribe the speech", basis, 0.5)
    answer = seen_jax.generate(session.model, waves["noisy"], "transcribe the speech", basis=alone, strength=0.5)
    assert rows[4].text == answer.text and rows[4].see_after == pytest.approx(answer.see_after, abs=1e-5)
    risk = seen_jax.blind_score(session.model, waves["noisy"], "transcribe the speech").risk
    assert rows[1].risk == pytest.approx(risk, abs=1e-4) and rows[4].risk is None
    score = session.measure(waves, basis)["noisy"]
    assert score.see == pytest.approx(seen_jax.score(session.model, waves["noisy"], alone).see, abs=1e-5)
    assert score.frames.shape == (session.depth, len(score.times))


def test_wrong_clips_are_one_sentence_without_folders(session, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF nothing of the kind")
    long = write_audio(tmp_path / "long.wav", np.zeros(16_000 * 5, np.float32))
    for path, words in ((broken, "Cannot decode broken.wav"), (long, "long.wav lasts 5.0 s, and 4 s are taken")):
        with pytest.raises(AudioError, match=words) as caught:
            session.read(path)
        assert str(tmp_path) not in str(caught.value)
    for choice, words in ((Choice("rain"), "no basis 'rain'"), (Choice("white", layers=()), "at least one")):
        with pytest.raises(ConfigError, match=words):
            session.basis(choice)
    with pytest.raises(ConfigError, match="shorten it"):
        session.answers({}, "x" * 301, session.basis(Choice()), 1.0)


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_marked_words_hold_both_texts(before, after):
    pieces = compared(" ".join(before), " ".join(after))
    words = lambda kinds: [word for text, kind in pieces if kind in kinds for word in text.split()]
    assert words(("same", "new")) == after and words(("same", "gone")) == before


def test_html_of_files_and_models_is_escaped(session, clip):
    row = session.answers({"<b>": clip}, "transcribe the speech", session.basis(Choice()), 1.0)[0]
    page = views.answers([row._replace(text="<script>", words=(("<script>", "new"),))]) + views.problem("<img>")
    assert "<script>" not in page and "<img>" not in page and "&lt;b&gt;" in page


def test_a_noise_meter_of_the_encoder_alone(clip):
    model = seen_jax.load(part="encoder")
    meter = open_session(model, calibrations(model, ["white"], 8, silent))
    waves = meter.waves(clip, "white", -10, "wiener")
    scores, risks = meter.measure(waves, meter.basis(Choice("white"))), meter.risks(waves)
    assert scores["noisy"].see > 2 * scores["clean"].see and risks["noisy"] > risks["clean"]
    assert 'alt="noisy' in views.figure(waves, scores) and views.players(waves, scores, risks).count("risk") == 3


def test_the_command_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    wrong = run("app")
    assert wrong.status == 1 and 'pip install "seen-jax[app]"' in wrong.err
    assert run("app", "--port", "70000").status == 1


def test_the_folder_is_a_space():
    card = (ROOT / "app" / "README.md").read_text()
    assert card.startswith("---\n") and "sdk: gradio" in card and "app_file: app.py" in card
    assert "seen-jax[app]" in (ROOT / "app" / "requirements.txt").read_text()


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_the_page_in_a_browser(session, tmp_path):
    from playwright.sync_api import expect, sync_playwright

    from seen_jax.app.page import serving

    broken, good = tmp_path / "broken.wav", write_audio(tmp_path / "tone.wav", 0.1 * np.sin(np.arange(24_000) / 9))
    broken.write_bytes(b"RIFF nothing of the kind")
    foreign: list[str] = []
    with serving(session, port=free_port()) as page_of_app, sync_playwright() as playwright:
        address = page_of_app.local_url
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTHS[0], "height": 900})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.on("request", lambda r: foreign.append(r.url) if not is_local(r.url) else None)
        page.goto(address)
        players, answers, figure = page.locator("#players"), page.locator("#answers"), page.locator("#figure img")
        see = lambda name: float(re.search(r"SEE ([\d.]+)", card(players, name).inner_text())[1])
        expect(card(players, "noisy")).to_be_visible()  # the first clip, with noise
        expect(card(answers, "noisy + SEEN, λ = 1")).to_be_visible()
        assert see("noisy") > see("clean")

        before = figure.get_attribute("alt"), see("noisy")
        pick(page, "pick a clip", "sound-02")
        expect(page.get_by_label("prompt")).to_have_value(re.compile("which sound"))
        expect(figure).not_to_have_attribute("alt", before[0])
        pick(page, "pick a clip", "transcription-00")
        expect(figure).to_have_attribute("alt", before[0])
        louder = figure.get_attribute("alt")
        number(page, "SNR (dB)", "-5")
        expect(figure).not_to_have_attribute("alt", louder)
        assert see("noisy") > see("clean")

        number(page, "strength λ of SEEN", "0.5")
        expect(card(answers, "noisy + SEEN, λ = 0.5")).to_contain_text("→")
        shown = figure.get_attribute("alt")
        page.get_by_label("3", exact=True).uncheck()
        expect(figure).not_to_have_attribute("alt", shown)
        page.get_by_label("3", exact=True).check()
        expect(figure).to_have_attribute("alt", shown)
        page.wait_for_timeout(5000 if SHOTS else 0)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.screenshot(path=SHOTS / f"app_{width}.png" if SHOTS else None, full_page=True)

        page.get_by_text("The basis", exact=True).click()
        expect(page.locator("#card")).to_contain_text("SNR of calibration")
        upload = page.locator("input[type=file]").first
        page.get_by_label("Clear").first.click()
        expect(players).to_contain_text("Pick, record or upload a clip")
        upload.set_input_files(broken)
        expect(players).to_contain_text("Cannot decode broken.wav")
        assert str(tmp_path) not in page.inner_text("body") and "/tmp" not in page.inner_text("#players")
        page.get_by_label("Clear").first.click()
        upload.set_input_files(good)
        expect(card(players, "noisy")).to_be_visible()
        expect(card(answers, "clean + SEEN, λ = 0.5")).to_be_visible()
        browser.close()
    assert address.startswith("http://127.0.0.1:") and not foreign


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))


def card(part, name: str):
    """The card of a title."""
    return part.locator(".seen-card", has=part.page.get_by_text(name, exact=True))


def pick(page, label: str, option: str) -> None:
    """Choose from a drop-down list."""
    page.get_by_label(label).click()
    page.get_by_role("option", name=option, exact=True).click()


def number(page, label: str, value: str) -> None:
    """Set a slider by its number."""
    box = page.get_by_label(f"number input for {label}")
    box.fill(value)
    box.press("Enter")
